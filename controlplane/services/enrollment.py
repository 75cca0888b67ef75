"""Join tokens, and the machines that become hosts with them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from controlplane.access import join_tokens
from controlplane.access.join_tokens import JoinToken
from controlplane.domain.hosts import Host, Zone
from controlplane.domain.kinds import HOST, JOIN_TOKEN, ZONE
from controlplane.domain.names import check_id, check_labels
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.paging import Page, PageRequest, list_page
from moorage.errors import AlreadyExists, InvalidSpec, NotFound
from moorage.join_token import parse_join_token
from moorage.store.base import Transaction
from moorage.tls import Authority, request_key_digest


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A new host and the certificate that proves it."""

    host: Host
    certificate_pem: bytes
    authority_pem: bytes


class EnrollmentService:
    """How a machine becomes a host."""

    def __init__(self, context: Context, authority: Authority) -> None:
        self._context = context
        self._authority = authority

    @property
    def authority_pem(self) -> bytes:
        """The authority's certificate; public."""
        return self._authority.cert_pem

    async def create_token(
        self, created_by: str, time_to_live: timedelta | None, max_uses: int, zone: str
    ) -> tuple[JoinToken, str]:
        """A new token, and its text, which cannot be read again. Raises InvalidSpec, NotFound (zone)."""
        record, text = join_tokens.mint(
            self._authority.digest(),
            now=self._context.clock.now(),
            time_to_live=join_tokens.DEFAULT_TIME_TO_LIVE if time_to_live is None else time_to_live,
            max_uses=max_uses or 1,
            created_by=created_by,
            zone=zone,
        )

        def make(tx: Transaction) -> None:
            if zone:
                lookup.require(tx, ZONE, zone, f"zones/{zone}")
            tx.put(JOIN_TOKEN, record)

        await self._context.store.update(make)
        return record, text

    def list_tokens(self, request: PageRequest) -> Page[JoinToken]:
        """A page of tokens."""
        return list_page(self._context.store.view(), JOIN_TOKEN, request, scope="joinTokens")

    async def revoke_token(self, token_id: str) -> JoinToken:
        """End a token at once; hosts that used it stay. Raises NotFound."""

        def revoke(tx: Transaction) -> JoinToken:
            name = f"joinTokens/{token_id}"
            token = replace(lookup.require(tx, JOIN_TOKEN, token_id, name), revoked=True)
            tx.put(JOIN_TOKEN, token)
            return token

        return await self._context.store.update(revoke)

    async def enroll(
        self, secret: str, host_id: str, request_pem: str, zone: str, labels: Mapping[str, str]
    ) -> Enrolled:
        """Count a use of the token, make the host, and sign its certificate: all or nothing.

        A machine whose answer was lost may ask again with the same key.

        Raises:
            Unauthenticated: JOIN_TOKEN_UNKNOWN, _EXPIRED, _REVOKED or _USED_UP.
            InvalidSpec: host_id, labels or certificate request.
            AlreadyExists: a host of that name; remove it first if the machine is new.
        """
        parsed = parse_join_token(secret)
        join_key = request_key_digest(request_pem)
        uid = self._context.new_id()
        now = self._context.clock.now()

        def join(tx: Transaction) -> tuple[Host, bytes]:
            found = tx.get(JOIN_TOKEN, parsed.token_id)
            known = tx.get(HOST, host_id)
            if found is not None and known is not None and known.value.join_key == join_key:
                # The answer to this machine's first request was lost; its use of the token is counted already.
                join_tokens.check(replace(found.value, used=0), parsed.secret, now)
                return known.value, self._authority.sign_host_request(request_pem, known.value.uid, host_id, now=now)
            token = join_tokens.check(found.value if found is not None else None, parsed.secret, now)
            violations = check_id(host_id, "host_id") + check_labels(dict(labels), "labels")
            if violations:
                raise InvalidSpec(violations)
            if tx.get(HOST, host_id) is not None:
                raise AlreadyExists(
                    f"hosts/{host_id} exists; choose another name, or remove it with `moor host rm {host_id}`",
                    metadata={"name": f"hosts/{host_id}"},
                )
            host_zone = token.zone or zone
            if host_zone and tx.get(ZONE, host_zone) is None:
                if token.zone:
                    raise NotFound(f"zones/{host_zone} does not exist", metadata={"name": f"zones/{host_zone}"})
                # Whoever may add hosts may name the place where they stand.
                zone_violations = check_id(host_zone, "zone")
                if zone_violations:
                    raise InvalidSpec(zone_violations)
                tx.put(ZONE, Zone(self._context.new_id(), host_zone, now))
            certificate = self._authority.sign_host_request(request_pem, uid, host_id, now=now)
            host = Host(uid, host_id, now, host_zone, dict(labels), link_change_time=now, join_key=join_key)
            tx.put(JOIN_TOKEN, join_tokens.use(token))
            tx.put(HOST, host)
            record_event(tx, self._context.clock, host, "JOINED", f"with join token {token.id}")
            return host, certificate

        host, certificate = await self._context.store.update(join)
        return Enrolled(host, certificate, self._authority.cert_pem)

    def renew(self, host: Host, request_pem: str) -> bytes:
        """A new certificate for the same host. Raises InvalidSpec."""
        return self._authority.sign_host_request(request_pem, host.uid, host.id, now=self._context.clock.now())

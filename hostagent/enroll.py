"""How this machine becomes a host, and stays one: enrolling with a join token, keeping and renewing the certificate.

The token says which authority to trust. Nothing secret is said before the authority is known: the server's
certificate is fetched without trust, a connection pinned to it asks for the authority, the authority must have the
token's digest and must have signed the server's certificate, and only over a connection that verifies against it is
the token sent.
"""

import asyncio
import json
import logging
import os
import random as random_module
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hostagent.config import Config
from moorage.client import Client
from moorage.clock import Clock
from moorage.errors import FieldViolation, InvalidSpec, MoorageError, Unauthenticated, Unavailable
from moorage.join_token import parse_join_token
from moorage.pem import Identity, load_certificate
from moorage.retry import Backoff, RandomFraction, retry
from moorage.tls import RENEWAL_FRACTIONS, certificate_digest, certificate_facts, generate_request, renewal_time
from moorage.v1 import enrollment_pb2

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
_RENEWAL_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Membership:
    """What enrolling gave this host."""

    host_name: str  # hosts/{host}
    host_uid: str
    agent_endpoints: tuple[str, ...]


class IdentityStore:
    """data_dir/identity: the host's certificate with its key, the authority, and the membership."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "identity"

    @property
    def is_enrolled(self) -> bool:
        """Whether there is all that a session needs."""
        return all((self.folder / name).exists() for name in ("host.pem", "authority.crt", "membership.json"))

    def save(self, membership: Membership, identity: Identity, authority_pem: bytes) -> None:
        """Keep what enrolling gave. The certificate comes last: its presence says that the rest is there."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self.folder / "authority.crt", authority_pem)
        _write(self.folder / "membership.json", json.dumps(asdict(membership)).encode())
        identity.save(self.folder / "host.pem")

    def identity(self) -> Identity:
        """Certificate and key."""
        return Identity.load(self.folder / "host.pem")

    def authority_pem(self) -> bytes:
        """The authority's certificate."""
        return (self.folder / "authority.crt").read_bytes()

    def membership(self) -> Membership:
        """Names and endpoints.

        Raises:
            InvalidSpec: the file is damaged; remove the folder and enroll again.
        """
        path = self.folder / "membership.json"
        try:
            raw = json.loads(path.read_text())
            return Membership(str(raw["host_name"]), str(raw["host_uid"]), tuple(map(str, raw["agent_endpoints"])))
        except (ValueError, KeyError, TypeError) as exc:
            raise InvalidSpec.of("identity", f"{path} is damaged; remove {self.folder} and enroll again") from exc


async def ensure_enrolled(config: Config, store: IdentityStore, clock: Clock) -> Membership:
    """Enroll unless that was done. A control plane that is away is waited for, however long.

    Raises:
        InvalidSpec: no join token.
        Unauthenticated: the token is wrong, used up or expired, or the control plane is not the one that it names.
    """
    if store.is_enrolled:
        return store.membership()
    if not config.join_token:
        raise InvalidSpec(
            [FieldViolation("join_token", "is needed until this host is enrolled", "REQUIRED")],
            message="this host is not enrolled; put a token of `moor join-token create` into its configuration",
        )
    # One key for all attempts: the control plane recognizes a repeated request of one machine by it.
    key_pem, request_pem = generate_request(config.name)
    return await retry(
        lambda: _enroll(config, store, key_pem, request_pem),
        clock=clock,
        deadline_seconds=float("inf"),
        backoff=Backoff(initial=0.2, maximum=10.0),
    )


async def _enroll(config: Config, store: IdentityStore, key_pem: bytes, request_pem: bytes) -> Membership:
    token = parse_join_token(config.join_token)
    server_pem = await asyncio.to_thread(_fetch_server_certificate, config.control_plane)
    async with Client.connect(config.control_plane, ca_pem=server_pem) as pinned:
        answer = await pinned.enrollment.GetAuthority(enrollment_pb2.GetAuthorityRequest())
    authority_pem = answer.certificate_pem.encode()
    _check_authority(authority_pem, server_pem, token.authority_digest)
    async with Client.connect(config.control_plane, ca_pem=authority_pem) as client:
        enrolled = await client.enrollment.EnrollHost(
            enrollment_pb2.EnrollHostRequest(
                secret=config.join_token,
                host_id=config.name,
                certificate_request_pem=request_pem.decode(),
                zone=f"zones/{config.zone}" if config.zone and "/" not in config.zone else config.zone,
                labels=config.labels,
            )
        )
    membership = Membership(enrolled.name, enrolled.host_uid, tuple(enrolled.agent_endpoints))
    identity = Identity(enrolled.certificate_pem.encode(), key_pem)
    store.save(membership, identity, authority_pem)
    log.info("enrolled", extra={"host": membership.host_name, "uid": membership.host_uid})
    return membership


def _check_authority(authority_pem: bytes, server_pem: bytes, digest: str) -> None:
    if certificate_digest(authority_pem) != digest:
        raise Unauthenticated(
            "the control plane is not the one that the join token is for; check the address and the token",
            reason="AUTHORITY_MISMATCH",
        )
    try:
        load_certificate(server_pem).verify_directly_issued_by(load_certificate(authority_pem))
    except Exception as exc:
        raise Unauthenticated(
            "the control plane's certificate was not issued by the authority of the join token",
            reason="AUTHORITY_MISMATCH",
        ) from exc


def _fetch_server_certificate(endpoint: str) -> bytes:
    host, _, port = endpoint.rpartition(":")
    try:
        text = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS)
    except OSError as exc:
        raise Unavailable(f"cannot reach the control plane at {endpoint}: {exc.strerror or exc}") from exc
    return text.encode()


Renew = Callable[[str], Awaitable[tuple[str, str]]]  # request PEM to (certificate PEM, authority PEM)


async def keep_renewed(
    store: IdentityStore,
    renew: Renew,
    clock: Clock,
    *,
    on_renewed: Callable[[], Awaitable[None]],
    random: RandomFraction = random_module.random,
) -> None:
    """Renew the certificate at a random 50-80 % of its life, for ever.

    Args:
        renew: asks the control plane over the session's connection; raises MoorageError when that fails.
        on_renewed: called after each renewal.
    """
    lowest, highest = RENEWAL_FRACTIONS
    while True:
        facts = certificate_facts(store.identity().cert_pem)
        due = renewal_time(facts.not_before, facts.not_after, lowest + (highest - lowest) * random())
        await clock.sleep((due - clock.now()).total_seconds())
        while not await renew_once(store, renew):
            await clock.sleep(_RENEWAL_RETRY_SECONDS * (0.5 + random()))
        await on_renewed()


async def renew_once(store: IdentityStore, renew: Renew) -> bool:
    """Renew now. Returns False when that failed; the old certificate is then still there."""
    membership = store.membership()
    key_pem, request_pem = generate_request(membership.host_uid)
    try:
        certificate_pem, authority_pem = await renew(request_pem.decode())
        identity = Identity(certificate_pem.encode(), key_pem)
        store.save(membership, identity, authority_pem.encode() or store.authority_pem())
    except (MoorageError, OSError) as exc:
        log.warning("the certificate was not renewed", extra={"problem": str(exc)})
        return False
    log.info("the certificate was renewed")
    return True


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

"""Balancers of routers: made, changed and deleted. Field rules are in `balancer_field_rules.py` and `certificate_rules.py`.

Invariant: no two listeners, port forwards or static NATs of a router take the same port of one address. Back ends may go away: they
stay in the record, get no traffic, and get it again once they are back. Private keys are in the record and in bundles, and in no answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import BALANCER, INSTANCE
from controlplane.domain.names import check_id, check_labels, parse_child
from controlplane.domain.routers import NAMES_PORT, Balancer, BalancerSpec, Listener, Router
from controlplane.routers.balancer_status import BalancerStatus, balancer_status
from controlplane.routers.claims import claims_of_balancer, clashes
from controlplane.routers.scene import read
from controlplane.routers.status import lost_hosts, running_members
from controlplane.services import lookup
from controlplane.services.balancer_field_rules import check_spec, normal_spec, other_family
from controlplane.services.certificate_rules import admit, ended
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.router_rules import held_claims
from controlplane.services.routers import touch
from controlplane.services.rule_targets import RuleTargets
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec, Unavailable
from moorage.store.base import Transaction, View

_Problems = list[FieldViolation]


class BalancerService:
    """What callers can do with balancers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        router_id: str,
        balancer_id: str,
        labels: Mapping[str, str],
        spec: BalancerSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> Balancer:
        """Admit a balancer.

        Raises:
            InvalidSpec (RULE_CLASH, CERTIFICATE_INVALID, BACKEND_NOT_A_MEMBER and others), NotFound (router, public address),
            AlreadyExists, NotReady (ROUTER_DELETING).
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> Balancer:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.balancer(tx, project_id, router_id, names[0].rpartition("/")[2])
            router = lookup.living_router(tx, project_id, router_id)
            asked = Balancer(
                uid=uid,
                project=project_id,
                router=router_id,
                router_uid=router.uid,
                id=balancer_id,
                create_time=self._context.clock.now(),
                spec=spec,
                labels=dict(labels),
            )
            problems = [*check_id(balancer_id, "balancer_id"), *check_labels(dict(labels), "balancer.labels")]
            admitted = self._admit(tx, router, asked, None, problems)
            if tx.get(BALANCER, BALANCER.key(asked)) is not None:
                raise AlreadyExists(f"{asked.name} exists; choose another name", metadata={"name": asked.name})
            tx.put(BALANCER, admitted)
            touch(tx, router)
            if request_key:
                lookup.remember(tx, request_key, body, (admitted.name,), self._context.clock.now())
            return admitted

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, router_id: str, balancer_id: str) -> Balancer:
        """One balancer. Raises NotFound."""
        return lookup.balancer(self._context.store.view(), project_id, router_id, balancer_id)

    def list(self, project_id: str, router_id: str, request: PageRequest) -> Page[Balancer]:
        """A page of a router's balancers. Raises NotFound (router)."""
        view = self._context.store.view()
        lookup.router(view, project_id, router_id)
        return list_page(
            view,
            BALANCER,
            request,
            scope=f"balancers of {project_id}/{router_id}",
            prefix=f"{project_id}/{router_id}/",
            fields=lambda balancer, name: label_field(balancer.labels, name),
        )

    def status(self, balancer: Balancer) -> BalancerStatus:
        """How it stands now; of one that was only checked: what it would be."""
        view = self._context.store.view()
        found = view.get(BALANCER, BALANCER.key(balancer))
        revision = found.revision if found is not None and found.value.uid == balancer.uid else 0
        now = self._context.clock.now()
        expired = (
            (f"listeners[{number}].certificates[{index}]", end)
            for number, listener in enumerate(balancer.spec.listeners)
            for index, certificate in enumerate(listener.certificates)
            if (end := ended(certificate, now)) is not None
        )
        return balancer_status(view, balancer, revision, next(expired, None))

    async def update(
        self,
        project_id: str,
        router_id: str,
        balancer_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, object] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Balancer:
        """Change labels, or fields of the spec.

        Args:
            fields: new values by name of the field; a certificate that is there already keeps its key if none is given.
        Raises:
            NotFound, VersionConflict, NotReady (ROUTER_DELETING), InvalidSpec as for `create`.
        """

        def change(tx: Transaction) -> Balancer:
            router = lookup.living_router(tx, project_id, router_id)
            balancer = lookup.balancer(tx, project_id, router_id, balancer_id)
            lookup.check_etag(balancer, etag, balancer.name)
            asked = replace(
                balancer,
                spec=replace(balancer.spec, **(fields or {})),  # type: ignore[arg-type]
                labels=dict(balancer.labels if labels is None else labels),
                generation=balancer.generation + 1,
            )
            problems = check_labels(dict(asked.labels), "balancer.labels")
            changed = self._admit(tx, router, asked, balancer, problems)
            tx.put(BALANCER, changed)
            touch(tx, router)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, router_id: str, balancer_id: str, *, etag: str = "") -> None:
        """Delete one. Raises NotFound, VersionConflict."""

        def remove(tx: Transaction) -> None:
            router = lookup.router(tx, project_id, router_id)
            balancer = lookup.balancer(tx, project_id, router_id, balancer_id)
            lookup.check_etag(balancer, etag, balancer.name)
            tx.delete(BALANCER, BALANCER.key(balancer))
            touch(tx, router)

        await self._context.store.update(remove)

    def counting_members(self, balancer: Balancer) -> Sequence[Instance]:
        """The members of its router that run; first the one that has the traffic.

        Raises:
            NotFound: its router is gone.
            Unavailable: ROUTER_NOT_RUNNING, no member runs.
        """
        view = self._context.store.view()
        router = lookup.router(view, balancer.project, balancer.router)
        members = read(view, router).members
        running = running_members(router, members, lost_hosts(view, members))
        if not running:
            raise Unavailable(f"{router.name} does not run now", reason="ROUTER_NOT_RUNNING")
        return running

    def instance_name(self, uid: str) -> str:
        """The name of an instance; its uid once it is gone."""
        instance = lookup.by_uid(self._context.store.view(), INSTANCE, uid)
        return uid if instance is None else instance.name

    def _admit(
        self,
        view: View,
        router: Router,
        asked: Balancer,
        before: Balancer | None,
        problems: Sequence[FieldViolation],
    ) -> Balancer:
        """The balancer as it is stored.

        Args:
            before: as it is now; what it has may stay, though it could not be asked for any more.
        Raises:
            InvalidSpec: everything that is wrong. NotFound: a public address.
        """
        violations = [*problems, *check_spec(asked.spec, "balancer.spec")]
        if violations:
            raise InvalidSpec(violations)
        spec, violations = self._resolve(view, router, normal_spec(asked.spec), before)
        if violations:
            raise InvalidSpec(violations)
        admitted = replace(asked, spec=spec)
        found = {
            clash.wanted.field: FieldViolation(f"balancer.spec.{clash.wanted.field}", clash.problem, "RULE_CLASH")
            for clash in clashes(claims_of_balancer(admitted), held_claims(view, router, [admitted.name]))
        }
        if found:
            raise InvalidSpec(found.values())
        return admitted

    def _resolve(
        self, view: View, router: Router, spec: BalancerSpec, before: Balancer | None
    ) -> tuple[BalancerSpec, _Problems]:
        """Full names, certificates with their keys, and what is wrong with them."""
        targets = RuleTargets(view, router)
        held = [] if before is None else [c for listener in before.spec.listeners for c in listener.certificates]
        known = (
            set() if before is None else {b.group or b.instance for pool in before.spec.pools for b in pool.backends}
        )
        now = self._context.clock.now()
        violations: list[FieldViolation] = []
        listeners, pools = [], []
        for index, listener in enumerate(spec.listeners):
            where = f"balancer.spec.listeners[{index}]"
            public, inside = listener.public_address, listener.inside_network
            if public:
                found, more = targets.public_address(public, f"{where}.public_address")
                public = found.name
                violations += [*more, *other_family(listener, found.address, where)]
            if inside:
                inside, more = targets.leg(inside, f"{where}.inside_network")
                violations += more or _names_port(view, inside, listener, where)
            certificates, more = admit(listener.certificates, held, now, f"{where}.certificates")
            violations += more
            listeners.append(replace(listener, public_address=public, inside_network=inside, certificates=certificates))
        for index, pool in enumerate(spec.pools):
            backends = []
            for number, backend in enumerate(pool.backends):
                where = f"balancer.spec.pools[{index}].backends[{number}]"
                if backend.group:
                    name, more = targets.group(backend.group, f"{where}.group")
                    resolved = replace(backend, group=name)
                else:
                    name, more = targets.instance(backend.instance, f"{where}.instance")
                    resolved = replace(backend, instance=name)
                if name not in known:  # one that was admitted and has gone may come back
                    violations += [replace(violation, reason="BACKEND_NOT_A_MEMBER") for violation in more]
                backends.append(resolved)
            pools.append(replace(pool, backends=tuple(backends)))
        return replace(spec, listeners=tuple(listeners), pools=tuple(pools)), violations


def _names_port(view: View, network_name: str, listener: Listener, field: str) -> list[FieldViolation]:
    """Where a router gives addresses, it also answers for names."""
    if listener.port != NAMES_PORT:
        return []
    dhcp = lookup.network(view, *parse_child(network_name, "networks")).spec.dhcp
    if dhcp is None or not dhcp.enabled:
        return []
    problem = f"is taken: the router answers for names on {network_name}, which has DHCP"
    return [FieldViolation(f"{field}.port", problem, "RULE_CLASH")]

"""Routers: asked for, changed and deleted. Their containers are `controlplane/router_members/`'s affair, which follows the records.

Invariant: a network is behind at most one router, and while it is, none of its instances has published ports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controlplane.domain.containers import PublishedPort
from controlplane.domain.kinds import BALANCER, INSTANCE, ROUTER, ROUTER_RULE
from controlplane.domain.names import check_id, check_labels, parse_child
from controlplane.domain.routers import DefaultAction, EdgeHosts, Router, RouterLeg, RouterSpec
from controlplane.history import record_event
from controlplane.routers.status import RouterStatus, lost_hosts, status_of
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.router_admission import (
    DEFAULT_TEMPLATE,
    check_quota,
    check_template,
    describe,
    find_place,
    outside_virtual_id,
)
from controlplane.services.router_field_rules import check_spec
from moorage.errors import AlreadyExists, InvalidSpec, NotReady
from moorage.store.base import Transaction, View


@dataclass(frozen=True, slots=True)
class RouterChange:
    """What an update sets; None leaves the field as it is. `has_edge_hosts`: edge_hosts is set, perhaps to none."""

    labels: Mapping[str, str] | None = None
    legs: tuple[RouterLeg, ...] | None = None
    redundant: bool | None = None
    drain_time_seconds: float | None = None
    ingress_ports: tuple[PublishedPort, ...] | None = None
    edge_hosts: EdgeHosts | None = None
    has_edge_hosts: bool = False

    def apply(self, spec: RouterSpec) -> RouterSpec:
        """The spec with what is set."""
        return replace(
            spec,
            legs=spec.legs if self.legs is None else self.legs,
            redundant=spec.redundant if self.redundant is None else self.redundant,
            drain_time_seconds=(
                spec.drain_time_seconds if self.drain_time_seconds is None else self.drain_time_seconds
            ),
            ingress_ports=spec.ingress_ports if self.ingress_ports is None else self.ingress_ports,
            edge_hosts=self.edge_hosts if self.has_edge_hosts else spec.edge_hosts,
        )


class RouterService:
    """What callers can do with routers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        router_id: str,
        labels: Mapping[str, str],
        spec: RouterSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> Router:
        """Make a router's record; its containers follow.

        Raises:
            InvalidSpec (OUTSIDE_UNSUITABLE, LEG_UNSUITABLE, SUBNET_OVERLAPS and others), AlreadyExists, NotFound, QuotaExceeded,
            NotReady (NETWORK_HAS_ROUTER, NETWORK_HAS_PUBLISHED_PORTS, ROUTER_TEMPLATE_MISSING), Exhausted (VIRTUAL_IDS_EXHAUSTED).
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> Router:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.router(tx, *parse_child(names[0], "routers"))
            project = lookup.project(tx, project_id)
            violations = check_id(router_id, "router_id") + check_labels(dict(labels), "router.labels")
            violations += check_spec(spec, "router.spec")
            if violations:
                raise InvalidSpec(violations)
            name = f"projects/{project_id}/routers/{router_id}"
            if tx.get(ROUTER, f"{project_id}/{router_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            asked = replace(spec, template=spec.template or DEFAULT_TEMPLATE)
            place = find_place(tx, self._context, project, asked, "router.spec", uid)
            template = check_template(tx, project, place.spec.template, "router.spec")
            check_quota(tx, project_id, place, template)
            router = Router(
                uid=uid,
                project=project_id,
                id=router_id,
                create_time=self._context.clock.now(),
                spec=_normal(place.spec),
                network_uids=tuple(leg.uid for leg in place.legs),
                outside_uid=place.outside.uid,
                labels=dict(labels),
                asked_revision=tx.revision,
                outside_virtual_id=outside_virtual_id(tx, place),
            )
            tx.put(ROUTER, router)
            record_event(tx, self._context.clock, router, "CREATED", describe(place), project=project_id)
            if request_key:
                lookup.remember(tx, request_key, body, (router.name,), self._context.clock.now())
            return router

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, router_id: str) -> Router:
        """One router. Raises NotFound."""
        return lookup.router(self._context.store.view(), project_id, router_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Router]:
        """A page of a project's routers; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            ROUTER,
            request,
            scope=f"routers of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda r, name: label_field(r.labels, name),
            admits=(lambda r: r.project in visible) if every and visible is not None else None,
        )

    def status(self, router: Router) -> RouterStatus:
        """How it stands now."""
        view = self._context.store.view()
        members = [found.value for found in view.find(INSTANCE, "owner", router.name)]
        return status_of(router, members, lost_hosts(view, members))

    async def update(
        self,
        project_id: str,
        router_id: str,
        change: RouterChange,
        *,
        etag: str = "",
        validate_only: bool = False,
    ) -> Router:
        """Change a router in place.

        Raises:
            NotFound, VersionConflict, InvalidSpec, NotReady (ROUTER_DELETING, NETWORK_HAS_ROUTER, NETWORK_HAS_PUBLISHED_PORTS),
            Exhausted (VIRTUAL_IDS_EXHAUSTED).
        """

        def write(tx: Transaction) -> Router:
            router = lookup.living_router(tx, project_id, router_id)
            lookup.check_etag(router, etag, router.name)
            spec = change.apply(router.spec)
            labels = dict(router.labels if change.labels is None else change.labels)
            violations = check_labels(labels, "router.labels") + check_spec(spec, "router.spec")
            if violations:
                raise InvalidSpec(violations)
            project = lookup.project(tx, project_id)
            place = find_place(tx, self._context, project, spec, "router.spec", router.uid)
            changed = replace(
                router,
                spec=_normal(place.spec),
                network_uids=tuple(leg.uid for leg in place.legs),
                labels=labels,
                generation=router.generation + 1,
                asked_revision=tx.revision,
                outside_virtual_id=outside_virtual_id(tx, place, router),
            )
            tx.put(ROUTER, changed)
            return changed

        return await commit(self._context.store, write, validate_only=validate_only)

    async def delete(self, project_id: str, router_id: str, *, etag: str = "", force: bool = False) -> None:
        """Ask for the removal of a router and its containers; its record goes when they have gone, and its rules with it.

        Raises:
            NotFound, VersionConflict, NotReady (ROUTER_IN_USE): it has rules or balancers, and `force` is not set.
        """

        def ask(tx: Transaction) -> None:
            router = lookup.router(tx, project_id, router_id)
            lookup.check_etag(router, etag, router.name)
            if router.is_deleting:
                return
            uses = _uses(tx, router)
            if uses and not force:
                raise NotReady(
                    f"{router.name} has {uses}; delete them first, or say --force to let them go with it",
                    reason="ROUTER_IN_USE",
                    metadata={"name": router.name},
                )
            tx.put(ROUTER, replace(router, is_deleting=True, generation=router.generation + 1))
            record_event(tx, self._context.clock, router, "DELETING", "asked for", project=project_id)

        await self._context.store.update(ask)


def touch(tx: Transaction, router: Router) -> None:
    """Note that a call changed rules or balancers of the router: it is up to date once members run this revision."""
    tx.put(ROUTER, replace(router, asked_revision=tx.revision))


def _normal(spec: RouterSpec) -> RouterSpec:
    """Nothing left open."""
    return replace(
        spec,
        legs=tuple(
            replace(leg, egress=DefaultAction.ALLOW) if leg.egress is DefaultAction.UNSPECIFIED else leg
            for leg in spec.legs
        ),
        ingress_ports=tuple(replace(port, protocol=port.protocol or "tcp") for port in spec.ingress_ports),
    )


def _uses(view: View, router: Router) -> str:
    counts = (
        (len(view.find(ROUTER_RULE, "router", router.uid)), "rule"),
        (len(view.find(BALANCER, "router", router.uid)), "balancer"),
    )
    return " and ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)

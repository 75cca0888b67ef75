"""Hosts and zones: what people do with them. What agents report is in `reports.py`."""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.domain.hosts import Host, HostAdminState, HostLinkState, HostSettings, Zone
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import HOST, INSTANCE, VOLUME, ZONE
from controlplane.domain.names import check_id, check_labels, parse_top
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.host_drains import let_stay
from controlplane.services.instance_claims import release
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.placement_rules import check_settings
from moorage.errors import AlreadyExists, InvalidSpec, NotReady
from moorage.store.base import Transaction


class HostService:
    """What fleet admins can do with hosts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, host_id: str) -> Host:
        """One host. Raises NotFound."""
        return lookup.host(self._context.store.view(), host_id)

    def list(self, request: PageRequest) -> Page[Host]:
        """A page of hosts."""
        return list_page(
            self._context.store.view(),
            HOST,
            request,
            scope="hosts",
            fields=_filter_field,
            names=("zone", "link_state", "admin_state"),
        )

    def instances_of(self, host_uid: str) -> tuple[Instance, ...]:
        """What is placed on the host."""
        return tuple(found.value for found in self._context.store.view().find(INSTANCE, "host", host_uid))

    async def update(
        self,
        host_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        zone: str | None = None,
        settings: HostSettings | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Host:
        """Change labels, zone or settings; what is there stays. Raises NotFound, InvalidSpec, VersionConflict."""

        def change(tx: Transaction) -> Host:
            host = lookup.host(tx, host_id)
            lookup.check_etag(host, etag, host.name)
            new_labels = dict(host.labels if labels is None else labels)
            new_settings = host.settings if settings is None else settings
            violations = check_labels(new_labels, "host.labels") + check_settings(new_settings, "host.settings")
            if violations:
                raise InvalidSpec(violations)
            new_zone = host.zone if zone is None else zone
            if new_zone:
                lookup.require(tx, ZONE, new_zone, f"zones/{new_zone}")
            if settings is not None:
                projects = {*settings.dedicated_to, *(part.project for part in settings.reservations)}
                for name in sorted(projects):
                    lookup.project(tx, parse_top(name, "projects", "host.settings"))
            changed = replace(
                host, labels=new_labels, zone=new_zone, settings=new_settings, generation=host.generation + 1
            )
            if not validate_only:
                tx.put(HOST, changed)
            return changed

        return await self._context.store.update(change)

    async def set_admin_state(self, host_id: str, state: HostAdminState, etag: str = "") -> Host:
        """Cordon or uncordon; either ends a drain. Raises NotFound, VersionConflict."""

        def change(tx: Transaction) -> Host:
            host = lookup.host(tx, host_id)
            lookup.check_etag(host, etag, host.name)
            if host.admin_state is state:
                return host
            changed = replace(host, admin_state=state, drain=None, generation=host.generation + 1)
            tx.put(HOST, changed)
            let_stay(tx, host)
            record_event(tx, self._context.clock, host, state.name, "asked for")
            return changed

        return await self._context.store.update(change)

    async def delete(self, host_id: str, *, etag: str = "", force: bool = False) -> Host:
        """Remove a host; its certificate is refused from then on. Returns what it was.

        With `force` the operator gives their word that the machine is gone: its instances are given up.

        Raises:
            NotFound, VersionConflict, NotReady (HOST_IN_USE).
        """

        def remove(tx: Transaction) -> Host:
            host = lookup.host(tx, host_id)
            lookup.check_etag(host, etag, host.name)
            carried = [found.value for found in tx.find(INSTANCE, "host", host.uid)]
            volumes = [found.value for found in tx.find(VOLUME, "host", host.uid)]
            if (carried or volumes) and not force:
                raise NotReady(
                    f"{host.name} carries {len(carried)} instances and the files of {len(volumes)} volumes; delete them, or "
                    "give your word with --force that the machine is gone for good",
                    reason="HOST_IN_USE",
                    metadata={"instances": str(len(carried)), "volumes": str(len(volumes))},
                )
            for instance in carried:
                release(tx, instance, self._context.clock.now())
                record_event(
                    tx,
                    self._context.clock,
                    instance,
                    "LOST",
                    f"{host.name} was removed by force",
                    project=instance.project,
                    severity="warning",
                )
            tx.delete(HOST, HOST.key(host))
            record_event(tx, self._context.clock, host, "REMOVED", "by force" if force else "asked for")
            return host

        return await self._context.store.update(remove)


class ZoneService:
    """What fleet admins can do with zones."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, zone_id: str) -> Zone:
        """One zone. Raises NotFound."""
        return lookup.require(self._context.store.view(), ZONE, zone_id, f"zones/{zone_id}")

    def list(self, request: PageRequest) -> Page[Zone]:
        """A page of zones."""
        return list_page(self._context.store.view(), ZONE, request, scope="zones")

    async def create(
        self, zone_id: str, description: str, *, request_key: str = "", body: bytes = b"", validate_only: bool = False
    ) -> Zone:
        """Make a zone. Raises InvalidSpec, AlreadyExists."""

        def make(tx: Transaction) -> Zone:
            if request_key and lookup.remembered(tx, request_key, body) is not None:
                return lookup.require(tx, ZONE, zone_id, f"zones/{zone_id}")
            violations = check_id(zone_id, "zone_id")
            if violations:
                raise InvalidSpec(violations)
            if tx.get(ZONE, zone_id) is not None:
                raise AlreadyExists(f"zones/{zone_id} exists", metadata={"name": f"zones/{zone_id}"})
            zone = Zone(self._context.new_id(), zone_id, self._context.clock.now(), description)
            if not validate_only:
                tx.put(ZONE, zone)
                if request_key:
                    lookup.remember(tx, request_key, body, (zone.name,), self._context.clock.now())
            return zone

        return await self._context.store.update(make)

    async def update(
        self, zone_id: str, description: str | None, *, etag: str = "", validate_only: bool = False
    ) -> Zone:
        """Change the description. Raises NotFound, VersionConflict."""

        def change(tx: Transaction) -> Zone:
            zone = lookup.require(tx, ZONE, zone_id, f"zones/{zone_id}")
            lookup.check_etag(zone, etag, zone.name)
            new = zone.description if description is None else description
            changed = replace(zone, description=new, generation=zone.generation + 1)
            if not validate_only:
                tx.put(ZONE, changed)
            return changed

        return await self._context.store.update(change)

    async def delete(self, zone_id: str, *, etag: str = "") -> None:
        """Delete a zone without hosts. Raises NotFound, NotReady (ZONE_IN_USE), VersionConflict."""

        def remove(tx: Transaction) -> None:
            zone = lookup.require(tx, ZONE, zone_id, f"zones/{zone_id}")
            lookup.check_etag(zone, etag, zone.name)
            hosts = tx.find(HOST, "zone", zone_id)
            if hosts:
                raise NotReady(f"{zone.name} has {len(hosts)} hosts; move them first", reason="ZONE_IN_USE")
            tx.delete(ZONE, zone_id)

        await self._context.store.update(remove)


def _filter_field(host: Host, name: str) -> str | None:
    match name:
        case "zone":
            return f"zones/{host.zone}" if host.zone else ""
        case "link_state":
            return HostLinkState(host.link_state).name
        case "admin_state":
            return HostAdminState(host.admin_state).name
    return label_field(host.labels, name)

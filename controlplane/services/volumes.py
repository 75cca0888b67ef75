"""Volumes: made, changed and deleted by callers. What instances take of them is in `volume_use.py`, what follows in `volumes/loop.py`."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from controlplane.access.quota import Quota
from controlplane.domain.kinds import INSTANCE, PROJECT, VOLUME, VOLUME_SNAPSHOT
from controlplane.domain.names import check_id, check_labels, parse_child
from controlplane.domain.volumes import (
    HostLossPolicy,
    Volume,
    VolumeFill,
    VolumeSnapshot,
    VolumeSnapshotState,
    VolumeSpec,
    own_copy,
    state_of,
    with_defaults,
)
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.group_uses import groups_needing
from controlplane.services.instance_claims import charge_project
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.protection import refuse_protected
from controlplane.services.undelete import purge_time_of, taken_hint
from controlplane.services.volume_rules import check_spec
from moorage.errors import AlreadyExists, InvalidSpec, NotReady
from moorage.store.base import Transaction, View

_FIELD = "volume.spec"


class VolumeService:
    """What callers can do with volumes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        volume_id: str,
        labels: Mapping[str, str],
        spec: VolumeSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> Volume:
        """Make a volume. Raises InvalidSpec, AlreadyExists, NotFound (project, its host), QuotaExceeded."""

        def make(tx: Transaction) -> Volume:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.volume(tx, *parse_child(names[0], "volumes"))
            lookup.project(tx, project_id)
            violations = check_id(volume_id, "volume_id") + check_labels(dict(labels), "volume.labels")
            violations += check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            made = make_volume(self._context, tx, project_id, volume_id, labels, spec)
            if request_key:
                lookup.remember(tx, request_key, body, (made.name,), self._context.clock.now())
            return made

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, volume_id: str) -> Volume:
        """One volume. Raises NotFound."""
        return lookup.volume(self._context.store.view(), project_id, volume_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Volume]:
        """A page of a project's volumes; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            VOLUME,
            request,
            scope=f"volumes of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=_filter_field,
            names=("state", "host", "owner"),
            admits=(lambda v: v.project in visible) if every and visible is not None else None,
        )

    async def update(
        self,
        project_id: str,
        volume_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        spec_fields: Mapping[str, object] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Volume:
        """Change labels or policies.

        Raises:
            NotFound, InvalidSpec, VersionConflict, NotReady (VOLUME_DELETING; VOLUME_IN_USE: what was granted to the instances that use it
            depends on the policy).
        """

        def change(tx: Transaction) -> Volume:
            volume = lookup.living_volume(tx, project_id, volume_id)
            lookup.check_etag(volume, etag, volume.name)
            wanted: VolumeSpec = replace(volume.spec, **dict(spec_fields or {}))  # type: ignore[arg-type]
            new_labels = dict(volume.labels if labels is None else labels)
            violations = check_labels(new_labels, "volume.labels") + check_spec(wanted, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            spec = with_defaults(wanted)
            replaces = {one.on_host_loss is HostLossPolicy.REPLACE for one in (spec, volume.spec)}
            if len(replaces) > 1:
                refuse_used(tx, volume, "it begins or ceases to be replaced when its host is lost")
            changed = replace(volume, spec=spec, labels=new_labels, generation=volume.generation + 1)
            tx.put(VOLUME, changed)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, volume_id: str, *, etag: str = "", now: bool = False) -> None:
        """Ask for the removal of a volume with its files, which are kept for the project's undelete window unless `now`.

        Raises:
            NotFound, NotReady (VOLUME_IN_USE, DELETE_PROTECTED), VersionConflict.
        """

        def remove(tx: Transaction) -> None:
            volume = lookup.volume(tx, project_id, volume_id)
            lookup.check_etag(volume, etag, volume.name)
            command = f"moor volume update {volume.id} --no-delete-protection"
            refuse_protected(volume.name, is_protected=volume.spec.delete_protection, command=command)
            groups = groups_needing(tx, project_id, lambda spec: any(m.volume == volume.name for m in spec.volumes))
            if groups:
                raise NotReady(
                    f"{volume.name} is in use: members of {groups[0]} have it; change or delete the group first",
                    reason="VOLUME_IN_USE",
                    metadata={"name": volume.name, "groups": str(len(groups))},
                )
            if now and volume.purge_time is not None:
                tx.put(VOLUME, replace(volume, purge_time=None))
                return
            purge_time = purge_time_of(tx, project_id, self._context.clock.now(), at_once=now)
            ask_removal(self._context, tx, volume, "asked for", purge_time)

        await self._context.store.update(remove)

    def placed(self, project_id: str, volume_id: str) -> Volume:
        """A volume that a host has. Raises NotFound, NotReady (VOLUME_UNPLACED, VOLUME_DELETING, VOLUME_LOST, VOLUME_COPYING)."""
        return placed_volume(self._context.store.view(), project_id, volume_id)

    async def note_restored(self, volume: Volume) -> None:
        """Tell people that a volume's files are others now."""
        clock, project = self._context.clock, volume.project
        await self._context.store.update(
            lambda tx: record_event(tx, clock, volume, "RESTORED", "from a tar", project=project)
        )

    def instances(self, volume: Volume) -> tuple[str, ...]:
        """Names of the instances that use it, in order."""
        users = self._context.store.view().find(INSTANCE, "volume", volume.uid)
        return tuple(sorted(found.value.name for found in users))


def placed_volume(view: View, project_id: str, volume_id: str) -> Volume:
    """A volume whose files a host has. Raises NotFound, NotReady (VOLUME_UNPLACED, VOLUME_DELETING, VOLUME_LOST, VOLUME_COPYING)."""
    volume = lookup.living_volume(view, project_id, volume_id)
    if volume.lost:
        raise NotReady(volume.lost, reason="VOLUME_LOST", metadata={"name": volume.name})
    if volume.fill is not None:
        raise NotReady(f"{volume.name} is being copied into", reason="VOLUME_COPYING", metadata={"name": volume.name})
    if not volume.host_uid:
        raise NotReady(
            f"{volume.name} has no files yet; make it with a host, or run an instance that uses it",
            reason="VOLUME_UNPLACED",
            metadata={"name": volume.name},
        )
    return volume


def with_source(view: View, project_id: str, spec: VolumeSpec) -> tuple[VolumeSpec, VolumeFill | None]:
    """The spec of a clone with the full name of its source, and what is to be copied; as it is when it is none.

    Raises:
        InvalidSpec (OTHER_PROJECT, NAME_INVALID), NotFound, NotReady (as `placed_volume`, SNAPSHOT_NOT_READY).
    """
    if not spec.source:
        return spec, None
    prefix = f"projects/{project_id}/volumes/"
    field_name = f"{_FIELD}.source"
    if spec.source.startswith("projects/") and not spec.source.startswith(prefix):
        raise InvalidSpec.of(field_name, f"is not in projects/{project_id}", "OTHER_PROJECT")
    volume_id, *rest = spec.source.removeprefix(prefix).split("/")
    if rest and (len(rest) != 2 or rest[0] != "snapshots"):
        raise InvalidSpec.of(field_name, "must be a volume, or VOLUME/snapshots/SNAPSHOT", "NAME_INVALID")
    if not rest:
        source = placed_volume(view, project_id, volume_id)
        return replace(spec, source=source.name), VolumeFill(source.uid, own_copy(source))
    snapshot = ready_snapshot(view, project_id, volume_id, rest[1])
    return replace(spec, source=snapshot.name), VolumeFill(snapshot.volume_uid, snapshot.copy, snapshot.uid)


def ready_snapshot(view: View, project_id: str, volume_id: str, snapshot_id: str) -> VolumeSnapshot:
    """A snapshot that can be read. Raises NotFound, NotReady (SNAPSHOT_NOT_READY)."""
    snapshot = lookup.volume_snapshot(view, project_id, volume_id, snapshot_id)
    if snapshot.state is not VolumeSnapshotState.READY:
        raise NotReady(
            f"{snapshot.name} is {snapshot.state.name}", reason="SNAPSHOT_NOT_READY", metadata={"name": snapshot.name}
        )
    return snapshot


def refuse_source(tx: Transaction, volume: Volume) -> None:
    """Let a volume pass that nothing is copied from, and that has no snapshots. Raises NotReady (VOLUME_IN_USE, VOLUME_HAS_SNAPSHOTS)."""
    clones = tx.find(VOLUME, "fills", volume.uid)
    if clones:
        raise NotReady(
            f"{volume.name} is being copied into {clones[0].value.name}; wait until that is done",
            reason="VOLUME_IN_USE",
            metadata={"name": volume.name},
        )
    snapshots = tx.find(VOLUME_SNAPSHOT, "volume", volume.uid)
    if snapshots:
        raise NotReady(
            f"{volume.name} has {len(snapshots)} snapshots, which are kept beside its files; delete them first",
            reason="VOLUME_HAS_SNAPSHOTS",
            metadata={"name": volume.name, "snapshots": str(len(snapshots))},
        )


def make_volume(
    context: Context,
    tx: Transaction,
    project_id: str,
    volume_id: str,
    labels: Mapping[str, str],
    spec: VolumeSpec,
    owner: str = "",
) -> Volume:
    """Make a volume of a spec that was checked. Raises AlreadyExists, NotFound (its host), QuotaExceeded."""
    name = f"projects/{project_id}/volumes/{volume_id}"
    if tx.get(VOLUME, f"{project_id}/{volume_id}") is not None:
        hint = taken_hint(tx, VOLUME, f"{project_id}/{volume_id}", f"moor volume rm --now {volume_id}")
        raise AlreadyExists(f"{name} exists{hint}; choose another name", metadata={"name": name})
    spec, fill = with_source(tx, project_id, spec)
    host = lookup.host(tx, spec.host.removeprefix("hosts/")) if spec.host else None
    made = Volume(
        context.new_id(),
        project_id,
        volume_id,
        context.clock.now(),
        with_defaults(spec),
        dict(labels),
        host_uid=host.uid if host is not None else "",
        host=host.id if host is not None else "",
        owner=owner,
        fill=fill,
    )
    if host is not None and spec.size_bytes and host.facts.volume_size_problem:
        raise NotReady(
            f"{host.name} cannot limit the size of a volume: {host.facts.volume_size_problem}",
            reason="VOLUME_SIZE_NOT_SUPPORTED",
            metadata={"host": host.name},
        )
    if not spec.size_bytes and lookup.project(tx, project_id).quota.volume_bytes:
        text = "is required: the project's quota limits the size of its volumes"
        raise InvalidSpec.of(f"{_FIELD}.size_bytes", text, "REQUIRED")
    if fill is not None and host is None:
        made = replace(made, host_uid=fill.copy.host_uid, host=fill.copy.host)
    charge_project(tx, project_id, cost_of(made))
    tx.put(VOLUME, made)
    where = f"on hosts/{made.host}" if made.host else "with the host of its first instance"
    record_event(tx, context.clock, made, "CREATED", where, project=project_id)
    return made


def cost_of(volume: Volume) -> Quota:
    """What a volume costs its project."""
    return Quota(volumes=1, volume_bytes=volume.spec.size_bytes)


def refuse_used(tx: Transaction, volume: Volume, why: str) -> None:
    """Let a volume pass that nothing uses. Raises NotReady (VOLUME_IN_USE)."""
    users = [found.value for found in tx.find(INSTANCE, "volume", volume.uid)]
    if users:
        first = min(users, key=lambda i: i.id)
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        raise NotReady(
            f"{volume.name} is in use by {first.name}{more}: {why}; delete that first",
            reason="VOLUME_IN_USE",
            metadata={"name": volume.name, "instance": first.name, "instances": str(len(users))},
        )


def ask_removal(
    context: Context, tx: Transaction, volume: Volume, why: str, purge_time: datetime | None = None
) -> None:
    """Send a volume away that nothing uses; it is forgotten once its hosts have removed its files. Raises NotReady (VOLUME_IN_USE,
    VOLUME_HAS_SNAPSHOTS).
    """
    if volume.is_deleting:
        return
    refuse_used(tx, volume, "its files would be gone")
    refuse_source(tx, volume)
    tx.put(VOLUME, replace(volume, is_deleting=True, purge_time=purge_time, generation=volume.generation + 1))
    record_event(tx, context.clock, volume, "DELETING", why, project=volume.project)


def forget(context: Context, tx: Transaction, volume: Volume, why: str) -> None:
    """Forget a volume whose files are gone."""
    project = lookup.project(tx, volume.project)
    tx.put(PROJECT, replace(project, usage=project.usage - cost_of(volume)))
    tx.delete(VOLUME, VOLUME.key(volume))
    record_event(tx, context.clock, volume, "DELETED", why, project=volume.project)


def _filter_field(volume: Volume, name: str) -> str | None:
    match name:
        case "state":
            return state_of(volume).name
        case "host":
            return f"hosts/{volume.host}" if volume.host else ""
        case "owner":
            return volume.owner
    return label_field(volume.labels, name)

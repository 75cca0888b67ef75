"""Snapshots of volumes: asked for, restored and deleted by callers; hosts are told by `volumes/loop.py`."""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.domain.instances import InstanceState
from controlplane.domain.kinds import INSTANCE, VOLUME, VOLUME_SNAPSHOT
from controlplane.domain.names import check_id, check_labels, parse_grandchild
from controlplane.domain.volumes import Volume, VolumeFill, VolumeSnapshot, VolumeSnapshotState, own_copy
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.paging import Page, PageRequest, list_page
from controlplane.services.volumes import placed_volume, ready_snapshot
from moorage.errors import AlreadyExists, Exhausted, InvalidSpec, NotReady
from moorage.store.base import Transaction

MOST_SNAPSHOTS = 64  # of one volume


class VolumeSnapshotService:
    """What callers can do with snapshots."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        volume_id: str,
        snapshot_id: str,
        labels: Mapping[str, str],
        *,
        no_pause: bool = False,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> VolumeSnapshot:
        """Ask for a snapshot.

        Raises:
            InvalidSpec, AlreadyExists, NotFound, NotReady (VOLUME_UNPLACED, VOLUME_COPYING, VOLUME_LOST, VOLUME_DELETING), Exhausted
            (TOO_MANY_SNAPSHOTS).
        """

        def make(tx: Transaction) -> VolumeSnapshot:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.volume_snapshot(tx, *parse_grandchild(names[0], "volumes", "snapshots"))
            violations = check_id(snapshot_id, "volume_snapshot_id")
            violations += check_labels(dict(labels), "volume_snapshot.labels")
            if violations:
                raise InvalidSpec(violations)
            volume = placed_volume(tx, project_id, volume_id)
            name = f"{volume.name}/snapshots/{snapshot_id}"
            if tx.get(VOLUME_SNAPSHOT, f"{project_id}/{volume_id}/{snapshot_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            if len(tx.find(VOLUME_SNAPSHOT, "volume", volume.uid)) >= MOST_SNAPSHOTS:
                raise Exhausted(
                    f"{volume.name} has {MOST_SNAPSHOTS} snapshots; delete some", reason="TOO_MANY_SNAPSHOTS"
                )
            now = self._context.clock.now()
            made = VolumeSnapshot(
                self._context.new_id(),
                project_id,
                volume_id,
                snapshot_id,
                now,
                volume.uid,
                own_copy(volume),
                labels=dict(labels),
                no_pause=no_pause,
            )
            tx.put(VOLUME_SNAPSHOT, made)
            record_event(tx, self._context.clock, made, "CREATED", f"on hosts/{volume.host}", project=project_id)
            if request_key:
                lookup.remember(tx, request_key, body, (made.name,), now)
            return made

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, volume_id: str, snapshot_id: str) -> VolumeSnapshot:
        """One snapshot. Raises NotFound."""
        return lookup.volume_snapshot(self._context.store.view(), project_id, volume_id, snapshot_id)

    def list(self, project_id: str, volume_id: str, request: PageRequest) -> Page[VolumeSnapshot]:
        """A page of a volume's snapshots. Raises NotFound."""
        view = self._context.store.view()
        lookup.volume(view, project_id, volume_id)
        scope = f"snapshots of {project_id}/{volume_id}"
        return list_page(view, VOLUME_SNAPSHOT, request, scope=scope, prefix=f"{project_id}/{volume_id}/")

    async def delete(self, project_id: str, volume_id: str, snapshot_id: str, *, etag: str = "") -> None:
        """Ask for its removal. Raises NotFound, VersionConflict, NotReady (SNAPSHOT_IN_USE)."""

        def remove(tx: Transaction) -> None:
            snapshot = lookup.volume_snapshot(tx, project_id, volume_id, snapshot_id)
            lookup.check_etag(snapshot, etag, snapshot.name)
            clones = tx.find(VOLUME, "fills", snapshot.uid)
            if clones:
                raise NotReady(
                    f"{snapshot.name} is being copied into {clones[0].value.name}; wait until that is done",
                    reason="SNAPSHOT_IN_USE",
                    metadata={"name": snapshot.name},
                )
            if snapshot.state is not VolumeSnapshotState.DELETING:
                going = replace(snapshot, state=VolumeSnapshotState.DELETING, generation=snapshot.generation + 1)
                tx.put(VOLUME_SNAPSHOT, going)
                record_event(tx, self._context.clock, snapshot, "DELETING", "asked for", project=project_id)

        await self._context.store.update(remove)

    async def restore(self, project_id: str, volume_id: str, snapshot_id: str) -> Volume:
        """Ask for what the snapshot has in place of all that its volume has.

        Raises:
            NotFound, NotReady (VOLUME_IN_USE: an instance that uses it has a process; SNAPSHOT_NOT_READY, and as `placed_volume`).
        """

        def begin(tx: Transaction) -> Volume:
            volume = placed_volume(tx, project_id, volume_id)
            snapshot = ready_snapshot(tx, project_id, volume_id, snapshot_id)
            alive = (InstanceState.STARTING, InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.STOPPING)
            users = [found.value for found in tx.find(INSTANCE, "volume", volume.uid)]
            running = [user for user in users if user.observed.state in alive]
            if running:
                raise NotReady(
                    f"{running[0].name} runs and uses {volume.name}; stop it first",
                    reason="VOLUME_IN_USE",
                    metadata={"name": volume.name, "instance": running[0].name},
                )
            fill = VolumeFill(volume.uid, snapshot.copy, snapshot.uid)
            changed = replace(volume, fill=fill, message="", generation=volume.generation + 1)
            tx.put(VOLUME, changed)
            record_event(tx, self._context.clock, volume, "RESTORING", f"from {snapshot.name}", project=project_id)
            return changed

        return await self._context.store.update(begin)

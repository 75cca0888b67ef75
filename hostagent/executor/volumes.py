"""Volumes of instances: ready before the container is made and before each start, and never in two instances that must not share them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from hostagent.domain import ContainerPhase, HostVolume, InstanceAssignment, Mount, VolumeAssignment
from hostagent.executor.host_state import HostState
from hostagent.journal.journal import Journal
from hostagent.volumes.store import VolumeStore
from moorage.errors import NotReady, Unavailable
from moorage.ids import InstanceId

_ALIVE = (ContainerPhase.RUNNING, ContainerPhase.PAUSED)


class InstanceVolumes:
    """What instances have of the host's volumes. Removes files only on the control plane's word.

    Args:
        on_prepared: called when volumes of an instance were prepared.
    """

    def __init__(self, store: VolumeStore, journal: Journal, state: HostState, on_prepared: Callable[[], None]) -> None:
        self._store = store
        self._journal = journal
        self._state = state
        self._on_prepared = on_prepared

    async def prepare(self, assignment: InstanceAssignment) -> None:
        """Have an instance's volumes here.

        Raises:
            Unavailable: VOLUME_BUSY, another instance of this host still has one that one at a time may have.
            NotReady: VOLUME_MISSING.
            InvalidSpec: VOLUME_PATH_INVALID.
        """
        for wanted in assignment.volumes:
            if wanted.exclusive and (other := self._other_user(assignment, wanted.volume)):
                raise Unavailable(f"{other} still has volume {wanted.volume.volume_id}", reason="VOLUME_BUSY")
        mounts = tuple([await asyncio.to_thread(self._mount, wanted) for wanted in assignment.volumes])
        self._state.volumes[assignment.instance_id] = (_told(assignment), mounts)
        self._on_prepared()

    def is_ready(self, assignment: InstanceAssignment) -> bool:
        """Whether nothing has to be prepared for the run that begins."""
        if not assignment.volumes:
            return True
        return self._state.volumes.get(assignment.instance_id, ((), ()))[0] == _told(assignment)

    def mounts(self, instance_id: InstanceId) -> tuple[Mount, ...]:
        """Where its container finds them, once they are prepared."""
        return self._state.volumes.get(instance_id, ((), ()))[1]

    def look_again(self, instance_id: InstanceId) -> None:
        """What was prepared is looked at again before the next run."""
        self._state.volumes.pop(instance_id, None)

    def assigned(self) -> dict[tuple[str, int], HostVolume]:
        """The volumes that instances of this host need."""
        return {
            (one.volume.volume_id, one.volume.incarnation): one.volume
            for assignment in self._journal.assignments.values()
            for one in assignment.volumes
        }

    async def remove(self, volume: HostVolume) -> None:
        """Remove a volume's files. Raises NotReady (VOLUME_IN_USE): an instance that is assigned here needs it."""
        if (volume.volume_id, volume.incarnation) in self.assigned():
            raise NotReady(f"an instance of this host still needs volume {volume.volume_id}", reason="VOLUME_IN_USE")
        await asyncio.to_thread(self._store.remove, volume)

    async def used_bytes(self, volume: HostVolume) -> int | None:
        """What its files take of the disk; None when they are not here."""
        return await asyncio.to_thread(self._store.used_bytes, volume)

    def _mount(self, wanted: VolumeAssignment) -> Mount:
        self._store.prepare(wanted.volume)
        source = self._store.resolve(wanted.volume, wanted.sub_path)
        return Mount(target=wanted.target, source=str(source), read_only=wanted.read_only)

    def _other_user(self, own: InstanceAssignment, volume: HostVolume) -> str:
        """The name of another instance whose process may have the volume; empty: none."""
        for other in self._journal.assignments.values():
            if other.instance_id == own.instance_id:
                continue
            if not any(one.volume.volume_id == volume.volume_id for one in other.volumes):
                continue
            containers = self._state.containers.get(other.instance_id, {}).values()
            if any(container.phase in _ALIVE for container in containers):
                return other.name
        return ""


def _told(assignment: InstanceAssignment) -> tuple[VolumeAssignment, ...]:
    """What matters of it: that a volume was made is news to nobody who made it."""
    return tuple(replace(one, volume=replace(one.volume, must_exist=False)) for one in assignment.volumes)

"""Volumes of instances: ready before the container is made and before each start, and never in two instances that must not share them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from hostagent.domain import ContainerPhase, HostVolume, InstanceAssignment, Mount, VolumeAssignment
from hostagent.executor.host_state import HostState
from hostagent.executor.ports import Engine
from hostagent.journal.journal import Journal
from hostagent.volumes.archive import copy, pack, unpack
from hostagent.volumes.store import VolumeStore
from moorage.errors import NotFound, NotReady, Unavailable
from moorage.ids import ContainerId, InstanceId

_ALIVE = (ContainerPhase.RUNNING, ContainerPhase.PAUSED)


class InstanceVolumes:
    """What instances have of the host's volumes. Removes files only on the control plane's word.

    Args:
        engine: pauses instances while their volume is read.
        on_prepared: called when volumes of an instance were prepared.
    """

    def __init__(
        self, store: VolumeStore, engine: Engine, journal: Journal, state: HostState, on_prepared: Callable[[], None]
    ) -> None:
        self._store = store
        self._engine = engine
        self._refilling: set[str] = set()  # ids of volumes whose files are being replaced
        self._journal = journal
        self._state = state
        self._on_prepared = on_prepared

    async def prepare(self, assignment: InstanceAssignment) -> None:
        """Have an instance's volumes here.

        Raises:
            Unavailable: VOLUME_BUSY, another instance of this host still has one that one at a time may have, or one is being restored.
            NotReady: VOLUME_MISSING.
            InvalidSpec: VOLUME_PATH_INVALID.
        """
        for wanted in assignment.volumes:
            if wanted.volume.volume_id in self._refilling:
                raise Unavailable(f"volume {wanted.volume.volume_id} is being restored", reason="VOLUME_BUSY")
            if wanted.exclusive and (other := self._other_user(assignment, wanted.volume)):
                raise Unavailable(f"{other} still has volume {wanted.volume.volume_id}", reason="VOLUME_BUSY")
        mounts = tuple([await asyncio.to_thread(self._mount, wanted) for wanted in assignment.volumes])
        self._state.volumes[assignment.instance_id] = (_told(assignment), mounts)
        self._on_prepared()

    def is_ready(self, assignment: InstanceAssignment) -> bool:
        """Whether nothing has to be prepared for the run that begins."""
        if not assignment.volumes:
            return True
        if any(wanted.volume.volume_id in self._refilling for wanted in assignment.volumes):
            return False
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

    async def read(self, volume: HostVolume, *, no_pause: bool, snapshot_id: str = "") -> AsyncGenerator[bytes, None]:
        """The files of a volume or snapshot as a tar; instances that use it are paused meanwhile unless asked otherwise.

        Raises as `archive.pack`, NotFound (SNAPSHOT_MISSING).
        """
        async with self._standing_still(volume, snapshot_id, no_pause=no_pause) as folder:
            async with contextlib.aclosing(pack(folder)) as tar:
                async for chunk in tar:
                    yield chunk

    async def write(self, volume: HostVolume, chunks: AsyncIterable[bytes]) -> None:
        """Put the files of a tar in place of a volume's, once it has come in whole.

        Raises:
            NotReady: VOLUME_IN_USE, an instance that uses it has a process.
            Unavailable: VOLUME_BUSY, it is being restored already.
            InvalidSpec: ARCHIVE_INVALID.
        """
        async with self._refill(volume) as folder:
            await unpack(folder, chunks)

    async def copy(self, volume: HostVolume, source: HostVolume, snapshot_id: str) -> None:
        """Put a copy of what a volume or snapshot has in place of a volume's files. Raises as `write` and `read`."""
        async with self._refill(volume) as target, self._standing_still(source, snapshot_id, no_pause=False) as folder:
            await copy(folder, target)

    async def snapshot(self, volume: HostVolume, snapshot_id: str, *, no_pause: bool) -> None:
        """Keep what a volume has now; nothing happens when that snapshot is there."""
        if await asyncio.to_thread(self._store.has_snapshot, volume, snapshot_id):
            return
        target = await asyncio.to_thread(self._store.begin_snapshot, replace(volume, must_exist=True), snapshot_id)
        async with self._standing_still(volume, "", no_pause=no_pause) as folder:
            await copy(folder, target)
        await asyncio.to_thread(self._store.finish_snapshot, volume, snapshot_id)

    async def remove_snapshot(self, volume: HostVolume, snapshot_id: str) -> None:
        """Remove a snapshot; nothing happens when it is not there."""
        await asyncio.to_thread(self._store.remove_snapshot, volume, snapshot_id)

    @contextlib.asynccontextmanager
    async def _standing_still(self, volume: HostVolume, snapshot_id: str, *, no_pause: bool) -> AsyncIterator[Path]:
        """The folder of a volume that nobody changes, or of a snapshot, which nobody ever does."""
        if snapshot_id:
            yield await asyncio.to_thread(self._store.snapshot_folder, volume, snapshot_id)
            return
        folder = await asyncio.to_thread(self._store.prepare, replace(volume, must_exist=True))
        async with contextlib.AsyncExitStack() as stack:
            if not no_pause:
                await stack.enter_async_context(self._paused(volume))
            yield folder

    @contextlib.asynccontextmanager
    async def _refill(self, volume: HostVolume) -> AsyncIterator[Path]:
        """An empty folder that takes the place of a volume's files in the end, unless filling it fails."""
        if volume.volume_id in self._refilling:
            raise Unavailable(f"volume {volume.volume_id} is being restored already", reason="VOLUME_BUSY")
        self._refilling.add(volume.volume_id)  # from here on, none of its users is started
        try:
            self._refuse_processes(volume)
            try:
                yield await asyncio.to_thread(self._store.begin_refill, volume)
                self._refuse_processes(volume)  # one was on its way
                await asyncio.to_thread(self._store.finish_refill, volume)
            finally:
                await asyncio.to_thread(self._store.abandon_refill, volume)
        finally:
            self._refilling.discard(volume.volume_id)
            for user in self._users(volume):
                self.look_again(user.instance_id)
            self._on_prepared()

    def _refuse_processes(self, volume: HostVolume) -> None:
        alive = [user.name for user in self._users(volume) if self._is_alive(user.instance_id)]
        if alive:
            raise NotReady(
                f"{alive[0]} runs and uses the volume; stop it first",
                reason="VOLUME_IN_USE",
                metadata={"instance": alive[0]},
            )

    @contextlib.asynccontextmanager
    async def _paused(self, volume: HostVolume) -> AsyncIterator[None]:
        """Instances that use a volume stand still. One that is stopped meanwhile is not held back."""
        held: list[tuple[InstanceId, ContainerId]] = []
        try:
            for user in self._users(volume):
                for container in tuple(self._state.containers.get(user.instance_id, {}).values()):
                    if container.phase is ContainerPhase.RUNNING and user.instance_id not in self._state.held:
                        self._state.held.add(user.instance_id)
                        held.append((user.instance_id, container.container_id))
                        with contextlib.suppress(NotReady, NotFound):  # it has just ended: then it stands still too
                            await self._engine.pause(container.container_id)
            yield
        finally:
            for instance_id, container_id in held:
                self._state.held.discard(instance_id)
                with contextlib.suppress(NotReady, NotFound):  # somebody else let it go on, or it was removed
                    await self._engine.unpause(container_id)

    def _users(self, volume: HostVolume) -> list[InstanceAssignment]:
        return [
            assignment
            for assignment in self._journal.assignments.values()
            if any(one.volume.volume_id == volume.volume_id for one in assignment.volumes)
        ]

    def _is_alive(self, instance_id: InstanceId) -> bool:
        return any(one.phase in _ALIVE for one in self._state.containers.get(instance_id, {}).values())

    async def usage(self, volume: HostVolume) -> tuple[int, int] | None:
        """What its files take of the disk, and what it has room for (0: no limit); None when they are not here."""
        return await asyncio.to_thread(self._store.usage, volume)

    def _mount(self, wanted: VolumeAssignment) -> Mount:
        self._store.prepare(wanted.volume)
        source = self._store.resolve(wanted.volume, wanted.sub_path)
        return Mount(target=wanted.target, source=str(source), read_only=wanted.read_only)

    def _other_user(self, own: InstanceAssignment, volume: HostVolume) -> str:
        """The name of another instance whose process may have the volume; empty: none."""
        for other in self._users(volume):
            if other.instance_id != own.instance_id and self._is_alive(other.instance_id):
                return other.name
        return ""


def _told(assignment: InstanceAssignment) -> tuple[VolumeAssignment, ...]:
    """What matters of it: that a volume was made is news to nobody who made it."""
    return tuple(replace(one, volume=replace(one.volume, must_exist=False)) for one in assignment.volumes)

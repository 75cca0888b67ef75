"""Waiting for volumes and their snapshots."""

from abc import abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING

from moorage.client_waits import Limit, Waits, project_of
from moorage.errors import Internal, NotFound

if TYPE_CHECKING:
    from moorage.v1 import volumes_pb2
    from moorage.v1.volumes_pb2_grpc import VolumeServiceAsyncStub


class VolumeWaits(Waits):
    """What `moorage.client.Client` has of it."""

    @property
    @abstractmethod
    def volumes(self) -> "VolumeServiceAsyncStub": ...

    async def wait_volume_copied(self, name: str, timeout_seconds: float | None = None) -> "volumes_pb2.Volume":
        """Wait until nothing is being copied into a volume. Raises DeadlineExceeded, with what its host says; NotFound."""
        from moorage.v1 import volumes_pb2, watch_pb2

        async def read() -> list[volumes_pb2.Volume]:
            return [await self.volumes.GetVolume(volumes_pb2.GetVolumeRequest(name=name))]

        said = "not seen"
        async with (
            Limit(timeout_seconds, lambda: f"the files of {name} ({said})"),
            aclosing(self._follow(project_of(name), "volumes", read, lambda change: change.volume)) as changes,
        ):
            async for kind, volume in changes:
                if volume.name != name:
                    continue
                if kind == watch_pb2.CHANGE_TYPE_DELETED:
                    raise NotFound(f"{name} does not exist (any more)", metadata={"name": name})
                if volume.status.state != volumes_pb2.VOLUME_STATE_COPYING:
                    return volume
                said = volume.status.message or "being copied"
        raise Internal("a watch ended without an error")

    async def wait_volume_snapshot(
        self, name: str, timeout_seconds: float | None = None
    ) -> "volumes_pb2.VolumeSnapshot":
        """Wait until a snapshot is there. Raises DeadlineExceeded, with what its host says; NotFound."""
        from moorage.v1 import volumes_pb2, watch_pb2

        async def read() -> list[volumes_pb2.VolumeSnapshot]:
            return [await self.volumes.GetVolumeSnapshot(volumes_pb2.GetVolumeSnapshotRequest(name=name))]

        said = "not seen"
        follow = self._follow(project_of(name), "volume_snapshots", read, lambda change: change.volume_snapshot)
        async with Limit(timeout_seconds, lambda: f"snapshot {name} ({said})"), aclosing(follow) as changes:
            async for kind, snapshot in changes:
                if snapshot.name != name:
                    continue
                if kind == watch_pb2.CHANGE_TYPE_DELETED:
                    raise NotFound(f"{name} does not exist (any more)", metadata={"name": name})
                if snapshot.state != volumes_pb2.VOLUME_SNAPSHOT_STATE_CREATING:
                    return snapshot
                said = snapshot.message or "being made"
        raise Internal("a watch ended without an error")

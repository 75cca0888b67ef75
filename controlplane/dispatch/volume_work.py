"""What hosts are asked to do with volumes, over side streams: they say when it is done."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from controlplane.dispatch.streams import StreamBroker, both_ways
from controlplane.dispatch.volumes import HostVolume
from moorage.protoconv import fill
from moorage.v1 import agent_pb2, volume_work_pb2


class HostVolumes:
    """Has hosts do something with volumes, over side streams."""

    def __init__(self, broker: StreamBroker) -> None:
        self._broker = broker

    async def remove(self, host_uid: str, volume: HostVolume) -> None:
        """Remove a volume's files; nothing happens when there are none.

        Raises:
            Unavailable (HOST_AWAY), NotReady (VOLUME_IN_USE), and whatever the host says.
        """
        async for _ in self._work(host_uid, _work(volume, remove=True)):
            continue

    async def read(
        self, host_uid: str, volume: HostVolume, *, no_pause: bool, snapshot_id: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """All files of a volume, or of a snapshot of it, as a tar. Raises Unavailable (HOST_AWAY), and whatever the host says."""
        work = _work(volume, read=volume_work_pb2.VolumeRead(no_pause=no_pause, snapshot_id=snapshot_id))
        async with aclosing(self._work(host_uid, work)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def write(self, host_uid: str, volume: HostVolume, tar: AsyncIterator[bytes]) -> None:
        """Put the files of a tar in place of a volume's. Raises as `read`, NotReady (VOLUME_IN_USE), and what `tar` raises."""

        async def messages() -> AsyncIterator[agent_pb2.OpenStreamResponse]:
            async for chunk in tar:
                yield agent_pb2.OpenStreamResponse(chunk=chunk)
            yield agent_pb2.OpenStreamResponse(closed=True)

        async for _ in self._work(host_uid, _work(volume, write=True), messages()):
            continue

    async def copy(self, host_uid: str, volume: HostVolume, source: HostVolume, snapshot_id: str) -> None:
        """Put a copy of what another volume of the host, or a snapshot of it, has in place of a volume's files. Raises as `write`."""
        wanted = volume_work_pb2.VolumeCopyWork(snapshot_id=snapshot_id)
        fill(source, wanted.source)
        async for _ in self._work(host_uid, _work(volume, copy=wanted)):
            continue

    async def snapshot(self, host_uid: str, volume: HostVolume, snapshot_id: str, *, no_pause: bool) -> None:
        """Keep what a volume has now. Raises Unavailable (HOST_AWAY), and whatever the host says."""
        wanted = volume_work_pb2.VolumeSnapshotWork(snapshot_id=snapshot_id, no_pause=no_pause)
        async for _ in self._work(host_uid, _work(volume, snapshot=wanted)):
            continue

    async def remove_snapshot(self, host_uid: str, volume: HostVolume, snapshot_id: str) -> None:
        """Remove a snapshot; nothing happens when it is not there. Raises as `snapshot`."""
        async for _ in self._work(host_uid, _work(volume, remove_snapshot=snapshot_id)):
            continue

    async def _work(
        self, host_uid: str, work: volume_work_pb2.VolumeWork, inputs: AsyncIterator[Any] | None = None
    ) -> AsyncGenerator[Any, None]:
        stream_id, stream = await self._broker.open(host_uid, "", "volume", work)
        try:
            async for message in stream.messages() if inputs is None else both_ways(stream, inputs):
                yield message
        finally:
            self._broker.close(stream_id)


def _work(volume: HostVolume, **kind: Any) -> volume_work_pb2.VolumeWork:
    work = volume_work_pb2.VolumeWork(**kind)
    fill(volume, work.volume)
    return work

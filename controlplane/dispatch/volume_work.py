"""What hosts are asked to do with volumes, over side streams: they say when it is done."""

from controlplane.dispatch.streams import StreamBroker
from controlplane.dispatch.volumes import HostVolume
from moorage.protoconv import fill
from moorage.v1 import volume_work_pb2


class HostVolumes:
    """Has hosts do something with volumes, over side streams."""

    def __init__(self, broker: StreamBroker) -> None:
        self._broker = broker

    async def remove(self, host_uid: str, volume: HostVolume) -> None:
        """Remove a volume's files; nothing happens when there are none.

        Raises:
            Unavailable (HOST_AWAY), NotReady (VOLUME_IN_USE), and whatever the host says.
        """
        work = volume_work_pb2.VolumeWork(remove=True)
        fill(volume, work.volume)
        stream_id, stream = await self._broker.open(host_uid, "", "volume", work)
        try:
            async for _ in stream.messages():
                continue
        finally:
            self._broker.close(stream_id)

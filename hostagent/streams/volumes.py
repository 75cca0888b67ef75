"""Work on volumes that the control plane asks for over a side stream."""

from hostagent.domain import HostVolume
from hostagent.streams.ports import VolumeFiles
from moorage.errors import InvalidSpec
from moorage.protoconv import from_proto
from moorage.v1 import volume_work_pb2


async def work(volumes: VolumeFiles, request: volume_work_pb2.VolumeWork) -> None:
    """Do it; the end of the stream says that it is done."""
    volume = from_proto(HostVolume, request.volume)
    match request.WhichOneof("kind"):
        case "remove":
            await volumes.remove(volume)
        case _:
            raise InvalidSpec.of("kind", "this agent does not know what is asked for", "AGENT_VERSION")

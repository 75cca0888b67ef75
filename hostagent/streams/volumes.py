"""Work on volumes that the control plane asks for over a side stream."""

from collections.abc import AsyncIterator

from hostagent.domain import HostVolume
from hostagent.streams.call import SideCall
from hostagent.streams.ports import VolumeFiles
from moorage.errors import InvalidSpec, Unavailable
from moorage.protoconv import from_proto
from moorage.v1 import volume_work_pb2


async def work(call: SideCall, volumes: VolumeFiles, request: volume_work_pb2.VolumeWork) -> None:
    """Do it; the end of the stream says that it is done."""
    volume = from_proto(HostVolume, request.volume)
    match request.WhichOneof("kind"):
        case "remove":
            await volumes.remove(volume)
        case "read":
            wanted = request.read
            async for chunk in volumes.read(volume, no_pause=wanted.no_pause, snapshot_id=wanted.snapshot_id):
                await call.send(chunk=chunk)
        case "write":
            await volumes.write(volume, _chunks(call))
        case "copy":
            source = from_proto(HostVolume, request.copy.source)
            await volumes.copy(volume, source, request.copy.snapshot_id)
        case "snapshot":
            await volumes.snapshot(volume, request.snapshot.snapshot_id, no_pause=request.snapshot.no_pause)
        case "remove_snapshot":
            await volumes.remove_snapshot(volume, request.remove_snapshot)
        case _:
            raise InvalidSpec.of("kind", "this agent does not know what is asked for", "AGENT_VERSION")


async def _chunks(call: SideCall) -> AsyncIterator[bytes]:
    """The caller's tar.

    Raises:
        Unavailable: CALLER_GONE, it ended before the caller said so: what came in is not whole.
    """
    while (message := await call.read()) is not None:
        if message.WhichOneof("part") != "chunk":
            raise InvalidSpec.of("chunk", "a volume takes nothing but pieces of a tar")
        yield message.chunk
    if not call.was_closed:
        raise Unavailable("the caller went away in the middle of the tar", reason="CALLER_GONE")

"""Work on volumes that the control plane asks for over a side stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from hostagent.domain import HostVolume
from hostagent.streams.call import SideCall
from hostagent.streams.ports import VolumeFiles
from moorage.errors import DeadlineExceeded, InvalidSpec, Unavailable
from moorage.protoconv import from_proto
from moorage.v1 import volume_work_pb2

_STALLED_SECONDS = 60.0


async def work(call: SideCall, volumes: VolumeFiles, request: volume_work_pb2.VolumeWork) -> None:
    """Do it; the end of the stream says that it is done."""
    volume = from_proto(HostVolume, request.volume)
    match request.WhichOneof("kind"):
        case "remove":
            await volumes.remove(volume)
        case "read":
            wanted = request.read
            files = volumes.read(volume, no_pause=wanted.no_pause, snapshot_id=wanted.snapshot_id)
            async with aclosing(files):  # instances stand still until it is closed
                async for chunk in files:
                    await _send(call, chunk)
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


async def _send(call: SideCall, chunk: bytes) -> None:
    """Send a piece.

    Raises:
        DeadlineExceeded: CALLER_STALLED, nobody takes it: instances must not stand still for that.
    """
    try:
        async with asyncio.timeout(_STALLED_SECONDS):
            await call.send(chunk=chunk)
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing was read of the volume for {_STALLED_SECONDS:.0f} s", reason="CALLER_STALLED"
        ) from None


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

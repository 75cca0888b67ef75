"""Streams that only tell: logs, statistics, files out; and files in."""

import time
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from hostagent.streams.call import SideCall
from hostagent.streams.ports import RouterCounts, StreamEngine, StreamFabric
from moorage.clock import Clock
from moorage.errors import InvalidSpec, NotFound
from moorage.ids import ContainerId, InstanceId
from moorage.protoconv import to_proto
from moorage.v1 import instance_streams_pb2 as pb
from moorage.v1 import router_bundles_pb2

CHUNK_BYTES = 256 * 1024
_STATS_SECONDS = 1.0


async def logs(call: SideCall, engine: StreamEngine, container_id: ContainerId, request: pb.StreamLogsRequest) -> None:
    """Send what the process wrote, and with `follow` what it writes."""
    since = request.since.ToNanoseconds() / 1e9 if request.HasField("since") else None
    async for chunk in engine.logs(
        container_id,
        follow=request.follow,
        since=since,
        tail=request.tail or None,
        timestamps=request.timestamps,
    ):
        data = chunk.data if chunk.time is None else _stamp(chunk.time) + chunk.data
        stream = pb.OUTPUT_STREAM_STDERR if chunk.stream == "stderr" else pb.OUTPUT_STREAM_STDOUT
        for piece in pieces(data):
            await call.send(logs=pb.StreamLogsResponse(stream=stream, data=piece))


async def stats(
    call: SideCall,
    engine: StreamEngine,
    fabric: StreamFabric,
    clock: Clock,
    instance_id: InstanceId,
    container_id: ContainerId,
    request: pb.StreamStatsRequest,
) -> None:
    """Send what the instance uses, once or every second."""
    while True:
        usage = await engine.stats(container_id)
        message = pb.StreamStatsResponse(
            cpu_nanos=usage.cpu_nanos,
            memory_bytes=usage.memory_bytes,
            memory_limit_bytes=usage.memory_limit_bytes,
            pids=usage.pids,
            block_read_bytes=usage.block_read_bytes,
            block_write_bytes=usage.block_write_bytes,
        )
        message.time.FromNanoseconds(round((usage.read_at or time.time()) * 1e9))
        try:
            counters = await fabric.counters(instance_id)
        except NotFound:
            counters = {}  # a stopped instance whose namespace is gone: its cgroup figures are zero as well
        for name, found in counters.items():
            message.interfaces[name].CopyFrom(
                pb.InterfaceStats(
                    rx_bytes=found.rx_bytes,
                    rx_packets=found.rx_packets,
                    tx_bytes=found.tx_bytes,
                    tx_packets=found.tx_packets,
                )
            )
        await call.send(stats=message)
        if not request.follow:
            return
        await clock.sleep(_STATS_SECONDS)


async def router_figures(
    call: SideCall, routers: RouterCounts, instance_id: InstanceId, request: router_bundles_pb2.RouterFiguresRequest
) -> None:
    """Send what a router's rules and balancers counted, once."""
    rules = await routers.rules(instance_id) if request.rules else ()
    pools = await routers.pools(instance_id) if request.balancers else ()
    figures = router_bundles_pb2.RouterFigures(
        rules=[to_proto(one, router_bundles_pb2.RuleFigure) for one in rules],
        pools=[to_proto(one, router_bundles_pb2.PoolFigure) for one in pools],
    )
    await call.send(router_figures=figures)


async def copy_out(call: SideCall, engine: StreamEngine, container_id: ContainerId, request: pb.CopyOutRequest) -> None:
    """Send a path of the instance as a tar."""
    async for data in engine.copy_out(container_id, request.path):
        for piece in pieces(data):
            await call.send(chunk=piece)


async def copy_in(call: SideCall, engine: StreamEngine, container_id: ContainerId, target: pb.CopyTarget) -> None:
    """Unpack the caller's tar into the instance."""

    async def chunks() -> AsyncIterator[bytes]:
        while (message := await call.read()) is not None:
            if message.WhichOneof("part") != "chunk":
                raise InvalidSpec.of("chunk", "a copy takes nothing but pieces of a tar")
            yield message.chunk

    await engine.copy_in(container_id, target.path, chunks())


def pieces(data: bytes) -> list[bytes]:
    """Data in pieces that fit into a message."""
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


def _stamp(seconds: float) -> bytes:
    stamp = Timestamp()
    stamp.FromNanoseconds(round(seconds * 1e9))
    return stamp.ToJsonString().encode() + b" "

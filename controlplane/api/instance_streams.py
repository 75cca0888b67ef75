"""InstanceStreamService: each call is joined with a side stream of the instance's host."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from controlplane.access.rules import require_fleet_admin
from controlplane.api.caller import current_user
from controlplane.dispatch.streams import SideStream, StreamBroker, both_ways
from controlplane.domain.instances import Instance
from controlplane.domain.names import parse_child
from controlplane.domain.routers import is_router
from controlplane.services.instances import InstanceService
from moorage.errors import InvalidSpec, NotReady
from moorage.v1 import agent_pb2, instance_streams_pb2, instance_streams_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


_READING = frozenset({"logs", "stats"})


class InstanceStreamServicer(instance_streams_pb2_grpc.InstanceStreamServiceServicer):
    """Looking into instances."""

    def __init__(self, instances: InstanceService, broker: StreamBroker) -> None:
        self._instances = instances
        self._broker = broker

    def _instance(self, name: str) -> Instance:
        instance = self._instances.get(*parse_child(name, "instances"))
        if not instance.host_uid or not instance.observed.container_id:
            raise NotReady(
                f"{instance.name} has no container yet ({instance.observed.state.name})", reason="NO_CONTAINER"
            )
        return instance

    @asynccontextmanager
    async def _open(self, name: str, kind: str, wanted: Any) -> AsyncIterator[SideStream]:
        instance = self._instance(name)
        if is_router(instance) and kind not in _READING:
            # What the platform runs itself has powers and secrets that a project's policy may not give to its members.
            require_fleet_admin(current_user())
        stream_id, stream = await self._broker.open(instance.host_uid, instance.uid, kind, wanted)
        try:
            yield stream
        finally:
            self._broker.close(stream_id)

    async def StreamLogs(
        self, request: instance_streams_pb2.StreamLogsRequest, context: _Context
    ) -> AsyncIterator[instance_streams_pb2.StreamLogsResponse]:
        if request.tail < 0:
            raise InvalidSpec.of("tail", "must not be negative", "OUT_OF_RANGE")
        async with self._open(request.name, "logs", request) as stream:
            async for message in stream.messages():
                yield message

    async def StreamStats(
        self, request: instance_streams_pb2.StreamStatsRequest, context: _Context
    ) -> AsyncIterator[instance_streams_pb2.StreamStatsResponse]:
        async with self._open(request.name, "stats", request) as stream:
            async for message in stream.messages():
                yield message

    async def CopyOut(
        self, request: instance_streams_pb2.CopyOutRequest, context: _Context
    ) -> AsyncIterator[instance_streams_pb2.CopyOutResponse]:
        if not request.path.startswith("/"):
            raise InvalidSpec.of("path", "must be absolute", "INVALID_PATH")
        async with self._open(request.name, "copy_out", request) as stream:
            async for chunk in stream.messages():
                yield instance_streams_pb2.CopyOutResponse(chunk=chunk)

    async def CopyIn(
        self, request_iterator: AsyncIterator[instance_streams_pb2.CopyInRequest], context: _Context
    ) -> instance_streams_pb2.CopyInResponse:
        first = await anext(request_iterator)
        target = first.target
        if not target.path.startswith("/"):
            raise InvalidSpec.of("target.path", "must be absolute", "INVALID_PATH")

        async def chunks() -> AsyncIterator[agent_pb2.OpenStreamResponse]:
            async for request in request_iterator:
                if request.WhichOneof("part") != "chunk":
                    raise InvalidSpec.of("part", "only the first message may be other than a chunk", "STREAM_INVALID")
                yield agent_pb2.OpenStreamResponse(chunk=request.chunk)
            yield agent_pb2.OpenStreamResponse(closed=True)

        async with self._open(target.name, "copy_in", target) as stream:
            async for _ in both_ways(stream, chunks()):
                continue
        return instance_streams_pb2.CopyInResponse()

    async def ExecInstance(
        self, request_iterator: AsyncIterator[instance_streams_pb2.ExecInstanceRequest], context: _Context
    ) -> AsyncIterator[instance_streams_pb2.ExecInstanceResponse]:
        start = (await anext(request_iterator)).start
        if not start.attach and not start.command:
            raise InvalidSpec.of("start.command", "is required unless attach is set", "REQUIRED")

        async def inputs() -> AsyncIterator[agent_pb2.OpenStreamResponse]:
            async for request in request_iterator:
                yield agent_pb2.OpenStreamResponse(exec=request)

        async with self._open(start.name, "exec", start) as stream:
            async for message in both_ways(stream, inputs()):
                yield message

    async def ForwardPort(
        self, request_iterator: AsyncIterator[instance_streams_pb2.ForwardPortRequest], context: _Context
    ) -> AsyncIterator[instance_streams_pb2.ForwardPortResponse]:
        start = (await anext(request_iterator)).start
        if not 1 <= start.port <= 65535:
            raise InvalidSpec.of("start.port", "must be between 1 and 65535", "OUT_OF_RANGE")

        async def inputs() -> AsyncIterator[agent_pb2.OpenStreamResponse]:
            async for request in request_iterator:
                yield agent_pb2.OpenStreamResponse(forward=request)

        async with self._open(start.name, "forward", start) as stream:
            async for message in both_ways(stream, inputs()):
                yield message

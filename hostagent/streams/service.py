"""Answers each StreamRequest with a side stream of its own, over the connection of the session.

However it ends, the caller is told: with the last message when it was us, and when the caller goes, the handler is
cancelled.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc

from hostagent.streams import readers, talks, volumes
from hostagent.streams.call import SideCall
from hostagent.streams.ports import Instances, RouterCounts, StreamEngine, StreamFabric, VolumeFiles
from moorage.clock import Clock
from moorage.errors import Exhausted, Internal, InvalidSpec, MoorageError
from moorage.ids import InstanceId
from moorage.status import status_of
from moorage.tasks import TaskOwner
from moorage.v1 import agent_pb2, agent_pb2_grpc

log = logging.getLogger(__name__)

MAX_STREAMS = 500  # each has two tasks


class SideStreams:
    """Opens and carries side streams; `close` ends them all."""

    def __init__(
        self,
        *,
        channel: Callable[[], grpc.aio.Channel],
        engine: StreamEngine,
        fabric: StreamFabric,
        instances: Instances,
        routers: RouterCounts,
        volume_files: VolumeFiles,
        clock: Clock,
    ) -> None:
        self._channel = channel
        self._engine = engine
        self._fabric = fabric
        self._instances = instances
        self._routers = routers
        self._volumes = volume_files
        self._clock = clock
        self._tasks = TaskOwner("side streams")

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the streams that are open."""
        return self._tasks.running

    def open(self, request: agent_pb2.StreamRequest) -> None:
        """Begin to answer a request; returns at once."""
        self._tasks.spawn(self._answer(request), name=f"stream {request.stream_id}")

    async def close(self) -> None:
        """End all streams."""
        await self._tasks.close()

    async def _answer(self, request: agent_pb2.StreamRequest) -> None:
        try:
            stub: Any = agent_pb2_grpc.AgentServiceStub(self._channel())
        except MoorageError:
            return  # the session that asked is gone, and so is whoever asked
        raw = stub.OpenStream()
        handler = asyncio.current_task()
        assert handler is not None
        is_ours = False

        def caller_is_gone(_: object) -> None:
            if not is_ours:
                handler.cancel()

        raw.add_done_callback(caller_is_gone)
        call = SideCall(raw)
        end = agent_pb2.StreamEnd()
        pump = self._tasks.spawn(call.pump(), name=f"input of stream {request.stream_id}")
        try:
            await call.send(stream_id=request.stream_id)
            try:
                await self._handle(call, request)
            except MoorageError as exc:
                end.error.CopyFrom(status_of(exc))
            except (OSError, TimeoutError, ValueError) as exc:
                log.error("a side stream failed", exc_info=exc, extra={"stream": request.stream_id})
                end.error.CopyFrom(status_of(Internal(f"the stream failed on its host: {exc}")))
            is_ours = True
            await call.send(end=end)
            await raw.done_writing()
            await raw.code()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as exc:
            log.debug("a side stream broke", extra={"stream": request.stream_id, "problem": str(exc)})
        finally:
            is_ours = True
            raw.cancel()
            pump.cancel()

    async def _handle(self, call: SideCall, request: agent_pb2.StreamRequest) -> None:
        if len(self._tasks.running) > 2 * MAX_STREAMS:
            raise Exhausted(f"this host carries {MAX_STREAMS} side streams already", reason="TOO_MANY_STREAMS")
        instance_id = InstanceId(request.instance_id)
        kind = request.WhichOneof("kind")
        if kind == "forward":
            await talks.forward(call, self._instances, instance_id, request.forward)
            return
        if kind == "router_figures":
            await readers.router_figures(call, self._routers, instance_id, request.router_figures)
            return
        if kind == "volume":
            await volumes.work(call, self._volumes, request.volume)
            return
        container_id = self._instances.container_of(instance_id)
        match kind:
            case "logs":
                await readers.logs(call, self._engine, container_id, request.logs)
            case "stats":
                await readers.stats(
                    call, self._engine, self._fabric, self._clock, instance_id, container_id, request.stats
                )
            case "copy_out":
                await readers.copy_out(call, self._engine, container_id, request.copy_out)
            case "copy_in":
                await readers.copy_in(call, self._engine, container_id, request.copy_in)
            case "exec":
                await talks.run_command(call, self._engine, container_id, request.exec)
            case _:
                raise InvalidSpec.of("kind", "this agent does not know what is asked for", "AGENT_VERSION")

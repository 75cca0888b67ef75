"""An agent that answers side streams as a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from moorage.v1 import agent_pb2
from tests.support.controlplane import Agent, Plane, hello

_Answer = Callable[[agent_pb2.StreamRequest, Any], AsyncIterator[agent_pb2.OpenStreamRequest]]


class StreamAgent:
    """An agent that answers every side stream with `answer(request, what the caller sends)`."""

    def __init__(self, plane: Plane, agent: Agent) -> None:
        self._stub = plane.agent_stub(agent)
        self._end = asyncio.Event()
        self.answer: _Answer = _nothing
        self.requests: list[agent_pb2.StreamRequest] = []
        self.opened: list[Any] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async def outgoing() -> AsyncIterator[agent_pb2.SessionRequest]:
            yield hello()
            await self._end.wait()

        async with asyncio.TaskGroup() as group:
            self.call = self._stub.Session(outgoing())
            while (message := await self.call.read()) is not grpc.aio.EOF:
                if message.WhichOneof("part") == "stream":
                    self.requests.append(message.stream)
                    group.create_task(self._open(message.stream))

    async def _open(self, request: agent_pb2.StreamRequest) -> None:
        inputs: asyncio.Queue[Any] = asyncio.Queue()

        async def outgoing() -> AsyncIterator[agent_pb2.OpenStreamRequest]:
            yield agent_pb2.OpenStreamRequest(stream_id=request.stream_id)
            async for message in self.answer(request, inputs):
                yield message

        call = self._stub.OpenStream(outgoing())
        self.opened.append(call)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                inputs.put_nowait(message)
        except grpc.aio.AioRpcError:
            return
        finally:
            inputs.put_nowait(None)

    async def end(self) -> None:
        self._end.set()
        for call in (*self.opened, self.call):
            call.cancel()
        await asyncio.wait([self._task])


async def _nothing(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
    yield ended()


def ended(error: Any = None) -> agent_pb2.OpenStreamRequest:
    """The last message."""
    return agent_pb2.OpenStreamRequest(end=agent_pb2.StreamEnd(error=error))

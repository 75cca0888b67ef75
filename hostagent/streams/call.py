"""One side stream to the control plane, as its handlers see it."""

import asyncio
from typing import Any

import grpc

from moorage.v1 import agent_pb2

_EOF: Any = grpc.aio.EOF
_QUEUE_MESSAGES = 8


class SideCall:
    """Sends wait while the other side does not read, and reading stops while nobody takes: no queue of ours can grow.

    gRPC cancels the whole call when a task that reads from it is cancelled. Handlers cancel their readers as a
    matter of course, so they read from a queue, which `pump` fills until the call has ended.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._messages: asyncio.Queue[agent_pb2.OpenStreamResponse | None] = asyncio.Queue(_QUEUE_MESSAGES)
        self._is_over = False
        self.was_closed = False  # the caller said that no more will come

    async def send(self, **part: Any) -> None:
        """Send one part of OpenStreamRequest."""
        await self._call.write(agent_pb2.OpenStreamRequest(**part))

    async def read(self) -> agent_pb2.OpenStreamResponse | None:
        """The next message of the caller; None when no more will come."""
        if self._is_over:
            return None
        message = await self._messages.get()
        if message is None or message.WhichOneof("part") == "closed":
            self._is_over = True
            self.was_closed = message is not None
            return None
        return message

    async def pump(self) -> None:
        """Take messages from the call until it ends."""
        try:
            while (message := await self._call.read()) is not _EOF:
                await self._messages.put(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # broken off: for whoever reads, that is the end
        await self._messages.put(None)

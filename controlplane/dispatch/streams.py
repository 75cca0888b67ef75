"""Joins a caller with the side stream that an agent opens on request. What flows is not looked at here.

Both directions are bounded queues: a slow end slows the other down, and nothing is kept for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from controlplane.dispatch.dispatcher import Dispatcher
from moorage.errors import MoorageError, NotFound, Unavailable

_QUEUE_MESSAGES = 16
_OPEN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What the session carries: `kind` names the field of moorage.v1.StreamRequest, `wanted` is its message."""

    stream_id: str
    instance_uid: str
    kind: str
    wanted: Any


@dataclass
class SideStream:
    """One pair of directions. None in a queue is the end of that direction."""

    host_uid: str
    to_agent: "asyncio.Queue[Any]" = field(default_factory=lambda: asyncio.Queue(_QUEUE_MESSAGES))
    from_agent: "asyncio.Queue[Any]" = field(default_factory=lambda: asyncio.Queue(_QUEUE_MESSAGES))
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # the caller is gone
    error: MoorageError | None = None

    async def messages(self) -> AsyncIterator[Any]:
        """What the agent sends, until its end.

        Raises:
            MoorageError: the agent says what went wrong, or went away.
        """
        while (message := await self.from_agent.get()) is not None:
            yield message
        if self.error is not None:
            raise self.error


async def both_ways(stream: SideStream, inputs: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """What the agent sends, while what the caller sends flows the other way. An error of the caller's side ends both."""

    async def feed() -> None:
        async for message in inputs:
            await stream.to_agent.put(message)

    feeding = asyncio.create_task(feed(), name="side stream, caller's direction")
    messages = stream.messages()
    getting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        while True:
            getting = asyncio.ensure_future(anext(messages))
            waiting = {getting} if feeding.done() else {getting, feeding}
            while getting not in (await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))[0]:
                if feeding.done() and feeding.exception() is not None:
                    getting.cancel()
                    feeding.result()
                waiting = {getting}
            try:
                yield getting.result()
            except StopAsyncIteration:
                return
    finally:
        feeding.cancel()
        getting.cancel()


class StreamBroker:
    """Streams that wait for their agent, and those that are open."""

    def __init__(self, dispatcher: Dispatcher, new_id: Callable[[], str]) -> None:
        self._dispatcher = dispatcher
        self._new_id = new_id
        self._streams: dict[str, SideStream] = {}

    async def open(self, host_uid: str, instance_uid: str, kind: str, wanted: Any) -> tuple[str, SideStream]:
        """Ask the agent for a side stream, and wait until it is there. Call `close` with the id in the end.

        Raises:
            Unavailable: HOST_AWAY.
        """
        session = self._dispatcher.session(host_uid)
        stream_id = self._new_id() + self._new_id()
        stream = SideStream(host_uid)
        self._streams[stream_id] = stream
        session.request(StreamRequest(stream_id, instance_uid, kind, wanted))
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await stream.opened.wait()
        except TimeoutError:
            self.close(stream_id)
            raise Unavailable("the host's agent does not answer; try again", reason="HOST_AWAY") from None
        except BaseException:
            self.close(stream_id)
            raise
        return stream_id, stream

    def claim(self, host_uid: str, stream_id: str) -> SideStream:
        """The stream that an agent answers; each can be claimed once, by its own host.

        Raises:
            NotFound: STREAM_UNKNOWN.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.host_uid != host_uid or stream.opened.is_set():
            raise NotFound("nobody waits for this stream (any more)", reason="STREAM_UNKNOWN")
        stream.opened.set()
        return stream

    def close(self, stream_id: str) -> None:
        """The caller is done."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.ended.set()

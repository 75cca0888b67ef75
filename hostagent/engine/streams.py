"""What the engine sends without end: events, logs, and the frames in which it packs two streams into one connection."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Self

import aiohttp

from hostagent.engine.connection import EngineConnection, segment
from hostagent.engine.parse import parse_event, parse_time
from hostagent.engine.values import EngineEvent, LogChunk
from moorage.errors import EngineUnavailable

_FRAME_HEADER_BYTES = 8
_FRAME_STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}
# Not the rest: every health check makes three exec events, and each would wake the agent.
EVENT_ACTIONS = ["create", "start", "die", "oom", "pause", "unpause", "destroy", "health_status", "rename", "update"]
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"  # named by the engine from API 1.42 on


class FrameReader:
    """Takes Docker's multiplexed stream apart.

    Header (stream, three zero bytes, length), then payload. Fed with bytes.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The whole frames that this piece completes, as (stream, payload)."""
        self._buffer += data
        frames: list[tuple[str, bytes]] = []
        start = 0
        while len(self._buffer) - start >= _FRAME_HEADER_BYTES:
            body = start + _FRAME_HEADER_BYTES
            end = body + int.from_bytes(self._buffer[start + 4 : body], "big")
            if len(self._buffer) < end:
                break
            frames.append((_FRAME_STREAMS.get(self._buffer[start], "stdout"), bytes(self._buffer[body:end])))
            start = end
        del self._buffer[:start]
        return frames


class LineReader:
    """Cuts a byte stream into lines. Fed with bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The whole lines that this piece completes, with their line ends."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        return [bytes(line) + b"\n" for line in lines]

    def rest(self) -> bytes:
        """What stands after the last line end."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        return rest


class EventStream(AsyncIterator[EngineEvent]):
    """Events of containers, in the engine's order.

    Never ends by itself: EngineUnavailable says that the engine went away.

    The first `anext` subscribes. Whoever lists containers afterwards calls `open` (or enters the context) before,
    so that nothing falls between list and stream. A cancelled `anext` loses no event.
    """

    def __init__(self, connection: EngineConnection, since: float | None) -> None:
        self._connection = connection
        self._since = since
        self._stack = AsyncExitStack()
        self._answer: aiohttp.ClientResponse | None = None
        self._lines = LineReader()
        self._ready: list[EngineEvent] = []

    async def open(self) -> Self:
        """Subscribe: what happens from now on will be seen. Raises EngineUnavailable."""
        if self._answer is None:
            query = {
                "since": None if self._since is None else f"{self._since:.9f}",
                "filters": json.dumps({"type": ["container"], "event": EVENT_ACTIONS}),
            }
            self._answer = await self._stack.enter_async_context(
                self._connection.request("GET", "/events", query=query)
            )
        return self

    async def __anext__(self) -> EngineEvent:
        await self.open()
        assert self._answer is not None
        while not self._ready:
            async with self._connection.guard():
                data = await self._answer.content.readany()
            if not data:
                await self.aclose()
                raise EngineUnavailable("the Docker Engine closed the stream of events")
            self._ready = [parse_event(json.loads(line)) for line in self._lines.feed(data) if line.strip()]
        return self._ready.pop(0)

    async def aclose(self) -> None:
        """Unsubscribe; safe to call twice."""
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def read_logs(
    connection: EngineConnection,
    container_id: str,
    *,
    terminal: bool | None,
    follow: bool,
    since: float | None,
    until: float | None,
    tail: int | None,
    timestamps: bool,
) -> AsyncIterator[LogChunk]:
    """A container's log. `terminal` None: believe the answer's content type (API 1.42 and later)."""
    query = {
        "stdout": 1,
        "stderr": 1,
        "follow": int(follow),
        "timestamps": int(timestamps),
        "since": None if since is None else f"{since:.9f}",
        "until": None if until is None else f"{until:.9f}",
        "tail": "all" if tail is None else tail,
    }
    async with connection.request("GET", f"/containers/{segment(container_id)}/logs", query=query) as answer:
        if terminal is None:
            terminal = answer.headers.get("Content-Type", "") != MULTIPLEXED
        if not terminal:
            frames = FrameReader()
            async for data in connection.chunks(answer):
                for stream, payload in frames.feed(data):
                    yield _chunk(stream, payload, timestamps)
        elif not timestamps:
            async for data in connection.chunks(answer):
                yield LogChunk("stdout", data)
        else:
            lines = LineReader()
            async for data in connection.chunks(answer):
                for line in lines.feed(data):
                    yield _chunk("stdout", line, timestamps)
            if rest := lines.rest():
                yield _chunk("stdout", rest, timestamps)


def _chunk(stream: str, data: bytes, timestamps: bool) -> LogChunk:
    if timestamps:
        stamp, blank, rest = data.partition(b" ")
        if blank and (time := parse_time(stamp.decode(errors="replace"))) is not None:
            return LogChunk(stream, rest, time)
    return LogChunk(stream, data)

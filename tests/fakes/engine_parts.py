"""What `FakeEngine` is made of: programs, containers, event streams, sessions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from hostagent.domain import ContainerObservation, ContainerPhase, ContainerSpec, Resources
from hostagent.engine.sessions import OutputChunk
from hostagent.engine.values import EngineEvent, LogChunk
from moorage.errors import EngineUnavailable, NotReady
from moorage.ids import ContainerId


@dataclass(frozen=True, slots=True)
class FakeProgram:
    """What a command does. With `exit_code` None it runs until a signal or `finish` ends it."""

    output: tuple[tuple[str, bytes], ...] = ()  # (stdout or stderr, bytes), written at once
    exit_code: int | None = None
    echoes_stdin: bool = False  # writes what it reads, and ends with `exit_code` (or 0) at the input's end
    on_signal: int | None = None  # its exit code at SIGTERM; None: 128 and the signal's number
    ignores_signals: bool = False  # only SIGKILL ends it
    oom_killed: bool = False  # its end is the kernel's doing
    prints_size: bool = False  # writes "rows cols" of its terminal


@dataclass(slots=True)
class FakeContainer:
    """One container's insides, for tests to look at."""

    container_id: ContainerId
    spec: ContainerSpec
    runtime: str
    program: FakeProgram
    phase: ContainerPhase = ContainerPhase.CREATED
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    health: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    pid: int = 0
    resources: Resources = field(default_factory=Resources)
    log: list[LogChunk] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def observe(self) -> ContainerObservation:
        """What inspect says of it."""
        return ContainerObservation(
            container_id=self.container_id,
            name=self.spec.name,
            labels=dict(self.spec.labels),
            phase=self.phase,
            image=self.spec.image,
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            error=self.error,
            health=self.health,
            started_at=self.started_at,
            finished_at=self.finished_at,
            pid=self.pid,
        )

    def wake(self) -> None:
        """Let those who wait for a change look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class FakeEventStream(AsyncIterator[EngineEvent]):
    """The fake's side of `EventStream`.

    Args:
        enter: what every call of the engine meets first.
        past: events that the subscriber also wants.
        queues: where a subscriber puts its queue; None in it means that the engine went away.
    """

    def __init__(
        self,
        enter: Callable[[], Awaitable[None]],
        past: Callable[[], Iterable[EngineEvent]],
        queues: list[asyncio.Queue[EngineEvent | None]],
    ) -> None:
        self._enter = enter
        self._past = past
        self._queues = queues
        self._queue: asyncio.Queue[EngineEvent | None] | None = None

    async def open(self) -> Self:
        if self._queue is None:
            await self._enter()
            self._queue = asyncio.Queue()
            for event in self._past():
                self._queue.put_nowait(event)
            self._queues.append(self._queue)
        return self

    async def __anext__(self) -> EngineEvent:
        await self.open()
        assert self._queue is not None
        event = await self._queue.get()
        if event is None:
            await self.aclose()
            raise EngineUnavailable("the Docker Engine closed the stream of events")
        return event

    async def aclose(self) -> None:
        if self._queue is not None and self._queue in self._queues:
            self._queues.remove(self._queue)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class FakeSession:
    """The fake's side of `ExecSession`."""

    def __init__(self, program: FakeProgram, *, tty: bool, rows: int, cols: int) -> None:
        self._program = program
        self._tty = tty
        self.size = (rows, cols)
        self._output: asyncio.Queue[OutputChunk | None] = asyncio.Queue()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._is_closed = False

    def begin(self) -> None:
        """The program starts."""
        for stream, data in self._program.output:
            self.emit(stream, data)
        if self._program.prints_size:
            self.emit("stdout", b"%d %d\n" % self.size)
        if not self._program.echoes_stdin and self._program.exit_code is not None:
            self.end(self._program.exit_code)

    def emit(self, stream: str, data: bytes) -> None:
        """The program writes."""
        if self._tty:
            stream, data = "stdout", data.replace(b"\n", b"\r\n")
        self._output.put_nowait(OutputChunk(stream, data))

    def end(self, exit_code: int) -> None:
        """The program ends."""
        if not self._ended.done():
            self._ended.set_result(exit_code)
            self._output.put_nowait(None)

    async def read(self) -> OutputChunk | None:
        if self._ended.done() and self._output.empty():
            return None
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        if self._ended.done() or self._is_closed:
            raise NotReady("the program has ended", reason="SESSION_ENDED")
        if self._program.echoes_stdin:
            self.emit("stdout", data)

    async def close_stdin(self) -> None:
        if self._program.echoes_stdin:
            self.end(self._program.exit_code or 0)

    async def resize(self, rows: int, cols: int) -> None:
        self.size = (rows, cols)

    async def exit_code(self) -> int:
        if self._is_closed and not self._ended.done():
            raise EngineUnavailable("the session is closed")
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        self.end(137)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._is_closed = True

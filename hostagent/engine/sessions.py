"""Programs that somebody talks to: `exec` in a running container, and `attach` to a container's own process.

Closing a session ends the conversation, not the program (as with Docker's own client): a program that reads its
standard input sees the end of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from hostagent.engine.connection import EngineConnection, ErrorTable, segment
from hostagent.engine.containers import Containers
from hostagent.engine.processes import kill_tree
from hostagent.engine.streams import MULTIPLEXED, FrameReader
from moorage.errors import EngineUnavailable, MoorageError, NotFound, NotReady, NotSupported
from moorage.tasks import TaskOwner

_READ_BYTES = 64 * 1024
_POLL_SECONDS = 0.02
_END_SECONDS = 10.0  # between the end of the output and the engine's knowing the exit code
_RESIZE_SECONDS = 2.0  # until a program that was just started has its terminal


class OutputChunk(NamedTuple):
    """A piece of output; with a terminal all of it is stdout."""

    stream: str  # stdout or stderr
    data: bytes


class ExecSession:
    """A running conversation. One reader and one writer at a time; `close` when done, whatever happened."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        tty: bool,
        resize: Callable[[int, int], Awaitable[None]],
        exit_code: Callable[[], Awaitable[int]],
        kill: Callable[[], Awaitable[None]] | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = None if tty else FrameReader()
        self._ready: list[OutputChunk] = []
        self._resize = resize
        self._exit_code = exit_code
        self._kill = kill
        self._on_close = on_close

    async def read(self) -> OutputChunk | None:
        """The next piece of output; None at its end. A cancelled read loses nothing."""
        while not self._ready:
            try:
                data = await self._reader.read(_READ_BYTES)
            except OSError as error:
                raise EngineUnavailable("the Docker Engine broke off the session") from error
            if not data:
                return None
            if self._frames is None:
                return OutputChunk("stdout", data)
            self._ready = [OutputChunk(stream, payload) for stream, payload in self._frames.feed(data)]
        return self._ready.pop(0)

    async def write(self, data: bytes) -> None:
        """Send to standard input; waits while the program does not read. Raises NotReady when the program has ended."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise NotReady("the program has ended", reason="SESSION_ENDED") from error

    async def close_stdin(self) -> None:
        """Tell the program that its input has ended."""
        if self._writer.can_write_eof() and not self._writer.is_closing():
            try:
                self._writer.write_eof()
            except OSError:
                return  # the other side has closed before us: its input has ended anyway

    async def resize(self, rows: int, cols: int) -> None:
        """Tell the terminal its size in characters. Nothing happens once the program has ended."""
        await self._resize(rows, cols)

    async def exit_code(self) -> int:
        """The program's exit code; call it after `read` gave None. 126 and 127: it could not be started.

        Raises: NotReady (reason STILL_RUNNING) when the program closed its output and runs on.
        """
        return await self._exit_code()

    async def kill(self) -> None:
        """End the program, with what it has started; fine if it has ended. NotSupported of an attached session: a
        container's own process ends with `DockerEngine.kill`.
        """
        if self._kill is None:
            raise NotSupported("a container's own process is not ended by a session")
        await self._kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the conversation; safe to call twice."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # broken before we closed it: closed all the same
        if self._on_close is not None:
            await self._on_close()


async def open_exec(
    connection: EngineConnection,
    container_id: str,
    command: Sequence[str],
    *,
    tty: bool,
    stdin: bool,
    env: Mapping[str, str],
    workdir: str,
    user: str,
    rows: int,
    cols: int,
) -> ExecSession:
    """Start a program in a running container."""
    body = {
        "Cmd": list(command),
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "WorkingDir": workdir,
        "User": user,
    }
    answer = await connection.call_json("POST", f"/containers/{segment(container_id)}/exec", body=body)
    path = f"/exec/{segment(answer['Id'])}"
    start: dict[str, object] = {"Detach": False, "Tty": tty}
    sized = tty and rows > 0 and cols > 0
    if sized and connection.at_least(1, 42):
        start["ConsoleSize"] = [rows, cols]
    reader, writer, _ = await connection.hijack(f"{path}/start", body=start)

    async def resize(new_rows: int, new_cols: int) -> None:
        await _resize(connection, path, new_rows, new_cols)

    async def exit_code() -> int:
        async with asyncio.timeout(_END_SECONDS):
            while True:
                state = await connection.call_json("GET", f"{path}/json")
                if not state["Running"]:
                    return int(state["ExitCode"])
                await asyncio.sleep(_POLL_SECONDS)

    async def kill() -> None:
        state = await connection.call_json("GET", f"{path}/json")
        if state["Running"] and state["Pid"]:
            kill_tree(int(state["Pid"]))

    session = ExecSession(reader, writer, tty=tty, resize=resize, exit_code=_bounded(exit_code), kill=kill)
    if sized and not connection.at_least(1, 42):
        await session.resize(rows, cols)
    return session


async def open_attach(
    connection: EngineConnection,
    containers: Containers,
    tasks: TaskOwner,
    container_id: str,
    *,
    rows: int,
    cols: int,
    logs: bool,
) -> ExecSession:
    """Talk to a container's own process. Attach before the start, and no output is missed."""
    tty = await containers.has_terminal(container_id)
    loop = asyncio.get_running_loop()
    registered: asyncio.Future[None] = loop.create_future()
    ended: asyncio.Future[int] = loop.create_future()
    ending = tasks.spawn(_watch_exit(containers, container_id, registered, ended), name=f"exit of {container_id[:12]}")
    try:
        # Before attaching, and so before any start that follows: the exit of a process that ends at once is not missed.
        await registered
        query = {"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1, "logs": int(logs)}
        path = f"/containers/{segment(container_id)}"
        reader, writer, kind = await connection.hijack(f"{path}/attach", query=query)
    except BaseException:
        await _end(ending)
        raise

    async def resize(new_rows: int, new_cols: int) -> None:
        await _resize(connection, path, new_rows, new_cols)

    async def exit_code() -> int:
        return await asyncio.shield(ended)

    async def on_close() -> None:
        await _end(ending)

    raw = tty and kind != MULTIPLEXED
    session = ExecSession(reader, writer, tty=raw, resize=resize, exit_code=exit_code, on_close=on_close)
    if tty and rows > 0 and cols > 0:
        await session.resize(rows, cols)
    return session


async def _resize(connection: EngineConnection, path: str, rows: int, cols: int) -> None:
    """The engine refuses while the program is being started, and after its end: try for a moment, then let it be."""
    refused: ErrorTable = {400: _not_yet, 404: _not_yet, 409: _not_yet, 500: _not_yet}
    deadline = asyncio.get_running_loop().time() + _RESIZE_SECONDS
    while True:
        try:
            await connection.call("POST", f"{path}/resize", query={"h": rows, "w": cols}, errors=refused)
            return
        except NotReady:
            state = await _exec_or_container(connection, path)
            if not state or asyncio.get_running_loop().time() > deadline:
                return
        await asyncio.sleep(_POLL_SECONDS)


async def _exec_or_container(connection: EngineConnection, path: str) -> bool:
    """Whether it may still come to have a terminal: it runs, or (an exec) was just started."""
    try:
        answer = await connection.call_json("GET", f"{path}/json")
    except NotFound:
        return False
    state = answer.get("State", answer)
    return bool(state.get("Running")) or answer.get("ExitCode", 0) is None


def _not_yet(text: str) -> MoorageError:
    return NotReady(text, reason="NO_TERMINAL_YET")


def _bounded(exit_code: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
    async def bounded() -> int:
        try:
            return await exit_code()
        except TimeoutError as error:
            raise NotReady("the program closed its output but runs on", reason="STILL_RUNNING") from error

    return bounded


async def _watch_exit(
    containers: Containers, container_id: str, registered: asyncio.Future[None], ended: asyncio.Future[int]
) -> None:
    try:
        async with containers.waiting(container_id, "next-exit") as exit_code:
            registered.set_result(None)
            ended.set_result(await exit_code())
    except MoorageError as error:
        _fail(error, registered, ended)
    except asyncio.CancelledError:
        _fail(EngineUnavailable("the session is closed"), registered, ended)
        raise


def _fail(error: MoorageError, *futures: asyncio.Future[Any]) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
            future.exception()  # seen: perhaps nobody asks


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])

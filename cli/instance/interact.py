"""One conversation with a process of an instance: exec and attach."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

from cli.terminal import DetachKeys, raw_mode, read_input, size
from moorage.client import Client
from moorage.errors import MoorageError
from moorage.v1 import instance_streams_pb2 as streams_pb2

_QUEUED_PIECES = 16  # input read ahead of what the instance has taken
_RESIZE_RETRY_SECONDS = 0.1
_OVERLAP_BYTES = 64 * 1024  # what a process may write while its log is being read


class Detached(Exception):  # a way to end, not an error
    """The user pressed the detach keys: the process goes on without us."""


async def interact(client: Client, start: streams_pb2.ExecStart, *, replay: bool = False) -> int | None:
    """Run the conversation that `start` describes to its end.

    Args:
        replay: for an attach: first show what the process wrote before we came.
    Returns: the exit code, or None when the stream ended without one (an attach to a process that lives on).
    Raises:
        Detached: attached with a terminal, and the detach keys were pressed.
        MoorageError: the command could not be started, or the connection broke.
    """
    loop = asyncio.get_running_loop()
    outgoing: asyncio.Queue[streams_pb2.ExecInstanceRequest] = asyncio.Queue(_QUEUED_PIECES)
    detached = asyncio.Event()
    keys = DetachKeys() if start.attach and start.tty else None

    def resized() -> None:
        rows, columns = size()
        message = streams_pb2.ExecInstanceRequest(resize=streams_pb2.TerminalSize(rows=rows, columns=columns))
        try:
            outgoing.put_nowait(message)
        except asyncio.QueueFull:
            loop.call_later(_RESIZE_RETRY_SECONDS, resized)

    async def typed(data: bytes) -> None:
        if not data:
            await outgoing.put(streams_pb2.ExecInstanceRequest(stdin_closed=True))
            return
        if keys is not None:
            data, is_end = keys.feed(data)
            if is_end:
                detached.set()
        if data:
            await outgoing.put(streams_pb2.ExecInstanceRequest(stdin=data))

    async def requests() -> AsyncIterator[streams_pb2.ExecInstanceRequest]:
        yield streams_pb2.ExecInstanceRequest(start=start)
        while True:
            yield await outgoing.get()

    if start.tty:
        rows, columns = size()
        start.size.CopyFrom(streams_pb2.TerminalSize(rows=rows, columns=columns))
    with raw_mode(start.tty and start.stdin):
        if start.tty:
            loop.add_signal_handler(signal.SIGWINCH, resized)
        try:
            conversation = asyncio.create_task(
                _print_output(client, start, requests(), replay), name="output of the command"
            )
            leaving = asyncio.create_task(detached.wait(), name="detach keys")
            try:
                if start.stdin:
                    read_input(typed)
                await asyncio.wait((conversation, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not conversation.done():
                    raise Detached
                return conversation.result()
            finally:
                for task in (conversation, leaving):
                    task.cancel()
                await asyncio.gather(conversation, leaving, return_exceptions=True)
        finally:
            if start.tty:
                loop.remove_signal_handler(signal.SIGWINCH)


class _Screen:
    """This program's two outputs. While the past is being fetched, the present waits."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] | None = None

    def hold(self) -> None:
        self._held = {"stdout": b"", "stderr": b""}

    def show(self, output: str, data: bytes) -> None:
        if self._held is not None:
            self._held[output] += data
            return
        target = sys.stdout.buffer if output == "stdout" else sys.stderr.buffer
        target.write(data)
        target.flush()

    def release(self, past: dict[str, bytes]) -> None:
        """Show the past, then what was held; what is in both is shown once."""
        held, self._held = self._held or {}, None
        for output, data in past.items():
            self.show(output, without_overlap(data, held.get(output, b"")))


def without_overlap(past: bytes, present: bytes) -> bytes:
    """Both in a row; the longest beginning of `present` with which `past` ends is there once."""
    for length in range(min(len(past), len(present), _OVERLAP_BYTES), 0, -1):
        if past.endswith(present[:length]):
            return past + present[length:]
    return past + present


async def _print_output(
    client: Client, start: streams_pb2.ExecStart, requests: AsyncIterator[streams_pb2.ExecInstanceRequest], replay: bool
) -> int | None:
    exit_code: int | None = None
    screen = _Screen()
    past: asyncio.Task[dict[str, bytes]] | None = None
    try:
        async for response in client.streams.ExecInstance(requests):
            part = response.WhichOneof("part")
            if part == "started" and replay:
                screen.hold()
                past = asyncio.create_task(_read_logs(client, start.name), name="what it wrote before")
                past.add_done_callback(lambda task: None if task.cancelled() else screen.release(task.result()))
            elif part == "stdout":
                screen.show("stdout", response.stdout)
            elif part == "stderr":
                screen.show("stderr", response.stderr)
            elif part == "exit_code":
                exit_code = response.exit_code
        if past is not None:
            await past
            await asyncio.sleep(0)  # its callback runs in the loop's next turn
    finally:
        if past is not None:
            past.cancel()
    return exit_code


async def _read_logs(client: Client, name: str) -> dict[str, bytes]:
    found = {"stdout": b"", "stderr": b""}
    try:
        async for piece in client.streams.StreamLogs(streams_pb2.StreamLogsRequest(name=name)):
            found["stderr" if piece.stream == streams_pb2.OUTPUT_STREAM_STDERR else "stdout"] += piece.data
    except MoorageError:
        pass  # then the past is not shown; the conversation itself says what is wrong, if anything is
    return found

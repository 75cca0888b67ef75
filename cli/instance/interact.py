"""One conversation with a process of an instance: exec and attach."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

from cli.terminal import DetachKeys, raw_mode, read_input, size
from moorage.client import Client
from moorage.v1 import instance_streams_pb2 as streams_pb2

_QUEUED_PIECES = 16  # input read ahead of what the instance has taken
_RESIZE_RETRY_SECONDS = 0.1


class Detached(Exception):  # a way to end, not an error
    """The user pressed the detach keys: the process goes on without us."""


async def interact(client: Client, start: streams_pb2.ExecStart) -> int | None:
    """Run the conversation that `start` describes to its end.

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
            conversation = asyncio.create_task(_print_output(client, requests()), name="output of the command")
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


async def _print_output(client: Client, requests: AsyncIterator[streams_pb2.ExecInstanceRequest]) -> int | None:
    exit_code: int | None = None
    async for response in client.streams.ExecInstance(requests):
        part = response.WhichOneof("part")
        if part == "stdout":
            sys.stdout.buffer.write(response.stdout)
            sys.stdout.buffer.flush()
        elif part == "stderr":
            sys.stderr.buffer.write(response.stderr)
            sys.stderr.buffer.flush()
        elif part == "exit_code":
            exit_code = response.exit_code
    return exit_code

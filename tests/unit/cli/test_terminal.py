"""exec -it on a real terminal: raw keys, size, and a terminal that is left as it was found."""

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator

import pytest

from moorage.v1 import instances_pb2
from tests.unit.cli.conftest import Served

WEB = "projects/default/instances/web"


# The terminal is taken by the program itself: code between fork and exec, beside grpc's threads, can hang.
_PROGRAM = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from cli.main import main; main()"


class Terminal:
    """A terminal with moor in it."""

    def __init__(self, *words: str, environment: dict[str, str]) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        os.set_blocking(self.master, False)
        self._words = words
        self._environment = {**environment, "PYTHONPATH": ":".join(sys.path)}
        self._environment.pop("COLUMNS", None)
        self._environment.pop("LINES", None)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-c", _PROGRAM, *self._words],
            env=self._environment,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    async def expect(self, wanted: bytes) -> None:
        """Read until this was printed."""
        async with asyncio.timeout(20):
            while wanted not in self.seen:
                ready = asyncio.Event()
                loop = asyncio.get_running_loop()
                loop.add_reader(self.master, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_reader(self.master)
                self.seen += os.read(self.master, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    async def end(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
async def terminal(served: Served, environment: dict[str, str]) -> AsyncIterator[Terminal]:
    status = instances_pb2.InstanceStatus(state=instances_pb2.INSTANCE_STATE_RUNNING)
    served.plane.put(instances_pb2.Instance(name=WEB, status=status))
    made = Terminal("exec", "-it", "web", "cat", environment=environment)
    await made.start()
    try:
        await asyncio.to_thread(served.plane.wait_for_call, "ExecInstance")  # keys before that are dropped
        yield made
    finally:
        await made.close()


async def test_keys_go_through_raw_and_the_size_is_told(terminal: Terminal, served: Served) -> None:
    terminal.type(b"a")
    await terminal.expect(b"a")
    assert not terminal.is_as_before()
    (start,) = served.plane.requests("ExecInstance")
    assert (start.size.rows, start.size.columns, start.tty) == (24, 80, True)
    terminal.type(b"\x03")  # Ctrl-C is a key of the instance, not the end of moor
    await terminal.expect(b"\x03")
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    await asyncio.to_thread(served.plane.wait_for_call, "resize")
    assert (served.plane.requests("resize")[0].rows, served.plane.requests("resize")[0].columns) == (50, 132)
    terminal.type(b"q")
    assert await terminal.end() == 5
    assert terminal.is_as_before()


@pytest.mark.parametrize("number", [1, 15])
async def test_the_terminal_is_restored_when_moor_is_ended(terminal: Terminal, number: int) -> None:
    terminal.type(b"a")
    await terminal.expect(b"a")
    terminal.process.send_signal(number)
    assert await terminal.end() == 130
    assert terminal.is_as_before()


async def test_the_terminal_is_restored_when_the_connection_breaks(terminal: Terminal, served: Served) -> None:
    terminal.type(b"a")
    await terminal.expect(b"a")
    terminal.type(b"!")  # the fake breaks off
    assert await terminal.end() == 8
    assert terminal.is_as_before()

"""This program's own terminal: raw mode that is always undone, its size, and its input read in a thread.

A thread, because input may be a file, which no event loop can wait for. It is a daemon: it may sit in read() for ever.
"""

import asyncio
import concurrent.futures
import os
import shutil
import sys
import termios
import threading
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

_READ_BYTES = 32 * 1024
DETACH_KEYS = b"\x10\x11"  # Ctrl-P Ctrl-Q, as in Docker


@contextmanager
def raw_mode(wanted: bool) -> Iterator[None]:
    """Keys go to the instance as they are, Ctrl-C too; afterwards the terminal is as it was, whatever happened."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, saved)  # not TCSADRAIN: it waits for whoever reads


def size() -> tuple[int, int]:
    """(rows, columns)."""
    found = shutil.get_terminal_size()
    return found.lines, found.columns


class DetachKeys:
    """Finds Ctrl-P Ctrl-Q in the keys that pass, also when they come one by one."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what goes on to the instance, whether the keys were pressed)."""
        data = self._held + data
        before, found, _ = data.partition(DETACH_KEYS)
        if found:
            self._held = b""
            return before, True
        self._held = data[-1:] if data.endswith(DETACH_KEYS[:1]) else b""
        return data[: len(data) - len(self._held)], False


def read_input(deliver: Callable[[bytes], Awaitable[None]]) -> None:
    """Start to read standard input; `deliver` gets each piece, at its end b"", in the running loop, one at a time."""
    loop = asyncio.get_running_loop()
    read = _reader()

    async def pass_on(data: bytes) -> None:
        await deliver(data)

    def body() -> None:
        while True:
            try:
                data = read()
            except OSError:
                data = b""  # a terminal that hung up
            delivery = pass_on(data)
            try:
                asyncio.run_coroutine_threadsafe(delivery, loop).result()
            except (RuntimeError, concurrent.futures.CancelledError):
                delivery.close()  # the program is done with its input
                return
            if not data:
                return

    threading.Thread(target=body, name="standard-input", daemon=True).start()


def _reader() -> Callable[[], bytes]:
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):  # replaced by an object without one
        stream = sys.stdin.buffer
        return lambda: stream.read(_READ_BYTES)
    # Not through sys.stdin: a thread that holds its lock at exit would abort the interpreter.
    return lambda: os.read(descriptor, _READ_BYTES)

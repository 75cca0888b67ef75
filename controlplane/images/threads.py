"""Blocking work (compression, hashing, disk) in a thread that ends: a cancelled import stops it and waits for it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from controlplane.images.model import Progress, ProgressCallback

T = TypeVar("T")


class Stopped(Exception):
    """Raised inside the thread when nobody wants its result any more."""


class Worker:
    """What blocking code is given: call `step` at least once per chunk."""

    def __init__(self, loop: asyncio.AbstractEventLoop, progress: ProgressCallback, phase: str, total: int) -> None:
        self._loop = loop
        self._progress = progress
        self._phase = phase
        self._total = total
        self._done = 0
        self._told = 0
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make the next `step` raise."""
        self._stop.set()

    def step(self, count: int = 0) -> None:
        """`count` more bytes are done. Raises Stopped when the work is no longer wanted."""
        if self._stop.is_set():
            raise Stopped
        self._done += count
        if self._done - self._told >= 1024 * 1024 or self._done == self._total:
            self._told = self._done
            self._loop.call_soon_threadsafe(self._progress, Progress(self._phase, self._done, self._total))


async def in_thread(work: Callable[[Worker], T], *, progress: ProgressCallback, phase: str, total_bytes: int = 0) -> T:
    """Run blocking work; on cancellation end it first, since it uses files that the caller closes then."""
    worker = Worker(asyncio.get_running_loop(), progress, phase, total_bytes)
    running = asyncio.ensure_future(asyncio.to_thread(work, worker))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        worker.stop()
        with contextlib.suppress(Stopped, Exception):
            await running
        raise

"""Turns for steps that cost the host much: a few at once, those nearest to a running process first.

With one queue for all, fifty new instances would all be created before the first is started; with starts first, the host
creates the next while the engine waits for the last.
"""

import asyncio
import heapq
import itertools
from types import TracebackType


class Turns:
    """A semaphore with an order of precedence: `async with turns.take(precedence)`, lower goes first."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    def take(self, precedence: int) -> "_Turn":
        """A turn, to be entered."""
        return _Turn(self, precedence)

    async def acquire(self, precedence: int) -> None:
        """Wait for a turn. Cancelling the wait gives it to the next."""
        if self._free > 0:
            self._free -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (precedence, next(self._order), future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release()  # it was ours already
            raise

    def release(self) -> None:
        """Give the turn to whoever goes first."""
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                return
        self._free += 1


class _Turn:
    def __init__(self, turns: Turns, precedence: int) -> None:
        self._turns = turns
        self._precedence = precedence

    async def __aenter__(self) -> None:
        await self._turns.acquire(self._precedence)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.release()

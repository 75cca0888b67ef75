"""Time as an argument: what programs ask for the time, and a clock for tests that moves only when told.

Two times that must not be mixed: `now()` is what people and certificates mean, may jump, and is always aware UTC;
`monotonic()` never goes back, and is the only one that leases, deadlines and back-off may use.
"""

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where a program gets its time from."""

    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...

    def boottime(self) -> float:
        """Seconds since this machine was started, the time in which it was suspended too; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time; zero or less only lets other tasks run."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC. It stands still while the machine is suspended."""
        return time.monotonic()

    def boottime(self) -> float:
        """Seconds of CLOCK_BOOTTIME, of which /proc/uptime tells hundredths."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Sleep in the running event loop."""
        await asyncio.sleep(max(0.0, seconds))


class ManualClock:
    """A clock that stands still until it is advanced. For one event loop; not for threads.

    Sleepers wake in order of their deadline, those with the same deadline in order of falling asleep.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._wall_start = start if start is not None else datetime(2030, 1, 1, tzinfo=UTC)
        if self._wall_start.tzinfo is None:
            raise ValueError("start must be an aware time")
        self._elapsed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC."""
        return (self._wall_start + timedelta(seconds=self._elapsed)).astimezone(UTC)

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed

    def boottime(self) -> float:
        """As `monotonic`: this machine is never suspended."""
        return self._elapsed

    @property
    def sleepers(self) -> int:
        """How many tasks sleep now."""
        return sum(1 for _, _, future in self._sleepers if not future.done())

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock was advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Move both times and mark every sleeper that is due; they run when the caller next awaits.

        A task that sleeps again only after it woke counts from the new time: see `run_for` for loops.
        """
        if seconds < 0:
            raise ValueError("time cannot be advanced by a negative amount")
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():  # done: the sleeper was cancelled
                future.set_result(None)

    async def run_for(self, seconds: float) -> None:
        """Move by `seconds`, stopping at each deadline on the way, so that a loop sleeps again at its own time."""
        end = self._elapsed + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.advance(max(0.0, self._sleepers[0][0] - self._elapsed))
            await self.settle()
        self.advance(max(0.0, end - self._elapsed))
        await self.settle()

    def shift_wall(self, seconds: float) -> None:
        """Make the wall clock jump, as NTP or an operator does; monotonic time and sleepers stay."""
        self._wall_start += timedelta(seconds=seconds)

    async def wait_for_sleepers(self, count: int, turns: int = 1000) -> None:
        """Let other tasks run until `count` of them sleep.

        Raises:
            TimeoutError: they do not, after `turns` turns of the event loop.
        """
        for _ in range(turns):
            if self.sleepers >= count:
                return
            await asyncio.sleep(0)
        raise TimeoutError(f"{self.sleepers} tasks sleep after {turns} turns of the event loop, expected {count}")

    async def settle(self, turns: int = 20) -> None:
        """Give ready tasks `turns` turns of the event loop. Work in threads or on sockets is not waited for."""
        for _ in range(turns):
            await asyncio.sleep(0)

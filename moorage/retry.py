"""Trying again: how long to wait between attempts (pure), and a loop that does it.

Which errors are worth another attempt is a property of their class (`MoorageError.retryable`), never of their text.
"""

import logging
import random as random_module
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from moorage.clock import Clock
from moorage.errors import MoorageError

log = logging.getLogger(__name__)

T = TypeVar("T")
RandomFraction = Callable[[], float]  # uniform in [0, 1)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that grow from `initial` to `maximum` seconds by `factor`; `jitter` is the part that is drawn by lot.

    Jitter only shortens a delay (by up to `jitter` of it), so `maximum` is a bound and many clients that failed at once
    do not come back at once.
    """

    initial: float = 0.1
    maximum: float = 30.0
    factor: float = 2.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum:
            raise ValueError("initial must be greater than 0 and at most maximum")
        if self.factor < 1 or not 0 <= self.jitter <= 1:
            raise ValueError("factor must be at least 1, jitter between 0 and 1")

    def delays(self, random: RandomFraction = random_module.random) -> Iterator[float]:
        """The delays, in seconds, without end. The same random numbers give the same delays."""
        base = self.initial
        while True:
            yield base * (1.0 - self.jitter * random())
            base = min(base * self.factor, self.maximum)


async def retry(
    attempt: Callable[[], Awaitable[T]],
    *,
    clock: Clock,
    deadline_seconds: float,
    backoff: Backoff | None = None,
    random: RandomFraction = random_module.random,
) -> T:
    """Call `attempt` until it succeeds, fails for good, or the next wait would end after the deadline.

    A running attempt is not interrupted: give it a time limit of its own.

    Args:
        deadline_seconds: time from now after which no new attempt starts, in seconds.
    Raises:
        MoorageError: what the last attempt raised; at once where its class is not `retryable`.
    """
    ends_at = clock.monotonic() + deadline_seconds
    delays = (backoff or Backoff()).delays(random)
    while True:
        try:
            return await attempt()
        except MoorageError as exc:
            if not exc.retryable:
                raise
            delay = next(delays)
            if clock.monotonic() + delay > ends_at:
                raise
            log.debug("will try again", extra={"reason": exc.reason, "delay_seconds": round(delay, 3)})
        await clock.sleep(delay)

"""Back-off delays and the retry loop, in virtual time."""

import asyncio
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.clock import ManualClock
from moorage.errors import NotFound, Unavailable
from moorage.retry import Backoff, retry


def middle() -> float:
    return 0.0  # no jitter


def test_delays_double_up_to_the_maximum() -> None:
    assert list(islice(Backoff(1, 10, 2, 0.5).delays(middle), 6)) == [1, 2, 4, 8, 10, 10]


@given(
    initial=st.floats(0.001, 10),
    spread=st.floats(1, 1000),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
    fractions=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60),
)
def test_delays_are_bounded_and_pure(
    initial: float, spread: float, factor: float, jitter: float, fractions: list[float]
) -> None:
    backoff = Backoff(initial, initial * spread, factor, jitter)
    first, second = (list(islice(backoff.delays(iter(fractions).__next__), len(fractions))) for _ in range(2))
    assert first == second
    assert all(0 <= delay <= backoff.maximum for delay in first)
    assert first[0] >= initial * (1 - jitter) * 0.999


@pytest.mark.parametrize("bad", [(0, 1, 2, 0), (2, 1, 2, 0), (1, 2, 0.5, 0), (1, 2, 2, 1.5), (1, 2, 2, -0.1)])
def test_refuses_nonsense(bad: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError):
        Backoff(*bad)


class Flaky:
    """Fails `failures` times with `error`, then returns how often it was called."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return self.calls


async def test_tries_again_until_it_works() -> None:
    clock, flaky = ManualClock(), Flaky(3, Unavailable("away"))
    task = asyncio.create_task(
        retry(flaky, clock=clock, deadline_seconds=60, backoff=Backoff(1, 8, 2, 0.0), random=middle)
    )
    await clock.run_for(6.5)
    assert not task.done()
    await clock.run_for(0.5)  # 1 + 2 + 4
    assert await task == 4


async def test_gives_up_when_the_next_wait_would_pass_the_deadline() -> None:
    clock, flaky = ManualClock(), Flaky(99, Unavailable("away"))
    task = asyncio.create_task(
        retry(flaky, clock=clock, deadline_seconds=5, backoff=Backoff(1, 8, 2, 0.0), random=middle)
    )
    await clock.run_for(3)
    with pytest.raises(Unavailable):
        await task
    assert flaky.calls == 3  # at 0, 1 and 3; the next would be at 7
    assert clock.monotonic() == 3


@pytest.mark.parametrize("error", [NotFound("gone"), ValueError("a bug")])
async def test_does_not_repeat_what_cannot_succeed(error: Exception) -> None:
    flaky = Flaky(1, error)
    with pytest.raises(type(error)):
        await retry(flaky, clock=ManualClock(), deadline_seconds=60)
    assert flaky.calls == 1


async def test_cancellation_passes() -> None:
    clock = ManualClock()
    task = asyncio.create_task(retry(Flaky(99, Unavailable("away")), clock=clock, deadline_seconds=60))
    await clock.wait_for_sleepers(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

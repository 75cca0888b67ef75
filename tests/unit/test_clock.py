"""ManualClock: who wakes when. SystemClock: that it is the machine's."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.clock import Clock, ManualClock, SystemClock

START = datetime(2030, 1, 1, tzinfo=UTC)


async def test_system_clock_is_aware_utc_and_monotonic() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.001)
    await clock.sleep(-1)
    assert clock.monotonic() >= before + 0.001
    assert clock.now().utcoffset() == timedelta(0)
    assert abs(clock.now().timestamp() - time.time()) < 5


async def test_advance_wakes_in_order_of_deadline_then_of_falling_asleep() -> None:
    clock = ManualClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    delays = {"late": 3.0, "first": 1.0, "second": 1.0, "never": 10.0}
    tasks = [asyncio.create_task(sleeper(name, seconds)) for name, seconds in delays.items()]
    await clock.wait_for_sleepers(4)
    clock.advance(0.5)
    await clock.settle()
    assert woken == []
    clock.advance(2.5)
    await clock.settle()
    assert woken == ["first", "second", "late"]
    assert clock.sleepers == 1
    tasks[-1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert clock.sleepers == 0
    clock.advance(100)  # the cancelled sleeper is still on the heap, and harmless


async def test_run_for_lets_a_loop_sleep_again_at_its_own_time() -> None:
    clock = ManualClock()
    ticks: list[float] = []

    async def loop() -> None:
        while True:
            await clock.sleep(2)
            ticks.append(clock.monotonic())

    task = asyncio.create_task(loop())
    await clock.run_for(7)
    assert ticks == [2.0, 4.0, 6.0]
    assert clock.monotonic() == 7.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_wall_clock_jumps_alone() -> None:
    clock = ManualClock(START)
    clock.advance(60)
    assert clock.now() == START + timedelta(seconds=60)
    clock.shift_wall(-3600)
    assert clock.now() == START - timedelta(seconds=3540)
    assert clock.monotonic() == 60


async def test_wait_for_sleepers_gives_up() -> None:
    with pytest.raises(TimeoutError, match="0 tasks sleep"):
        await ManualClock().wait_for_sleepers(1, turns=5)


def test_refuses_to_go_back_and_naive_times() -> None:
    with pytest.raises(ValueError):
        ManualClock().advance(-1)
    with pytest.raises(ValueError):
        ManualClock(datetime(2030, 1, 1))


@given(delays=st.lists(st.integers(1, 50), max_size=12), steps=st.lists(st.integers(0, 30), max_size=8))
def test_exactly_those_wake_whose_time_has_come(delays: list[int], steps: list[int]) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        tasks = [asyncio.create_task(clock.sleep(delay)) for delay in delays]
        await clock.wait_for_sleepers(len(delays))
        for step in steps:
            clock.advance(step)
            await clock.settle(3)
            assert [task.done() for task in tasks] == [delay <= clock.monotonic() for delay in delays]
        clock.advance(100)
        await asyncio.gather(*tasks)

    asyncio.run(scenario())

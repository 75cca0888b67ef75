"""Turns: never more at once than allowed, the lowest precedence first, none lost by cancelling."""

import asyncio

from hostagent.worker.turns import Turns


async def test_lower_precedence_goes_first_and_equals_in_order() -> None:
    turns = Turns(1)
    done: list[str] = []

    async def step(name: str, precedence: int) -> None:
        async with turns.take(precedence):
            done.append(name)

    await turns.acquire(0)
    waiting = [asyncio.create_task(step(name, p)) for name, p in (("create 1", 1), ("create 2", 1), ("start", 0))]
    await asyncio.sleep(0)
    turns.release()
    await asyncio.gather(*waiting)
    assert done == ["start", "create 1", "create 2"]


async def test_no_more_at_once_than_allowed() -> None:
    turns, running, most = Turns(3), 0, 0

    async def step() -> None:
        nonlocal running, most
        async with turns.take(0):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(step() for _ in range(20)))
    assert most == 3


async def test_a_cancelled_wait_takes_no_turn_along() -> None:
    turns = Turns(1)
    await turns.acquire(0)
    early, late = (asyncio.create_task(turns.acquire(0)) for _ in range(2))
    await asyncio.sleep(0)
    turns.release()  # given to `early`, which is cancelled before it runs
    early.cancel()
    await asyncio.wait([early])
    await asyncio.wait_for(late, 30)

"""TaskOwner: no task is lost, no failure goes unseen."""

import asyncio
import logging

import pytest

from moorage.clock import ManualClock
from moorage.retry import Backoff
from moorage.tasks import TaskOwner


async def forever() -> None:
    await asyncio.Event().wait()


async def test_returns_results_and_forgets_what_ended() -> None:
    async def answer() -> int:
        return 42

    async with TaskOwner("test") as owner:
        assert await owner.spawn(answer(), name="answer") == 42
        await asyncio.sleep(0)
        assert not owner.running


async def test_close_cancels_and_awaits_all() -> None:
    cleaned_up: list[str] = []

    async def careful(name: str) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)  # clean-up that itself awaits
            cleaned_up.append(name)

    owner = TaskOwner("test")
    for name in ("a", "b"):
        owner.spawn(careful(name), name=name)
    await asyncio.sleep(0)
    assert owner.running == ("a", "b")
    await owner.close()
    assert cleaned_up == ["a", "b"]
    assert not owner.running
    await owner.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_failure_is_logged_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[tuple[str, str]] = []

    async def broken() -> None:
        raise OSError("disk gone")

    owner = TaskOwner("test", on_failure=lambda name, error: failures.append((name, str(error))))
    task = owner.spawn(broken(), name="writer")
    await asyncio.wait({task})
    await owner.close()
    assert failures == [("writer", "disk gone")]
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(record.message, record.__dict__["task"]) for record in records] == [("task failed", "writer")]
    assert records[0].exc_info is not None


async def test_cancelling_is_no_failure() -> None:
    failures: list[str] = []
    owner = TaskOwner("test", on_failure=lambda name, error: failures.append(name))
    owner.spawn(forever(), name="x").cancel()
    await owner.close()
    assert failures == []


async def test_failure_during_close_is_reported() -> None:
    failures: list[str] = []

    async def fails_on_the_way_out() -> None:
        try:
            await forever()
        finally:
            raise OSError("cannot flush")

    owner = TaskOwner("test", on_failure=lambda name, error: failures.append(name))
    owner.spawn(fails_on_the_way_out(), name="flusher")
    await asyncio.sleep(0)
    await owner.close()
    assert failures == ["flusher"]


async def test_closed_owner_refuses() -> None:
    owner = TaskOwner("test")
    await owner.close()
    with pytest.raises(RuntimeError, match="closed"):
        owner.spawn(forever(), name="late")


async def test_a_task_may_close_its_own_owner() -> None:
    owner = TaskOwner("test")
    owner.spawn(forever(), name="other")
    closer = owner.spawn(owner.close(), name="closer")
    await asyncio.wait_for(closer, 30)
    assert not owner.running


async def test_a_swallowed_cancellation_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            await forever()

    owner = TaskOwner("test", cancel_again_seconds=0.01)
    owner.spawn(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    await asyncio.wait_for(owner.close(), 30)
    assert any(record.__dict__.get("tasks") == "stubborn" for record in caplog.records)


async def test_supervise_starts_a_failed_loop_again(caplog: pytest.LogCaptureFixture) -> None:
    clock, starts = ManualClock(), []

    async def loop() -> None:
        starts.append(clock.monotonic())
        if len(starts) < 4:
            raise OSError("lost")

    async with TaskOwner("test") as owner:
        task = owner.supervise(loop, name="loop", backoff=Backoff(1, 60, 2, 0.0), clock=clock)
        await clock.run_for(10)
        assert starts == [0.0, 1.0, 3.0, 7.0]
        assert task.done()  # it returned, so it is over
    assert sum("started again" in record.message for record in caplog.records) == 3


async def test_supervise_forgets_old_failures_after_a_healthy_run() -> None:
    clock, starts = ManualClock(), []

    async def loop() -> None:
        starts.append(clock.monotonic())
        if len(starts) == 3:
            await clock.sleep(100)
        raise OSError("lost")

    async with TaskOwner("test") as owner:
        owner.supervise(loop, name="loop", backoff=Backoff(1, 8, 2, 0.0), clock=clock)
        await clock.run_for(104.5)
        assert starts == [0.0, 1.0, 3.0, 104.0]


async def test_supervised_loop_ends_with_its_owner() -> None:
    owner = TaskOwner("test")
    task = owner.supervise(forever, name="loop")
    await asyncio.sleep(0)
    await owner.close()
    assert task.cancelled()

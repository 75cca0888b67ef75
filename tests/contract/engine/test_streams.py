"""Events and logs, on the fake and on a real engine."""

import asyncio
import time

import pytest

from hostagent.domain import Resources
from hostagent.engine.values import EngineEvent
from moorage.errors import NotFound
from tests.contract.engine.conftest import DEADLINE_SECONDS, FAILS, HUNGRY, POLITE, Bench


async def collect(bench: Bench, last: str, since: float | None = None) -> list[EngineEvent]:
    """Events up to and with the action `last`."""
    seen: list[EngineEvent] = []
    async with asyncio.timeout(DEADLINE_SECONDS), bench.engine.events(since) as events:
        async for event in events:
            seen.append(event)
            if event.action == last:
                return seen
    raise AssertionError("the stream of events ended by itself")


async def test_events_come_in_order(bench: Bench) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS), bench.engine.events() as events:
        container_id = await bench.run("eventful", POLITE)
        await bench.engine.pause(container_id)
        await bench.engine.unpause(container_id)
        await bench.engine.update(container_id, Resources(memory_bytes=64 << 20))
        await bench.engine.stop(container_id, grace_seconds=10)
        await bench.engine.remove(container_id)
        seen: list[EngineEvent] = []
        while not seen or seen[-1].action != "destroy":
            seen.append(await anext(events))
    assert [event.action for event in seen] == ["create", "start", "pause", "unpause", "update", "die", "destroy"]
    assert {event.container_id for event in seen} == {container_id}
    assert [event.time for event in seen] == sorted(event.time for event in seen)
    assert seen[0].time == pytest.approx(time.time(), abs=30)
    assert seen[5].attributes["exitCode"] == "7"
    assert {event.attributes["suite"] for event in seen} == {"eventful"}
    assert seen[0].attributes["name"] == "eventful"


async def test_out_of_memory_comes_before_the_end(bench: Bench) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS), bench.engine.events() as events:
        await bench.run("hungry-event", HUNGRY, resources=Resources(memory_bytes=16 << 20))
        actions: list[str] = []
        while "die" not in actions:
            actions.append((await anext(events)).action)
    assert "oom" in actions


async def test_events_of_the_past_are_told(bench: Bench) -> None:
    since = time.time()
    container_id = await bench.run("past", FAILS)
    await bench.ended(container_id)
    actions = [event.action for event in await collect(bench, "die", since) if event.container_id == container_id]
    assert actions == ["create", "start", "die"]


async def test_a_cancelled_wait_loses_no_event(bench: Bench) -> None:
    async with bench.engine.events() as events:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(events)
        await bench.engine.create(bench.spec("patient"), runtime="")
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert (await anext(events)).action == "create"


async def test_logs_tell_the_streams_apart(bench: Bench) -> None:
    container_id = await bench.run("written", FAILS)
    await bench.ended(container_id)
    chunks = [chunk async for chunk in bench.engine.logs(container_id)]
    assert sorted((chunk.stream, chunk.data) for chunk in chunks) == [("stderr", b"err\n"), ("stdout", b"out\n")]
    assert {chunk.time for chunk in chunks} == {None}


async def test_log_times_and_ranges(bench: Bench) -> None:
    before = time.time()
    container_id = await bench.run("timed", FAILS)
    await bench.ended(container_id)
    chunks = [chunk async for chunk in bench.engine.logs(container_id, timestamps=True)]
    assert b"".join(sorted(chunk.data for chunk in chunks)) == b"err\nout\n"
    for chunk in chunks:
        assert chunk.time == pytest.approx(before, abs=30)
    first, second = (chunk.time or 0 for chunk in chunks)
    assert first <= second
    assert [chunk async for chunk in bench.engine.logs(container_id, since=second + 1)] == []
    assert [chunk async for chunk in bench.engine.logs(container_id, until=before - 10)] == []
    assert len([chunk async for chunk in bench.engine.logs(container_id, tail=1)]) == 1
    assert [chunk async for chunk in bench.engine.logs(container_id, tail=0)] == []


async def test_following_logs_ends_with_the_process(bench: Bench) -> None:
    container_id = await bench.run("followed", POLITE)

    async def read() -> bytes:
        return b"".join([chunk.data async for chunk in bench.engine.logs(container_id, follow=True)])

    async with asyncio.timeout(DEADLINE_SECONDS):
        reading = asyncio.create_task(read())
        await bench.engine.stop(container_id, grace_seconds=10)
        assert await reading == b"ready\n"


async def test_following_logs_can_be_cancelled(bench: Bench) -> None:
    container_id = await bench.run("left", POLITE)

    async def read() -> None:
        async for _ in bench.engine.logs(container_id, follow=True):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    started = time.monotonic()
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    assert time.monotonic() - started < 1


async def test_a_terminal_writes_one_stream(bench: Bench) -> None:
    container_id = await bench.run("terminal", FAILS, tty=True)
    await bench.ended(container_id)
    chunks = [chunk async for chunk in bench.engine.logs(container_id, timestamps=True)]
    assert {chunk.stream for chunk in chunks} == {"stdout"}
    assert b"".join(chunk.data for chunk in chunks).replace(b"\r", b"") == b"out\nerr\n"
    assert all(chunk.time is not None for chunk in chunks)


async def test_logs_of_nobody(bench: Bench) -> None:
    with pytest.raises(NotFound):
        _ = [chunk async for chunk in bench.engine.logs("nobody")]

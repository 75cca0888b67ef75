"""Watches: no gap, no doubles, bounded."""

import asyncio
import random
from collections.abc import Callable

import pytest

from moorage.errors import HistoryCompacted, StoreUnavailable
from moorage.store import Batch, Change, Store, Transaction, View, Watch
from tests.contract.store.conftest import OpenStore
from tests.contract.store.records import BOXES, COUNTERS, Box, Counter, delete, put

DEADLINE_SECONDS = 10.0


async def put_box(store: Store, name: str, size: int = 0) -> None:
    await put(store, Box(name, size=size))


async def turn_until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - an event would change what is tested
            await asyncio.sleep(0)


async def following(watch: Watch) -> Batch:
    return await asyncio.wait_for(anext(watch), DEADLINE_SECONDS)


async def is_idle(watch: Watch) -> bool:
    """Nothing is there, nor arrives while the loop turns."""
    waiting = asyncio.ensure_future(anext(watch))
    for _ in range(20):
        await asyncio.sleep(0)
    if waiting.done():
        return False
    waiting.cancel()
    await asyncio.wait([waiting])
    return True


def contents(view: View) -> dict[str, Box]:
    return {record.value.name: record.value for record in view.all(BOXES)}


async def test_one_batch_for_each_commit_with_before_and_after(store: Store) -> None:
    async with store.watch() as watch:
        await put(store, Box("b"), Box("a"))
        created = store.view().get(BOXES, "a")
        await put_box(store, "a", 5)
        changed = store.view().get(BOXES, "a")
        await delete(store, "a")

        first = await following(watch)
        assert first.revision == 1
        assert [change.key for change in first.changes] == ["b", "a"]  # in the order of the writes
        assert all(change.kind is BOXES and change.before is None for change in first.changes)
        assert await following(watch) == Batch(2, (Change(BOXES, "a", created, changed),))
        assert await following(watch) == Batch(3, (Change(BOXES, "a", changed, None),))
        assert watch.revision == 3
        assert await is_idle(watch)


async def test_several_writes_to_one_record_are_one_change(store: Store) -> None:
    await put_box(store, "a", 1)

    def work(tx: Transaction) -> None:
        tx.put(BOXES, Box("a", size=2))
        tx.delete(BOXES, "a")
        tx.put(BOXES, Box("a", size=3))
        tx.put(BOXES, Box("b"))
        tx.delete(BOXES, "b")

    async with store.watch() as watch:
        await store.update(work)
        (change,) = (await following(watch)).changes
    assert change.before is not None
    assert change.after is not None
    assert (change.before.value.size, change.after.value.size) == (1, 3)


async def test_only_the_kinds_asked_for(store: Store) -> None:
    async with store.watch([COUNTERS]) as watch:
        await put_box(store, "a")
        await put(store, Box("b"), Counter("n", 1))
        batch = await following(watch)
        assert batch.revision == 2
        assert [change.kind for change in batch.changes] == [COUNTERS]
        assert await is_idle(watch)


async def test_nothing_is_told_before_it_is_published(store: Store) -> None:
    async with store.watch() as watch:
        waiting = asyncio.ensure_future(following(watch))
        await asyncio.sleep(0)
        writing = asyncio.ensure_future(put_box(store, "a"))
        batch = await waiting
        assert store.view().revision >= batch.revision
        await writing


async def test_from_a_revision(store: Store) -> None:
    for size in range(1, 6):
        await put_box(store, "a", size)
    async with store.watch([BOXES], from_revision=2) as watch:
        assert [(await following(watch)).revision for _ in range(3)] == [3, 4, 5]
        assert await is_idle(watch)
    async with store.watch(from_revision=5) as watch:
        assert await is_idle(watch)


async def test_a_revision_that_never_was_is_refused(store: Store) -> None:
    await put_box(store, "a")
    with pytest.raises(HistoryCompacted):
        store.watch(from_revision=2)


async def test_history_that_is_gone_is_refused(open_store: OpenStore) -> None:
    store = await open_store(history_commits=3)
    for size in range(1, 8):
        await put_box(store, "a", size)
    store.watch(from_revision=4).close()
    with pytest.raises(HistoryCompacted):
        store.watch(from_revision=3)


async def test_history_is_bounded_by_changes_too_and_keeps_the_newest(open_store: OpenStore) -> None:
    store = await open_store(history_changes=10)
    async with store.watch() as watch:
        await put(store, *(Box(str(n)) for n in range(50)))
        assert len((await following(watch)).changes) == 50
        await put_box(store, "a")
        assert (await following(watch)).revision == 2
    with pytest.raises(HistoryCompacted):
        store.watch(from_revision=0)


async def test_a_slow_watcher_is_cut_off_and_can_list_again(open_store: OpenStore) -> None:
    store = await open_store(history_commits=5)
    slow = store.watch()
    fast = store.watch()
    for size in range(1, 21):
        await put_box(store, "a", size)
        assert (await following(fast)).revision == size
    with pytest.raises(HistoryCompacted):
        await following(slow)
    view, again = store.view_and_watch()
    assert contents(view) == {"a": Box("a", size=20)}
    await put_box(store, "a", 21)
    assert (await following(again)).revision == 21


async def test_a_waiting_watch_of_a_quiet_kind_is_not_cut_off_by_others(open_store: OpenStore) -> None:
    store = await open_store(history_commits=5)
    async with store.watch([COUNTERS]) as watch:
        waiting = asyncio.ensure_future(following(watch))
        await asyncio.sleep(0)
        for size in range(1, 21):
            await put_box(store, "a", size)
        assert watch.revision == 20  # where to resume: nothing of ours was among them
        await put(store, Counter("n", 1))
        assert (await waiting).revision == 21


@pytest.mark.parametrize("was_woken", [False, True])
async def test_cancelling_the_wait_loses_nothing(store: Store, was_woken: bool) -> None:
    async with store.watch() as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        if was_woken:  # woken by the commit, and cancelled before it could run
            writing = asyncio.ensure_future(put_box(store, "a"))
            await turn_until(lambda: store.view().revision == 1)
            waiting.cancel()
            await writing
        else:
            waiting.cancel()
            await asyncio.wait([waiting])
            await put_box(store, "a")
        await asyncio.wait([waiting])
        batch = await (following(watch) if waiting.cancelled() else waiting)
        assert batch.revision == 1
        assert await is_idle(watch)


async def test_close_ends_a_waiting_consumer(store: Store) -> None:
    watch = store.watch()

    async def consume() -> list[int]:
        return [batch.revision async for batch in watch]

    consumer = asyncio.ensure_future(consume())
    await put_box(store, "a")
    await put_box(store, "b")
    await turn_until(lambda: watch.revision == 2)
    watch.close()
    assert await asyncio.wait_for(consumer, DEADLINE_SECONDS) == [1, 2]


async def test_closing_the_store_ends_watches_with_an_error(open_store: OpenStore) -> None:
    store = await open_store()
    waiting = asyncio.ensure_future(following(store.watch([COUNTERS])))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable) as raised:
        await waiting
    assert raised.value.reason == "STORE_CLOSED"


async def test_view_and_watch_add_up_to_the_state_under_concurrent_writers(store: Store) -> None:
    rng = random.Random(7)
    writers_left = 8

    async def write(writer: int) -> None:
        nonlocal writers_left
        for step in range(60):
            name = f"box-{rng.randrange(20)}"
            if rng.random() < 0.3:
                await delete(store, name)
            else:
                await put_box(store, name, writer * 1000 + step)
            if rng.random() < 0.2:
                await asyncio.sleep(0)
        writers_left -= 1
        if writers_left == 0:
            await put(store, Counter("n", 1))  # the end

    async def follow() -> None:
        for _ in range(rng.randrange(50)):  # begin anywhere
            await asyncio.sleep(0)
        view, watch = store.view_and_watch()
        copy, last = contents(view), view.revision
        async with watch:
            async for batch in watch:
                assert batch.revision == last + 1
                last = batch.revision
                for change in batch.changes:
                    if change.kind is COUNTERS:
                        assert copy == contents(store.view())
                        return
                    before = change.before.value if change.before else None
                    assert copy.get(change.key) == before
                    if change.after is None:
                        del copy[change.key]
                    else:
                        copy[change.key] = change.after.value

    followers = [asyncio.ensure_future(follow()) for _ in range(5)]
    await asyncio.gather(*(write(n) for n in range(8)))
    await asyncio.wait_for(asyncio.gather(*followers), DEADLINE_SECONDS)

"""A log that fails, and the grouping of commits: with a log that the test answers for."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from moorage.errors import StoreUnavailable
from moorage.store import MemoryStore, Store
from moorage.store.engine import Commit
from tests.contract.store.records import BOXES, KINDS, Box, put


class FaultyStore(MemoryStore):
    """A log that the test answers for, one group of commits at a time."""

    def __init__(self) -> None:
        super().__init__(KINDS)
        self.asked: list[tuple[Sequence[Commit], Callable[[StoreUnavailable | None], None]]] = []

    def _write(self, commits: Sequence[Commit], done: Callable[[StoreUnavailable | None], None]) -> None:
        self.asked.append((commits, done))

    def answer(self, error: StoreUnavailable | None = None) -> int:
        """Answer the oldest group; its number of commits."""
        commits, done = self.asked.pop(0)
        done(error)
        return len(commits)


async def begun(store: Store, *records: Box) -> "asyncio.Future[None]":
    task = asyncio.ensure_future(put(store, *records))
    await asyncio.sleep(0)
    return task


async def test_what_comes_while_the_log_is_busy_is_one_group() -> None:
    store = FaultyStore()
    tasks = [await begun(store, Box(str(n))) for n in range(10)]
    assert store.view().revision == 0
    assert store.answer() == 1
    assert store.view().revision == 1
    assert store.answer() == 9
    await asyncio.gather(*tasks)
    assert store.view().revision == 10
    assert not store.asked


async def test_a_failure_takes_along_all_that_was_waiting_and_no_more() -> None:
    store = FaultyStore()
    first = await begun(store, Box("first"))
    store.answer()
    await first
    watch = store.watch()
    failing = await begun(store, Box("failing"))
    queued = await begun(store, Box("queued"))
    reading = asyncio.ensure_future(store.update(lambda tx: [r.value.name for r in tx.all(BOXES)]))
    await asyncio.sleep(0)
    store.answer(StoreUnavailable("no", reason="STORE_FULL"))
    assert not store.asked  # what was queued is not tried
    for task in (failing, queued, reading):
        with pytest.raises(StoreUnavailable) as raised:
            await task
        assert raised.value.reason == "STORE_FULL"
    assert store.view().revision == 1

    retry = await begun(store, Box("retry"))
    store.answer()
    await retry
    assert [record.value.name for record in store.view().all(BOXES)] == ["first", "retry"]
    batch = await anext(watch)
    assert (batch.revision, [change.key for change in batch.changes]) == (2, ["retry"])


async def test_a_cancelled_close_goes_on() -> None:
    store = FaultyStore()
    task = await begun(store, Box("a"))
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    store.answer()
    await task
    await store.close()
    with pytest.raises(StoreUnavailable):
        await anext(store.watch())


async def test_closing_ends_although_the_log_fails() -> None:
    store = FaultyStore()
    task = await begun(store, Box("a"))
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.answer(StoreUnavailable("no"))
    await closing
    with pytest.raises(StoreUnavailable):
        await task

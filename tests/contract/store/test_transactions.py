"""Transactions: what they see, what they leave, and what they leave undone."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moorage.errors import Internal, InvalidSpec, StoreUnavailable
from moorage.store import Kind, MemoryStore, SqliteStore, Store, Transaction
from tests.contract.store.conftest import OpenStore
from tests.contract.store.records import BOXES, COUNTERS, Box, Counter, delete, put


def names(records: Any) -> list[str]:
    return [record.value.name for record in records]


async def test_a_committed_record_is_in_the_view_with_its_revisions(store: Store) -> None:
    assert store.view().revision == 0
    await put(store, Box("a"))
    await put(store, Box("a", size=2))
    found = store.view().get(BOXES, "a")
    assert found is not None
    assert (found.value, found.revision, found.created_revision) == (Box("a", size=2), 2, 1)
    assert store.view().revision == 2
    assert store.view().get(BOXES, "b") is None


async def test_the_result_of_the_function_is_returned_and_its_revision_known_inside(store: Store) -> None:
    def create(tx: Transaction) -> int:
        tx.put(BOXES, Box("a"))
        return tx.revision

    assert await store.update(create) == 1
    assert store.view().revision == 1


async def test_a_transaction_reads_its_own_writes(store: Store) -> None:
    await put(store, *(Box(n, host="h1") for n in "abc"))

    def work(tx: Transaction) -> None:
        tx.put(BOXES, Box("d", host="h1"))
        tx.delete(BOXES, "a")
        tx.put(BOXES, Box("b", host="h2"))
        assert names(tx.all(BOXES)) == ["b", "c", "d"]
        assert names(tx.find(BOXES, "host", "h1")) == ["c", "d"]
        assert names(tx.find(BOXES, "host", "h2")) == ["b"]
        assert names(tx.range(BOXES, "b", 9)) == ["c", "d"]
        assert tx.count(BOXES) == 3
        assert tx.get(BOXES, "a") is None
        # Nobody else sees any of it.
        assert names(store.view().all(BOXES)) == ["a", "b", "c"]

    await store.update(work)
    assert names(store.view().all(BOXES)) == ["b", "c", "d"]


async def test_writing_while_iterating_does_not_disturb_the_iteration(store: Store) -> None:
    await put(store, *(Box(f"{n:04}") for n in range(2000)))

    def work(tx: Transaction) -> list[str]:
        seen = []
        for record in tx.all(BOXES):
            seen.append(record.value.name)
            tx.delete(BOXES, record.value.name)
            tx.put(BOXES, Box(record.value.name + "x"))
        return seen

    assert await store.update(work) == [f"{n:04}" for n in range(2000)]
    assert names(store.view().all(BOXES)) == [f"{n:04}x" for n in range(2000)]


async def test_an_exception_discards_everything(store: Store) -> None:
    await put(store, Box("a", host="h1"))
    before = store.view()

    def fail(tx: Transaction) -> None:
        tx.put(BOXES, Box("a", host="h2"))
        tx.put(BOXES, Box("b"))
        tx.put(COUNTERS, Counter("c", 1))
        raise KeyError("no")

    with pytest.raises(KeyError):
        await store.update(fail)
    assert store.view() is before
    assert await store.update(lambda tx: names(tx.find(BOXES, "host", "h1"))) == ["a"]
    assert await store.update(lambda tx: tx.revision) == 2


async def test_a_record_that_cannot_be_written_discards_everything(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.put(BOXES, Box("good"))
        tx.put(BOXES, Box("bad", size="big"))  # type: ignore[arg-type]

    with pytest.raises(Internal) as raised:
        await store.update(work)
    assert raised.value.reason == "RECORD_UNWRITABLE"
    assert store.view().revision == 0
    assert await store.update(lambda tx: tx.count(BOXES)) == 0


async def test_what_changes_nothing_makes_no_revision(store: Store) -> None:
    await put(store, Box("a"))

    def nothing(tx: Transaction) -> None:
        tx.put(BOXES, Box("a"))
        tx.delete(BOXES, "unknown")
        tx.put(BOXES, Box("b"))
        tx.delete(BOXES, "b")

    await store.update(nothing)
    assert store.view().revision == 1
    found = store.view().get(BOXES, "a")
    assert found is not None
    assert found.revision == 1


async def test_a_record_deleted_and_made_again_is_a_new_one(store: Store) -> None:
    await put(store, Box("a"))

    def again(tx: Transaction) -> None:
        tx.delete(BOXES, "a")
        tx.put(BOXES, Box("a"))

    await store.update(again)
    found = store.view().get(BOXES, "a")
    assert found is not None
    assert found.created_revision == 2


async def test_a_snapshot_stays_as_it_is(store: Store) -> None:
    await put(store, Box("a", host="h1"))
    snapshot = store.snapshot()

    def swap(tx: Transaction) -> None:
        tx.delete(BOXES, "a")
        tx.put(BOXES, Box("b", host="h1"))

    await store.update(swap)
    assert names(snapshot.all(BOXES)) == names(snapshot.find(BOXES, "host", "h1")) == ["a"]
    assert names(store.view().all(BOXES)) == names(store.view().find(BOXES, "host", "h1")) == ["b"]


async def test_indexes_follow_their_records(store: Store) -> None:
    await put(store, *(Box(n, tags=("all", f"only-{n}")) for n in ("c", "a", "b")))
    await put(store, Box("b", tags=("all", "all", "new")))
    await delete(store, "c")
    view = store.view()
    assert names(view.find(BOXES, "tag", "all")) == ["a", "b"]
    assert names(view.find(BOXES, "tag", "only-b")) == []
    assert names(view.find(BOXES, "tag", "new")) == ["b"]
    assert names(view.find(BOXES, "tag", "only-c")) == []
    assert names(view.find(BOXES, "tag", "al")) == []  # no prefix match
    assert names(view.find(BOXES, "host", "")) == []


async def test_a_nul_in_an_index_value_is_refused_and_finds_nothing(store: Store) -> None:
    await put(store, Box("b\0c", tags=("a",)))
    assert names(store.view().find(BOXES, "tag", "a\0b")) == []
    with pytest.raises(InvalidSpec):
        await put(store, Box("x", tags=("a\0b",)))


@pytest.mark.parametrize("key", ["", "\ud800"])
async def test_a_key_that_cannot_be_kept_is_refused(store: Store, key: str) -> None:
    with pytest.raises(InvalidSpec):
        await put(store, Box(key))


async def test_range_pages_through_a_prefix(store: Store) -> None:
    keys = [f"p{p}/{n:03}" for p in range(3) for n in range(400)]
    await put(store, *(Box(key) for key in keys))
    view = store.view()
    seen: list[str] = []
    after = ""
    while page := view.range(BOXES, after, 7, prefix="p1/"):
        seen += names(page)
        after = seen[-1]
    assert seen == keys[400:800]
    assert names(view.range(BOXES, "", 2)) == keys[:2]
    assert names(view.range(BOXES, "p2/398", 9)) == keys[-1:]
    assert names(view.range(BOXES, "p2/", 9, prefix="p1/")) == []
    assert names(view.range(BOXES, "zzz", 9)) == []
    assert view.range(BOXES, "", 0) == []


async def test_keys_are_ordered_by_code_point(store: Store) -> None:
    keys = ["z", "é", "\uffee", "\U0001f600", "A", "a"]
    await put(store, *(Box(key) for key in keys))
    assert names(store.view().all(BOXES)) == sorted(keys)


async def test_mistakes_in_the_use_of_a_store_are_told(store: Store) -> None:
    stranger: Kind[Box] = Kind("strangers", Box, lambda box: box.name)
    kept: list[Transaction] = []
    with pytest.raises(Internal, match="strangers"):
        store.view().get(stranger, "a")
    with pytest.raises(Internal, match="no index"):
        store.view().find(BOXES, "colour", "red")
    await store.update(kept.append)
    with pytest.raises(Internal, match="after its function"):
        kept[0].put(BOXES, Box("a"))

    async def coroutine(tx: Transaction) -> None:
        tx.put(BOXES, Box("a"))

    with pytest.raises(TypeError):
        await (await store.update(coroutine))  # refused before there is anything to await
    assert store.view().revision == 0


async def test_kinds_that_cannot_work_are_refused_at_the_start(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Mutable:
        name: str
        content: list[str]

    mutable: Kind[Mutable] = Kind("mutable", Mutable, lambda record: record.name)
    for kinds, reason in (([mutable], "RECORD_TYPE_UNSUPPORTED"), ([BOXES, BOXES], "STORE_MISUSED")):
        with pytest.raises(Internal) as raised:
            MemoryStore(kinds)
        assert raised.value.reason == reason
        with pytest.raises(Internal) as raised:
            await SqliteStore.open(tmp_path / "s.db", kinds)
        assert raised.value.reason == reason


async def test_an_index_that_gives_a_bare_string_is_refused() -> None:
    wrong: Kind[Box] = Kind("boxes", Box, lambda box: box.name, {"host": lambda box: box.host or ""})
    store = MemoryStore([wrong])
    with pytest.raises(Internal, match="in place of strings"):
        await store.update(lambda tx: tx.put(wrong, Box("a", host="h1")))
    await store.close()


async def test_transactions_run_in_the_order_of_their_calls_and_are_published_in_it(store: Store) -> None:
    def increment(tx: Transaction) -> int:
        found = tx.get(COUNTERS, "n")
        value = found.value.value + 1 if found else 1
        tx.put(COUNTERS, Counter("n", value))
        return value

    finished: list[int] = []

    async def one() -> None:
        value = await store.update(increment)
        published = store.view().get(COUNTERS, "n")
        assert published is not None
        assert published.value.value >= value  # durable before the await returns
        finished.append(value)

    await asyncio.gather(*(one() for _ in range(300)))
    assert finished == list(range(1, 301))
    assert store.view().revision == 300


async def test_a_transaction_that_only_read_waits_for_what_it_read(store: Store) -> None:
    writing = asyncio.ensure_future(put(store, Box("a")))
    await asyncio.sleep(0)  # the writer has run its function, its commit may be under way
    read = await store.update(lambda tx: names(tx.all(BOXES)))
    assert read == names(store.view().all(BOXES)) == ["a"]
    await writing


async def test_cancelling_the_wait_does_not_undo_the_transaction(store: Store) -> None:
    tasks = [asyncio.ensure_future(put(store, Box(n))) for n in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    await store.update(lambda tx: None)
    assert names(store.view().all(BOXES)) == ["a", "b", "c"]


async def test_close_waits_for_what_is_under_way_and_then_refuses(open_store: OpenStore) -> None:
    store = await open_store()
    writing = [asyncio.ensure_future(put(store, Box(n))) for n in "abc"]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await asyncio.gather(*writing)
    assert names(store.view().all(BOXES)) == ["a", "b", "c"]
    with pytest.raises(StoreUnavailable) as raised:
        await store.update(lambda tx: None)
    assert raised.value.reason == "STORE_CLOSED"

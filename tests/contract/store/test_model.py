"""Random histories of transactions, in groups that run at once, against a plain dict."""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.store import MemoryStore, SqliteStore, Store, Transaction, View
from tests.contract.store.records import BOXES, KINDS, Box

Model = dict[str, Box]

names = st.sampled_from(["a", "ab", "b", "b\0", "c/1", "c/2", "d", "é"])
boxes = st.builds(
    Box,
    name=names,
    host=st.sampled_from([None, "h1", "h2"]),
    tags=st.lists(st.sampled_from(["", "t", "tt"]), max_size=3).map(tuple),
    size=st.integers(0, 2),
)
operations = st.one_of(names, boxes)  # a name is a deletion
transactions = st.tuples(st.lists(operations, max_size=6), st.sampled_from(["commit", "commit", "raise"]))
histories = st.lists(st.lists(transactions, min_size=1, max_size=4), max_size=8)  # groups that run at once
History = list[list[tuple[list[str | Box], str]]]


class Stop(Exception):
    """Ends a transaction."""


def check(view: View, model: Model) -> None:
    """Every way to read gives what the model has."""
    ordered = [model[name] for name in sorted(model)]
    assert [r.value for r in view.all(BOXES)] == ordered
    assert view.count(BOXES) == len(ordered)
    for name in ("a", "b\0", "nobody"):
        record = view.get(BOXES, name)
        assert (record.value if record else None) == model.get(name)
    for host in ("h1", "h2"):
        assert [r.value for r in view.find(BOXES, "host", host)] == [b for b in ordered if b.host == host]
    for tag in ("", "t", "tt"):
        assert [r.value for r in view.find(BOXES, "tag", tag)] == [b for b in ordered if tag in b.tags]
    for after, prefix in (("", ""), ("a", ""), ("", "c/"), ("c/1", "c/"), ("d", "c/"), ("b", "b")):
        expected = [b for b in ordered if b.name > after and b.name.startswith(prefix)]
        assert [r.value for r in view.range(BOXES, after, 2, prefix)] == expected[:2]


async def run(store: Store, history: History) -> Model:
    """Play the history; the model that it ends with."""
    head: Model = {}

    async def one(steps: list[str | Box], end: str) -> None:
        def work(tx: Transaction) -> None:
            nonlocal head
            mine = dict(head)
            for step in steps:
                if isinstance(step, Box):
                    tx.put(BOXES, step)
                    mine[step.name] = step
                else:
                    tx.delete(BOXES, step)
                    mine.pop(step, None)
                check(tx, mine)
            if end == "raise":
                raise Stop
            head = mine

        with suppress(Stop):
            await store.update(work)

    view, watch = store.view_and_watch()
    snapshots = [(view, head)]
    for group in history:
        await asyncio.gather(*(one(steps, end) for steps, end in group))
        check(store.view(), head)
        snapshots.append((store.snapshot(), head))
    for snapshot, expected in snapshots:
        check(snapshot, expected)

    copy: Model = {}
    while watch.revision < store.view().revision:
        for change in (await anext(watch)).changes:
            assert copy.get(change.key) == (change.before.value if change.before else None)
            copy.pop(change.key, None)
            if change.after:
                copy[change.key] = change.after.value
    assert copy == head
    return head


@settings(max_examples=60, deadline=None)
@given(history=histories)
def test_memory_behaves_as_a_dict(history: History) -> None:
    async def main() -> None:
        store = MemoryStore(KINDS)
        await run(store, history)
        await store.close()

    asyncio.run(main())


@settings(max_examples=20, deadline=None)
@given(history=histories)
def test_sqlite_behaves_as_a_dict_and_so_after_a_reopen(history: History) -> None:
    async def main(path: Path) -> None:
        store = await SqliteStore.open(path, KINDS)
        model = await run(store, history)
        revision = store.view().revision
        await store.close()
        store = await SqliteStore.open(path, KINDS)
        check(store.view(), model)
        assert store.view().revision == revision
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "s.db"))

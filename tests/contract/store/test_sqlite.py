"""What only the SQLite backend promises: it comes back, it is alone, and it survives a full disk and a kill."""

import asyncio
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from moorage.errors import AlreadyExists, HistoryCompacted, Internal, MoorageError, StoreUnavailable, Unavailable
from moorage.store import Kind, MemoryStore, SqliteStore, Store
from tests.contract.store.records import BOXES, COUNTERS, KINDS, Box, Counter, delete, put

WRITER = "tests.contract.store.writer_process"


def contents(store: Store) -> list[tuple[Box, int, int]]:
    return [(record.value, record.revision, record.created_revision) for record in store.view().all(BOXES)]


async def test_everything_is_there_after_a_reopen(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    await put(store, *(Box(f"b{n:04}", host=f"h{n % 3}", tags=("t", str(n))) for n in range(1500)))
    await put(store, Box("b0001", host="h9"), Box("é\U0001f600"), Counter("n", 1))
    await delete(store, "b0000")
    before, identity = contents(store), (store.id, store.epoch)
    await store.close()

    again = await SqliteStore.open(tmp_path / "s.db", KINDS)
    assert contents(again) == before
    assert again.id == identity[0]
    assert again.epoch > identity[1]
    view = again.view()
    assert view.revision == 3
    assert [r.value.name for r in view.find(BOXES, "host", "h9")] == ["b0001"]
    assert len(view.find(BOXES, "tag", "t")) == 1498
    assert view.get(COUNTERS, "n") is not None
    with pytest.raises(HistoryCompacted):  # history is not kept over a reopen
        again.watch(from_revision=2)
    again.watch(from_revision=3).close()
    await put(again, Box("new"))
    assert again.view().revision == 4
    await again.close()


async def test_the_file_is_nobody_elses_to_read(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    await put(store, Box("a"))
    await store.backup(tmp_path / "b.db")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    await store.close()
    assert set(modes.values()) == {0o600}, modes


async def test_a_second_open_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    (tmp_path / "alias.db").symlink_to(tmp_path / "s.db")
    for name in ("s.db", "alias.db"):
        with pytest.raises(Unavailable) as raised:
            await SqliteStore.open(tmp_path / name, KINDS)
        assert raised.value.reason == "STORE_LOCKED"
        assert raised.value.metadata["pid"] == str(os.getpid())
    await put(store, Box("a"))  # the refused ones did no harm
    await store.close()
    await (await SqliteStore.open(tmp_path / "s.db", KINDS)).close()


async def test_a_process_that_was_killed_leaves_what_it_acknowledged_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    acknowledged: set[str] = set()
    last_epoch = 0
    for round_number in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-m", WRITER, str(path), str(round_number)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        with writer.stdout:
            for _ in range(40 + 60 * round_number):
                acknowledged.add(writer.stdout.readline().strip())
            if round_number == 0:
                with pytest.raises(Unavailable, match=str(writer.pid)):
                    await SqliteStore.open(path, KINDS)
            writer.send_signal(signal.SIGKILL)
            acknowledged |= {line.strip() for line in writer.stdout if line.endswith("\n")}
        assert writer.wait(10) == -signal.SIGKILL

        store = await SqliteStore.open(path, KINDS)
        pairs = {record.value.name: record.value.size for record in store.view().all(BOXES)}
        assert acknowledged <= pairs.keys()
        # Each transaction wrote a box and raised the counter by one: never one without the other.
        counter = store.view().get(COUNTERS, "n")
        assert counter is not None
        assert counter.value.value == len(pairs) == store.view().revision
        assert sorted(pairs.values()) == list(range(1, len(pairs) + 1))
        assert store.epoch > last_epoch
        last_epoch = store.epoch
        await store.close()


async def test_a_full_disk_fails_what_was_waiting_and_works_again_with_room(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", KINDS, max_bytes=400_000)
    await put(store, *(Box(f"old{n}", tags=("x" * 10_000,)) for n in range(20)))
    published = store.view()
    watch = store.watch()
    large = put(store, *(Box(f"new{n}", tags=("x" * 10_000,)) for n in range(40)))
    small = put(store, Box("small"))  # would fit, but was computed after the large one
    results = await asyncio.gather(large, small, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
    assert {result.reason for result in results if isinstance(result, MoorageError)} == {"STORE_FULL"}
    assert store.view() is published

    await put(store, Box("small"))
    batch = await anext(watch)
    assert [change.key for change in batch.changes] == ["small"]
    assert batch.revision == 2

    for n in range(20):
        await delete(store, f"old{n}")
    await put(store, *(Box(f"new{n}", tags=("x" * 10_000,)) for n in range(20)))
    before = contents(store)
    await store.close()
    again = await SqliteStore.open(tmp_path / "s.db", KINDS)
    assert contents(again) == before
    await again.close()


async def test_an_input_output_error_is_survived(tmp_path: Path) -> None:
    """The file size limit of a process stands for a broken disk: writing beyond it fails with EFBIG."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", WRITER, str(tmp_path / "s.db"), "io-error"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failed"] == "StoreUnavailable"
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    assert [box.name for box, _, _ in contents(store)] == told["boxes"] == ["after", "before"]
    await store.close()


async def test_a_backup_is_a_store_and_never_replaces_a_file(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    await put(store, Box("a", host="h"), Counter("n", 1))
    writing = [asyncio.ensure_future(put(store, Box(f"later{n}"))) for n in range(50)]
    await store.backup(tmp_path / "b.db")
    await asyncio.gather(*writing)
    with pytest.raises(AlreadyExists):
        await store.backup(tmp_path / "b.db")
    with pytest.raises(StoreUnavailable):
        await store.backup(tmp_path / "no such folder" / "b.db")
    await store.close()

    copy = await SqliteStore.open(tmp_path / "b.db", KINDS)
    assert copy.id == store.id
    view = copy.view()
    assert view.get(BOXES, "a") is not None
    assert view.count(BOXES) == view.revision  # one box a revision: a whole prefix of the commits
    await copy.close()
    assert not list(tmp_path.glob("*.partial*"))


async def test_a_memory_store_can_be_kept_as_a_backup(tmp_path: Path) -> None:
    store = MemoryStore(KINDS)
    await put(store, Box("b"), Box("a", tags=("t",)))
    await put(store, Box("b", size=4))
    await store.backup(tmp_path / "b.db")
    copy = await SqliteStore.open(tmp_path / "b.db", KINDS)
    assert (copy.id, copy.view().revision) == (store.id, 2)
    assert copy.epoch > store.epoch
    assert contents(copy) == contents(store)
    await copy.close()
    await store.close()


async def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at" * 30)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    store = await SqliteStore.open(tmp_path / "new.db", KINDS)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as newer, newer:
        newer.execute("UPDATE schema_version SET version = 99")
    reasons = {"text.db": "STORE_CORRUPT", "other.db": "STORE_CORRUPT", "new.db": "STORE_TOO_NEW"}
    for name, reason in reasons.items():
        content = (tmp_path / name).read_bytes()
        for _ in range(2):  # the second time too: the lock was let go
            with pytest.raises(StoreUnavailable) as raised:
                await SqliteStore.open(tmp_path / name, KINDS)
            assert raised.value.reason == reason
        if name == "text.db":
            assert (tmp_path / name).read_bytes() == content
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(tmp_path / "no such folder" / "s.db", KINDS)


@dataclass(frozen=True, slots=True)
class TallBox:
    name: str
    height: int
    colour: str = "red"


async def test_records_grow_and_unknown_kinds_are_kept(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    await put(store, Box("a", size=3), Counter("n", 1))
    await store.close()

    @dataclass(frozen=True, slots=True)
    class NewBox:
        name: str
        colour: str = "red"

    new_boxes: Kind[NewBox] = Kind("boxes", NewBox, lambda box: box.name, {"colour": lambda box: (box.colour,)})
    store = await SqliteStore.open(tmp_path / "s.db", [new_boxes])
    (found,) = store.view().find(new_boxes, "colour", "red")
    assert found.value == NewBox("a")
    await store.close()

    tall_boxes: Kind[TallBox] = Kind("boxes", TallBox, lambda box: box.name)
    with pytest.raises(Internal, match=r"boxes 'a' cannot be read: TallBox\.height: missing"):
        await SqliteStore.open(tmp_path / "s.db", [tall_boxes])
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    assert store.view().get(COUNTERS, "n") is not None
    await store.close()


async def test_a_file_that_others_wrote_to_is_not_written_over(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    await put(store, Box("a"))
    with closing(sqlite3.connect(tmp_path / "s.db")) as intruder, intruder:
        intruder.execute("UPDATE meta SET revision = 7")
    for _ in range(2):  # the second time too: the first left no transaction open
        with pytest.raises(StoreUnavailable) as raised:
            await put(store, Box("b"))
        assert raised.value.reason == "STORE_DIVERGED"
    await store.close()


async def test_opening_can_be_cancelled(tmp_path: Path) -> None:
    opening = asyncio.ensure_future(SqliteStore.open(tmp_path / "s.db", KINDS))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    store: Store | None = None
    async with asyncio.timeout(10):
        while store is None:  # the thread may still be at it; the lock must come free
            with suppress(Unavailable):
                store = await SqliteStore.open(tmp_path / "s.db", KINDS)
    await store.close()

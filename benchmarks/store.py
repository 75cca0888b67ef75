"""How fast is the store? Commits a second by number of writers, rows a second, opening, reading.

    python -m benchmarks.store [--backend sqlite|memory] [--objects 100000] [--seconds 2] [--folder DIR]

The folder decides what a flush of the disk costs (it is measured too); a memory file system shows the program alone.
The last line is one JSON object.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moorage.store import Kind, MemoryStore, SqliteStore, Store, Transaction, View

WRITERS = (1, 10, 100, 1000)
ROWS_PER_TRANSACTION = 1000


@dataclass(frozen=True, slots=True)
class Nic:
    """A part of a record, as an instance has them."""

    network: str
    mac: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thing:
    """A record of the size and shape of an instance: some 400 bytes of JSON, two indexes."""

    id: str
    name: str
    project: str
    host: str | None
    state: str
    generation: int
    labels: Mapping[str, str] = field(default_factory=dict)
    nics: tuple[Nic, ...] = ()
    image: str = "registry.example/library/web@sha256:" + "0" * 64


THINGS: Kind[Thing] = Kind(
    "things",
    Thing,
    lambda thing: thing.id,
    {"host": lambda thing: (thing.host,) if thing.host else (), "project": lambda thing: (thing.project,)},
)


def thing(number: int, generation: int = 0) -> Thing:
    """The record of this number."""
    return Thing(
        id=f"i{number:09d}",
        name=f"web-{number}",
        project=f"p{number % 20}",
        host=f"h{number % 500}",
        state="RUNNING",
        generation=generation,
        labels={"app": "web", "tier": "front"},
        nics=(Nic("n1", f"02:00:00:00:{number // 256 % 256:02x}:{number % 256:02x}", (f"10.0.0.{number % 256}/16",)),),
    )


def flush_milliseconds(folder: Path) -> float:
    """Median time of an append of 4 KiB and its flush, the least that a commit can take here."""
    times = []
    descriptor = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT, 0o600)
    for _ in range(50):
        os.write(descriptor, b"x" * 4096)
        start = time.perf_counter()
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - start)
    os.close(descriptor)
    return sorted(times)[len(times) // 2] * 1000


async def commits_per_second(store: Store, objects: int, writers: int, seconds: float) -> tuple[float, float]:
    """Single-record updates of random objects; (commits a second, median wait for one in milliseconds)."""
    end = time.perf_counter() + seconds
    waits: list[float] = []
    rng = random.Random(writers)

    def touch(tx: Transaction) -> None:
        found = tx.get(THINGS, f"i{rng.randrange(objects):09d}")
        assert found is not None
        tx.put(THINGS, dataclasses.replace(found.value, generation=found.value.generation + 1))

    async def write() -> None:
        while (start := time.perf_counter()) < end:
            await store.update(touch)
            waits.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(writers)))
    return len(waits) / (time.perf_counter() - start), sorted(waits)[len(waits) // 2] * 1000


async def fill(store: Store, objects: int) -> float:
    """Create the objects, a thousand a transaction; rows a second."""
    start = time.perf_counter()
    for first in range(0, objects, ROWS_PER_TRANSACTION):
        rows = [thing(number) for number in range(first, min(first + ROWS_PER_TRANSACTION, objects))]

        def create(tx: Transaction, rows: list[Thing] = rows) -> None:
            for row in rows:
                tx.put(THINGS, row)

        await store.update(create)
    return objects / (time.perf_counter() - start)


def reading(view: View, objects: int) -> dict[str, float]:
    """Microseconds of a get, of each record of a find and of a full pass."""
    keys = [f"i{number:09d}" for number in random.Random(1).sample(range(objects), min(objects, 10_000))]
    start = time.perf_counter()
    for key in keys:
        view.get(THINGS, key)
    get = (time.perf_counter() - start) / len(keys)
    start = time.perf_counter()
    found = sum(len(view.find(THINGS, "host", f"h{number}")) for number in range(500))
    find = (time.perf_counter() - start) / max(found, 1)
    start = time.perf_counter()
    passed = sum(1 for _ in view.all(THINGS))
    whole = (time.perf_counter() - start) / max(passed, 1)
    return {"get_us": get * 1e6, "find_us_per_record": find * 1e6, "all_us_per_record": whole * 1e6}


async def measure(backend: str, objects: int, seconds: float, folder: Path) -> dict[str, object]:
    """Everything, on one store."""
    path = folder / "store.db"
    store: Store = MemoryStore([THINGS]) if backend == "memory" else await SqliteStore.open(path, [THINGS])
    result: dict[str, object] = {
        "benchmark": "store",
        "backend": backend,
        "objects": objects,
        "flush_ms": flush_milliseconds(folder),
        "rows_per_second": await fill(store, objects),
    }
    commits: dict[str, float] = {}
    waits: dict[str, float] = {}
    for writers in WRITERS:
        commits[str(writers)], waits[str(writers)] = await commits_per_second(store, objects, writers, seconds)
    result |= {"commits_per_second": commits, "commit_wait_ms": waits, **reading(store.view(), objects)}
    await store.close()
    if backend == "sqlite":
        start = time.perf_counter()
        store = await SqliteStore.open(path, [THINGS])
        result["open_seconds"] = time.perf_counter() - start
        result["file_mb"] = path.stat().st_size / 1e6
        await store.close()
    result["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def rounded(value: object) -> object:
    """Three figures are all that the measurement is good for."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return value


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=["sqlite", "memory"], default="sqlite")
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number of writers")
    parser.add_argument("--folder", type=Path, default=None, help="where the store is made; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = asyncio.run(measure(arguments.backend, arguments.objects, arguments.seconds, Path(folder)))
    for name, value in result.items():
        print(f"{name:22} {rounded(value)}")
    print(json.dumps(rounded(result)))


if __name__ == "__main__":
    main()

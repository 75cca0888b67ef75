"""A process that writes to a store: to be killed, or to meet a disk that refuses.

`writer_process PATH ROUND` writes for ever, ten transactions at once, and prints each box's name once it is durable.
`writer_process PATH io-error` forbids itself to write beyond the file's size, and prints what came of it as JSON.
"""

import asyncio
import json
import os
import resource
import sys

from moorage.errors import StoreUnavailable
from moorage.store import SqliteStore, Transaction
from tests.contract.store.records import BOXES, COUNTERS, KINDS, Box, Counter, put


async def write_for_ever(path: str, prefix: str) -> None:
    store = await SqliteStore.open(path, KINDS)

    async def write(name: str) -> None:
        def work(tx: Transaction) -> None:
            found = tx.get(COUNTERS, "n")
            value = found.value.value + 1 if found else 1
            tx.put(COUNTERS, Counter("n", value))
            tx.put(BOXES, Box(name, size=value))

        await store.update(work)
        os.write(1, f"{name}\n".encode())

    number = 0
    while True:
        await asyncio.gather(*(write(f"{prefix}-{number + n}") for n in range(10)))
        number += 10


async def meet_an_io_error(path: str) -> None:
    store = await SqliteStore.open(path, KINDS)
    await put(store, Box("before"))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(f"{path}-wal").st_size, hard))
    failed = ""
    try:
        await put(store, Box("during", tags=("x" * 100_000,)))
    except StoreUnavailable as exc:
        failed = type(exc).__name__
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await put(store, Box("after"))
    names = [record.value.name for record in store.view().all(BOXES)]
    await store.close()
    print(json.dumps({"failed": failed, "boxes": names}))


if __name__ == "__main__":
    if sys.argv[2] == "io-error":
        asyncio.run(meet_an_io_error(sys.argv[1]))
    else:
        asyncio.run(write_for_ever(sys.argv[1], sys.argv[2]))

"""`open_store`: opens a store of each backend in turn, and closes whatever a test left open."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from moorage.store import MemoryStore, SqliteStore, Store
from tests.contract.store.records import KINDS

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture(params=["memory", "sqlite"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    stores: list[Store] = []

    async def open_one(**limits: Any) -> Store:
        if request.param == "memory":
            store: Store = MemoryStore(KINDS, **limits)
        else:
            store = await SqliteStore.open(tmp_path / f"store-{len(stores)}.db", KINDS, **limits)
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()

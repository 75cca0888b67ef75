"""MemoryStore: the store without a log. Shipped for tests and throw-away fleets; everything is gone with the process.

It behaves as a durable store does where that can be seen: records are encoded (so that what cannot be written is
refused here too), and a transaction is published on a later turn of the event loop, so that head and published state
differ for a moment.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from moorage.errors import StoreUnavailable
from moorage.ids import new_id
from moorage.store.base import Kind
from moorage.store.engine import HISTORY_CHANGES, HISTORY_COMMITS, Commit, LogStore, check_kinds
from moorage.store.sqlite_file import dump
from moorage.store.state import State


class MemoryStore(LogStore):
    """A store in memory; `epoch` is always 1. `history_*` bound what a watch can be behind."""

    def __init__(
        self,
        kinds: Iterable[Kind[Any]],
        *,
        history_commits: int = HISTORY_COMMITS,
        history_changes: int = HISTORY_CHANGES,
    ) -> None:
        self._kinds = tuple(kinds)
        check_kinds(self._kinds)
        super().__init__(
            State.empty(self._kinds),
            store_id=new_id(),
            epoch=1,
            history_commits=history_commits,
            history_changes=history_changes,
        )

    async def backup(self, path: str | os.PathLike[str]) -> None:
        state = self.snapshot()
        await asyncio.to_thread(dump, os.fspath(path), self._kinds, state, self.id, self.epoch)

    def _write(self, commits: Sequence[Commit], done: Callable[[StoreUnavailable | None], None]) -> None:
        asyncio.get_running_loop().call_soon(done, None)

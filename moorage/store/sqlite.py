"""SqliteStore: the embedded default. One SQLite file in WAL mode, read once at open, written by one thread.

The file is durable memory, not a database that is queried: every read is served from memory. A group of commits is
one SQLite transaction with one flush of the disk. Secondary indexes are not stored.

`PATH.lock` is held with flock(2) while the store is open, so two processes cannot both believe that they are the
control plane. The lock ends with the process, however it ends; the file stays, and holds the owner's pid for people.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from moorage.errors import StoreUnavailable
from moorage.store.base import Kind, RecordCipher
from moorage.store.engine import HISTORY_CHANGES, HISTORY_COMMITS, Commit, LogStore
from moorage.store.sqlite_file import Loaded, SqliteFile


class SqliteStore(LogStore):
    """A store in a SQLite file. Made by `open`."""

    def __init__(
        self,
        file: SqliteFile,
        writer: ThreadPoolExecutor,
        loaded: Loaded,
        *,
        history_commits: int,
        history_changes: int,
    ) -> None:
        super().__init__(
            loaded.state,
            store_id=loaded.store_id,
            epoch=loaded.epoch,
            history_commits=history_commits,
            history_changes=history_changes,
        )
        self._file = file
        self._writer = writer

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        kinds: Iterable[Kind[Any]],
        *,
        max_bytes: int = 0,
        history_commits: int = HISTORY_COMMITS,
        history_changes: int = HISTORY_CHANGES,
        cipher: RecordCipher | None = None,
    ) -> Self:
        """Open the store at `path`, made new if there is none; the folder must exist.

        Args:
            max_bytes: the database file may not grow beyond this (0: no limit), the write-ahead log not counted.
            history_commits, history_changes: how far watches may be behind.
            cipher: for kinds that are sealed; None: their records are kept as they are.
        Raises:
            Unavailable: STORE_LOCKED, another process (named by pid) or another store of this one has it open.
            StoreUnavailable: the file cannot be read, is not a store (STORE_CORRUPT), or is of a newer version
                (STORE_TOO_NEW).
            Internal: a record does not fit its type (RECORD_UNREADABLE).
        """
        writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")
        opening = writer.submit(SqliteFile.open, os.fspath(path), tuple(kinds), max_bytes, cipher)
        try:
            file, loaded = await asyncio.shield(asyncio.wrap_future(opening))
        except BaseException:
            # When the wait was cancelled the thread still opens: undo it there, whenever that is.
            opening.add_done_callback(_close_opened)
            writer.shutdown(wait=False)
            raise
        return cls(file, writer, loaded, history_commits=history_commits, history_changes=history_changes)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        # SQLite reads one consistent state beside the writer; the published state is part of it or is it.
        await asyncio.to_thread(self._file.backup, os.fspath(path))

    def _write(self, commits: Sequence[Commit], done: Callable[[StoreUnavailable | None], None]) -> None:
        loop = asyncio.get_running_loop()
        rows = {(row.kind, row.key): row for commit in commits for row in commit.rows}  # the last word on each record
        writing = self._writer.submit(
            self._file.write, self._published.revision, commits[-1].revision, list(rows.values())
        )

        def report(finished: "Future[None]") -> None:
            loop.call_soon_threadsafe(done, _failure(finished))

        writing.add_done_callback(report)

    async def _release(self) -> None:
        await asyncio.wrap_future(self._writer.submit(self._file.close))
        self._writer.shutdown(wait=True)


def _close_opened(opening: "Future[tuple[SqliteFile, Loaded]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()


def _failure(finished: "Future[None]") -> StoreUnavailable | None:
    if finished.cancelled():
        return StoreUnavailable("the store's writer was stopped")
    error = finished.exception()
    if error is None or isinstance(error, StoreUnavailable):
        return error
    failure = StoreUnavailable(f"the store cannot be written: {error}")
    failure.__cause__ = error
    return failure

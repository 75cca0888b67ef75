"""The durable half of the journal: rows in SQLite, written by one thread in groups.

Why SQLite and not a log file of our own: its WAL already solves torn tails (frames carry checksums; what was cut off
in the middle is as if never written), compaction and atomic replacement of many rows, and it is in the standard
library. WAL with synchronous=FULL means one fsync a transaction, and all rows that came in meanwhile share the next
one: fifty starting instances cost a handful of fsyncs, not hundreds.

Invariants: rows reach the disk in the order in which they were put; of one key only the newest waits; a failed
transaction loses nothing, its rows are tried again with the next one.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from moorage.errors import StoreUnavailable

log = logging.getLogger(__name__)

_LAZY_SECONDS = 0.2  # rows that nobody waits for reach the disk after this time
_RETRY_SECONDS = 2.0  # the same after the disk refused
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS row"
    " (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key))"
)

Key = tuple[str, str]
Value = Callable[[], str] | None  # None removes the row; the text is made in the writer's thread


def open_database(path: Path) -> tuple[sqlite3.Connection, list[tuple[str, str, str]]]:
    """The connection and all rows.

    Raises:
        sqlite3.DatabaseError: the file is damaged beyond what the WAL repairs.
    """
    # It holds the environment of instances: nobody else may read it. The WAL's files take over the mode.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_SCHEMA)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        return connection, connection.execute("SELECT kind, key, value FROM row").fetchall()
    except BaseException:
        connection.close()
        raise


class GroupWriter:
    """Writes rows in the background. All methods are for the event loop's thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._ready = threading.Condition()
        self._rows: dict[Key, Value] = {}
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._is_closing = False
        self.transactions = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, kind: str, key: str, value: Value) -> None:
        """Write a row soon, or remove it (None). `commit` says when it is durable."""
        with self._ready:
            self._rows.pop((kind, key), None)  # so that the order is that of the newest puts
            if not self._rows:
                self._ready.notify()
            self._rows[(kind, key)] = value

    async def commit(self) -> None:
        """Return once everything put so far is durable.

        Raises:
            StoreUnavailable: the disk refused; the rows are kept and tried again with the next commit.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._ready:
            if self._is_closing:
                raise StoreUnavailable("the journal is closed")
            self._waiters.append((loop, future))
            self._ready.notify()
        await future

    def close(self) -> None:
        """Write what is left and end the thread. Can be called twice."""
        with self._ready:
            self._is_closing = True
            self._ready.notify()
        self._thread.join()
        self.connection.close()

    def _run(self) -> None:
        error: sqlite3.Error | None = None
        while True:
            with self._ready:
                while not self._rows and not self._waiters and not self._is_closing:
                    self._ready.wait()
                if not self._waiters and not self._is_closing:
                    lazy = _LAZY_SECONDS if error is None else _RETRY_SECONDS
                    self._ready.wait_for(lambda: bool(self._waiters) or self._is_closing, lazy)
                rows, self._rows = self._rows, {}
                waiters, self._waiters = self._waiters, []
                is_last = self._is_closing
            was_refused, error = error is not None, None
            try:
                if rows:
                    self._write(rows)
            except sqlite3.Error as exc:
                error = exc
                if not was_refused:  # else the log would fill the disk as soon as there is room
                    log.error("the journal cannot be written", extra={"problem": str(exc), "rows": len(rows)})
                with self._ready:
                    self._rows = {**rows, **self._rows}
            for loop, future in waiters:
                with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                    loop.call_soon_threadsafe(_settle, future, error)
            if is_last:
                return

    def _write(self, rows: dict[Key, Value]) -> None:
        self.connection.execute("BEGIN")
        try:
            for (kind, key), value in rows.items():
                if value is None:
                    self.connection.execute("DELETE FROM row WHERE kind = ? AND key = ?", (kind, key))
                else:
                    self.connection.execute("INSERT OR REPLACE INTO row VALUES (?, ?, ?)", (kind, key, value()))
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self.transactions += 1


def _settle(future: "asyncio.Future[None]", error: sqlite3.Error | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(StoreUnavailable(f"the journal cannot be written ({error}); free some disk space"))

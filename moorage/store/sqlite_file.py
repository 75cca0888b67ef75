"""The SQLite file beneath SqliteStore: its tables, lock, loading, writing and copying. Blocking; run in a thread.

Tables (schema version 1):
    schema_version(version)
    meta(store_id, epoch, revision)                                        one row
    objects(kind, key, revision, created_revision, value)                 value is JSON text
Records of kinds that this program does not know are kept as they are.
"""

import fcntl
import gc
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from moorage.codec import decoder
from moorage.errors import AlreadyExists, Internal, StoreUnavailable, Unavailable
from moorage.ids import new_id
from moorage.store.base import Change, Kind, RecordCipher, Versioned, View
from moorage.store.engine import Row, check_kinds, encode_row
from moorage.store.state import State, Table

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE meta (store_id TEXT NOT NULL, epoch INTEGER NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE objects (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    created_revision INTEGER NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (kind, key)
);
"""
_PUT = (
    "INSERT INTO objects (kind, key, revision, created_revision, value) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (kind, key) DO UPDATE SET revision = excluded.revision, "
    "created_revision = excluded.created_revision, value = excluded.value"
)
_DELETE = "DELETE FROM objects WHERE kind = ? AND key = ?"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an open found: the state, and who the store is."""

    state: State
    store_id: str
    epoch: int


class SqliteFile:
    """An open and locked store file. `write` and `close` on one thread; `backup` on any."""

    def __init__(
        self,
        path: str,
        lock: int,
        connection: sqlite3.Connection,
        max_bytes: int,
        sealed: frozenset[str],
        cipher: RecordCipher | None,
    ) -> None:
        self._path = path
        self._lock = lock
        self._connection: sqlite3.Connection | None = connection
        self._max_bytes = max_bytes
        self._sealed = sealed  # names of kinds
        self._cipher = cipher

    @classmethod
    def open(
        cls, path: str, kinds: Sequence[Kind[Any]], max_bytes: int, cipher: RecordCipher | None = None
    ) -> tuple[Self, Loaded]:
        """Lock, create or check the schema, raise the epoch, load everything. Raises as SqliteStore.open."""
        check_kinds(kinds)
        path = os.path.realpath(path)  # two names of one file need one lock
        lock = _take_lock(path + ".lock")
        try:
            try:
                # Records hold secrets; SQLite gives its log and shared memory the mode of the file.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                connection = _connect(path, max_bytes)
                try:
                    loaded = _load(connection, kinds, cipher)
                    _sync_folder(path)
                except BaseException:
                    connection.close()
                    raise
            except (sqlite3.Error, OSError) as exc:
                raise _unavailable(path, exc) from exc
            sealed = frozenset(kind.name for kind in kinds if kind.is_sealed)
            return cls(path, lock, connection, max_bytes, sealed, cipher), loaded
        except BaseException:
            os.close(lock)
            raise

    def write(self, base_revision: int, revision: int, rows: Sequence[Row]) -> None:
        """Make the rows durable and the file's revision `revision`, if it is `base_revision` now.

        Raises:
            StoreUnavailable: nothing was written (disk full, I/O error), or the file is not what it should be.
        """
        if self._cipher is not None:
            rows = [self._with_seal(row, self._cipher) for row in rows]
        try:
            if self._connection is None:
                self._connection = _connect(self._path, self._max_bytes)
            _write(self._connection, base_revision, revision, rows)
        except sqlite3.Error as exc:
            # After a failed flush nobody knows what the disk has. Forget all that SQLite believes, and look.
            self._drop_connection()
            if self._revision_on_disk() == revision:
                log.warning(
                    "%s: the commit of revision %d failed (%s) and is durable all the same", self._path, revision, exc
                )
                return
            raise _unavailable(self._path, exc) from exc

    def _with_seal(self, row: Row, cipher: RecordCipher) -> Row:
        if row.value is None or row.kind not in self._sealed:
            return row
        return replace(row, value=cipher.seal_record(row.kind, row.key, row.value))

    def backup(self, path: str) -> None:
        """Copy the newest durable state into a new file. Raises as Store.backup."""

        def copy(partial: str) -> None:
            with closing(sqlite3.connect(f"file:{_quote(self._path)}?mode=ro", uri=True)) as source:
                source.execute("VACUUM INTO ?", (partial,))

        _make_file(path, copy)

    def close(self) -> None:
        """Fold the write-ahead log into the file and let the lock go."""
        try:
            self._drop_connection()
        finally:
            os.close(self._lock)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # it is being given up because it failed, or all it held is durable
                connection.close()

    def _revision_on_disk(self) -> int | None:
        try:
            self._connection = _connect(self._path, self._max_bytes)
            found: int = self._connection.execute("SELECT revision FROM meta").fetchone()[0]
        except sqlite3.Error:
            self._drop_connection()  # the next write tries again, and checks the revision itself
            return None
        return found


def dump(path: str, kinds: Iterable[Kind[Any]], state: View, store_id: str, epoch: int) -> None:
    """Write a view of any store into a new file. Raises as Store.backup."""

    def fill(partial: str) -> None:
        with closing(sqlite3.connect(partial, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            _create_schema(connection, store_id, epoch)
            rows = [
                encode_row(Change(kind, kind.key(record.value), None, record))
                for kind in kinds
                for record in state.all(kind)
            ]
            _write(connection, 0, state.revision, rows)

    _make_file(path, fill)


def _connect(path: str, max_bytes: int) -> sqlite3.Connection:
    # Not bound to a thread: open may be undone elsewhere than on the writer's thread, but never at the same time.
    connection = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":  # SQLite says so instead of failing, on file systems without shared memory
            raise StoreUnavailable(f"{path} is on a file system that cannot hold a write-ahead log; use a local disk")
        connection.execute(
            "PRAGMA synchronous = FULL"
        )  # in WAL mode: one flush a transaction, before it is acknowledged
        if max_bytes:
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {max(max_bytes // page_bytes, 1)}")
    except BaseException:
        connection.close()
        raise
    return connection


def _create_schema(connection: sqlite3.Connection, store_id: str, epoch: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in filter(str.strip, _SCHEMA.split(";")):
        connection.execute(statement)
    connection.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))
    connection.execute("INSERT INTO meta VALUES (?, ?, 0)", (store_id, epoch))
    connection.execute("COMMIT")


def _load(connection: sqlite3.Connection, kinds: Sequence[Kind[Any]], cipher: RecordCipher | None) -> Loaded:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
        if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise StoreUnavailable("the file is a SQLite database of another program", reason="STORE_CORRUPT")
        _create_schema(connection, new_id(), 0)
    version = connection.execute("SELECT version FROM schema_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"the store has schema version {version}; this program knows up to {SCHEMA_VERSION}: use a newer one",
            reason="STORE_TOO_NEW",
        )
    # At least the time, so that a backup that is put back never opens in an epoch that its lost future had, too.
    connection.execute("UPDATE meta SET epoch = max(epoch + 1, ?)", (int(time.time()),))
    store_id, epoch, revision = connection.execute("SELECT store_id, epoch, revision FROM meta").fetchone()
    unknown = {name for (name,) in connection.execute("SELECT DISTINCT kind FROM objects")} - {k.name for k in kinds}
    if unknown:
        log.warning("the store holds kinds that this program does not know: %s", ", ".join(sorted(unknown)))
    # The records are many, live long and form no cycles: collecting garbage amid the load finds none, and made it a
    # fifth longer or more.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        tables = {kind.name: _load_table(connection, kind, cipher) for kind in kinds}
    finally:
        if was_enabled:
            gc.enable()
    return Loaded(State(revision, tables), store_id, epoch)


def _load_table(connection: sqlite3.Connection, kind: Kind[Any], cipher: RecordCipher | None) -> Table:
    decode = decoder(kind.record_type)
    parse = json.JSONDecoder().raw_decode  # json.loads without its care for white space: a third less time
    keys: list[str] = []
    records: list[Versioned[Any]] = []
    # SQLite compares text by its UTF-8 bytes, which is Python's order by code points.
    rows = connection.execute(
        "SELECT key, revision, created_revision, value FROM objects WHERE kind = ? ORDER BY key", (kind.name,)
    )
    for key, revision, created_revision, text in rows:
        try:
            if cipher is not None and kind.is_sealed:
                text = cipher.open_record(kind.name, key, text)
            value = decode(parse(text)[0])
        except (Internal, ValueError) as exc:
            raise Internal(f"{kind.name} {key!r} cannot be read: {exc}", reason="RECORD_UNREADABLE") from exc
        keys.append(key)
        records.append(Versioned(value, revision, created_revision))
    return Table.load(kind, keys, records)


def _write(connection: sqlite3.Connection, base_revision: int, revision: int, rows: Sequence[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        updated = connection.execute("UPDATE meta SET revision = ? WHERE revision = ?", (revision, base_revision))
        if updated.rowcount != 1:
            raise StoreUnavailable(
                "the store's file is not at the revision that it was left at; restart the program",
                reason="STORE_DIVERGED",
            )
        connection.executemany(
            _PUT, [(r.kind, r.key, r.revision, r.created_revision, r.value) for r in rows if r.value is not None]
        )
        connection.executemany(_DELETE, [(r.kind, r.key) for r in rows if r.value is None])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back by itself after some errors
            with suppress(sqlite3.Error):  # the first error is the one to tell of
                connection.execute("ROLLBACK")
        raise


def _make_file(path: str, fill: Callable[[str], None]) -> None:
    """Have `fill` write a file beside `path`, and give it that name when it is whole and durable."""
    if os.path.lexists(path):
        raise AlreadyExists(f"{path} exists; choose another name", reason="FILE_EXISTS")
    partial = f"{path}.partial-{new_id()}"
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        fill(partial)
        _sync(partial)
        os.link(partial, path)  # unlike a rename, never replaces what has come there meanwhile
        _sync_folder(path)
    except FileExistsError as exc:
        raise AlreadyExists(f"{path} exists; choose another name", reason="FILE_EXISTS") from exc
    except (OSError, sqlite3.Error) as exc:
        raise StoreUnavailable(f"the backup {path} cannot be written: {exc}") from exc
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def _take_lock(path: str) -> int:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreUnavailable(f"the lock {path} cannot be made: {exc.strerror}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise Unavailable(
            f"the store is in use by the process with pid {owner}; stop that one first ({path})",
            reason="STORE_LOCKED",
            metadata={"pid": owner, "lock": path},
        ) from exc
    with suppress(OSError):  # a full disk: the lock holds all the same, it only cannot name its owner
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: str) -> None:
    """Make the file's name durable, not only its content."""
    _sync(os.path.dirname(os.path.abspath(path)))


def _quote(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _unavailable(path: str, exc: sqlite3.Error | OSError) -> StoreUnavailable:
    code = getattr(exc, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable(f"no space for the store {path}; free some", reason="STORE_FULL")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreUnavailable(f"{path} is damaged or not a store: {exc}", reason="STORE_CORRUPT")
    return StoreUnavailable(f"the store {path} cannot be written or read: {exc}", metadata={"path": path})

"""What backends share: run a transaction, hand its changes to the log in groups, publish what is durable, roll back.

One group of commits is at the log at a time; what arrives meanwhile is the next group, so one flush of the disk serves
all that waited for it. All decisions are made on the event loop's thread; a backend's thread only writes.

When the log fails, the head goes back to the published state. Everything that was waiting is failed, also what had
not reached the log yet, because it was computed from changes that no longer exist. The next transaction tries the log
anew.
"""

import abc
import asyncio
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from moorage.codec import decoder, encoder, to_json
from moorage.errors import Internal, StoreUnavailable
from moorage.store.base import Batch, Change, Kind, Store, Transaction, View, Watch
from moorage.store.history import History
from moorage.store.state import State, StateTransaction

R = TypeVar("R")

HISTORY_COMMITS = 10_000
HISTORY_CHANGES = 100_000

_dumps = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Row:
    """The durable form of one record; `value` is JSON text, or None when the record is deleted."""

    kind: str
    key: str
    revision: int
    created_revision: int
    value: str | None


@dataclass(slots=True)
class Commit:
    """A transaction that has run and is not durable yet.

    It does not keep the state that it made: a group is published as a whole, and a thousand waiting states would hold
    a thousand copies of the chunks that they touched.
    """

    revision: int
    changes: tuple[Change, ...]
    rows: list[Row]
    waiters: list["asyncio.Future[None]"] = field(default_factory=list)


class LogStore(Store):
    """A store over a log. A backend gives `_write` and, if it holds anything open, `_release`."""

    def __init__(
        self,
        state: State,
        *,
        store_id: str,
        epoch: int,
        history_commits: int = HISTORY_COMMITS,
        history_changes: int = HISTORY_CHANGES,
    ) -> None:
        self._id = store_id
        self._epoch = epoch
        self._head = state
        self._published = state
        self._pending: list[Commit] = []
        self._writing: list[Commit] = []
        self._writing_state = state  # what the group at the log leads to
        self._history = History(state.revision, max_commits=history_commits, max_changes=history_changes)
        self._is_closing = False
        self._closing_task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._id

    @property
    def epoch(self) -> int:
        return self._epoch

    async def update(self, fn: Callable[[Transaction], R]) -> R:
        if self._is_closing:
            raise StoreUnavailable("the store is closed", reason="STORE_CLOSED")
        transaction = StateTransaction(self._head)
        try:
            result = fn(transaction)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("a transaction's function must not be a coroutine function")
            state, changes = transaction.finish()
        finally:
            transaction.abandon()
        if changes:
            rows = [encode_row(change) for change in changes]
            self._head = state
            self._pending.append(Commit(state.revision, changes, rows))
        durable = self._when_durable()
        if changes:
            self._start_writing()
        if durable is not None:
            await durable
        return result

    def view(self) -> View:
        return self._published

    def snapshot(self) -> View:
        return self._published

    def watch(self, kinds: Iterable[Kind[Any]] | None = None, from_revision: int | None = None) -> Watch:
        return self._history.open_watch(kinds, from_revision)

    def view_and_watch(self, kinds: Iterable[Kind[Any]] | None = None) -> tuple[View, Watch]:
        return self._published, self._history.open_watch(kinds, None)

    async def close(self) -> None:
        self._is_closing = True
        if self._closing_task is None:
            self._closing_task = asyncio.get_running_loop().create_task(self._close(), name=f"close store {self._id}")
        await asyncio.shield(self._closing_task)  # a cancelled caller must not leave the lock behind

    @abc.abstractmethod
    def _write(self, commits: Sequence[Commit], done: Callable[[StoreUnavailable | None], None]) -> None:
        """Make the commits durable, all or none, and call `done` on the loop's thread, never before returning."""

    async def _release(self) -> None:
        """Let go of what the backend holds open. Nothing is being written any more."""
        return

    async def _close(self) -> None:
        durable = self._when_durable()
        if durable is not None:
            await asyncio.wait([durable])
            durable.exception()  # whoever waits in update() is told; closing goes on
        self._history.close()
        await self._release()

    def _when_durable(self) -> "asyncio.Future[None] | None":
        """A future of the caller's own that ends when the head is published; None when it is."""
        newest = self._pending or self._writing
        if not newest:
            return None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        newest[-1].waiters.append(waiter)
        return waiter

    def _start_writing(self) -> None:
        if self._writing or not self._pending:
            return
        self._writing, self._pending = self._pending, []
        self._writing_state = self._head
        try:
            self._write(self._writing, self._written)
        except RuntimeError as exc:  # threads take no more work: the interpreter is ending
            self._roll_back(StoreUnavailable(f"the store's log takes no more: {exc}"))

    def _written(self, error: StoreUnavailable | None) -> None:
        if error is not None:
            self._roll_back(error)
            return
        commits, self._writing = self._writing, []
        self._published = self._writing_state
        for commit in commits:
            self._history.append(Batch(commit.revision, commit.changes))
            for waiter in commit.waiters:
                if not waiter.done():  # its task may have been cancelled
                    waiter.set_result(None)
        self._start_writing()

    def _roll_back(self, error: StoreUnavailable) -> None:
        failed = self._writing + self._pending
        self._writing, self._pending = [], []
        self._head = self._published
        for commit in failed:
            for waiter in commit.waiters:
                if not waiter.done():
                    # An exception object of its own for each: they get a traceback each.
                    own = StoreUnavailable(error.message, reason=error.reason, metadata=error.metadata)
                    own.__cause__ = error.__cause__
                    waiter.set_exception(own)


def check_kinds(kinds: Sequence[Kind[Any]]) -> None:
    """Find mistakes in the kinds at the start, not at the first record. Raises Internal."""
    names = [kind.name for kind in kinds]
    if len(set(names)) != len(names):
        raise Internal(f"two kinds of a store have one name: {sorted(names)}", reason="STORE_MISUSED")
    for kind in kinds:
        encoder(kind.record_type)
        decoder(kind.record_type)


def encode_row(change: Change) -> Row:
    """The durable form of a change. Raises Internal (RECORD_UNWRITABLE)."""
    if change.after is None:
        return Row(change.kind.name, change.key, 0, 0, None)
    try:
        text = _dumps(to_json(change.after.value, change.kind.record_type))
    except (TypeError, ValueError) as exc:  # something in a field of type Any
        raise Internal(f"{change.kind.name} {change.key!r}: {exc}", reason="RECORD_UNWRITABLE") from exc
    return Row(change.kind.name, change.key, change.after.revision, change.after.created_revision, text)

"""The store's interface: what the programs may rely on, whatever the backend. `tests/contract/store` checks all of it.

Invariants:
- Two states exist. The *head* is what the newest transaction left; the *published* state is its durable part.
  Transactions read the head, everybody else reads the published state, and watches tell of it: nobody outside acts on
  what a crash could take back.
- A transaction that changes something gets the next revision. Revisions have no holes, and never go back within a
  store.
- Records are immutable (frozen dataclasses) and shared, never copied. A record that holds a dict must not change it.
- A store belongs to the event loop that uses it: every method is called on that loop's thread.
"""

import abc
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """One table: what its records are, which text names a record, and how else records are found.

    Attributes:
        name: of the table; part of the durable form, so never changed once records exist.
        record_type: a frozen dataclass that `moorage.codec` can write and read.
        key: gives the record's key, unique within the kind: non-empty text. Keys are ordered by code point.
        indexes: name of the index -> function that gives the values under which a record is found. They are computed,
            not stored, so they can be added and changed freely. Values must not hold a NUL character.
        is_sealed: records hold secrets, and are encrypted in their durable form where the store has a cipher.
    """

    name: str
    record_type: type[T]
    key: Callable[[T], str]
    indexes: Mapping[str, Callable[[T], Iterable[str]]] = field(default_factory=dict, hash=False)
    is_sealed: bool = False


class RecordCipher(Protocol):
    """Encrypts the durable form of records. Called from any thread."""

    def seal_record(self, kind: str, key: str, text: str) -> str: ...

    def open_record(self, kind: str, key: str, text: str) -> str:
        """The inverse; a text that was never sealed is given back as it is. Raises Internal."""


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A record, the revision that wrote it, and the revision that created it."""

    value: T
    revision: int
    created_revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit did to one record. `before` is None for a new record, `after` for a deleted one; never both."""

    kind: Kind[Any]
    key: str
    before: Versioned[Any] | None
    after: Versioned[Any] | None


@dataclass(frozen=True, slots=True)
class Batch:
    """One commit, in the order in which its records were first touched; a watch leaves out kinds it did not ask for."""

    revision: int
    changes: tuple[Change, ...]


class View(Protocol):
    """Records as they are at one revision. All methods raise Internal for a kind that the store was not opened with."""

    @property
    def revision(self) -> int:
        """Of the newest commit seen. In a transaction: the revision that its writes will have."""

    def get(self, kind: Kind[T], key: str) -> Versioned[T] | None:
        """The record with this key, or None."""

    def all(self, kind: Kind[T]) -> Iterator[Versioned[T]]:
        """Every record, in order of key, as it was at the call: writes during the iteration do not disturb it."""

    def find(self, kind: Kind[T], index_name: str, index_value: str) -> list[Versioned[T]]:
        """The records that the index lists under this value, in order of key."""

    def count(self, kind: Kind[Any]) -> int:
        """Number of records."""

    def range(self, kind: Kind[T], after: str, limit: int, prefix: str = "") -> list[Versioned[T]]:
        """At most `limit` records with keys greater than `after` that start with `prefix`, in order of key."""


class Transaction(View, Protocol):
    """A view that can be written to and that sees its own writes. Of no use once its function has returned."""

    def put(self, kind: Kind[T], value: T) -> None:
        """Create or replace the record. A value equal (`==`) to the present one is no change and keeps its revision.

        Raises:
            InvalidSpec: the key is empty or not valid Unicode, or an index value holds a NUL character.
        """

    def delete(self, kind: Kind[Any], key: str) -> None:
        """Remove the record; nothing happens when there is none."""


class Watch(Protocol):
    """Commits as they are published, one batch each, from where the watch began and without a gap; for one consumer.

    Commits without a record of the watched kinds are skipped. A watch holds no queue of its own: it reads the store's
    history, so a consumer that is too slow costs nothing and gets HistoryCompacted once the history has moved past it.
    After that error, list again and open a new watch. Raises StoreUnavailable (STORE_CLOSED) when the store is closed.
    """

    @property
    def revision(self) -> int:
        """Every commit up to this revision has been delivered (or was of other kinds): the place to resume from."""

    def __aiter__(self) -> AsyncIterator[Batch]: ...

    async def __anext__(self) -> Batch:
        """The next batch. Cancelling the wait loses nothing."""

    def close(self) -> None:
        """End the iteration, also for a consumer that is waiting."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(abc.ABC):
    """A set of kinds with transactions, views and watches."""

    @property
    @abc.abstractmethod
    def id(self) -> str:
        """Random, made with the store: tells one store from another."""

    @property
    @abc.abstractmethod
    def epoch(self) -> int:
        """Raised at every open of the durable form, and never one that a lost future of a restored backup had."""

    @abc.abstractmethod
    async def update(self, fn: Callable[[Transaction], R]) -> R:
        """Run `fn` in a transaction and return its result once the transaction is durable.

        `fn` is an ordinary function. It runs at once, on the caller's stack, against the newest state, which may not
        be durable yet; transactions are therefore serial and never conflict. A transaction that changed nothing
        returns when all that it could have read is durable. Cancelling the wait does not undo the transaction.

        Raises:
            whatever `fn` raises: then nothing was changed.
            StoreUnavailable: the log could not be written. Nothing was published. Every transaction that was waiting
                fails with it, because it read what is now gone. Later transactions start from the published state.
            Internal: the record cannot be written as JSON (reason RECORD_UNWRITABLE).
        """

    @abc.abstractmethod
    def view(self) -> View:
        """The published state. It stays as it is: take a new view after an await. Costs nothing."""

    @abc.abstractmethod
    def snapshot(self) -> View:
        """The published state to keep and pass on. The same cost as `view()`: no copy; see state.py."""

    @abc.abstractmethod
    def watch(self, kinds: Iterable[Kind[Any]] | None = None, from_revision: int | None = None) -> Watch:
        """The commits after `from_revision` (None: after the published one), of these kinds (None: of all).

        Raises:
            HistoryCompacted: the history does not reach back that far, or the store never published that revision
                (it was put back from a backup).
        """

    @abc.abstractmethod
    def view_and_watch(self, kinds: Iterable[Kind[Any]] | None = None) -> tuple[View, Watch]:
        """The published state, and exactly the commits that come after it."""

    @abc.abstractmethod
    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write the published state into a new file that `SqliteStore.open` can open. Whole or not there.

        Raises:
            AlreadyExists: there is a file of that name.
            StoreUnavailable: it cannot be written.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Wait for the transactions under way, end all watches, let the file go. May be called again."""

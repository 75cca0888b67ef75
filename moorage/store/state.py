"""Tables and secondary indexes as immutable values, and the transaction that makes the next one out of the last.

A `State` is never changed, so a snapshot, a published state and a roll-back are all the keeping of a reference. What
that costs is told in sortedmap.py: some microseconds a write. What it saves is every lock, every copy at a view, and
every undo log.

An index is an ordered map from `value NUL key` to key: a lookup reads exactly the entries of its value, in order of
key.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from moorage.errors import Internal, InvalidSpec
from moorage.store.base import Change, Kind, Versioned
from moorage.store.sortedmap import MapEditor, SortedMap

T = TypeVar("T")
_IndexFunction = Callable[[Any], Iterable[str]]


class Table:
    """The records of one kind and its indexes."""

    __slots__ = ("indexes", "objects")

    def __init__(self, objects: SortedMap[Versioned[Any]], indexes: Mapping[str, SortedMap[str]]) -> None:
        self.objects = objects
        self.indexes = indexes

    @classmethod
    def load(cls, kind: Kind[Any], keys: Sequence[str], records: Sequence[Versioned[Any]]) -> "Table":
        """A table of these records; `keys` ascending."""
        indexes: dict[str, SortedMap[str]] = {}
        for name, function in kind.indexes.items():
            entries: dict[str, str] = {}
            for key, record in zip(keys, records, strict=True):
                for value in _index_values(kind, name, function, record.value):
                    entries[f"{value}\0{key}"] = key
            ordered = sorted(entries)
            indexes[name] = SortedMap.from_sorted(ordered, [entries[entry] for entry in ordered])
        return cls(SortedMap.from_sorted(keys, records), indexes)


class TableEditor(Table):
    """A table in the making."""

    __slots__ = ("_indexes", "_kind", "_objects")

    def __init__(self, kind: Kind[Any], base: Table) -> None:
        self._kind = kind
        self._objects = base.objects.edit()
        self._indexes = dict(base.indexes)  # an index gets its editor when an entry of it moves: most updates move none
        super().__init__(self._objects, self._indexes)

    def replace(self, key: str, before: Versioned[Any] | None, after: Versioned[Any] | None) -> None:
        """Put `after` in the place of `before`; None is absence."""
        moves = []
        for name, function in self._kind.indexes.items():  # all of them first: an index function may raise
            old = _index_values(self._kind, name, function, before.value) if before else frozenset()
            new = _index_values(self._kind, name, function, after.value) if after else frozenset()
            if old != new:
                moves.append((name, old - new, new - old))
        if after is None:
            self._objects.delete(key)
        else:
            self._objects.put(key, after)
        for name, gone, come in moves:
            index = self._indexes[name]
            if not isinstance(index, MapEditor):
                index = self._indexes[name] = index.edit()
            for value in gone:
                index.delete(f"{value}\0{key}")
            for value in come:
                index.put(f"{value}\0{key}", key)

    def finish(self) -> Table:
        """The finished table."""
        return Table(self._objects.snapshot(), {name: index.snapshot() for name, index in self._indexes.items()})


class _Reader:
    """The reading half of a view, over whatever tables `_table` gives."""

    __slots__ = ()

    def _table(self, kind: Kind[Any]) -> Table:
        raise NotImplementedError

    def get(self, kind: Kind[T], key: str) -> Versioned[T] | None:
        return self._table(kind).objects.get(key)

    def all(self, kind: Kind[T]) -> Iterator[Versioned[T]]:
        # The snapshot is taken here, not at the first step of the iteration.
        return self._table(kind).objects.snapshot().values()

    def find(self, kind: Kind[T], index_name: str, index_value: str) -> list[Versioned[T]]:
        table = self._table(kind)
        index = table.indexes.get(index_name)
        if index is None:
            raise Internal(f"kind {kind.name!r} has no index {index_name!r}", reason="STORE_MISUSED")
        if "\0" in index_value:
            return []
        found: list[Versioned[T]] = []
        get = table.objects.get
        for key in index.scan(f"{index_value}\0"):
            record = get(key)
            assert record is not None, "an index entry without its record"
            found.append(record)
        return found

    def count(self, kind: Kind[Any]) -> int:
        return len(self._table(kind).objects)

    def range(self, kind: Kind[T], after: str, limit: int, prefix: str = "") -> list[Versioned[T]]:
        return list(islice(self._table(kind).objects.scan(prefix, after), max(limit, 0)))


class State(_Reader):
    """All tables at one revision. A View."""

    __slots__ = ("_tables", "revision")

    def __init__(self, revision: int, tables: Mapping[str, Table]) -> None:
        self.revision = revision
        self._tables = tables

    @classmethod
    def empty(cls, kinds: Iterable[Kind[Any]]) -> "State":
        """Revision 0 of a new store."""
        return cls(0, {kind.name: Table.load(kind, (), ()) for kind in kinds})

    def _table(self, kind: Kind[Any]) -> Table:
        try:
            return self._tables[kind.name]
        except KeyError:
            raise Internal(f"the store was opened without the kind {kind.name!r}", reason="STORE_MISUSED") from None

    def successor(self, edited: Mapping[str, TableEditor]) -> "State":
        """The next revision: these tables replaced."""
        return State(self.revision + 1, {**self._tables, **{name: table.finish() for name, table in edited.items()}})


class StateTransaction(_Reader):
    """The next state in the making. A Transaction."""

    __slots__ = ("_base", "_before", "_edited", "_is_open", "_kinds", "revision")

    def __init__(self, base: State) -> None:
        self.revision = base.revision + 1
        self._base = base
        self._edited: dict[str, TableEditor] = {}
        self._before: dict[tuple[str, str], tuple[Kind[Any], Versioned[Any] | None]] = {}
        self._is_open = True

    def put(self, kind: Kind[T], value: T) -> None:
        key = kind.key(value)
        present = self.get(kind, key)
        if present is None:
            _check_key(kind, key)
            self._replace(kind, key, None, Versioned(value, self.revision, self.revision))
        elif present.value is not value and present.value != value:
            self._replace(kind, key, present, Versioned(value, self.revision, present.created_revision))

    def delete(self, kind: Kind[Any], key: str) -> None:
        present = self.get(kind, key)
        if present is not None:
            self._replace(kind, key, present, None)

    def finish(self) -> tuple[State, tuple[Change, ...]]:
        """End the transaction: the next state and what differs, or the same state and nothing."""
        self._is_open = False
        changes = []
        for (_, key), (kind, before) in self._before.items():
            after = self._edited[kind.name].objects.get(key)
            if before is not after:
                changes.append(Change(kind, key, before, after))
        if not changes:
            return self._base, ()
        return self._base.successor(self._edited), tuple(changes)

    def abandon(self) -> None:
        """End the transaction without a trace."""
        self._is_open = False

    def _table(self, kind: Kind[Any]) -> Table:
        if not self._is_open:
            raise Internal("a transaction was used after its function returned", reason="STORE_MISUSED")
        return self._edited.get(kind.name) or self._base._table(kind)

    def _replace(self, kind: Kind[Any], key: str, before: Versioned[Any] | None, after: Versioned[Any] | None) -> None:
        editor = self._edited.get(kind.name)
        if editor is None:
            editor = self._edited[kind.name] = TableEditor(kind, self._base._table(kind))
        editor.replace(key, before, after)
        self._before.setdefault((kind.name, key), (kind, before))


def _index_values(kind: Kind[Any], name: str, function: _IndexFunction, record: Any) -> frozenset[str]:
    values = function(record)
    if isinstance(values, str):
        # A bare string is an iterable of its letters: nearly always a forgotten comma or bracket.
        raise Internal(f"index {name!r} of {kind.name!r} gave a string in place of strings", reason="STORE_MISUSED")
    result = frozenset(values)
    for value in result:
        if "\0" in value:
            raise InvalidSpec.of(f"{kind.name}.{name}", "must not contain a NUL character")
    return result


def _check_key(kind: Kind[Any], key: str) -> None:
    if not key:
        raise InvalidSpec.of(f"{kind.name}.key", "must not be empty")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as exc:
            raise InvalidSpec.of(f"{kind.name}.key", "must be valid Unicode") from exc

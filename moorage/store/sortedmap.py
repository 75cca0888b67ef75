"""An immutable map from text to values, ordered by key: what makes snapshots, roll-back and iteration free.

Two levels: a list of chunks, each a sorted list of keys beside a list of values. A new version shares every chunk
that was not touched. A trie or B-tree would do less copying for many millions of keys; up to a million the flat form
is faster in CPython, where a copy of 500 pointers costs less than ten interpreted steps.

Cost: get two binary searches; snapshot nothing; first write of an edit one copy of the chunk list (n/512 to n/256
pointers), and of each touched chunk (at most 512 pointers twice); further writes into the same chunk a list
insertion.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Generic, Self, TypeVar

V = TypeVar("V")

_MAX_CHUNK = 512
_FILL = 384  # keys in a chunk of a bulk load: room to grow
_MIN_CHUNK = 64  # below this a chunk is joined to its neighbour


class _Chunk(Generic[V]):
    """`owner` is the edit that may change this chunk in place; every other edit copies it first."""

    __slots__ = ("keys", "owner", "values")

    def __init__(self, keys: list[str], values: list[V], owner: object) -> None:
        self.keys = keys
        self.values = values
        self.owner = owner


class SortedMap(Generic[V]):
    """An immutable ordered map. `edit()` begins a new version."""

    __slots__ = ("_chunks", "_lasts", "_size")

    def __init__(self) -> None:
        self._chunks: list[_Chunk[V]] = []
        self._lasts: list[str] = []  # the greatest key of each chunk
        self._size = 0

    @classmethod
    def from_sorted(cls, keys: Sequence[str], values: Sequence[V]) -> Self:
        """Bulk load. `keys` must be ascending and without doubles."""
        made = cls()
        for start in range(0, len(keys), _FILL):
            part = list(keys[start : start + _FILL])
            made._chunks.append(_Chunk(part, list(values[start : start + _FILL]), None))
            made._lasts.append(part[-1])
        made._size = len(keys)
        return made

    def __len__(self) -> int:
        return self._size

    def get(self, key: str) -> V | None:
        """The value, or None."""
        lasts = self._lasts
        i = bisect_left(lasts, key)
        if i == len(lasts):
            return None
        chunk = self._chunks[i]
        keys = chunk.keys
        j = bisect_left(keys, key)  # in range: the chunk's last key is not less than `key`
        return chunk.values[j] if keys[j] == key else None

    def snapshot(self) -> "SortedMap[V]":
        """A version that no edit changes: this one."""
        return self

    def values(self) -> Iterator[V]:
        """All values, in order of key."""
        for chunk in self._chunks:
            yield from chunk.values

    def scan(self, prefix: str = "", after: str = "") -> Iterator[V]:
        """The values of keys that start with `prefix` and are greater than `after`, in order of key."""
        lasts = self._lasts
        inclusive = prefix > after
        i = bisect_left(lasts, prefix) if inclusive else bisect_right(lasts, after)
        if i == len(lasts):
            return
        chunk = self._chunks[i]
        j = bisect_left(chunk.keys, prefix) if inclusive else bisect_right(chunk.keys, after)
        while True:
            keys, values = chunk.keys, chunk.values
            if keys[-1].startswith(prefix):  # then so does every key from j on: they lie between prefix and the last
                yield from values[j:] if j else values
            else:
                while j < len(keys) and keys[j].startswith(prefix):
                    yield values[j]
                    j += 1
                return
            i += 1
            if i == len(lasts):
                return
            chunk = self._chunks[i]
            j = 0

    def edit(self) -> "MapEditor[V]":
        """Begin a new version; this one stays as it is."""
        return MapEditor(self)


class MapEditor(SortedMap[V]):
    """A version in the making. It can be read like any other; `snapshot()` gives the finished version."""

    __slots__ = ("_owner",)

    def __init__(self, base: SortedMap[V]) -> None:
        self._chunks = base._chunks
        self._lasts = base._lasts
        self._size = base._size
        self._owner: object | None = None  # None: the two lists still belong to another version

    def snapshot(self) -> SortedMap[V]:
        """This version, finished. Later writes to the editor copy again and do not reach it."""
        made: SortedMap[V] = SortedMap()
        made._chunks, made._lasts, made._size = self._chunks, self._lasts, self._size
        self._owner = None
        return made

    def put(self, key: str, value: V) -> None:
        """Insert or replace."""
        self._own_lists()
        if not self._chunks:
            self._chunks.append(_Chunk([key], [value], self._owner))
            self._lasts.append(key)
            self._size = 1
            return
        i = min(bisect_left(self._lasts, key), len(self._lasts) - 1)
        chunk = self._own_chunk(i)
        keys = chunk.keys
        j = bisect_left(keys, key)
        if j < len(keys) and keys[j] == key:
            chunk.values[j] = value
            return
        keys.insert(j, key)
        chunk.values.insert(j, value)
        self._size += 1
        self._lasts[i] = keys[-1]
        if len(keys) > _MAX_CHUNK:
            self._split(i)

    def delete(self, key: str) -> None:
        """Remove the key if it is there."""
        i = bisect_left(self._lasts, key)
        if i == len(self._lasts):
            return
        j = bisect_left(self._chunks[i].keys, key)
        if self._chunks[i].keys[j] != key:
            return
        self._own_lists()
        chunk = self._own_chunk(i)
        del chunk.keys[j], chunk.values[j]
        self._size -= 1
        if not chunk.keys:
            del self._chunks[i], self._lasts[i]
            return
        self._lasts[i] = chunk.keys[-1]
        if len(chunk.keys) < _MIN_CHUNK and len(self._chunks) > 1:
            self._join(max(i - 1, 0))

    def _own_lists(self) -> None:
        if self._owner is None:
            self._chunks = self._chunks.copy()
            self._lasts = self._lasts.copy()
            self._owner = object()

    def _own_chunk(self, i: int) -> _Chunk[V]:
        chunk = self._chunks[i]
        if chunk.owner is not self._owner:
            chunk = _Chunk(chunk.keys.copy(), chunk.values.copy(), self._owner)
            self._chunks[i] = chunk
        return chunk

    def _split(self, i: int) -> None:
        chunk = self._own_chunk(i)
        # Keys that only ever rise (times, counters) fill their chunks; keys in any order halve them.
        at = _FILL if i == len(self._chunks) - 1 else len(chunk.keys) // 2
        right = _Chunk(chunk.keys[at:], chunk.values[at:], self._owner)
        del chunk.keys[at:], chunk.values[at:]
        self._lasts[i] = chunk.keys[-1]
        self._chunks.insert(i + 1, right)
        self._lasts.insert(i + 1, right.keys[-1])

    def _join(self, i: int) -> None:
        left, right = self._chunks[i], self._chunks[i + 1]
        if len(left.keys) + len(right.keys) > _FILL:
            return
        left = self._own_chunk(i)
        left.keys.extend(right.keys)
        left.values.extend(right.values)
        self._lasts[i] = left.keys[-1]
        del self._chunks[i + 1], self._lasts[i + 1]

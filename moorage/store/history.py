"""The bounded past of the published state, and the watches that read it.

Watches share one history and hold only a place in it. The history is bounded by commits and by changes; a watch whose
place has left it gets HistoryCompacted. One mechanism serves live watches, watches from an old revision and slow
watches.

A watch that has read everything sleeps until a commit of its kinds: ten thousand idle watches cost a commit nothing.
While asleep it has missed nothing by definition, so history may move on without it; its place is set when it is woken.
"""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from moorage.errors import HistoryCompacted, StoreUnavailable
from moorage.store.base import Batch, Kind


class History:
    """The newest commits, by revision without holes, and the watches asleep at its end."""

    def __init__(self, revision: int, *, max_commits: int, max_changes: int) -> None:
        self.revision = revision  # newest published
        self.is_closed = False
        self._max_commits = max_commits
        self._max_changes = max_changes
        self._batches: dict[int, Batch] = {}
        self._oldest = revision + 1  # revision of the oldest batch kept
        self._change_count = 0
        self._sleepers: dict[str | None, set[HistoryWatch]] = {}  # by name of kind; None: every kind

    def append(self, batch: Batch) -> None:
        """A commit was published: keep it, forget the oldest, wake whom it concerns."""
        self.revision = batch.revision
        self._batches[batch.revision] = batch
        self._change_count += len(batch.changes)
        while len(self._batches) > 1 and (
            len(self._batches) > self._max_commits or self._change_count > self._max_changes
        ):
            self._change_count -= len(self._batches.pop(self._oldest).changes)
            self._oldest += 1
        for name in (None, *{change.kind.name for change in batch.changes}):
            for watch in tuple(self._sleepers.get(name, ())):
                watch._wake(batch.revision - 1)

    def batch_after(self, revision: int) -> Batch:
        """The commit that follows `revision`, which must be less than the newest.

        Raises:
            HistoryCompacted: it is gone.
        """
        if revision + 1 < self._oldest:
            raise _compacted(revision, self._oldest)
        return self._batches[revision + 1]

    def open_watch(self, kinds: Iterable[Kind[Any]] | None, from_revision: int | None) -> "HistoryWatch":
        """A watch of the commits after `from_revision` (None: after the newest). Raises HistoryCompacted."""
        start = self.revision if from_revision is None else from_revision
        if start > self.revision or start + 1 < self._oldest:
            raise _compacted(start, self._oldest)
        return HistoryWatch(self, None if kinds is None else frozenset(kind.name for kind in kinds), start)

    def close(self) -> None:
        """End every watch with StoreUnavailable."""
        self.is_closed = True
        for watches in tuple(self._sleepers.values()):
            for watch in tuple(watches):
                watch._wake(self.revision)

    def _fall_asleep(self, watch: "HistoryWatch", names: Iterable[str | None]) -> None:
        for name in names:
            self._sleepers.setdefault(name, set()).add(watch)

    def _forget(self, watch: "HistoryWatch", names: Iterable[str | None]) -> None:
        for name in names:
            self._sleepers.get(name, set()).discard(watch)


class HistoryWatch:
    """A Watch: a place in the history."""

    def __init__(self, history: History, names: frozenset[str] | None, position: int) -> None:
        self._history = history
        self._names = names
        self._sleeper_names: tuple[str | None, ...] = (None,) if names is None else tuple(names)
        self._position = position  # last revision seen, when awake
        self._alarm: asyncio.Future[None] | None = None  # set while asleep
        self._is_closed = False

    @property
    def revision(self) -> int:
        if self._alarm is not None:  # asleep: every commit since was of other kinds
            return self._history.revision
        return self._position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        if self._alarm is not None:
            raise RuntimeError("a watch has one consumer")
        while not self._is_closed:
            if self._history.is_closed:
                raise StoreUnavailable("the store was closed", reason="STORE_CLOSED")
            batch = self._next_of_ours()
            if batch is not None:
                return batch
            await self._sleep()
        raise StopAsyncIteration

    def close(self) -> None:
        self._is_closed = True
        self._wake(self._position)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_of_ours(self) -> Batch | None:
        while self._position < self._history.revision:
            batch = self._history.batch_after(self._position)
            self._position = batch.revision
            if self._names is None:
                return batch
            ours = tuple(change for change in batch.changes if change.kind.name in self._names)
            if ours:
                return batch if len(ours) == len(batch.changes) else Batch(batch.revision, ours)
        return None

    async def _sleep(self) -> None:
        self._alarm = alarm = asyncio.get_running_loop().create_future()
        self._history._fall_asleep(self, self._sleeper_names)
        try:
            await alarm
        finally:
            self._wake(self._history.revision)  # only if the wait was cancelled; else it has been woken

    def _wake(self, position: int) -> None:
        """Leave the sleepers, having seen everything up to `position`. Nothing happens when awake."""
        alarm, self._alarm = self._alarm, None
        if alarm is None:
            return
        self._position = position
        self._history._forget(self, self._sleeper_names)
        if not alarm.done():
            alarm.set_result(None)


def _compacted(revision: int, oldest: int) -> HistoryCompacted:
    return HistoryCompacted(
        f"the history after revision {revision} is not kept; list again and watch from there",
        metadata={"revision": str(revision), "oldest": str(oldest - 1)},
    )

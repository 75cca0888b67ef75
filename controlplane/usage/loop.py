"""Advances meters after instances and public addresses have changed: soon, many in one commit. Level-triggered.

What is forgotten is settled by whoever forgets it, in the same transaction. Times of runs come from reports, so that being late here, or
down for a while, shifts nothing.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import partial

from controlplane.domain.kinds import INSTANCE, PUBLIC_ADDRESS, USAGE_METER
from controlplane.domain.usage import advance
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.usage import measure, metered
from moorage.errors import HistoryCompacted
from moorage.store.base import Transaction, View

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 2.0
_AT_ONCE = 500  # objects in one transaction


class UsageMeters:
    """`follow` and `run` are tasks of main.py's."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._changed: dict[str, None] = {}  # uids, in order

    async def follow(self) -> None:
        """Note what changes, until cancelled."""
        while True:
            view, watch = self._context.store.view_and_watch((INSTANCE, PUBLIC_ADDRESS))
            async with watch:
                self._note(found.value.uid for found in view.all(INSTANCE))
                self._note(found.value.uid for found in view.all(PUBLIC_ADDRESS))
                try:
                    async for batch in watch:
                        self._note(change.after.value.uid for change in batch.changes if change.after is not None)
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at all that is metered")

    async def run(self) -> None:
        """Write down what was noted, every two seconds, until cancelled."""
        while True:
            await self._context.clock.sleep(_PERIOD_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Advance the meters of what has changed."""
        view, changed = self._context.store.view(), list(self._changed)
        self._changed.clear()
        wanted = [uid for uid in changed if self._has_news(view, uid)]
        for start in range(0, len(wanted), _AT_ONCE):
            await self._context.store.update(partial(self._measure, uids=wanted[start : start + _AT_ONCE]))

    def _note(self, uids: Iterable[str]) -> None:
        self._changed.update(dict.fromkeys(uids))

    def _has_news(self, view: View, uid: str) -> bool:
        record = lookup.by_uid(view, INSTANCE, uid) or lookup.by_uid(view, PUBLIC_ADDRESS, uid)
        if record is None:
            return False
        found = view.get(USAGE_METER, uid)
        return found is None or advance(found.value, metered(record), self._context.clock.now()) != (found.value, [])

    def _measure(self, tx: Transaction, uids: Sequence[str]) -> None:
        for uid in uids:
            record = lookup.by_uid(tx, INSTANCE, uid) or lookup.by_uid(tx, PUBLIC_ADDRESS, uid)
            if record is not None:
                measure(tx, record, self._context.clock.now())

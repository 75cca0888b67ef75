"""Wakes up when a secret or config has another latest version, and when instances change; gives instances what `plan.py` says.
Level-triggered.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from controlplane.domain.kinds import CONFIG, INSTANCE, SECRET
from controlplane.history import record_event
from controlplane.rotation.plan import Evict, plan
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.secret_uses import later
from moorage.errors import HistoryCompacted
from moorage.store.base import Change, Transaction, View

log = logging.getLogger(__name__)

_AT_ONCE = 200  # instances in one transaction


class Rotation:
    """`run` is a task of main.py's."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            view, watch = self._context.store.view_and_watch((SECRET, CONFIG, INSTANCE))
            async with watch:
                await self._rotate(_all_users(view))
                try:
                    async for batch in watch:
                        await self._rotate(_concerned(self._context.store.view(), batch.changes))
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at all that use secrets")

    async def reconcile_once(self) -> None:
        """One turn over all that use secrets or configs."""
        view = self._context.store.view()
        await self._rotate(_all_users(view))

    async def _rotate(self, uids: Iterable[str]) -> None:
        view = self._context.store.view()
        wanted = [uid for uid in dict.fromkeys(uids) if self._is_concerned(view, uid)]
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            await self._context.store.update(partial(self._apply_all, uids=some))

    def _is_concerned(self, view: View, uid: str) -> bool:
        instance = lookup.by_uid(view, INSTANCE, uid)
        return instance is not None and plan(instance, later(view, instance)) is not None

    def _apply_all(self, tx: Transaction, uids: Iterable[str]) -> None:
        for uid in uids:
            self._apply(tx, uid)

    def _apply(self, tx: Transaction, uid: str) -> None:
        instance = lookup.by_uid(tx, INSTANCE, uid)
        action = None if instance is None else plan(instance, later(tx, instance))
        if instance is None or action is None:
            return
        if isinstance(action, Evict):
            changed = replace(instance, evict=action.why)
        else:
            changed = replace(
                instance,
                pins=action.pins,
                run_request=instance.run_request + (1 if action.restart else 0),
                generation=instance.generation + 1,
            )
        tx.put(INSTANCE, changed)
        record_event(tx, self._context.clock, instance, "ROTATED", action.why, project=instance.project)


def _all_users(view: View) -> list[str]:
    secrets = [found.value.uid for found in view.all(SECRET)]
    return _users(view, [*secrets, *(found.value.uid for found in view.all(CONFIG))])


def _users(view: View, secret_uids: Iterable[str]) -> list[str]:
    return [found.value.uid for uid in secret_uids for found in view.find(INSTANCE, "payload", uid)]


def _concerned(view: View, changes: Iterable[Change]) -> list[str]:
    """Uids of the instances that a commit may have news for."""
    found: list[str] = []
    for change in changes:
        if change.after is None:
            continue
        record = change.after.value
        if change.kind is INSTANCE:
            before = change.before.value if change.before is not None else None
            is_news = before is None or (before.pins, before.evict, before.given_up) != (
                record.pins,
                record.evict,
                record.given_up,
            )
            found += [record.uid] if record.pins and is_news else []
        else:
            found += _users(view, (record.uid,))
    return found

"""Wakes up when an instance is given up and when a last lease ends, and sets free what was claimed. Level-triggered."""

import asyncio
import logging
from dataclasses import replace

from controlplane.claim_leases.ledger import LeaseLedger
from controlplane.claim_leases.plan import SetFree, plan
from controlplane.domain.claims import is_kept
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import INSTANCE
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from moorage.errors import HistoryCompacted
from moorage.store.base import Transaction, Versioned

log = logging.getLogger(__name__)

_LONGEST_SLEEP_SECONDS = 1.0  # so that one that was given up meanwhile, with a shorter lease, is not overslept


class ClaimLeases:
    """Owns `Instance.is_claim_free`. `run` and `keep_time` are tasks of main.py's."""

    def __init__(self, context: Context, ledger: LeaseLedger) -> None:
        self._context = context
        self._ledger = ledger
        self._next_look = 0.0
        self._is_waited_for = asyncio.Event()

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            _, watch = self._context.store.view_and_watch((INSTANCE,))
            async with watch:
                await self.reconcile_once()
                try:
                    async for batch in watch:
                        lost = False
                        for change in batch.changes:
                            if change.after is None and change.before is not None and not self._is_there(change.before):
                                self._ledger.forget(change.before.value.uid)
                            lost |= change.after is not None and is_kept(change.after.value)
                        if lost:
                            await self.reconcile_once()
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at all that were given up")

    def _is_there(self, before: Versioned[Instance]) -> bool:
        """Whether what was deleted has only got another name."""
        return bool(self._context.store.view().find(INSTANCE, "uid", before.value.uid))

    async def keep_time(self) -> None:
        """Look when a last lease ends, until cancelled."""
        while True:
            await self._is_waited_for.wait()
            delay = self._next_look - self._context.clock.monotonic()
            if delay <= 0:
                await self.reconcile_once()
            else:
                await self._context.clock.sleep(min(delay, _LONGEST_SLEEP_SECONDS))

    async def reconcile_once(self) -> None:
        """One turn over all that were given up. What it goes by is durable: a lease that is asked for now sees it too."""
        lost = [found.value for found in self._context.store.view().find(INSTANCE, "claim", "kept")]
        free, next_look = plan(lost, self._ledger.last_seconds, self._context.clock.monotonic())
        if free:
            await self._context.store.update(lambda tx: self._set_free(tx, free))
        if next_look is None:
            self._is_waited_for.clear()
        else:
            self._next_look = next_look
            self._is_waited_for.set()

    def _set_free(self, tx: Transaction, free: list[SetFree]) -> None:
        for action in free:
            instance: Instance | None = lookup.by_uid(tx, INSTANCE, action.instance_uid)
            if instance is None or not is_kept(instance):
                continue
            tx.put(INSTANCE, replace(instance, is_claim_free=True))
            record_event(tx, self._context.clock, instance, "CLAIM_FREE", action.why, project=instance.project)

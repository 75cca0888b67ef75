"""Wakes up when somebody leaves, when a router says something, and once a second for times that are up; asks for removals.
Level-triggered.
"""

import logging
from dataclasses import replace

from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.kinds import INSTANCE, ROUTER
from controlplane.leaving.plan import Remove, Wait, plan
from controlplane.routers.naming import routers_naming
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.instance_making import InstanceMaking
from moorage.errors import HistoryCompacted
from moorage.store.base import Transaction, View

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0


class Leaving:
    """Owns the way from `leave_time` to the removal that is asked for. `run` and `keep_time` are tasks of main.py's."""

    def __init__(self, context: Context, making: InstanceMaking) -> None:
        self._context = context
        self._making = making

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            _, watch = self._context.store.view_and_watch((INSTANCE, ROUTER))
            async with watch:
                await self.reconcile_once()
                try:
                    async for _ in watch:
                        await self.reconcile_once()
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at all that leave")

    async def keep_time(self) -> None:
        """Look once a second for times that are up, until cancelled."""
        while True:
            await self._context.clock.sleep(_TICK_SECONDS)
            await self.reconcile_once()

    async def reconcile_once(self) -> None:
        """One turn over all that leave."""
        view = self._context.store.view()
        leaving = [found.value for found in view.find(INSTANCE, "leaving", "yes")]
        gone = [instance.uid for instance in leaving if isinstance(self._plan(view, instance), Remove)]
        if gone:
            await self._context.store.update(lambda tx: self._remove(tx, gone))

    def _plan(self, view: View, instance: Instance) -> Remove | Wait | None:
        routers = [
            (router, [found.value for found in view.find(INSTANCE, "owner", router.name)])
            for router in routers_naming(view, instance)
        ]
        return plan(instance, routers, self._context.clock.now())

    def _remove(self, tx: Transaction, uids: list[str]) -> None:
        for uid in uids:
            instance = lookup.by_uid(tx, INSTANCE, uid)
            decision = self._plan(tx, instance) if instance is not None else None
            if instance is None or not isinstance(decision, Remove):
                continue
            if instance.purge_time is not None:
                tx.put(INSTANCE, replace(instance, desired=DesiredState.STOPPED, generation=instance.generation + 1))
            else:
                self._making.ask_removal(tx, instance, decision.why)

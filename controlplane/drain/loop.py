"""Wakes up when a host is to be emptied and when something of one that is changes, and once a second for deadlines; lets `plan.py` decide,
commits. Level-triggered.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace

from controlplane.domain.hosts import Host, HostAdminState
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import HOST, INSTANCE
from controlplane.drain.plan import Action, Evict, Finish, Send, Tell, plan
from controlplane.drain.reading import read
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.instance_making import InstanceMaking
from moorage.errors import HistoryCompacted
from moorage.store.base import Change, Transaction

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0


class Drains:
    """Owns the way of hosts from DRAINING to MAINTENANCE. `run` and `keep_time` are tasks of main.py's."""

    def __init__(self, context: Context, making: InstanceMaking) -> None:
        self._context = context
        self._making = making
        self._draining: set[str] = set()  # uids of hosts

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            view, watch = self._context.store.view_and_watch((HOST, INSTANCE))
            async with watch:
                self._draining = {found.value.uid for found in view.all(HOST) if _is_draining(found.value)}
                await self._reconcile(self._draining)
                try:
                    async for batch in watch:
                        await self._reconcile(self._concerned(batch.changes))
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at every host that is emptied")

    async def keep_time(self) -> None:
        """Look once a second at hosts that are being emptied, until cancelled."""
        while True:
            await self._context.clock.sleep(_TICK_SECONDS)
            await self._reconcile(self._draining)

    async def reconcile_once(self) -> None:
        """One turn over every host that is being emptied."""
        view = self._context.store.view()
        await self._reconcile([found.value.uid for found in view.all(HOST) if _is_draining(found.value)])

    def _concerned(self, changes: Iterable[Change]) -> set[str]:
        """Uids of the hosts that changes can mean something to."""
        found: set[str] = set()
        for change in changes:
            records = [item.value for item in (change.before, change.after) if item is not None]
            if change.kind is HOST:
                uid = records[-1].uid
                if change.after is not None and _is_draining(change.after.value):
                    self._draining.add(uid)
                    found.add(uid)
                else:
                    self._draining.discard(uid)
            else:
                found |= {record.host_uid for record in records}
        return found & self._draining

    async def _reconcile(self, host_uids: Iterable[str]) -> None:
        view = self._context.store.view()
        for uid in sorted(host_uids):
            host = lookup.by_uid(view, HOST, uid)
            if host is not None and plan(host, read(view, host), self._context.clock.now()):
                await self._settle(uid)

    async def _settle(self, host_uid: str) -> None:
        """Decide again on the newest state, and carry it out in one transaction."""

        def apply(tx: Transaction) -> None:
            host = lookup.by_uid(tx, HOST, host_uid)
            if host is None:
                return
            for action in plan(host, read(tx, host), self._context.clock.now()):
                self._apply(tx, host, action)

        await self._context.store.update(apply)

    def _apply(self, tx: Transaction, host: Host, action: Action) -> None:
        clock = self._context.clock
        match action:
            case Evict(uid, why):
                instance: Instance | None = lookup.by_uid(tx, INSTANCE, uid)
                if instance is not None:
                    tx.put(INSTANCE, replace(instance, evict=why))
                    record_event(tx, clock, instance, "EVICTED", why, project=instance.project)
            case Send(uid, why):
                instance = lookup.by_uid(tx, INSTANCE, uid)
                if instance is not None:
                    self._making.ask_leave(tx, instance, why)
            case Tell(drain, why):
                tx.put(HOST, replace(host, drain=drain))
                if drain.overdue and host.drain is not None and not host.drain.overdue:
                    record_event(
                        tx, clock, host, "DRAIN_OVERDUE", f"the deadline is over, and {why}", severity="warning"
                    )
            case Finish(why):
                told = None if host.drain is None else replace(host.drain, left=0, waits=())
                tx.put(HOST, replace(host, admin_state=HostAdminState.MAINTENANCE, drain=told))
                record_event(tx, clock, host, "MAINTENANCE", why)


def _is_draining(host: Host) -> bool:
    return host.admin_state is HostAdminState.DRAINING

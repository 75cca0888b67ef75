"""Wakes up on changes, lets `plan.py` decide, commits. Level-triggered: each pass looks at all that is pending."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance, InstanceState, Observed
from controlplane.domain.kinds import HOST, INSTANCE
from controlplane.history import record_event
from controlplane.scheduler.explain import wiring_of
from controlplane.scheduler.fleet import Fleet, placed_of
from controlplane.scheduler.plan import Assign, Decision, plan, same_but_for_time
from controlplane.scheduler.request import request_of
from moorage.clock import Clock
from moorage.errors import HistoryCompacted
from moorage.store.base import Batch, Store, Transaction

log = logging.getLogger(__name__)

#: Changes of a host that can make room; a heartbeat cannot.
_HOST_FIELDS = ("link_state", "admin_state", "conditions", "labels", "zone", "facts")


class Scheduler:
    """Owns the placement of instances: the only writer of `host_uid` and `placement`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._fleet = Fleet((), ())

    async def run(self) -> None:
        """Schedule until cancelled."""
        while True:
            view, watch = self._store.view_and_watch((HOST, INSTANCE))
            self._fleet = Fleet((h.value for h in view.all(HOST)), (i.value for i in view.all(INSTANCE)))
            async with watch:
                await self.schedule_once()
                try:
                    async for batch in watch:
                        if self._absorb(batch):
                            await self.schedule_once()
                except HistoryCompacted:
                    log.info("fell behind the store's history; reading the fleet anew")

    def _absorb(self, batch: Batch) -> bool:
        """Keep the columns true. Returns whether something pending may fit now that did not before."""
        matters = False
        for change in batch.changes:
            before = change.before.value if change.before is not None else None
            after = change.after.value if change.after is not None else None
            if change.kind is HOST:
                self._fleet.update_host(before, after)
                matters |= _makes_room(before, after)
            else:
                self._fleet.update_instance(before, after)
                matters |= _matters(before, after)
        return matters

    async def schedule_once(self) -> list[Decision]:
        """One pass over everything pending. Returns what was decided."""
        view = self._store.view()
        pending = sorted(
            (found.value for found in view.find(INSTANCE, "host", "unplaced")), key=lambda i: (i.create_time, i.uid)
        )
        if not pending:
            return []
        decisions = plan([(i.uid, request_of(i, wiring_of(view, i))) for i in pending], self._fleet, self._clock.now())
        generations = {i.uid: i.generation for i in pending}
        await self._store.update(lambda tx: self._commit(tx, decisions, generations))
        return decisions

    def _is_current(self, tx: Transaction, host_uid: str) -> bool:
        """Whether the host and what it carries are as the columns say, which lag behind the store a little."""
        hosts = tx.find(HOST, "uid", host_uid)
        if not hosts or _makes_room(hosts[0].value, self._fleet.hosts[self._fleet.row[host_uid]]):
            return False
        carried = (placed_of(i.value) for i in tx.find(INSTANCE, "host", host_uid))
        return self._fleet.holds(host_uid, [placed for placed in carried if placed is not None])

    def _commit(self, tx: Transaction, decisions: list[Decision], generations: Mapping[str, int]) -> None:
        is_current: dict[str, bool] = {}
        for decision in decisions:
            found = tx.find(INSTANCE, "uid", decision.instance_uid)
            if not found or found[0].value.host_uid:
                continue  # deleted, or placed by an earlier pass
            instance: Instance = found[0].value
            if instance.generation != generations[instance.uid]:
                continue  # wants something else by now; the next pass knows
            if isinstance(decision, Assign):
                if decision.host_uid not in is_current:  # asked before the first write to it
                    is_current[decision.host_uid] = self._is_current(tx, decision.host_uid)
                if not is_current[decision.host_uid]:
                    continue  # changed while this was decided: the change is on its way here, and begins another pass
                tx.put(
                    INSTANCE,
                    replace(
                        instance,
                        host_uid=decision.host_uid,
                        host=decision.host,
                        placement=decision.why,
                        observed=Observed(InstanceState.ASSIGNED),
                    ),
                )
                record_event(tx, self._clock, instance, "PLACED", decision.why.summary, project=instance.project)
            elif not same_but_for_time(instance.placement, decision.why):
                observed = Observed(InstanceState.PENDING, "UNPLACEABLE", decision.why.summary)
                tx.put(INSTANCE, replace(instance, placement=decision.why, observed=observed))
                record_event(
                    tx,
                    self._clock,
                    instance,
                    "UNPLACEABLE",
                    decision.why.summary,
                    project=instance.project,
                    severity="warning",
                )


def _matters(before: Instance | None, after: Instance | None) -> bool:
    """Whether something pending may fit now that did not before: a wish is new, or what hosts carry has changed."""
    if after is None:
        return True
    if before is None or placed_of(before) != placed_of(after):
        return True
    return not after.host_uid and before.generation != after.generation


def _makes_room(before: Host | None, after: Host | None) -> bool:
    if before is None or after is None:
        return after is not None
    return any(getattr(before, name) != getattr(after, name) for name in _HOST_FIELDS)

"""Wakes up on changes, lets `plan.py` decide, commits. Level-triggered: each pass looks at all that is pending."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance, InstanceState, Observed, PlacementExplanation
from controlplane.domain.kinds import HOST, INSTANCE, VOLUME
from controlplane.history import record_event
from controlplane.scheduler import volumes
from controlplane.scheduler.explain import budgets, wiring_of, with_devices
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.placed import placed_of
from controlplane.scheduler.plan import Assign, Decision, Promise, Unplaceable, plan, same_but_for_time
from controlplane.scheduler.request import request_of
from moorage.clock import Clock
from moorage.errors import HistoryCompacted
from moorage.store.base import Batch, Store, Transaction

log = logging.getLogger(__name__)

#: Sends an instance away, in the caller's transaction; the text says why.
PushOut = Callable[[Transaction, Instance, str], None]


class Scheduler:
    """Owns the placement of instances: the only writer of `host_uid`, `promised_uid` and `placement`."""

    def __init__(self, store: Store, clock: Clock, push_out: PushOut) -> None:
        self._store = store
        self._clock = clock
        self._push_out = push_out
        self._fleet = Fleet((), ())

    async def run(self) -> None:
        """Schedule until cancelled."""
        while True:
            view, watch = self._store.view_and_watch((HOST, INSTANCE, VOLUME))
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
            elif change.kind is VOLUME:
                matters |= volumes.matters(before, after)
            else:
                self._fleet.update_instance(before, after)
                matters |= _matters(before, after)
        return matters

    async def schedule_once(self) -> list[Decision]:
        """One pass over everything pending. Returns what was decided."""
        view = self._store.view()
        pending = sorted((found.value for found in view.find(INSTANCE, "host", "unplaced")), key=_rank)
        if not pending:
            return []
        requests = [(i.uid, request_of(i, wiring_of(view, i))) for i in pending]
        budget = budgets(view) if any(request.preempts for _, request in requests) else {}
        decisions = plan(requests, self._fleet, self._clock.now(), budget)
        generations = {i.uid: i.generation for i in pending}
        await self._store.update(lambda tx: self._commit(tx, decisions, generations))
        return decisions

    def _is_current(self, tx: Transaction, host_uid: str) -> bool:
        """Whether the host and what it carries are as the columns say, which lag behind the store a little."""
        hosts = tx.find(HOST, "uid", host_uid)
        if not hosts or _makes_room(hosts[0].value, self._fleet.hosts[self._fleet.row[host_uid]]):
            return False
        both = (*tx.find(INSTANCE, "host", host_uid), *tx.find(INSTANCE, "promised", host_uid))
        carried = (placed_of(i.value) for i in both)
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
            if not isinstance(decision, Unplaceable):
                if decision.host_uid not in is_current:  # asked before the first write to it
                    is_current[decision.host_uid] = self._is_current(tx, decision.host_uid)
                if not is_current[decision.host_uid]:
                    continue  # changed while this was decided: the change is on its way here, and begins another pass
            match decision:
                case Assign():
                    # One that another instance of this plan took to another host is on its way here, and begins another pass.
                    if volumes.settle(tx, instance, decision.host_uid, decision.host):
                        self._assign(tx, instance, decision)
                case Promise():
                    self._promise(tx, instance, decision)
                case Unplaceable():
                    self._wait(tx, instance, decision.why, reason="UNPLACEABLE")

    def _assign(self, tx: Transaction, instance: Instance, decision: Assign) -> None:
        placed = replace(
            instance,
            host_uid=decision.host_uid,
            host=decision.host,
            promised_uid="",
            placement=decision.why,
            effective=with_devices(instance, decision.devices).effective,
            observed=Observed(InstanceState.ASSIGNED),
        )
        tx.put(INSTANCE, placed)
        record_event(tx, self._clock, instance, "PLACED", decision.why.summary, project=instance.project)

    def _promise(self, tx: Transaction, instance: Instance, decision: Promise) -> None:
        if not decision.victims and instance.promised_uid == decision.host_uid:
            return  # it waits for those whom its explanation names already
        for victim in decision.victims:
            found = tx.find(INSTANCE, "uid", victim.instance_uid)
            assert found, "the host was found to carry what the columns say"
            pushed_out: Instance = found[0].value
            why = f"pushed out by {instance.name}: {victim.why}"
            clock, project = self._clock, pushed_out.project
            record_event(tx, clock, pushed_out, "PREEMPTED", why, project=project, severity="warning")
            self._push_out(tx, pushed_out, why)
        self._wait(tx, instance, decision.why, reason="AWAITS_PLACE", promised_uid=decision.host_uid)

    def _wait(
        self, tx: Transaction, instance: Instance, why: PlacementExplanation, *, reason: str, promised_uid: str = ""
    ) -> None:
        if same_but_for_time(instance.placement, why) and instance.promised_uid == promised_uid:
            return
        observed = Observed(InstanceState.PENDING, reason, why.summary)
        if failure := volumes.failure_of(tx, instance):
            observed = Observed(InstanceState.FAILED, "VOLUME_LOST", failure)
        tx.put(INSTANCE, replace(instance, placement=why, observed=observed, promised_uid=promised_uid))
        clock, project = self._clock, instance.project
        record_event(tx, clock, instance, reason, why.summary, project=project, severity="warning")


def _rank(instance: Instance) -> tuple[Any, ...]:
    """Who is placed first: the highest priority, then whoever waits longest."""
    return -instance.effective.placement.priority, instance.create_time, instance.uid


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
    return _room(before) != _room(after)


def _room(host: Host) -> tuple[Any, ...]:
    """What decides whom a host can take; a heartbeat does not change it, nor do images that come and go."""
    return (
        host.link_state,
        host.admin_state,
        host.conditions,
        host.labels,
        host.zone,
        host.settings,
        replace(host.facts, images=()),
    )

"""Wakes up on changes of groups and of their members, and when time counts; lets `plan.py` decide, commits. Level-triggered.

All actions of one look are one transaction, so that the members of a group are placed in one go. When one cannot be made (a quota, a
template that is gone), the rest is carried out all the same, and it is tried again later and later.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from controlplane.domain.claims import blocks_successor
from controlplane.domain.groups import Group, GroupMode, GroupState
from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance
from controlplane.domain.jobs import Job
from controlplane.domain.kinds import GROUP, GROUP_REVISION, GROUP_SLOT, HOST, INSTANCE, JOB
from controlplane.history import record_event
from controlplane.order.reading import ordered_with
from controlplane.rollout.actions import (
    Action,
    Discard,
    Fail,
    ForgetGroup,
    ForgetSlot,
    Leave,
    Make,
    Plan,
    Progress,
    Remove,
    SetState,
    Settle,
)
from controlplane.rollout.plan import plan
from controlplane.rollout.reading import member_of, read, spec_of_member
from controlplane.rollout.world import Refusal
from controlplane.services import group_slots, lookup
from controlplane.services.context import Context
from controlplane.services.instance_making import InstanceMaking, Membership, NewInstance
from controlplane.services.taking_over import hand_over
from moorage.errors import HistoryCompacted, MoorageError
from moorage.store.base import Change, Transaction, View

log = logging.getLogger(__name__)

_KINDS = (GROUP, JOB, GROUP_REVISION, GROUP_SLOT, INSTANCE, HOST)
_SHORTEST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 0.5
_LONG_LOOK_SECONDS = 0.01
_REST = 4.0  # times as long as the look took
_REFUSED_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
_LETTERS = 6
#: States that somebody should look at.
_BAD = (GroupState.FAILED, GroupState.ROLLING_BACK, GroupState.DEGRADED)


class LogTail(Protocol):
    """Gives the last lines that an instance wrote; none when they cannot be had soon."""

    async def __call__(self, instance: Instance) -> Sequence[str]: ...


class Rollout:
    """Owns the members of groups: the only one that makes and removes them of its own accord. `run` and `keep_time` are tasks of
    main.py's.
    """

    def __init__(self, context: Context, making: InstanceMaking, log_tail: LogTail) -> None:
        self._context = context
        self._making = making
        self._log_tail = log_tail
        self._looks: dict[str, datetime] = {}  # uid of a group -> when to look again
        self._refusals: dict[str, tuple[Refusal, int]] = {}  # uid of a group -> the last one, and how many in a row
        self._rests: dict[str, datetime] = {}  # uid of a group -> when changes count again
        self._is_timed = asyncio.Event()  # something is in _looks

    async def run(self) -> None:
        """Look after groups until cancelled."""
        while True:
            view, watch = self._context.store.view_and_watch(_KINDS)
            async with watch:
                await self.reconcile([found.value.uid for found in view.all(GROUP)])
                try:
                    async for batch in watch:
                        await self.reconcile(self._rested(self._concerned(batch.changes)))
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at every group")

    async def keep_time(self) -> None:
        """Look at groups when their time has come, until cancelled. Idle while none has one."""
        clock = self._context.clock
        while True:
            await self._is_timed.wait()
            first = min(self._looks.values(), default=None)
            if first is None:
                self._is_timed.clear()
                continue
            left = (first - clock.now()).total_seconds()
            # Never long: an earlier time may be set meanwhile.
            await clock.sleep(max(_SHORTEST_WAIT_SECONDS, min(left, _LONGEST_WAIT_SECONDS)))
            await self.reconcile([uid for uid, time in self._looks.items() if time <= clock.now()])

    async def reconcile_once(self) -> None:
        """One turn over every group."""
        await self.reconcile([found.value.uid for found in self._context.store.view().all(GROUP)])

    async def reconcile(self, uids: Iterable[str]) -> None:
        """One look at each of these groups. What is to be done for them is done side by side: their commits become durable together."""
        view, clock = self._context.store.view(), self._context.clock
        plans: dict[str, Plan] = {}
        for uid in sorted(set(uids)):
            began = clock.monotonic()
            plans[uid] = self._plan(view, uid)
            self._look_again(uid, plans[uid])
            took = clock.monotonic() - began
            self._rests.pop(uid, None)
            if took > _LONG_LOOK_SECONDS:
                self._rests[uid] = clock.now() + timedelta(seconds=took * _REST)
        await asyncio.gather(*(self._act(view, uid, found) for uid, found in plans.items() if found.actions))

    async def _act(self, view: View, group_uid: str, found: Plan) -> None:
        """Carry out what was found to be needed; what a failed instance wrote last is asked for first."""
        failing = next((action.instance_uid for action in found.actions if isinstance(action, Fail)), "")
        await self._settle(group_uid, {failing: await self._tail(view, failing)} if failing else {})

    def _rested(self, uids: Iterable[str]) -> list[str]:
        """Those of them that may be looked at now. Looks at a group of thousands take long: it gets a rest after each, and a time for the
        next one.
        """
        now, found = self._context.clock.now(), []
        for uid in uids:
            rest = self._rests.get(uid)
            if rest is None or rest <= now:
                found.append(uid)
            else:
                self._looks[uid] = min(rest, self._looks.get(uid, rest))
                self._is_timed.set()
        return found

    def _concerned(self, changes: Iterable[Change]) -> list[str]:
        """Uids of the groups that changes can mean something to."""
        view = self._context.store.view()
        found: list[str] = []
        for change in changes:
            before = change.before.value if change.before is not None else None
            after = change.after.value if change.after is not None else None
            if change.kind in (GROUP, JOB):
                records = [record for record in (before, after) if record is not None]
                found += [record.uid for record in records if change.kind is GROUP]
                found += _ordered_with(view, records[-1])
            elif change.kind in (GROUP_REVISION, GROUP_SLOT):
                found += [record.group_uid for record in (before, after) if record is not None]
            elif change.kind is INSTANCE:
                found += _group_of_member(view, before, after)
            elif _seats_changed(before, after):
                found += [g.value.uid for g in view.all(GROUP) if g.value.spec.mode is GroupMode.PER_HOST]
                found += _groups_on(view, {record.uid for record in (before, after) if record is not None})
        return found

    def _plan(self, view: View, group_uid: str) -> Plan:
        group = lookup.by_uid(view, GROUP, group_uid)
        if group is None:
            self._refusals.pop(group_uid, None)
            return Plan(())
        now = self._context.clock.now()
        refusal, _ = self._refusals.get(group_uid, (None, 0))
        found = plan(read(view, group, now, refusal))
        if refusal is None or refusal.until > now or any(isinstance(action, Make) for action in found.actions):
            return found
        del self._refusals[group_uid]  # nothing is to be made any more
        return plan(read(view, group, now))

    def _look_again(self, uid: str, found: Plan) -> None:
        self._looks.pop(uid, None)
        if found.next_look is not None:
            self._looks[uid] = found.next_look
            self._is_timed.set()

    async def _tail(self, view: View, instance_uid: str) -> str:
        instance = lookup.by_uid(view, INSTANCE, instance_uid)
        if instance is None:
            return ""
        lines = await self._log_tail(instance)
        # Its host may have told the same already, with the reason.
        is_told = all(line in instance.observed.message for line in lines)
        return "" if is_told else "\n".join(lines)

    async def _settle(self, group_uid: str, tails: Mapping[str, str]) -> None:
        """Decide again on the newest state, and carry it out in one transaction."""
        store = self._context.store
        try:
            if await store.update(lambda tx: self._apply(tx, group_uid, tails, most=None)):
                self._refusals.pop(group_uid, None)
        except MoorageError as error:
            refusal = error
        else:
            return
        # One of those that were to be made is refused: as many as go are made one by one, and the rest is done without them.
        try:
            while await store.update(lambda tx: self._apply(tx, group_uid, tails, most=1)):
                pass
        except MoorageError as error:
            refusal = error
        log.info("members of group %s cannot be made", group_uid, exc_info=refusal)
        _, times = self._refusals.get(group_uid, (None, 0))
        wait = _REFUSED_SECONDS[min(times, len(_REFUSED_SECONDS) - 1)]
        until = self._context.clock.now() + timedelta(seconds=wait)
        self._refusals[group_uid] = Refusal(refusal.reason, refusal.message, until), times + 1
        await store.update(lambda tx: self._apply(tx, group_uid, tails, most=0))
        self._look_again(group_uid, self._plan(store.view(), group_uid))

    def _apply(self, tx: Transaction, group_uid: str, tails: Mapping[str, str], *, most: int | None) -> int:
        """Carry out what is to be done, up to the `most`th member that is made. Returns how many were."""
        made = 0
        for action in self._plan(tx, group_uid).actions:
            group = lookup.by_uid(tx, GROUP, group_uid)
            if group is None:
                break
            if isinstance(action, Make):
                if made == most:
                    break
                if not made:
                    self._take_from_lost(tx, group)
                self._make(tx, group, action)
                made += 1
            else:
                self._do(tx, group, action, tails)
        return made

    def _do(self, tx: Transaction, group: Group, action: Action, tails: Mapping[str, str]) -> None:
        match action:
            case Leave(uid, why):
                if (instance := lookup.by_uid(tx, INSTANCE, uid)) is not None:
                    self._making.ask_leave(tx, instance, why)
            case Remove(uid, why):
                if (instance := lookup.by_uid(tx, INSTANCE, uid)) is not None:
                    self._making.ask_removal(tx, instance, why)
            case Discard():
                self._discard(tx, group, action)
            case ForgetSlot(slot, keeps_addresses, _):
                group_slots.forget(tx, group, slot, keeps_addresses=keeps_addresses)
            case Progress(time, _):
                tx.put(GROUP, replace(group, progress_time=time))
            case Fail():
                self._fail(tx, group, action, tails.get(action.instance_uid, ""))
            case Settle(revision, why):
                tx.put(GROUP, replace(group, stable_revision=revision))
                self._tell(tx, group, "ROLLED_OUT", why)
            case SetState(state, reason, why):
                tx.put(GROUP, replace(group, state=state, reason=reason, message=why))
                if (state, reason) != (group.state, group.reason):
                    self._tell(tx, group, state.name, f"{reason}: {why}" if reason else "", is_bad=state in _BAD)
            case ForgetGroup(why):
                self._forget_group(tx, group, why)

    def _take_from_lost(self, tx: Transaction, group: Group) -> None:
        """Free the names and addresses of lost members that have no claim to them any more, for those that are made now."""
        for found in tx.find(INSTANCE, "owner", group.name):
            lost = found.value
            if lost.given_up and lost.claims and not blocks_successor(lost):
                hand_over(tx, lost)

    def _make(self, tx: Transaction, group: Group, action: Make) -> None:
        revision = lookup.require(
            tx, GROUP_REVISION, f"{group.uid}/{action.revision:012d}", f"revision {action.revision} of {group.name}"
        )
        policy = group.spec.slots
        name = f"{group.id}-{action.slot}"
        if not policy.sticky_name:
            name += f"-{self._context.new_id()[:_LETTERS]}"
        spec = spec_of_member(group, revision.instance, action.slot, action.host)
        membership = Membership(group.name, action.slot, action.revision, policy, action.avoid_hosts)
        wanted = NewInstance(name, revision.instance_labels, spec, "group.spec.instance")
        self._making.admit_all(tx, group.project, [wanted], membership, f"{action.why}; revision {action.revision}")

    def _discard(self, tx: Transaction, group: Group, action: Discard) -> None:
        instance = lookup.by_uid(tx, INSTANCE, action.instance_uid)
        if instance is None:
            return
        known = group_slots.get(tx, group, action.slot)
        pinned = instance.spec.placement.host.removeprefix("hosts/")
        group_slots.put(
            tx,
            replace(
                known,
                host=pinned if group.spec.mode is GroupMode.PER_HOST else "",
                revision=action.revision,
                failures=action.failures,
                failure=action.why,
                failed_hosts=action.failed_hosts,
                not_before=action.not_before,
            ),
        )
        self._tell(tx, instance, "MEMBER_FAILED", f"it failed on hosts/{instance.host}: {action.why}", is_bad=True)
        self._making.ask_removal(tx, instance, action.why)

    def _fail(self, tx: Transaction, group: Group, action: Fail, tail: str) -> None:
        why = action.why + (f"; its last lines:\n{tail}" if tail else "")
        key = f"{group.uid}/{action.revision:012d}"
        found = tx.get(GROUP_REVISION, key)
        if found is not None:
            tx.put(GROUP_REVISION, replace(found.value, failure=why))
        self._tell(tx, group, "ROLLOUT_FAILED", f"revision {action.revision}: {why}", is_bad=True)
        changed = replace(group, progress_time=None)
        if action.back_to:
            changed = replace(
                changed,
                target_revision=action.back_to,
                state=GroupState.ROLLING_BACK,
                reason="ROLLED_BACK",
                message=why,
            )
            self._tell(tx, group, "ROLLING_BACK", f"to revision {action.back_to}", is_bad=True)
        tx.put(GROUP, changed)

    def _forget_group(self, tx: Transaction, group: Group, why: str) -> None:
        for slot in tx.find(GROUP_SLOT, "group", group.uid):
            group_slots.forget(tx, group, slot.value.slot, keeps_addresses=False)
        for revision in tx.find(GROUP_REVISION, "group", group.uid):
            tx.delete(GROUP_REVISION, GROUP_REVISION.key(revision.value))
        tx.delete(GROUP, GROUP.key(group))
        self._tell(tx, group, "DELETED", why)

    def _tell(
        self, tx: Transaction, about: Group | Instance, reason: str, message: str, *, is_bad: bool = False
    ) -> None:
        severity = "warning" if is_bad else "normal"
        record_event(tx, self._context.clock, about, reason, message, project=about.project, severity=severity)


def _group_of_member(view: View, before: Instance | None, after: Instance | None) -> list[str]:
    """The group whose plan a change of an instance can change."""
    record = after if after is not None else before
    if record is None:
        return []
    group = group_slots.group_of(view, record.owner)
    if group is None:
        return []
    if before is not None and after is not None and member_of(before, group) == member_of(after, group):
        return []
    return [group.uid, *_ordered_with(view, group)]


def _ordered_with(view: View, record: Group | Job) -> list[str]:
    """Uids of the groups whose turn may come when a group or job changes."""
    groups = (group_slots.group_of(view, other) for other in ordered_with(view, record))
    return [group.uid for group in groups if group is not None]


def _groups_on(view: View, host_uids: Iterable[str]) -> list[str]:
    """The groups that have members on these hosts."""
    owners = {found.value.owner for uid in host_uids for found in view.find(INSTANCE, "host", uid)}
    groups = (group_slots.group_of(view, owner) for owner in sorted(owners))
    return [group.uid for group in groups if group is not None]


def _seats_changed(before: Host | None, after: Host | None) -> bool:
    return before is None or after is None or _seat_words(before) != _seat_words(after)


def _seat_words(host: Host) -> tuple[object, ...]:
    return (host.labels, host.zone, host.settings, host.admin_state, host.link_state)

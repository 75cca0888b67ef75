"""What is to be done about one group now. Values in, actions out.

Invariants, whatever members and hosts do, and wherever carrying out the actions stops:
- no more members count than wanted + surge;
- a member that is available is sent away on purpose only while its slot has another available one, or at least wanted - unavailable
  slots keep an available member without it; or its slot is not wanted;
- where a successor needs what the old member has, it is made when nothing is left of the old one;
- a rollout that stands still (paused, failed, canaries that wait) keeps its members, and fills gaps with what is known to work.

A pass that finds that the rollout has failed, or what counts as progress has changed, does only that: the commit brings the next pass.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controlplane.domain.groups import GroupSlot, RolloutOrder
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
from controlplane.rollout.standing import standing, waits_for_promotion
from controlplane.rollout.world import Member, World

DEFAULT_FAILURE_LIMIT = 3
DEFAULT_PROGRESS_SECONDS = 600.0
#: A member that has been available for so long makes up for those before it in its slot.
FORGIVEN_AFTER_SECONDS = 300.0
#: How long the next member waits after so many failures in a row: the first is made at once.
DELAYS_SECONDS = (0.0, 2.0, 8.0, 30.0, 120.0, 300.0)
_REMEMBERED_HOSTS = 5


def plan(world: World) -> Plan:
    """The actions, in order, and when to look again."""
    if world.group.is_deleting:
        return _deletion(world)
    if fail := _failure(world):
        return Plan((fail,))
    if progress := _progress(world):
        return Plan((progress,))
    work = _Work(world)
    work.discard_failed()
    work.send_surplus_away()
    work.forget_slots()
    work.fill_and_replace()
    if world.is_rollout and not work.actions and world.is_done and not world.is_canary:
        work.actions.append(Settle(world.target, f"all {len(world.wanted)} members have revision {world.target}"))
    now = standing(world)
    if (now.state, now.reason, now.message) != (world.group.state, world.group.reason, world.group.message):
        work.actions.append(SetState(now.state, now.reason, now.message))
    return Plan(tuple(work.actions), _next_look(world, work.looks))


def who_is_in_the_way(world: World, slot: int, gone: Collection[str] = ()) -> str:
    """Who of a slot must be gone before another can be made; empty: nobody. `gone`: uids of those that are sent away just now."""
    is_stop_first = world.budget.order is RolloutOrder.STOP_FIRST
    for member in world.by_slot.get(slot, ()):
        if member.given_up:
            if member.is_in_the_way:
                return member.id
        elif is_stop_first and (not member.counts or member.uid in gone):
            return member.id
    return ""


def _deletion(world: World) -> Plan:
    why = "its group is deleted"
    going: list[Action] = [Leave(member.uid, why) for member in world.members if member.counts and not world.goes_after]
    going += [Remove(member.uid, why) for member in world.members if member.given_up and not member.is_removed]
    if not world.members and world.group.purge_time is None:
        return Plan((ForgetGroup("it was deleted, and its members are gone"),))
    now = standing(world)
    if (now.state, now.message) != (world.group.state, world.group.message):
        going.append(SetState(now.state, now.reason, now.message))
    return Plan(tuple(going))


def _failure(world: World) -> Fail | None:
    """Whether the rollout cannot succeed."""
    if not world.is_rollout:
        return None
    limit = world.group.spec.rollout.failure_limit or DEFAULT_FAILURE_LIMIT
    for slot in world.wanted:
        before = _failures_before(world, slot, world.target)
        for member in world.by_slot.get(slot, ()):
            if not member.counts or member.revision != world.target or world.is_available(member):
                continue
            starts = before + max(member.failed_starts, 1 if member.failed else 0)
            if starts >= limit:
                what = member.failed or member.trouble or "it does not stay up"
                return _fail(world, member.uid, f"{member.id} failed {_times(starts)}: {what}")
    time = world.group.progress_time
    deadline_seconds = _deadline_seconds(world)
    if time is None or _is_waiting(world) or world.now < time + timedelta(seconds=deadline_seconds):
        return None
    late = next(_late(world), None)
    told = f"no member came nearer to it for {deadline_seconds:g} s"
    if late is None:
        return _fail(world, "", told)
    return _fail(world, late.uid, f"{told}; {late.id} is not ready" + (f": {late.trouble}" if late.trouble else ""))


def _fail(world: World, instance_uid: str, why: str) -> Fail:
    back_to = 0 if world.group.spec.rollout.no_rollback else world.stable
    return Fail(world.target, back_to, instance_uid, why)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times, the last time"


def _late(world: World) -> Iterator[Member]:
    """Members of the target that are not available, started ones first."""
    for slot in world.wanted:
        for member in world.by_slot.get(slot, ()):
            if member.counts and member.revision == world.target and not world.is_available(member):
                yield member


def _deadline_seconds(world: World) -> float:
    return world.group.spec.rollout.progress_deadline_seconds or DEFAULT_PROGRESS_SECONDS


def _is_waiting(world: World) -> bool:
    """Whether the rollout waits for people, or for others to come first."""
    return world.is_held or (world.is_canary and waits_for_promotion(world))


def _progress(world: World) -> Progress | None:
    """What counts as the last progress, where that is not what is known."""
    known = world.group.progress_time
    if not world.is_rollout or _is_waiting(world):
        return None if known is None else Progress(None, "no rollout is under way, or it waits for a word")
    if known is None:
        return Progress(world.now, f"members get revision {world.target}")
    times = [
        member.available_time
        for member in world.members
        if member.revision == world.target and world.is_available(member) and member.slot in world.wanted
    ]
    newest = max((time for time in times if time is not None), default=known)
    return Progress(newest, "one more member is available") if newest > known else None


def _failures_before(world: World, slot: int, revision: int) -> int:
    record = world.record_of(slot, revision)
    return record.failures if record is not None else 0


def _next_look(world: World, looks: list[datetime]) -> datetime | None:
    found = list(looks)
    found += [time for m in world.members if (time := m.available_time) is not None and time > world.now]
    if world.is_rollout and world.group.progress_time is not None and not _is_waiting(world):
        found.append(world.group.progress_time + timedelta(seconds=_deadline_seconds(world)))
    return min((time for time in found if time > world.now), default=None)


@dataclass
class _Work:
    """A pass: what it does, and how the group's numbers are after that."""

    world: World
    actions: list[Action] = field(default_factory=list)
    looks: list[datetime] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)  # uids of those that this pass sends away
    counted: int = 0
    available: int = 0  # wanted slots with an available member
    failed_now: dict[int, Discard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        world = self.world
        self.counted = sum(member.counts for member in world.members)
        self.available = sum(any(map(world.is_sure, world.counting(slot))) for slot in world.wanted)

    # --- sending away ---

    def _leave(self, member: Member, why: str) -> None:
        self._forget(member)
        self.actions.append(Leave(member.uid, why))

    def _forget(self, member: Member) -> None:
        """Count it no longer."""
        was = self._is_served(member.slot)
        self.gone.add(member.uid)
        self.counted -= 1
        if member.slot in self.world.wanted and was and not self._is_served(member.slot):
            self.available -= 1

    def _is_served(self, slot: int) -> bool:
        return any(self.world.is_sure(member) for member in self._here(slot))

    def _here(self, slot: int) -> list[Member]:
        return [member for member in self.world.counting(slot) if member.uid not in self.gone]

    def discard_failed(self) -> None:
        """Those that do not come up where they are, and those that are lost."""
        for member in self.world.members:
            if member.given_up and not member.is_removed:
                self.actions.append(Remove(member.uid, f"it is lost: {member.given_up}"))
            if not (member.counts and member.failed):
                continue
            record = self.world.record_of(member.slot, member.revision)
            failures = _failures_before(self.world, member.slot, member.revision) + 1
            hosts = (*(record.failed_hosts if record is not None else ()), member.host_uid)
            delay = DELAYS_SECONDS[min(failures, len(DELAYS_SECONDS)) - 1]
            discard = Discard(
                member.uid,
                member.slot,
                member.revision,
                failures,
                tuple(dict.fromkeys(uid for uid in hosts if uid))[-_REMEMBERED_HOSTS:],
                self.world.now + timedelta(seconds=delay),
                member.failed,
            )
            self._forget(member)
            self.failed_now[member.slot] = discard
            self.actions.append(discard)

    def send_surplus_away(self) -> None:
        """Those in slots that are not wanted, the highest first."""
        is_held = bool(self.world.goes_after) and not self.world.wanted
        for member in sorted(self.world.surplus, key=lambda m: (-m.slot, m.uid)):
            if member.uid not in self.gone and not is_held:
                self._leave(member, self._why_surplus(member))

    def _why_surplus(self, member: Member) -> str:
        if member.pinned_host:
            return f"the group has no place for it on hosts/{member.pinned_host}" + (
                f": {member.evict}" if member.evict else ""
            )
        return f"the group has {len(self.world.wanted)} members now"

    def forget_slots(self) -> None:
        """What is remembered of slots, once it is of no use."""
        for slot, record in sorted(self.world.slots.items()):
            if slot not in self.world.wanted:
                if not self.world.by_slot.get(slot):
                    self.actions.append(ForgetSlot(slot, keeps_addresses=False, why="the slot is not wanted any more"))
                continue
            if record.nics and not self.world.group.spec.slots.sticky_address:
                self.actions.append(ForgetSlot(slot, keeps_addresses=False, why="addresses do not stay any more"))
                continue
            if record.failures:
                self._forgive(record)

    def _forgive(self, record: GroupSlot) -> None:
        here = [member for member in self._here(record.slot) if member.revision == record.revision]
        if not here and record.revision not in (self.world.target, self.world.revision_to_make(record.slot)):
            why = f"nobody gets revision {record.revision} any more"
            self.actions.append(ForgetSlot(record.slot, keeps_addresses=True, why=why))
            return
        times = [member.available_time for member in here if self.world.is_available(member)]
        since = min((time for time in times if time is not None), default=None)
        if since is None:
            return
        until = since + timedelta(seconds=FORGIVEN_AFTER_SECONDS)
        if until <= self.world.now:
            why = "its member has been well for long enough"
            self.actions.append(ForgetSlot(record.slot, keeps_addresses=True, why=why))
        else:
            self.looks.append(until)

    # --- making and replacing ---

    def fill_and_replace(self) -> None:
        """Empty slots first, then members that others shall take the place of."""
        replaced: list[Member] = []
        is_started = any(member.counts for member in self.world.members)
        for slot in self.world.wanted:
            here = self._here(slot)
            if not here:
                if is_started or not self.world.is_held:
                    self._make(slot, self.world.revision_to_make(slot), "the slot is empty")
                continue
            good = [m for m in here if not self.world.is_outdated(m) and not m.evict]
            bad = [m for m in here if m not in good]
            for extra in (good or bad)[1:]:
                self._leave(extra, f"{(good or bad)[0].id} has its slot")
            if not good:
                replaced.append(bad[0])
            for old in bad if good else ():
                # One that does not run takes nothing with it.
                if self.world.is_sure(good[0]) or not old.is_started or old is not bad[0]:
                    self._leave(old, f"{good[0].id} takes its place: {self._why_replaced(old)}")
        replaced.sort(key=lambda m: (self.world.is_available(m), m.is_started))
        for member in replaced:
            self._replace(member)

    def _why_replaced(self, member: Member) -> str:
        return member.evict or f"it has revision {member.revision}, not {self._revision_after(member)}"

    def _revision_after(self, member: Member) -> int:
        if self.world.is_outdated(member):
            return self.world.target
        return member.revision if member.revision in self.world.failures else self.world.revision_to_make(member.slot)

    def _replace(self, member: Member) -> None:
        revision, why = self._revision_after(member), self._why_replaced(member)
        if not self._may_make(member.slot, revision):
            return  # nobody goes for whom nobody can come
        if self.world.budget.order is RolloutOrder.STOP_FIRST:
            least = len(self.world.wanted) - self.world.budget.unavailable
            # Whose host cannot be reached stays: it could not be gone before that host is back, or given up.
            may_go = not self.world.is_available(member) or self.available - 1 >= least
            if may_go and not member.is_away:
                self._leave(member, why)
            return
        if not member.is_started:
            self._leave(member, why)
        self._make(member.slot, revision, why, member)

    def _may_make(self, slot: int, revision: int) -> bool:
        """Whether nothing stands against a member of the slot but its number."""
        refusal, discard = self.world.refusal, self.failed_now.get(slot)
        waits = [
            refusal.until if refusal is not None else None,
            self.world.held_back_until(slot, revision),
            discard.not_before if discard is not None and discard.revision == revision else None,
        ]
        until = max((time for time in waits if time is not None), default=self.world.now)
        if until > self.world.now:
            self.looks.append(until)
            return False
        return not who_is_in_the_way(self.world, slot, self.gone)

    def _make(self, slot: int, revision: int, why: str, old: Member | None = None) -> None:
        world = self.world
        if self.counted >= len(world.wanted) + world.budget.surge or not self._may_make(slot, revision):
            return
        avoided = self._failed_hosts(slot, revision)
        if old is not None and old.evict and old.host_uid:
            avoided = (*avoided, old.host_uid)
        self.counted += 1
        self.actions.append(Make(slot, revision, world.wanted[slot], tuple(dict.fromkeys(avoided)), why))

    def _failed_hosts(self, slot: int, revision: int) -> tuple[str, ...]:
        discard = self.failed_now.get(slot)
        if discard is not None and discard.revision == revision:
            return discard.failed_hosts
        record = self.world.record_of(slot, revision)
        return record.failed_hosts if record is not None else ()

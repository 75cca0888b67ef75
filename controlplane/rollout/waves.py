"""What would happen to a group, wave by wave: the plan, carried out on a world in which all goes well. Pure.

In such a world members come up at once, those that are sent away go, and nobody fails. A wave is what one look at the group brings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from controlplane.domain.groups import GroupSlot
from controlplane.rollout.actions import (
    Action,
    Discard,
    Fail,
    ForgetSlot,
    Leave,
    Make,
    Progress,
    Remove,
    SetState,
    Settle,
)
from controlplane.rollout.plan import plan
from controlplane.rollout.standing import waits_for_promotion
from controlplane.rollout.world import Member, World

#: Looks at a member, all in all: seconds of computing. A large group that is replaced one by one is shown as far as that goes.
_MOST_LOOKS = 50_000
_LEAST_WAVES = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that would be done."""

    action: str  # MAKE, LEAVE, REMOVE or SETTLE
    slot: int  # -1: of no slot
    instance: str  # full name; empty: it is not made yet
    revision: int
    host: str  # hosts/{host} that it is for; empty: the scheduler chooses
    why: str


@dataclass(frozen=True, slots=True)
class Wave:
    """What would be done in one go."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Waves:
    """All of them, and what they end with: a sentence where that is not the end of the rollout."""

    waves: tuple[Wave, ...]
    ends_because: str = ""


def waves(world: World) -> Waves:
    """What would happen from now on. Of a change: with the group as it would be, and its new revision among `failures`."""
    world = replace(world, refusal=None)
    found: list[Wave] = []
    most = max(_LEAST_WAVES, _MOST_LOOKS // max(1, len(world.members), len(world.wanted)))
    for _ in range(most):
        result = plan(world)
        if not result.actions and all(member.ready_time is not None for member in world.members):
            break
        steps = tuple(step for action in result.actions if (step := _step(world, action)) is not None)
        if steps:
            found.append(Wave(steps))
        for number, action in enumerate(result.actions):
            world = _carried_out(world, action, f"new-{len(found)}-{number}")
        world = _later(world)
    else:
        return Waves(tuple(found), f"only the first {len(found)} waves are shown")
    return Waves(tuple(found), _ends_because(world))


def _ends_because(world: World) -> str:
    if world.has_failed:
        return f"the rollout of revision {world.target} has failed: {world.failures[world.target]}"
    if world.group.is_paused and world.target != world.stable:
        return "the group is paused"
    if world.is_canary and waits_for_promotion(world):
        return "the canaries wait for PromoteGroup"
    return ""


def _step(world: World, action: Action) -> Step | None:
    prefix = f"projects/{world.group.project}/instances/"
    match action:
        case Make(slot, revision, host, _, why):
            return Step("MAKE", slot, "", revision, f"hosts/{host}" if host else "", why)
        case Leave(uid, why) | Discard(instance_uid=uid, why=why) | Remove(uid, why):
            member = next(m for m in world.members if m.uid == uid)
            name = prefix + member.id if member.id else ""
            verb = "LEAVE" if isinstance(action, Leave) else "REMOVE"
            return Step(verb, member.slot, name, member.revision, "", why)
        case Settle(revision, why):
            return Step("SETTLE", -1, "", revision, "", why)
    return None


def _carried_out(world: World, action: Action, uid: str) -> World:
    group = world.group
    match action:
        case Make(slot, revision, host, _, _):
            made = Member(uid, "", slot, revision, world.now, pinned_host=host)
            return replace(world, members=(*world.members, made))
        case Leave(gone, _) | Remove(gone, _):
            return replace(world, members=tuple(_without(world, gone)))
        case Discard():
            slots = {**world.slots, action.slot: GroupSlot(group.uid, action.slot, not_before=action.not_before)}
            return replace(world, members=tuple(_without(world, action.instance_uid)), slots=slots)
        case ForgetSlot(slot):
            return replace(world, slots={n: record for n, record in world.slots.items() if n != slot})
        case Progress(time, _):
            return replace(world, group=replace(group, progress_time=time))
        case Settle(revision, _):
            return replace(world, group=replace(group, stable_revision=revision))
        case SetState(state, reason, why):
            return replace(world, group=replace(group, state=state, reason=reason, message=why))
        case Fail(revision, back_to, _, why):
            failures = {**world.failures, revision: why}
            group = replace(group, target_revision=back_to or revision)
            return replace(world, failures=failures, group=group, follows_spec=not back_to)
    return world


def _without(world: World, uid: str) -> Iterator[Member]:
    return (member for member in world.members if member.uid != uid)


def _later(world: World) -> World:
    """All that is on its way has arrived."""
    staying = [m for m in world.members if m.counts]
    up = tuple(
        replace(m, is_started=True, ready_time=m.ready_time or world.now, failed="", failed_starts=0, trouble="")
        for m in staying
    )
    longest = max((member.min_ready_seconds for member in up), default=0.0)
    waits = [record.not_before for record in world.slots.values() if record.not_before is not None]
    return replace(world, members=up, now=max([world.now + timedelta(seconds=longest + 1.0), *waits]))

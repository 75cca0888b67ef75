"""What is seen of a group: where it stands, and slot by slot who is there and what is missing. Pure."""

from collections.abc import Iterator

from controlplane.domain.groups import GroupState, GroupStatus, SlotStatus
from controlplane.domain.instances import FilterResult
from controlplane.rollout.plan import who_is_in_the_way
from controlplane.rollout.world import Member, World

MEMBERS_NOT_READY = "MEMBERS_NOT_READY"
_SHOWN = 2  # members whose trouble is told in the group's message; slots tell that of all

#: What hosts lack that a filter took: of one, of several. Others are told in the filter's own words.
_LACKS = {
    "link": ("is not connected", "are not connected"),
    "admin": ("is cordoned", "are cordoned"),
    "draining": ("is being drained", "are being drained"),
    "maintenance": ("is in maintenance", "are in maintenance"),
    "condition": ("reports a condition", "report a condition"),
    "cpu": ("lacks cpu", "lack cpu"),
    "memory": ("lacks memory", "lack memory"),
    "host-port": ("has its port taken", "have their port taken"),
    "device": ("lacks a device", "lack a device"),
    "zone": ("is in another zone", "are in another zone"),
    "label": ("lacks a label", "lack a label"),
    "platform": ("is of another platform", "are of another platform"),
    "taint": ("has a taint", "have a taint"),
    "dedicated": ("is kept for others", "are kept for others"),
    "affinity": ("is not near enough", "are not near enough"),
    "anti-affinity": ("is too near to others", "are too near to others"),
    "distinct": ("has one already", "have one already"),
    "spread": ("has its share", "have their share"),
}


def group_status(world: World) -> GroupStatus:
    """The group's status: what its record says, and what its members are like now."""
    group = world.group
    counting = [member for member in world.members if member.counts]
    ready = [member for member in counting if member.ready_time is not None]
    served = sum(any(m.ready_time is not None for m in world.counting(slot)) for slot in world.wanted)
    reason, message = group.reason, group.message
    is_short = served < len(world.wanted) and group.state is not GroupState.DELETING
    if is_short:
        short = _shortage(world, served)
        message = f"{message}; {short}" if message else short
        reason = reason or MEMBERS_NOT_READY
    return GroupStatus(
        state=group.state,
        reason=reason,
        message=message,
        wanted=0 if group.is_deleting else len(world.wanted),
        members=len(counting),
        ready=len(ready),
        updated=sum(member.revision == group.target_revision for member in ready),
        target_revision=group.target_revision,
        stable_revision=group.stable_revision,
        slots=tuple(_slot(world, slot) for slot in world.wanted) if not group.is_deleting else (),
    )


def _slot(world: World, slot: int) -> SlotStatus:
    here = world.counting(slot)
    if not here:
        return SlotStatus(slot, message=_waits_for(world, slot))
    first = here[0]
    name = f"projects/{world.group.project}/instances/{first.id}"
    return SlotStatus(slot, name, first.revision, first.ready_time is not None, first.trouble or first.evict)


def _waits_for(world: World, slot: int) -> str:
    if blocker := who_is_in_the_way(world, slot):
        return f"waits until nothing is left of {blocker}"
    record = world.record_of(slot, world.revision_to_make(slot))
    until = world.held_back_until(slot, world.revision_to_make(slot))
    if record is not None and until is not None:
        left = (until - world.now).total_seconds()
        return f"tried again in {left:.0f} s, after {record.failures} failures in a row: {record.failure}"
    if world.refusal is not None or world.group.reason:
        return world.refusal.message if world.refusal is not None else world.group.message
    return "its member is about to be made"


def _shortage(world: World, served: int) -> str:
    """Such as: 3 of 5 ready: 2 hosts lack memory, 1 is cordoned."""
    parts = list(_troubles(world))
    return f"{served} of {len(world.wanted)} ready" + (f": {'; '.join(parts)}" if parts else "")


def _troubles(world: World) -> Iterator[str]:
    short = [slot for slot in world.wanted if not any(m.ready_time is not None for m in world.counting(slot))]
    first = [here[0] for slot in short if (here := world.counting(slot))]
    refused = next((member.refused_by for member in first if member.refused_by), ())
    if refused:
        yield _refusals(refused)
    told: list[str] = [f"{m.id}: {_first_line(m)}" for m in first if not m.refused_by and m.trouble]
    told += [
        f"slot {slot} {_waits_for(world, slot)}"
        for slot in short
        if not world.counting(slot) and _has_story(world, slot)
    ]
    yield from told[:_SHOWN]
    if len(told) > _SHOWN:
        yield f"{len(told) - _SHOWN} more"


def _has_story(world: World, slot: int) -> bool:
    """Whether there is more to tell of an empty slot than that it is empty, and the group's own message does not tell it."""
    return world.held_back_until(slot, world.revision_to_make(slot)) is not None or bool(who_is_in_the_way(world, slot))


def _first_line(member: Member) -> str:
    return member.trouble.splitlines()[0]


def _refusals(refused: tuple[FilterResult, ...]) -> str:
    parts = []
    for number, found in enumerate(refused):
        count = found.hosts_removed
        one, several = _LACKS.get(found.filter, (found.explanation, found.explanation))
        who = ("1 host" if count == 1 else f"{count} hosts") if number == 0 else str(count)
        parts.append(f"{who} {one if count == 1 else several}")
    return ", ".join(parts)

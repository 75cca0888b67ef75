"""Where a group stands, as its record keeps it. Pure. What members are like in detail is in `status.py`."""

from dataclasses import dataclass

from controlplane.domain.groups import GroupState
from controlplane.rollout.world import World


@dataclass(frozen=True, slots=True)
class Standing:
    """The state with a word for programs and a sentence for people; both empty when there is nothing to tell."""

    state: GroupState
    reason: str = ""
    message: str = ""


def standing(world: World) -> Standing:
    """Where it stands now."""
    state, reason, message = _standing(world)
    refusal = world.refusal
    if refusal is not None and state is not GroupState.DELETING and not reason:
        return Standing(state, refusal.reason, refusal.message)
    return Standing(state, reason, message)


def _standing(world: World) -> tuple[GroupState, str, str]:
    if world.group.is_deleting:
        until = world.group.purge_time
        if until is not None:
            return (
                GroupState.DELETING,
                "KEPT",
                world.goes_after or f"deleted, and kept until {until:%Y-%m-%d %H:%M:%S} UTC",
            )
        return GroupState.DELETING, "", world.goes_after
    if world.has_failed:
        return GroupState.FAILED, "ROLLOUT_FAILED", world.failures[world.target]
    if world.group.is_paused:
        return GroupState.PAUSED, "", ""
    back = ("ROLLED_BACK", world.rolled_back) if world.rolled_back else ("", "")
    if world.is_held:
        return GroupState.WAITING, "WAITS_FOR_OTHERS", world.waits_for
    if world.is_canary and waits_for_promotion(world):
        return GroupState.CANARY, "", ""
    if world.target != world.stable:
        return GroupState.ROLLING, *back
    has_others = any(member.counts and world.is_outdated(member) for member in world.members)
    is_rolling_back = world.group.state is GroupState.ROLLING_BACK and not world.is_done
    if world.rolled_back and (has_others or is_rolling_back):
        return GroupState.ROLLING_BACK, *back
    if has_others:
        return GroupState.ROLLING, *back
    is_whole = all(any(map(world.is_available, world.by_slot.get(slot, ()))) for slot in world.wanted)
    return (GroupState.STABLE if is_whole else GroupState.DEGRADED), *back


def waits_for_promotion(world: World) -> bool:
    """Whether the canaries are what they shall be, so that somebody must say how it goes on."""
    return all(world.has_target(slot) for slot in world.canary_slots)

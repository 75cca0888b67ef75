"""How far a group may go beyond its number, and below it, while members are replaced on purpose; and what comes first. Pure."""

from dataclasses import dataclass

from controlplane.domain.groups import GroupMode, GroupSpec, RolloutOrder


@dataclass(frozen=True, slots=True)
class Budget:
    """What holds for a number of members."""

    order: RolloutOrder  # never UNSPECIFIED
    surge: int  # members beyond the number; none with STOP_FIRST
    unavailable: int  # members that may be missing; at least one with STOP_FIRST, else no step could be made


def why_stop_first(spec: GroupSpec) -> str:
    """What of a member its successor needs, so that the old one must be gone first; empty: nothing."""
    if spec.slots.sticky_name:
        return "members keep their names"
    if spec.slots.sticky_address:
        return "members keep their addresses"
    if spec.slots.volumes:
        return "members keep their volumes"
    if any(nic.addresses or nic.mac for nic in spec.instance.nics):
        return "members have fixed addresses"
    if spec.instance.published_ports and spec.mode is GroupMode.PER_HOST:
        return "each host has one member, and its ports"
    if spec.instance.published_ports and spec.instance.placement.host:
        return f"members publish ports of {spec.instance.placement.host}"
    return ""


def order_of(spec: GroupSpec) -> RolloutOrder:
    """What comes first: what is needed, else what is asked for, else what fits."""
    if why_stop_first(spec):
        return RolloutOrder.STOP_FIRST
    if spec.rollout.order is not RolloutOrder.UNSPECIFIED:
        return spec.rollout.order
    if spec.instance.published_ports or spec.instance.volumes or spec.mode is GroupMode.PER_HOST:
        return RolloutOrder.STOP_FIRST
    return RolloutOrder.START_FIRST


def budget_of(spec: GroupSpec, wanted: int) -> Budget:
    """The budget of a group that shall have `wanted` members. A group that may not have more than its number stops first."""
    is_start_first = order_of(spec) is RolloutOrder.START_FIRST
    surge = amount(spec.rollout.max_surge or ("1" if is_start_first else "0"), wanted, rounds_up=True)
    unavailable = amount(spec.rollout.max_unavailable or ("0" if is_start_first else "1"), wanted, rounds_up=False)
    if is_start_first and surge > 0:
        return Budget(RolloutOrder.START_FIRST, surge, unavailable)
    return Budget(RolloutOrder.STOP_FIRST, 0, max(1, unavailable))


def amount(text: str, wanted: int, *, rounds_up: bool) -> int:
    """`2`, or `25%` of `wanted`. The form was checked when the group was made."""
    if not text.endswith("%"):
        return int(text)
    hundredths = int(text[:-1]) * wanted
    return -(-hundredths // 100) if rounds_up else hundredths // 100

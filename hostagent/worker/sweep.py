"""The sweep: what of the host nobody assigned any more, and whether it may be removed. Pure; worker/sweeper.py acts.

The rule of the brake: one sweep removes at most a tenth of the instances that this host carries, rounded down, but
one is always allowed; a sweep that would remove more removes none and waits for an operator's word. After the
control plane's store went back in time, or is another one than before, a sweep removes nothing at all without that
word. The word counts once.

What carries our mark but is in no journal of ours is never removed: it is shown (quarantined).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hostagent.domain import ContainerObservation, QuarantinedItem
from hostagent.journal.state import LinkState
from moorage.ids import InstanceId

PART_OF_HOST = 10


@dataclass(frozen=True, slots=True)
class SweepDecision:
    """Instances to remove, sorted; and why the rest is held back, empty when nothing is."""

    remove: tuple[InstanceId, ...]
    brake: str = ""


def allowance(carried: int) -> int:
    """How many instances one sweep may remove on a host that carries so many."""
    return max(1, carried // PART_OF_HOST)


def decide(orphans: Collection[InstanceId], carried: int, link: LinkState, *, is_released: bool) -> SweepDecision:
    """What a sweep does about instances that are not assigned any more.

    Args:
        orphans: instances that the control plane does not name any more and of which something is left here.
        carried: instances of which something is here, the orphans included.
        is_released: an operator said that the sweep which was held back may go on.
    """
    wanted = tuple(sorted(orphans))
    if not wanted or is_released:
        return SweepDecision(wanted)
    if link.went_back:
        return SweepDecision((), f"{len(wanted)} of {carried} instances would be removed, but {link.went_back}")
    if len(wanted) > allowance(carried):
        return SweepDecision(
            (), f"{len(wanted)} of {carried} instances would be removed at once; {allowance(carried)} is allowed"
        )
    return SweepDecision(wanted)


def quarantine(
    *,
    known: Collection[InstanceId],
    held: Collection[InstanceId],
    ours: Iterable[ContainerObservation],
    foreign: Iterable[ContainerObservation],
    namespaces: Iterable[InstanceId],
    strays: Iterable[str],
) -> tuple[QuarantinedItem, ...]:
    """What is shown to operators and left alone.

    Args:
        known: instances in the journal.
        held: orphans whose removal is held back.
        ours: containers that carry our mark and this host's nonce.
        foreign: containers that carry our mark and not this host's nonce.
    """
    items = [
        QuarantinedItem("container", c.container_id, "carries our mark, but not the nonce of this host")
        for c in foreign
    ]
    for container in ours:
        instance_id = InstanceId(container.labels.get("moorage.instance", ""))
        if instance_id not in known:
            items.append(
                QuarantinedItem("container", container.container_id, f"instance {instance_id} is not in the journal")
            )
        elif instance_id in held:
            why = f"instance {instance_id} is not assigned any more, and the sweep is held back"
            items.append(QuarantinedItem("container", container.container_id, why))
    items += [
        QuarantinedItem("namespace", instance_id, "its instance is not in the journal")
        for instance_id in namespaces
        if instance_id not in known
    ]
    items += [QuarantinedItem("link", stray, "no instance or network that we know has it") for stray in strays]
    return tuple(sorted(items, key=lambda item: (item.kind, item.id)))

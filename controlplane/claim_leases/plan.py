"""Whose claims are free now, and when to look again. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from controlplane.domain.claims import claim_end_seconds, is_leased
from controlplane.domain.instances import Instance


@dataclass(frozen=True, slots=True)
class SetFree:
    """What a lost instance claims is free."""

    instance_uid: str
    why: str


def plan(
    lost: Iterable[Instance], last_lease_seconds: Callable[[str], float], now: float
) -> tuple[list[SetFree], float | None]:
    """What to do, in order of uid, and when to look again; None: when something changes.

    Args:
        lost: instances that were given up and whose claims are not free.
        last_lease_seconds: when an instance was, or may have been, given a lease last; monotonic seconds.
        now: monotonic seconds.
    """
    free: list[SetFree] = []
    next_look: float | None = None
    for instance in sorted(lost, key=lambda instance: instance.uid):
        if not is_leased(instance):
            # It runs on whoever reaches it; so it was an operator who has given their word that it does not.
            free.append(SetFree(instance.uid, "an operator has said that its host is gone"))
            continue
        end = claim_end_seconds(instance.lease_seconds, last_lease_seconds(instance.uid))
        if now >= end:
            free.append(SetFree(instance.uid, f"its last lease of {instance.lease_seconds:g} s has ended for certain"))
        else:
            next_look = end if next_look is None else min(next_look, end)
    return free, next_look

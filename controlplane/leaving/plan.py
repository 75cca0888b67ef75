"""Whether an instance that leaves may be removed, or what it waits for. Pure.

An instance leaves when its `leave_time` is set. Routers are told of that same commit, and lead nobody new to it; what it has goes on.
It may be removed once every running router that named it runs a configuration without it and has no connection of it left, or when its
time is up. A router that does not run has no connections. One that cannot load its configuration is waited for until the time is up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.readiness import is_started
from controlplane.domain.routers import Router, RouterObserved
from controlplane.routers.status import is_running

DRAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Remove:
    """Its removal can be asked for."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Something is still to come; at `until` it is removed all the same."""

    why: str
    until: datetime


def plan(
    instance: Instance, routers: Sequence[tuple[Router, Sequence[Instance]]], now: datetime
) -> Remove | Wait | None:
    """What becomes of an instance; None: it does not leave, or its removal was asked for.

    Args:
        routers: those that name it, each with its containers.
    """
    if instance.leave_time is None or instance.desired is DesiredState.DELETED:
        return None
    if not is_started(instance):
        return Remove("it does not run")
    drain = instance.spec.drain_seconds
    until = instance.leave_time + timedelta(seconds=DRAIN_SECONDS if drain is None else drain)
    for router, members in routers:
        seen = {observed.instance_uid: observed for observed in router.observed}
        for member in members:
            if is_running(member) and (why := _waits_for(instance, member, seen)):
                return Wait(why, until) if now < until else Remove(f"its time is up, though {why}")
    return Remove("it has no connections left")


def _waits_for(instance: Instance, member: Instance, seen: Mapping[str, RouterObserved]) -> str:
    observed = seen.get(member.uid)
    if observed is None or observed.running_version < instance.leave_revision:
        return f"{member.name} still leads clients to it"
    if instance.uid in observed.draining:
        return f"{member.name} has connections to it"
    return ""

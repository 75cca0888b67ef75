"""What is to be done about one host that is being emptied. Pure.

Whoever has an owner that makes another one elsewhere is marked (`Instance.evict`), and the owner decides when: a group within its budget,
a router one of a pair at a time. A job's runs to its end. Whoever nobody would make anew, or who can be nowhere else, is named and waited
for. Only after the deadline, and only if that was asked for, are instances sent away for whom nobody has come.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from controlplane.domain.hosts import Host, HostAdminState, HostDrain, HostDrainWait, drain_why
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.jobs import is_of_job, is_over
from controlplane.domain.routers import is_router

#: Waits that are told: the record stays small.
MOST_WAITS = 50
#: Those that only people can end.
_FOR_PEOPLE = ("UNMANAGED", "MUST_STAY")


@dataclass(frozen=True, slots=True)
class Carried:
    """An instance of the host, with what is known of it elsewhere."""

    instance: Instance
    must_stay: str = ""  # why it can be nowhere else; empty: it can
    trouble: str = ""  # why nobody has come for it yet, as far as its owner says


@dataclass(frozen=True, slots=True)
class Evict:
    """Its owner shall have another one elsewhere."""

    instance_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Send:
    """It goes now: balancers first lead nobody to it any more."""

    instance_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Tell:
    """How far it is."""

    drain: HostDrain
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left: the host is in maintenance."""

    why: str


Action = Evict | Send | Tell | Finish


def plan(host: Host, carried: Sequence[Carried], now: datetime) -> list[Action]:
    """What is to be done now. An empty list: nothing.

    Args:
        carried: every instance that is placed on the host, those that are being removed included.
    """
    drain = host.drain
    if host.admin_state is not HostAdminState.DRAINING or drain is None:
        return []
    if not carried:
        return [Finish("it has no instances any more")]
    is_late = drain.deadline_time is not None and drain.deadline_time <= now
    actions: list[Action] = []
    waits: list[HostDrainWait] = []
    for one in sorted(carried, key=lambda one: one.instance.name):
        decided = _decide(host, drain, one, is_late)
        if decided.action is not None:
            actions.append(decided.action)
        waits.append(HostDrainWait(one.instance.name, decided.reason, decided.message))
    is_stuck = any(wait.reason != "LEAVING" for wait in waits)
    told = replace(drain, left=len(waits), waits=_most_important(waits), overdue=is_late and is_stuck)
    if told != drain:
        actions.append(Tell(told, f"{len(waits)} instances are left"))
    return actions


@dataclass(frozen=True, slots=True)
class _Decision:
    """Why an instance is still there, in a word and in a sentence; and what is done about it."""

    reason: str
    message: str
    action: Evict | Send | None = None


def _decide(host: Host, drain: HostDrain, one: Carried, is_late: bool) -> _Decision:
    instance = one.instance
    if instance.given_up:
        return _Decision(reason="LEAVING", message="it is given up, and the host has not said that it has removed it")
    if instance.desired is DesiredState.DELETED:
        return _Decision(reason="LEAVING", message="it is being removed")
    if instance.leave_time is not None:
        return _Decision(reason="LEAVING", message="it gets no new clients, and those that it has may end")
    if is_over(instance):
        return _send(host, instance, "it has ended")
    if not _is_made_anew(instance):
        if is_late and drain.delete_unmanaged:
            return _send(host, instance, "the deadline is over")
        words = "nobody makes it anew elsewhere: delete it, or let the drain do so (delete_unmanaged)"
        return _Decision(reason="UNMANAGED", message=words)
    if is_late and drain.force:
        return _send(host, instance, "the deadline is over")
    if is_of_job(instance):
        return _Decision(reason="RUNS_TO_END", message="it is a job's, and runs to its end")
    if one.must_stay:
        return _Decision(reason="MUST_STAY", message=one.must_stay)
    who = "its router" if is_router(instance) else "its group"
    words = f"{who} makes another one elsewhere" + (f": {one.trouble}" if one.trouble else "")
    evict = None if instance.evict else Evict(instance.uid, drain_why(host))
    return _Decision(reason="MOVING", message=words, action=evict)


def _send(host: Host, instance: Instance, why: str) -> _Decision:
    return _Decision(reason="LEAVING", message=why, action=Send(instance.uid, f"{drain_why(host)}, and {why}"))


def _is_made_anew(instance: Instance) -> bool:
    return any(part in instance.owner for part in ("/groups/", "/routers/", "/jobs/"))


def _most_important(waits: Iterable[HostDrainWait]) -> tuple[HostDrainWait, ...]:
    return tuple(sorted(waits, key=lambda wait: (wait.reason not in _FOR_PEOPLE, wait.instance))[:MOST_WAITS])

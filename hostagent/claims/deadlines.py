"""When an instance that runs under leases is stopped, killed, and may run. Pure; seconds of CLOCK_BOOTTIME.

The control plane counts a lease from the moment at which the request for it arrived, which is later than the one from which we count, and
waits a second more than it lasts. We are done a second before it ends. So there are two seconds between the last moment of one
instance and the first of another.

    asked ---- ... ---- stop signal -- grace -- (0.5 s) -- killed -- 1 s -- end ---- 1 s ---- free for another
"""

import enum

_KILLED_BEFORE_END_SECONDS = 1.0
_DONE_BEFORE_KILL_SECONDS = 0.5  # so that it is the agent that ends it, in order, and not the watchdog


class Hold(enum.Enum):
    """Whether an instance may run, and be reached."""

    FREE = "free"  # it needs no lease
    HELD = "held"
    ENDING = "ending"  # it is stopped in order now
    LACKING = "lacking"  # nothing of it may run or be reached


def kill_at(asked: float, lease_seconds: float) -> float:
    """When nothing of an instance may run any more that was given a lease.

    Args:
        asked: a moment before the request for it was sent.
    """
    return asked + lease_seconds - _KILLED_BEFORE_END_SECONDS


def grace_seconds(wanted: float, lease_seconds: float) -> float:
    """How long its process may take to end once its lease ends: what it asks for, but at most a third of the lease."""
    return min(wanted, lease_seconds / 3.0)


def stop_at(end: float, lease_seconds: float, wanted_grace_seconds: float) -> float:
    """When an instance is told to stop that must be gone at `end`."""
    return end - _DONE_BEFORE_KILL_SECONDS - grace_seconds(wanted_grace_seconds, lease_seconds)


def hold(end: float | None, lease_seconds: float, wanted_grace_seconds: float, now: float) -> Hold:
    """How it stands.

    Args:
        end: of its newest lease, as `kill_at` has it; None: it was given none, or what was left of it has not gone yet.
    """
    if lease_seconds <= 0.0:
        return Hold.FREE
    if end is None or now >= end:
        return Hold.LACKING
    return Hold.ENDING if now >= stop_at(end, lease_seconds, wanted_grace_seconds) else Hold.HELD

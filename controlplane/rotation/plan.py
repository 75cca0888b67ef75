"""What an instance does with later versions of its secrets and configs. Pure.

One that stands alone is given them, and started anew where a use says so. A member of a group is not started anew where it is: its group
makes another one in its place, within its budget and with its connections drained. What is on its way out, or is done once (a job's),
keeps what it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.domain.instances import DesiredState, Instance, uses_of
from controlplane.domain.secrets import OnRotate, Pin, id_of


@dataclass(frozen=True, slots=True)
class Repin:
    """It gets these versions; with `restart` in a new run."""

    pins: tuple[Pin, ...]
    restart: bool
    why: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Its group shall make another one."""

    why: str


def plan(instance: Instance, latest: Sequence[Pin]) -> Repin | Evict | None:
    """What is to be done now; None: nothing.

    Args:
        latest: its pins as they would be with the latest versions, where its uses ask for them.
    """
    if instance.desired is DesiredState.DELETED or instance.leave_time is not None or instance.given_up:
        return None
    uses = uses_of(instance.spec)
    news = [
        (use, old, new) for use, old, new in zip(uses, instance.pins, latest, strict=True) if new.version > old.version
    ]
    if not news:
        return None
    names = ", ".join(dict.fromkeys(f"version {new.version} of {id_of(use)}" for use, _, new in news))
    needs_start = any(use.on_rotate is OnRotate.RESTART for use, _, _ in news)
    if not needs_start:
        return Repin(tuple(latest), False, names)
    if "/groups/" in instance.owner:
        return None if instance.evict else Evict(f"it shall have {names}")
    if instance.owner:
        return None
    runs = instance.desired is DesiredState.RUNNING and bool(instance.host_uid)
    return Repin(tuple(latest), runs, names)

"""What can be done about a group, each with its reason."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.groups import GroupState


@dataclass(frozen=True, slots=True)
class Make:
    """A member of a slot. `host`: the only one that it may be on; empty: any. `avoid_hosts`: uids, others are better."""

    slot: int
    revision: int
    host: str
    avoid_hosts: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Send a member away in order: no new clients, then removed."""

    instance_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove a member that does not come up, and remember for its successor that it failed."""

    instance_uid: str
    slot: int
    revision: int
    failures: int
    failed_hosts: tuple[str, ...]
    not_before: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Ask for the removal of a member that counts as lost."""

    instance_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class ForgetSlot:
    """Nothing is to be remembered of a slot any more. `keeps_addresses`: but the addresses that wait in it."""

    slot: int
    keeps_addresses: bool
    why: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The rollout came nearer to its end at `time`; None: no rollout is under way whose time counts."""

    time: datetime | None
    why: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The target cannot be rolled out. `back_to`: the revision that members get again; 0: none, the rollout stands."""

    revision: int
    back_to: int
    instance_uid: str  # the one that shows it; empty: none
    why: str


@dataclass(frozen=True, slots=True)
class Settle:
    """The target was found good."""

    revision: int
    why: str


@dataclass(frozen=True, slots=True)
class SetState:
    """Where the group stands now."""

    state: GroupState
    reason: str
    why: str  # the message; empty when all is well


@dataclass(frozen=True, slots=True)
class ForgetGroup:
    """Nothing is left of it: its record can go, with its revisions and slots."""

    why: str


Action = Make | Leave | Discard | Remove | ForgetSlot | Progress | Fail | Settle | SetState | ForgetGroup


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now, and when to look again though nothing has changed; None: not before something does."""

    actions: tuple[Action, ...]
    next_look: datetime | None = None

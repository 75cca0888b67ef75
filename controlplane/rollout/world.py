"""All that is looked at when it is decided about one group, as values; and what follows from them alone. Pure.

A member *counts* when it is neither on its way out nor lost. It is *available* when it counts and has been ready for long enough. While
its host cannot be reached it still is, but nobody else is sent away for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from controlplane.domain.budget import Budget, budget_of
from controlplane.domain.groups import Group, GroupMode, GroupSlot
from controlplane.domain.instances import FilterResult


@dataclass(frozen=True, slots=True)
class Member:
    """An instance of the group: what of it matters here."""

    uid: str
    id: str
    slot: int
    revision: int
    create_time: datetime
    host: str = ""  # last part of the name; empty: not placed yet
    host_uid: str = ""
    pinned_host: str = ""  # of a group with one member a host: whose it is
    is_away: bool = False  # its host cannot be reached just now: what is known of it may be old
    is_started: bool = False
    ready_time: datetime | None = None  # since when it has been ready; None: it is not
    min_ready_seconds: float = 0.0
    is_leaving: bool = False  # sent away, or its removal was asked for
    is_removed: bool = False  # its removal was asked for
    given_up: str = ""  # why it counts as lost
    is_in_the_way: bool = False  # lost, and may still have what its successor needs
    failed: str = ""  # why it does not come up where it is; empty: it may
    evict: str = ""  # why another shall take its place
    failed_starts: int = 0  # in a row, on its host
    trouble: str = ""  # what its host says is wrong with it
    refused_by: tuple[FilterResult, ...] = ()  # what keeps it from having a host

    @property
    def counts(self) -> bool:
        """Whether it is one of those that the group has."""
        return not (self.is_leaving or self.is_removed or self.given_up)

    @property
    def available_time(self) -> datetime | None:
        """From when on it is available; None: it is not ready."""
        if self.ready_time is None or not self.counts:
            return None
        return self.ready_time + timedelta(seconds=self.min_ready_seconds)


@dataclass(frozen=True, slots=True)
class Seat:
    """A host that fits a group with one member a host."""

    host: str  # last part of the name
    takes_new: bool  # it can be reached, and takes instances


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why members could not be made, such as a quota; it is tried again at `until`."""

    reason: str
    message: str
    until: datetime


@dataclass(frozen=True)
class World:
    """One group with all that belongs to it, at one moment.

    Args:
        failures: of the revisions that are kept, by number: why each failed; empty: it did not.
        seats: of a group with one member a host, in order of name; of others empty.
        follows_spec: whether the target is what the group's spec asks for; else it was gone back to by itself.
    """

    group: Group
    now: datetime
    failures: Mapping[int, str] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    slots: Mapping[int, GroupSlot] = field(default_factory=dict)
    seats: tuple[Seat, ...] = ()
    refusal: Refusal | None = None
    follows_spec: bool = True
    waits_for: str = ""  # what must come first and is not so yet, before it starts or is updated; empty: nothing
    goes_after: str = ""  # who must stop first; empty: nobody

    @cached_property
    def wanted(self) -> Mapping[int, str]:
        """The slots that shall have a member, in order; with the host that each is for, in a group with one member a host."""
        if self.group.spec.mode is not GroupMode.PER_HOST:
            return dict.fromkeys(range(self.group.spec.replicas), "")
        return self._wanted_per_host()

    def _wanted_per_host(self) -> Mapping[int, str]:
        taken = {member.slot: member.pinned_host for member in self.members}
        taken |= {slot: record.host for slot, record in self.slots.items() if record.host}
        slot_of = {host: slot for slot, host in sorted(taken.items(), reverse=True)}
        stays = {member.pinned_host for member in self.members if member.counts and not member.evict}
        wanted: dict[int, str] = {}
        number = 0
        for seat in self.seats:
            if not (seat.takes_new or seat.host in stays):
                continue
            if seat.host in slot_of:
                wanted[slot_of[seat.host]] = seat.host
                continue
            while number in taken:
                number += 1
            taken[number] = seat.host
            wanted[number] = seat.host
        return dict(sorted(wanted.items()))

    @cached_property
    def budget(self) -> Budget:
        """How far members may be more or fewer than wanted."""
        return budget_of(self.group.spec, len(self.wanted))

    @cached_property
    def by_slot(self) -> Mapping[int, tuple[Member, ...]]:
        """Members by slot, those first that matter most: available, started, oldest."""
        found: dict[int, list[Member]] = {}
        for member in sorted(self.members, key=self._rank):
            found.setdefault(member.slot, []).append(member)
        return {slot: tuple(members) for slot, members in sorted(found.items())}

    def _rank(self, member: Member) -> tuple[object, ...]:
        return (
            not self.is_sure(member),
            not self.is_available(member),
            not member.is_started,
            member.create_time,
            member.uid,
        )

    def counting(self, slot: int) -> list[Member]:
        """Those in a slot that count."""
        return [member for member in self.by_slot.get(slot, ()) if member.counts]

    def is_available(self, member: Member) -> bool:
        """Whether it counts, and has been ready for long enough."""
        time = member.available_time
        return time is not None and time <= self.now

    def is_sure(self, member: Member) -> bool:
        """Whether it is available, and its host can be asked: what others may be sent away for."""
        return self.is_available(member) and not member.is_away

    @property
    def target(self) -> int:
        """Revision that members shall have."""
        return self.group.target_revision

    @property
    def stable(self) -> int:
        """Revision that the last rollout that ended well had; 0: none."""
        return self.group.stable_revision

    @property
    def has_failed(self) -> bool:
        """Whether the rollout of the target failed, and was not rolled back."""
        return bool(self.failures.get(self.target))

    @property
    def is_rollout(self) -> bool:
        """Whether a revision is on its way that has not been found good yet."""
        return self.target != self.stable and not self.group.is_paused and not self.has_failed

    @cached_property
    def is_held(self) -> bool:
        """Whether it does not start, or its rollout does not begin, before what it depends on. What has begun goes on."""
        if not self.waits_for:
            return False
        counting = [member for member in self.members if member.counts]
        has_begun = any(member.revision == self.target for member in counting)
        return not counting or (self.is_rollout and self.stable > 0 and not has_begun)

    @property
    def is_canary(self) -> bool:
        """Whether only the first slots may have the target yet."""
        canaries = self.group.spec.rollout.canaries
        return self.is_rollout and canaries > 0 and self.stable > 0 and not self.group.is_promoted

    @cached_property
    def canary_slots(self) -> frozenset[int]:
        """The first slots that are wanted."""
        return frozenset(list(self.wanted)[: self.group.spec.rollout.canaries])

    @property
    def rolled_back(self) -> str:
        """Why the newest revision failed, if the group has gone back by itself to an older one for it; empty: it has not."""
        newest = max(self.failures, default=0)
        return self.failures.get(newest, "") if newest > self.target and not self.follows_spec else ""

    def revision_to_make(self, slot: int) -> int:
        """Of a new member. A rollout that stands still gets none: what is missing is filled with what is known to work."""
        stands = self.group.is_paused or self.has_failed or self.is_held
        is_held = stands or (self.is_canary and slot not in self.canary_slots)
        return self.stable if is_held and self.stable else self.target

    @cached_property
    def closed_slots(self) -> frozenset[int]:
        """Slots of hosts that keep what they have and take no more just now: who is there stays, of whatever revision."""
        closed = {seat.host for seat in self.seats if not seat.takes_new}
        return frozenset(slot for slot, host in self.wanted.items() if host in closed)

    def is_outdated(self, member: Member) -> bool:
        """Whether a member of another revision shall take its place now."""
        if (
            self.group.is_paused
            or self.has_failed
            or self.is_held
            or (self.is_canary and member.slot not in self.canary_slots)
        ):
            return False
        if member.slot in self.closed_slots:
            return False
        return member.revision != self.target

    def record_of(self, slot: int, revision: int) -> GroupSlot | None:
        """What is remembered of failures of a revision in the slot; None: nothing. Another revision begins anew."""
        record = self.slots.get(slot)
        return record if record is not None and record.failures and record.revision == revision else None

    def held_back_until(self, slot: int, revision: int) -> datetime | None:
        """When a member of the revision may be made, if not now, because those before it failed."""
        record = self.record_of(slot, revision)
        time = record.not_before if record is not None else None
        return time if time is not None and time > self.now else None

    def has_target(self, slot: int) -> bool:
        """Whether the slot has an available member of the target, and nobody else that counts."""
        counting = self.counting(slot)
        return len(counting) == 1 and counting[0].revision == self.target and self.is_sure(counting[0])

    @cached_property
    def surplus(self) -> tuple[Member, ...]:
        """Those that count in slots that nobody wants."""
        return tuple(member for member in self.members if member.counts and member.slot not in self.wanted)

    @cached_property
    def is_done(self) -> bool:
        """Whether all wanted slots have the target, or cannot get it just now, and there is nobody beside them."""
        return not self.surplus and all(self.has_target(slot) or slot in self.closed_slots for slot in self.wanted)

"""A group's world that obeys: what is decided is carried out, as far as a test lets it, and members come up, die and go."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from controlplane.domain.groups import Group, GroupMode, GroupSlot, GroupSpec, RolloutPolicy, SlotPolicy
from controlplane.rollout.actions import (
    Action,
    Discard,
    Fail,
    ForgetGroup,
    ForgetSlot,
    Leave,
    Make,
    Progress,
    Remove,
    SetState,
    Settle,
)
from controlplane.rollout.plan import plan
from controlplane.rollout.world import Member, Refusal, Seat, World

T0 = datetime(2030, 1, 1, tzinfo=UTC)


def group(
    replicas: int = 3,
    *,
    mode: GroupMode = GroupMode.REPLICATED,
    slots: SlotPolicy | None = None,
    rollout: RolloutPolicy | None = None,
    **fields: object,
) -> Group:
    """A group of the first revision. `fields` are the record's own."""
    spec = GroupSpec(mode=mode, replicas=replicas, slots=slots or SlotPolicy(), rollout=rollout or RolloutPolicy())
    return replace(Group("g1", "demo", "web", T0, spec), **fields)  # type: ignore[arg-type]


@dataclass
class Simulation:
    """Changes of the world in place; every change makes a new value of it."""

    group: Group
    now: datetime = T0
    members: dict[str, Member] = field(default_factory=dict)
    slots: dict[int, GroupSlot] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=lambda: {1: ""})
    seats: tuple[Seat, ...] = ()
    refusal: Refusal | None = None
    follows_spec: bool = True
    is_forgotten: bool = False
    made: int = 0

    @property
    def world(self) -> World:
        return World(
            self.group,
            self.now,
            dict(self.failures),
            tuple(sorted(self.members.values(), key=lambda m: m.uid)),
            dict(self.slots),
            self.seats,
            self.refusal,
            self.follows_spec,
        )

    def plan(self) -> Sequence[Action]:
        return plan(self.world).actions

    def step(self, limit: int | None = None) -> Sequence[Action]:
        """Plan, and carry out the first `limit` actions."""
        actions = self.plan()
        for action in actions[:limit]:
            self.apply(action)
        return actions

    def apply(self, action: Action) -> None:
        match action:
            case Make(slot, revision, host, _, _):
                self.made += 1
                uid = f"m{self.made:04d}"
                self.members[uid] = Member(
                    uid, f"web-{slot}-{uid}", slot, revision, self.now, pinned_host=host, min_ready_seconds=2.0
                )
            case Leave(uid, _):
                self.change(uid, is_leaving=True)
            case Remove(uid, _):
                self.change(uid, is_leaving=True, is_removed=True)
            case Discard():
                self.change(action.instance_uid, is_leaving=True, is_removed=True)
                self.slots[action.slot] = GroupSlot(
                    self.group.uid,
                    action.slot,
                    self.members[action.instance_uid].pinned_host,
                    action.revision,
                    action.failures,
                    action.why,
                    action.failed_hosts,
                    action.not_before,
                )
            case ForgetSlot(slot):
                self.slots.pop(slot, None)
            case Progress(time, _):
                self.group = replace(self.group, progress_time=time)
            case Fail(revision, back_to, _, why):
                self.failures[revision] = why
                self.follows_spec = not back_to
                self.group = replace(self.group, target_revision=back_to or revision, progress_time=None)
            case Settle(revision, _):
                self.group = replace(self.group, stable_revision=revision)
            case SetState(state, reason, why):
                self.group = replace(self.group, state=state, reason=reason, message=why)
            case ForgetGroup():
                self.is_forgotten = True

    def change(self, uid: str, **fields: object) -> None:
        self.members[uid] = replace(self.members[uid], **fields)  # type: ignore[arg-type]

    def update(self, **fields: object) -> int:
        """Somebody asks for a new revision."""
        number = max(self.failures) + 1
        self.failures[number] = ""
        self.follows_spec = True
        self.group = replace(
            self.group,
            target_revision=number,
            is_promoted=False,
            progress_time=None,
            **fields,  # type: ignore[arg-type]
        )
        return number

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def start(self, uid: str) -> None:
        """It gets a host, runs and is ready."""
        self.change(uid, host="h1", host_uid="uid-h1", is_started=True, ready_time=self.now, failed="")

    def fail(self, uid: str) -> None:
        self.change(
            uid, host="h1", host_uid="uid-h1", is_started=False, ready_time=None, failed="CRASH_LOOP: it dies at once"
        )

    def vanish(self, uid: str) -> None:
        """Its host says that nothing of it is left."""
        del self.members[uid]

    def serve(self) -> None:
        """All hosts do what they are told."""
        for uid, member in list(self.members.items()):
            if member.is_leaving:
                self.vanish(uid)
            elif not member.is_started and not member.failed:
                self.start(uid)
        self.pass_time(3.0)

    def converge(self, turns: int = 200) -> None:
        """Until nothing is to be done any more."""
        for _ in range(turns):
            if not self.step() and not any(m.is_leaving or not m.is_started for m in self.members.values()):
                return
            self.serve()
        raise AssertionError(f"it does not come to rest: {self.plan()}")

    def counting(self) -> list[Member]:
        return [member for member in self.members.values() if member.counts]

    def served(self) -> int:
        """Wanted slots with a member that is available for certain."""
        world = self.world
        return sum(any(map(world.is_sure, world.counting(slot))) for slot in world.wanted)

    def revisions(self) -> list[int]:
        """Of those that count, by slot."""
        return [m.revision for m in sorted(self.counting(), key=lambda m: m.slot)]

"""Whatever members and hosts do, and wherever carrying out a plan stops: the numbers hold, and a quiet world comes to rest."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.groups import GroupMode, RolloutOrder, RolloutPolicy, SlotPolicy
from controlplane.rollout.actions import Leave, Make
from controlplane.rollout.plan import plan
from controlplane.rollout.waves import waves
from controlplane.rollout.world import Refusal, Seat
from tests.unit.rollout.simulation import Simulation, group

HOSTS = ("a", "b", "c", "d")

policies = st.builds(
    RolloutPolicy,
    order=st.sampled_from(RolloutOrder),
    max_surge=st.sampled_from(["", "0", "1", "2", "50%"]),
    max_unavailable=st.sampled_from(["", "0", "1", "2", "50%"]),
    progress_deadline_seconds=st.sampled_from([0.0, 20.0]),
    no_rollback=st.booleans(),
    canaries=st.sampled_from([0, 0, 1, 2]),
    failure_limit=st.integers(0, 2),
)
sticky = st.builds(SlotPolicy, sticky_name=st.booleans(), sticky_address=st.just(False))
modes = st.sampled_from([GroupMode.REPLICATED, GroupMode.REPLICATED, GroupMode.PER_HOST])
#: What happens between two looks: a word, and two numbers that choose whom it happens to.
happenings = st.tuples(
    st.sampled_from(
        [
            *["serve"] * 6,
            *["start", "start", "vanish", "wait", "wait"],
            *["fail", "fail", "unready", "lose", "evict", "delete", "stop", "cut", "cut"],
            *["update"] * 4,
            *["scale", "pause", "promote", "seats", "refuse"],
        ]
    ),
    st.integers(0, 50),
    st.integers(0, 5),
)


def happen(sim: Simulation, what: str, which: int, much: int) -> None:
    """Something that is not the planner's doing."""
    uids = sorted(sim.members)
    uid = uids[which % len(uids)] if uids else ""
    match what:
        case "serve":
            sim.serve()
        case "wait":
            sim.pass_time(much * 3.0)
        case "update":
            sim.update(state=sim.group.state)
        case "scale":
            sim.group = replace(sim.group, spec=replace(sim.group.spec, replicas=much))
        case "pause":
            sim.group = replace(sim.group, is_paused=not sim.group.is_paused)
        case "promote":
            sim.group = replace(sim.group, is_promoted=True)
        case "seats":
            sim.seats = tuple(Seat(host, bool(much & (1 << n))) for n, host in enumerate(HOSTS) if which & (1 << n))
        case "refuse":
            sim.refusal = Refusal("QUOTA_EXCEEDED", "full", sim.now + timedelta(seconds=much))
        case _ if uid:
            happen_to(sim, what, uid)


def happen_to(sim: Simulation, what: str, uid: str) -> None:
    member = sim.members[uid]
    match what:
        case "start" if member.counts:
            sim.start(uid)
        case "vanish" if member.is_leaving or member.is_removed:
            sim.vanish(uid)
        case "fail" if member.counts:
            sim.fail(uid)
        case "unready":
            sim.change(uid, ready_time=None)
        case "stop":
            sim.change(uid, ready_time=None, is_started=False)
        case "delete":
            sim.change(uid, is_leaving=True, is_removed=True)
        case "evict":
            sim.change(uid, evict="its host is drained")
        case "cut":
            sim.change(uid, is_away=not member.is_away)
        case "lose":
            sim.change(uid, given_up="its host is lost", is_in_the_way=int(uid[1:]) % 2 == 0)


def look(sim: Simulation, stop_after: int) -> None:
    """Plan, carry out a part of it, and see that each action leaves the numbers as they may be."""
    world = sim.world
    actions = sim.plan()
    assert actions == plan(world).actions  # same input, same output
    most = len(world.wanted) + world.budget.surge
    least = len(world.wanted) - world.budget.unavailable
    for action in actions[:stop_after]:
        served, counting = sim.served(), len(sim.counting())
        slot = sim.members[action.instance_uid].slot if isinstance(action, Leave) else -1
        sim.apply(action)
        if isinstance(action, Make):
            assert len(sim.counting()) <= max(most, counting), "above the maximum"
            assert action.slot in world.wanted
            others = [m for m in sim.world.by_slot[action.slot] if m.id != f"web-{action.slot}-m{sim.made:04d}"]
            if sim.group.spec.slots.sticky_name:
                assert not [m for m in others if not m.given_up], "two with one name"
            assert not [m for m in others if m.is_in_the_way]
        if isinstance(action, Leave) and slot in world.wanted:
            assert sim.served() == served or sim.served() >= least, "below the minimum"


@settings(max_examples=400, deadline=None)
@given(
    replicas=st.integers(0, 5),
    policy=policies,
    slots=sticky,
    mode=modes,
    is_settled=st.booleans(),
    story=st.lists(st.tuples(happenings, st.sampled_from([0, 1, 2, 1000, 1000])), max_size=40),
)
def test_numbers_hold_and_a_quiet_world_comes_to_rest(
    replicas: int,
    policy: RolloutPolicy,
    slots: SlotPolicy,
    mode: GroupMode,
    is_settled: bool,
    story: list[tuple[tuple[str, int, int], int]],
) -> None:
    sim = Simulation(group(replicas, rollout=policy, slots=slots, mode=mode), seats=tuple(Seat(h, True) for h in HOSTS))
    if is_settled:
        sim.converge()
    for happening, stop_after in story:
        happen(sim, *happening)
        look(sim, stop_after)
        look(sim, stop_after)
    # From now on all goes well.
    sim.refusal = None
    for member in list(sim.members.values()):
        sim.change(member.uid, is_away=False)
        if member.given_up:
            sim.vanish(member.uid)
        elif member.failed or not member.ready_time:
            sim.change(member.uid, failed="", is_started=False)
    for _ in range(300):
        look(sim, 1000)
        for record in sim.slots.values():
            if record.not_before is not None:
                sim.now = max(sim.now, record.not_before)
        sim.serve()
        if not sim.plan() and all(m.counts and m.ready_time for m in sim.members.values()):
            break
    assert not sim.plan(), "it does not come to rest"
    world = sim.world
    assert sorted(m.slot for m in world.members) == list(world.wanted)
    stands = sim.group.is_paused or world.has_failed or world.is_canary
    assert stands or world.is_done
    assert stands or world.stable == world.target
    assert not [m for m in world.members if m.evict]
    # At rest nothing is to be done, now or later.
    sim.pass_time(100_000)
    for _ in range(3):
        for action in sim.plan():
            assert not isinstance(action, Make | Leave)
            sim.apply(action)
    assert not sim.plan()
    assert plan(sim.world).next_look is None
    assert waves(sim.world).waves == ()


@settings(max_examples=100, deadline=None)
@given(replicas=st.integers(1, 6), policy=policies, slots=sticky)
def test_an_update_that_goes_well_never_goes_below(replicas: int, policy: RolloutPolicy, slots: SlotPolicy) -> None:
    policy = replace(policy, canaries=0, progress_deadline_seconds=0.0)
    sim = Simulation(group(replicas, rollout=policy, slots=slots))
    sim.converge()
    sim.update()
    budget = sim.world.budget
    for _ in range(100):
        sim.step()
        assert sim.served() >= replicas - budget.unavailable
        assert len(sim.counting()) <= replicas + budget.surge
        sim.serve()
        assert sim.served() >= replicas - budget.unavailable
    assert sim.revisions() == [2] * replicas
    assert sim.group.stable_revision == 2
    assert not sim.plan()

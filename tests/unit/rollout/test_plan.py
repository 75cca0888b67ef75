"""What is decided about groups."""

from controlplane.domain.groups import GroupMode, GroupState, RolloutOrder, RolloutPolicy, SlotPolicy
from controlplane.rollout.actions import Discard, Fail, Leave, Make, SetState
from controlplane.rollout.plan import plan
from controlplane.rollout.world import Seat
from tests.unit.rollout.simulation import Simulation, group


def running(replicas: int = 3, **fields: object) -> Simulation:
    """A group at rest."""
    sim = Simulation(group(replicas, **fields))  # type: ignore[arg-type]
    sim.converge()
    return sim


def test_a_new_group_is_made_in_one_go_and_settles() -> None:
    sim = Simulation(group(5))
    sim.step()  # the clock of the rollout
    actions = sim.step()
    assert [a.slot for a in actions if isinstance(a, Make)] == [0, 1, 2, 3, 4]
    assert sim.group.state is GroupState.ROLLING
    sim.converge()
    assert (sim.group.state, sim.group.stable_revision, sim.group.progress_time) == (GroupState.STABLE, 1, None)
    assert plan(sim.world).actions == ()
    assert plan(sim.world).next_look is None


def test_scaled_down_the_highest_go_and_up_they_come_back() -> None:
    sim = running(5)
    sim.group = group(2, stable_revision=1, state=GroupState.STABLE)
    sim.converge()
    assert sorted(m.slot for m in sim.counting()) == [0, 1]
    sim.group = group(4, stable_revision=1, state=GroupState.STABLE)
    sim.converge()
    assert sorted(m.slot for m in sim.counting()) == [0, 1, 2, 3]


def test_deleted_it_goes_once_its_members_are_gone() -> None:
    sim = running(3)
    sim.group = group(3, stable_revision=1, is_deleting=True)
    sim.step()
    assert sim.group.state is GroupState.DELETING
    assert not sim.plan()
    sim.serve()
    sim.step()
    assert sim.is_forgotten


def test_one_that_dies_is_made_anew_at_once_then_later_and_later() -> None:
    sim = running(3)
    waits = []
    for _ in range(7):
        (victim,) = (m for m in sim.counting() if m.slot == 1)
        sim.fail(victim.uid)
        actions = sim.step()
        (discard,) = (a for a in actions if isinstance(a, Discard))
        assert discard.failed_hosts == ("uid-h1",)
        waits.append((discard.not_before - sim.now).total_seconds())
        sim.pass_time(waits[-1])
        sim.step()
        (made,) = (m for m in sim.counting() if m.slot == 1)
        assert made.uid != victim.uid
    assert waits == [0, 2, 8, 30, 120, 300, 300]
    sim.converge()
    sim.pass_time(300)
    sim.converge()
    assert not sim.slots


def test_lost_ones_are_replaced_unless_they_may_still_hold_something() -> None:
    sim = running(3)
    first, second, _ = sorted(sim.counting(), key=lambda m: m.slot)
    sim.change(first.uid, given_up="its host is lost", is_removed=True)
    sim.change(second.uid, given_up="its host is lost", is_removed=True, is_in_the_way=True)
    assert [a.slot for a in sim.step() if isinstance(a, Make)] == [0]
    sim.change(second.uid, is_in_the_way=False)
    assert [a.slot for a in sim.step() if isinstance(a, Make)] == [1]


def test_the_old_one_stays_until_the_new_one_has_been_ready_for_long_enough() -> None:
    sim = running(1)
    sim.update()
    sim.step()
    sim.step()
    (new,) = [m for m in sim.counting() if m.revision == 2]
    assert not sim.plan()
    sim.start(new.uid)
    sim.pass_time(1)
    assert not sim.plan()
    assert plan(sim.world).next_look is not None
    sim.change(new.uid, ready_time=None)
    sim.pass_time(60)
    assert not sim.plan()
    sim.start(new.uid)
    sim.pass_time(2)
    sim.step()  # the clock of the rollout
    assert len([a for a in sim.step() if isinstance(a, Leave)]) == 1


def test_start_first_goes_one_by_one_and_never_below() -> None:
    sim = running(3)
    sim.update()
    most = 0
    for _ in range(100):
        if sim.group.stable_revision == 2:
            break
        sim.step()
        most = max(most, len(sim.counting()))
        assert sim.served() == 3
        sim.serve()
    assert most == 4
    assert sim.revisions() == [2, 2, 2]


def test_stop_first_waits_until_nothing_is_left() -> None:
    sim = running(3, slots=SlotPolicy(sticky_name=True))
    sim.update()
    sim.step()
    (left,) = [a for a in sim.step() if isinstance(a, Leave)]
    assert not [a for a in sim.plan() if isinstance(a, Make)]
    sim.vanish(left.instance_uid)
    assert len([a for a in sim.step() if isinstance(a, Make)]) == 1
    sim.converge()
    assert sim.revisions() == [2, 2, 2]


def test_a_percentage_is_a_number_of_members() -> None:
    sim = running(10, rollout=RolloutPolicy(RolloutOrder.START_FIRST, max_surge="25%"))
    sim.update()
    sim.step()
    assert len([a for a in sim.step() if isinstance(a, Make)]) == 3


def test_a_revision_that_does_not_come_up_is_taken_back() -> None:
    sim = running(3)
    sim.update()
    failed = None
    for _ in range(20):
        actions = sim.step()
        failed = next((a for a in actions if isinstance(a, Fail)), failed)
        for member in sim.counting():
            if member.revision == 2:
                sim.fail(member.uid)
        sim.pass_time(10)
        assert sim.served() == 3
        if failed:
            break
    assert failed is not None
    assert failed.back_to == 1
    assert "failed 3 times, the last time: CRASH_LOOP: it dies at once" in failed.why
    sim.converge()
    assert sim.revisions() == [1, 1, 1]
    assert (sim.group.state, sim.group.reason) == (GroupState.STABLE, "ROLLED_BACK")
    assert not sim.plan()
    sim.update()
    sim.converge()
    assert (sim.group.state, sim.group.reason, sim.group.stable_revision) == (GroupState.STABLE, "", 3)


def test_starts_on_the_host_count_as_failures() -> None:
    sim = running(2)
    sim.update()
    sim.step()
    sim.step()
    (new,) = [m for m in sim.counting() if m.revision == 2]
    sim.change(new.uid, failed_starts=2, trouble="RESTARTING: exit code 1")
    assert not [a for a in sim.plan() if isinstance(a, Fail)]
    sim.change(new.uid, failed_starts=3)
    (fail,) = sim.plan()
    assert isinstance(fail, Fail)
    assert fail.instance_uid == new.uid
    assert "exit code 1" in fail.why


def test_without_rollback_it_stands_and_gaps_get_what_works() -> None:
    sim = running(3, rollout=RolloutPolicy(no_rollback=True, progress_deadline_seconds=60))
    sim.update()
    sim.step()
    sim.step()
    sim.pass_time(60)
    (fail,) = sim.step()
    assert isinstance(fail, Fail)
    assert fail.back_to == 0
    assert "no member came nearer to it for 60 s" in fail.why
    sim.step()
    assert (sim.group.state, sim.group.reason) == (GroupState.FAILED, "ROLLOUT_FAILED")
    old = next(m for m in sim.counting() if m.revision == 1 and m.slot == 2)
    sim.fail(old.uid)
    (made,) = [a for a in sim.step() if isinstance(a, Make)]
    assert (made.slot, made.revision) == (2, 1)


def test_canaries_wait_for_a_word() -> None:
    sim = running(4, rollout=RolloutPolicy(canaries=1))
    sim.update()
    sim.converge()
    assert sim.group.state is GroupState.CANARY
    assert sim.revisions() == [2, 1, 1, 1]
    sim.pass_time(100_000)
    assert not sim.plan()
    sim.fail(next(m.uid for m in sim.counting() if m.slot == 3))
    sim.converge()
    assert sim.revisions() == [2, 1, 1, 1]
    sim.group = group(4, rollout=RolloutPolicy(canaries=1), target_revision=2, stable_revision=1, is_promoted=True)
    sim.converge()
    assert sim.revisions() == [2, 2, 2, 2]
    assert sim.group.stable_revision == 2


def test_paused_it_changes_nothing_but_gaps() -> None:
    sim = running(3)
    sim.update(is_paused=True)
    (state,) = sim.step()
    assert isinstance(state, SetState)
    assert state.state is GroupState.PAUSED
    sim.pass_time(100_000)
    assert not sim.plan()
    sim.fail(sim.counting()[0].uid)
    assert [a.revision for a in sim.step() if isinstance(a, Make)] == [1]


def test_one_a_host() -> None:
    sim = Simulation(group(0, mode=GroupMode.PER_HOST), seats=(Seat("a", True), Seat("b", True), Seat("c", False)))
    sim.converge()
    assert sorted((m.slot, m.pinned_host) for m in sim.counting()) == [(0, "a"), (1, "b")]
    sim.seats = (Seat("a", False), Seat("b", True), Seat("c", True))  # a is cordoned: it keeps what it has
    sim.converge()
    assert sorted((m.slot, m.pinned_host) for m in sim.counting()) == [(0, "a"), (1, "b"), (2, "c")]
    sim.change(next(m.uid for m in sim.counting() if m.slot == 0), evict="its host is drained")
    sim.converge()
    assert sorted((m.slot, m.pinned_host) for m in sim.counting()) == [(1, "b"), (2, "c")]
    assert sim.group.state is GroupState.STABLE
    sim.seats = (Seat("b", True), Seat("d", True))
    sim.converge()
    assert sorted((m.slot, m.pinned_host) for m in sim.counting()) == [(0, "d"), (1, "b")]


def test_one_that_shall_go_elsewhere_is_replaced_within_the_budget() -> None:
    sim = running(3)
    for member in sim.counting():
        sim.change(member.uid, evict="its host is drained")
    actions = sim.step()
    (make,) = [a for a in actions if isinstance(a, Make)]
    assert (make.revision, make.avoid_hosts) == (1, ("uid-h1",))
    assert not [a for a in actions if isinstance(a, Leave)]
    for _ in range(20):
        sim.serve()
        sim.step()
        assert sim.served() == 3
    assert not [m for m in sim.counting() if m.evict]
    assert not sim.plan()


def test_failures_are_of_a_revision_and_a_well_member_of_another_forgives_none() -> None:
    sim = running(1)
    sim.pass_time(10_000)  # the old one has been well for long
    sim.update()
    sim.step()
    for _ in range(2):
        sim.step()
        sim.fail(next(m.uid for m in sim.counting() if m.revision == 2))
        sim.step()
        sim.pass_time(2)
    assert (sim.slots[0].revision, sim.slots[0].failures) == (2, 2)
    sim.update()
    sim.step()
    (make,) = [a for a in sim.plan() if isinstance(a, Make)]
    assert (make.revision, make.avoid_hosts) == (3, ())
    sim.converge()
    assert not sim.slots


def test_one_on_a_host_that_takes_no_more_stays_as_it_is_until_the_host_does() -> None:
    sim = Simulation(group(0, mode=GroupMode.PER_HOST), seats=(Seat("a", True), Seat("b", True)))
    sim.converge()
    sim.seats = (Seat("a", True), Seat("b", False))
    sim.update()
    sim.converge()
    assert {m.pinned_host: m.revision for m in sim.counting()} == {"a": 2, "b": 1}
    assert (sim.group.state, sim.group.stable_revision) == (GroupState.STABLE, 2)
    sim.seats = (Seat("a", True), Seat("b", True))
    sim.step()
    assert sim.group.state is GroupState.ROLLING
    sim.converge()
    assert {m.pinned_host: m.revision for m in sim.counting()} == {"a": 2, "b": 2}


def test_nobody_goes_for_one_of_whom_nobody_knows() -> None:
    sim = running(3, rollout=RolloutPolicy(RolloutOrder.STOP_FIRST))
    away = min(sim.members)
    sim.change(away, is_away=True)
    sim.update()
    sim.step()
    assert not [a for a in sim.step() if isinstance(a, Leave)]
    assert sim.group.state is GroupState.ROLLING
    sim.change(away, is_away=False)
    assert len([a for a in sim.step() if isinstance(a, Leave)]) == 1
    sim.converge()
    assert sim.revisions() == [2, 2, 2]

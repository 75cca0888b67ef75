"""Who is pushed out for whom: never an equal, never more than needed, and never without a place in return."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.containers import DeviceRequest
from controlplane.domain.hosts import Host, HostReservation, HostSettings
from controlplane.domain.instances import Affinity, DesiredState, Instance, Placement
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, Decision, Promise, Unplaceable, plan
from controlplane.scheduler.request import request_of
from tests.unit.scheduler.values import NOW, any_instance, gpus, host, hosts, instance

_HIGH = Placement(priority=10, preempts=True)


def decide(fleet: list[Host], pending: list[Instance], placed: list[Instance], **budget: int) -> list[Decision]:
    return plan([(i.uid, request_of(i)) for i in pending], Fleet(fleet, placed), NOW, budget)


def victims_of(decision: Decision) -> list[str]:
    assert isinstance(decision, Promise), decision.why.summary
    return [victim.instance_uid for victim in decision.victims]


def low(uid: str, *, priority: int = 0, on: str = "a", **fields: object) -> Instance:
    return instance(uid, on=on, placement=Placement(priority=priority), **fields)  # type: ignore[arg-type]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Host], list[Instance], list[Instance], dict[str, int]]:
    """Hosts that are full of instances of any priority, some of them in groups; and some that want in."""
    fleet = draw(hosts(4))
    names = tuple(one.id for one in fleet) or ("",)
    placed = []
    for number in range(draw(st.integers(0, 8))):
        one = draw(any_instance(f"old{number}", names))
        owner = draw(st.sampled_from(["", "", "projects/p/groups/g", "projects/p/routers/r"]))
        desired = draw(st.sampled_from([DesiredState.RUNNING] * 4 + [DesiredState.DELETED]))
        spec = replace(one.effective, device_requests=(), survives_isolation=draw(st.integers(0, 4)) == 0)
        placed.append(replace(one, owner=owner, desired=desired, effective=spec))
    pending = []
    for number in range(draw(st.integers(1, 4))):
        one = draw(any_instance(f"new{number}"))
        placement = replace(one.effective.placement, preempts=True)
        pending.append(replace(one, effective=replace(one.effective, placement=placement)))
    pending.sort(key=lambda i: -i.effective.placement.priority)
    return fleet, placed, pending, {"projects/p/groups/g": draw(st.integers(0, 2))}


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_what_holds_of_everybody_who_is_pushed_out(
    world: tuple[list[Host], list[Instance], list[Instance], dict[str, int]],
) -> None:
    fleet, placed, pending, budget = world
    decisions = plan([(i.uid, request_of(i)) for i in pending], Fleet(fleet, placed), NOW, budget)
    again = plan([(i.uid, request_of(i)) for i in pending], Fleet(list(reversed(fleet)), placed), NOW, budget)
    assert again == decisions
    by_uid = {one.uid: one for one in placed}
    gone: Counter[str] = Counter()
    for one, decision in zip(pending, decisions, strict=True):
        if not isinstance(decision, Promise):
            continue
        for victim in decision.victims:
            other = by_uid[victim.instance_uid]
            gone[other.uid] += 1
            gone[other.owner] += bool(other.owner)
            assert other.host_uid == decision.host_uid
            assert other.effective.placement.priority < one.effective.placement.priority
            assert other.desired is not DesiredState.DELETED
            assert "/routers/" not in other.owner
            assert not other.effective.survives_isolation
            assert f"over {other.effective.placement.priority}" in victim.why
    assert all(gone[uid] <= 1 for uid in by_uid), "nobody goes twice"
    assert all(gone[owner] <= spare for owner, spare in budget.items())


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_the_place_is_the_newcomers_once_they_are_gone(
    world: tuple[list[Host], list[Instance], list[Instance], dict[str, int]],
) -> None:
    """Stopped after any number of them, planning goes on: nobody more is pushed out, and whoever was promised a place gets one."""
    fleet, placed, pending, budget = world
    first = pending[0]
    (decision,) = plan([(first.uid, request_of(first))], Fleet(fleet, placed), NOW, budget)
    if not isinstance(decision, Promise):
        return
    going = {victim.instance_uid for victim in decision.victims}
    placed = [replace(i, desired=DesiredState.DELETED) if i.uid in going else i for i in placed]
    waiting = replace(first, promised_uid=decision.host_uid)
    leaving = [i.uid for i in placed if i.host_uid == decision.host_uid and i.desired is DesiredState.DELETED]
    for _ in range(len(leaving) + 1):
        (found,) = plan([(first.uid, request_of(first))], Fleet(fleet, [*placed, waiting]), NOW, budget)
        assert not isinstance(found, Unplaceable)
        if isinstance(found, Assign):
            break
        assert found.host_uid == decision.host_uid
        assert found.victims == ()
        placed = [i for i in placed if i.uid != leaving[0]]
        del leaving[0]
    assert isinstance(found, Assign)


def test_nobody_is_pushed_out_while_there_is_room_or_it_was_not_asked_for() -> None:
    full = [low("o", cpu=4000)]
    (found,) = decide([host("a"), host("b")], [instance("i", cpu=1000, placement=_HIGH)], full)
    assert isinstance(found, Assign)
    (found,) = decide([host("a")], [instance("i", cpu=1000, placement=Placement(priority=10))], full)
    assert isinstance(found, Unplaceable)


@pytest.mark.parametrize("priority", [10, 11])
def test_equals_and_betters_stay(priority: int) -> None:
    (found,) = decide([host("a")], [instance("i", cpu=1000, placement=_HIGH)], [low("o", cpu=4000, priority=priority)])
    assert isinstance(found, Unplaceable)
    assert "nor is there a host" in found.why.summary


def test_the_fewest_go_and_of_those_the_lowest() -> None:
    wants = [instance("i", cpu=2000, placement=_HIGH)]
    many = [low(f"m{n}", cpu=1000, on="a") for n in range(4)]
    few = [low("f1", cpu=2000, on="b", priority=5), low("f2", cpu=2000, on="b", priority=3)]
    assert victims_of(decide([host("a"), host("b")], wants, many + few)[0]) == ["f2"]
    assert victims_of(decide([host("a")], wants, many)[0]) == ["m0", "m1"]


def test_a_group_is_not_brought_below_what_it_can_do_without() -> None:
    group = [replace(low(f"m{n}", cpu=2000), owner="g") for n in range(2)]
    wants = [instance("i", cpu=4000, placement=_HIGH), instance("j", cpu=1000, placement=_HIGH)]
    first, second = decide([host("a")], wants, group, g=1)
    assert isinstance(first, Unplaceable), "both would have to go"
    assert len(victims_of(second)) == 1
    assert isinstance(decide([host("a")], wants[1:], group, g=0)[0], Unplaceable)


def test_ports_and_devices_are_made_free() -> None:
    fleet = [host("a", devices=gpus("0", "1"))]
    taken = DeviceRequest("nvidia.com/gpu", 1, ("GPU-0",), "nvidia")
    holders = [
        low("port", ports=(80,)),
        low("gpu", device_requests=(taken,)),
        low("other", device_requests=(replace(taken, ids=("GPU-1",)),), priority=7),
    ]
    assert victims_of(decide(fleet, [instance("i", ports=(80,), placement=_HIGH)], holders)[0]) == ["port"]
    one_gpu = instance("i", device_requests=(DeviceRequest("gpu"),), placement=_HIGH)
    assert victims_of(decide(fleet, [one_gpu], holders)[0]) == ["gpu"]
    named = instance("i", device_requests=(DeviceRequest("gpu", ids=("1",)),), placement=_HIGH)
    assert victims_of(decide(fleet, [named], holders)[0]) == ["other"]


def test_whom_it_wants_to_be_near_to_stays() -> None:
    near = replace(_HIGH, affinity=(Affinity({"app": "db"}),))
    db = low("db", cpu=4000, labels={"app": "db"})
    (found,) = decide([host("a")], [instance("i", cpu=1000, placement=near)], [db])
    assert isinstance(found, Unplaceable)


def test_what_is_reserved_for_others_is_not_made_free() -> None:
    """Whose part it is gets back what it loses: nothing is won by pushing it out."""
    reserved = HostSettings(reservations=(HostReservation("projects/q", 4000),))
    theirs = low("o", cpu=4000, project="q")
    (found,) = decide([host("a", settings=reserved)], [instance("i", cpu=1000, placement=_HIGH)], [theirs])
    assert isinstance(found, Unplaceable)


def test_two_newcomers_do_not_share_one_place() -> None:
    full = [low("o1", cpu=2000), low("o2", cpu=2000)]
    wants = [instance(f"i{n}", cpu=2000, placement=_HIGH) for n in range(3)]
    first, second, third = decide([host("a")], wants, full)
    assert sorted([*victims_of(first), *victims_of(second)]) == ["o1", "o2"]
    assert isinstance(third, Unplaceable)


def test_a_place_that_is_kept_is_nobody_elses() -> None:
    waiting = instance("w", cpu=4000, placement=_HIGH, promised_uid="uid-a")
    (found,) = decide([host("a")], [instance("i", cpu=1000)], [waiting])
    assert isinstance(found, Unplaceable)
    higher = instance("h", cpu=1000, placement=Placement(priority=99, preempts=True))
    assert isinstance(decide([host("a")], [higher], [waiting])[0], Unplaceable)


def test_those_who_leave_anyway_are_waited_for() -> None:
    leaving = replace(low("o", cpu=4000, priority=50), leave_time=datetime(2030, 1, 1, tzinfo=UTC))
    (found,) = decide([host("a")], [instance("i", cpu=1000, placement=_HIGH)], [leaving])
    assert victims_of(found) == []
    assert "those that are leaving" in found.why.summary

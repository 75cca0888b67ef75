"""What is said of groups."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controlplane.domain.groups import GroupSlot, GroupState, RolloutPolicy, SlotPolicy
from controlplane.domain.instances import FilterResult
from controlplane.rollout import waves as module
from controlplane.rollout.status import group_status
from controlplane.rollout.waves import waves
from tests.unit.rollout.simulation import Simulation, group


def running(replicas: int = 3, **fields: object) -> Simulation:
    sim = Simulation(group(replicas, **fields))  # type: ignore[arg-type]
    sim.converge()
    return sim


def test_all_is_well() -> None:
    status = group_status(running().world)
    assert (status.state, status.reason, status.message) == (GroupState.STABLE, "", "")
    assert (status.wanted, status.members, status.ready, status.updated) == (3, 3, 3, 3)
    assert [slot.ready for slot in status.slots] == [True, True, True]
    assert status.slots[0].instance == "projects/demo/instances/web-0-m0001"


def test_what_hosts_lack() -> None:
    sim = running(5)
    filters = (FilterResult("admin", 1, "cordoned"), FilterResult("memory", 2, "less than 5 bytes free"))
    for uid in sorted(sim.members)[:2]:
        sim.change(uid, is_started=False, ready_time=None, refused_by=filters, trouble="UNPLACEABLE: none fits")
    status = group_status(sim.world)
    assert status.reason == "MEMBERS_NOT_READY"
    assert status.message == "3 of 5 ready: 1 host is cordoned, 2 lack memory"
    assert status.slots[0].message == "UNPLACEABLE: none fits"


def test_who_is_in_trouble_and_what_is_waited_for() -> None:
    sim = running(4, slots=SlotPolicy(sticky_name=True))
    uids = sorted(sim.members)
    for uid in uids[:2]:
        sim.change(uid, ready_time=None, trouble="its health check fails")
    sim.change(uids[2], is_leaving=True)
    sim.slots[3] = GroupSlot(
        "g1", 3, revision=1, failures=2, failure="CRASH_LOOP", not_before=sim.now + timedelta(seconds=8)
    )
    sim.vanish(uids[3])
    message = group_status(sim.world).message
    assert message.startswith("0 of 4 ready: web-0-m0001: its health check fails; web-1-m0002: its health check fails")
    assert message.endswith("2 more")
    told = {slot.slot: slot.message for slot in group_status(sim.world).slots}
    assert told[2] == f"waits until nothing is left of web-2-{uids[2]}"
    assert told[3] == "tried again in 8 s, after 2 failures in a row: CRASH_LOOP"


def test_waves_of_an_update() -> None:
    sim = running(3)
    sim.update()
    found = waves(sim.world)
    assert [[(s.action, s.slot) for s in wave.steps] for wave in found.waves] == [
        [("MAKE", 0)],
        [("LEAVE", 0), ("MAKE", 1)],
        [("LEAVE", 1), ("MAKE", 2)],
        [("LEAVE", 2)],
        [("SETTLE", -1)],
    ]
    assert not found.ends_because


def test_waves_of_canaries_of_a_pause_and_of_nothing() -> None:
    sim = running(3, rollout=RolloutPolicy(canaries=1))
    assert waves(sim.world) == replace(waves(sim.world), waves=(), ends_because="")
    sim.update()
    found = waves(sim.world)
    assert [[(s.action, s.slot) for s in wave.steps] for wave in found.waves] == [[("MAKE", 0)], [("LEAVE", 0)]]
    assert found.ends_because == "the canaries wait for PromoteGroup"
    sim.group = replace(sim.group, is_paused=True)
    assert (waves(sim.world).waves, waves(sim.world).ends_because) == ((), "the group is paused")


def test_waves_of_a_new_group_and_of_one_that_mends_itself() -> None:
    sim = Simulation(group(3))
    found = waves(sim.world)
    assert [[s.action for s in wave.steps] for wave in found.waves] == [["MAKE"] * 3, ["SETTLE"]]
    sim.converge()
    sim.fail(sorted(sim.members)[0])
    assert [[s.action for s in w.steps] for w in waves(sim.world).waves] == [["REMOVE", "MAKE"]]


def test_a_plan_of_a_large_group_says_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = running(10)
    sim.update()
    assert waves(sim.world).ends_because == ""
    monkeypatch.setattr(module, "_MOST_LOOKS", 60)
    found = waves(sim.world)
    assert found.ends_because == f"only the first {len(found.waves)} waves are shown"
    assert 0 < len(found.waves) <= 6

"""Spread over places, limits in one place, and hosts that are not for everybody."""

from collections import Counter
from dataclasses import replace

import pytest

from controlplane.domain.containers import DeviceRequest
from controlplane.domain.hosts import Host, HostAdminState, HostDevice, HostLinkState, HostReservation, HostSettings
from controlplane.domain.instances import DesiredState, Distinct, Instance, Placement, Spread, SpreadTarget
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, Decision, plan
from controlplane.scheduler.request import request_of
from tests.unit.scheduler.values import NOW, gpus, host, instance


def decide(fleet: list[Host], pending: list[Instance], placed: list[Instance] | None = None) -> list[Decision]:
    return plan([(i.uid, request_of(i)) for i in pending], Fleet(fleet, placed or ()), NOW)


def placements(decisions: list[Decision]) -> list[str]:
    return [decision.host if isinstance(decision, Assign) else "" for decision in decisions]


def in_zones(**sizes: int) -> list[Host]:
    return [host(f"{zone}{n}", zone=zone) for zone, size in sizes.items() for n in range(size)]


def zones(decisions: list[Decision]) -> dict[str, int]:
    return Counter(found[:1] for found in placements(decisions))


def group(count: int, placement: Placement, **fields: object) -> list[Instance]:
    return [instance(f"i{n}", placement=placement, owner="g", revision=1, **fields) for n in range(count)]  # type: ignore[arg-type]


def test_a_spread_is_even_whatever_the_sizes_of_the_zones() -> None:
    for soft in (False, True):
        found = decide(in_zones(a=5, b=1, c=2), group(9, Placement(spread=(Spread("zone", soft=soft),))))
        assert zones(found) == {"a": 3, "b": 3, "c": 3}


def test_a_strict_spread_refuses_what_a_soft_one_only_dislikes() -> None:
    fleet = [host("a0", zone="a"), host("b0", zone="b", cpu=100)]
    strict = decide(fleet, group(4, Placement(spread=(Spread("zone"),)), cpu=100))
    assert zones(strict) == {"a": 2, "b": 1, "": 1}
    assert "spread took 1 (has no place, or one that would be more than may be: 1 above" in strict[3].why.summary
    assert zones(decide(fleet, group(4, Placement(spread=(Spread("zone", 2),)), cpu=100))) == {"a": 3, "b": 1}
    assert zones(decide(fleet, group(4, Placement(spread=(Spread("zone", soft=True),)), cpu=100))) == {"a": 3, "b": 1}


@pytest.mark.parametrize("soft", [False, True])
def test_shares(soft: bool) -> None:
    spread = Spread("zone", soft=soft, targets=(SpreadTarget("a", 50), SpreadTarget("b", 30)))
    found = decide(in_zones(a=1, b=1, c=1, d=1), group(20, Placement(spread=(spread,))))
    assert zones(found) == {"a": 10, "b": 6, "c": 2, "d": 2}


def test_no_share_is_no_place() -> None:
    spread = Spread("zone", 5, targets=(SpreadTarget("a", 0),))
    assert zones(decide(in_zones(a=3, b=1), group(3, Placement(spread=(spread,))))) == {"b": 3}
    only_there = Spread("zone", targets=(SpreadTarget("a", 100),))
    assert zones(decide(in_zones(a=1, b=9), group(4, Placement(spread=(only_there,))))) == {"a": 4}


def test_a_zone_that_is_away_does_not_stop_the_others() -> None:
    down = [replace(one, link_state=HostLinkState.DOWN) for one in in_zones(a=2)]
    for spread in (Spread("zone"), Spread("zone", targets=(SpreadTarget("a", 90),))):
        found = decide([*down, *in_zones(b=1, c=1)], group(6, Placement(spread=(spread,))))
        assert zones(found) == {"b": 3, "c": 3}


def test_a_spread_looks_at_its_own_revision_and_not_at_those_that_leave() -> None:
    fleet, placement = in_zones(a=1, b=1), Placement(spread=(Spread("zone"),))
    old = [replace(one, uid=f"o{one.uid}", host_uid="uid-a0", revision=0) for one in group(3, placement)]
    leaving = [
        replace(one, uid=f"l{one.uid}", host_uid="uid-b0", desired=DesiredState.DELETED) for one in group(3, placement)
    ]
    assert zones(decide(fleet, group(4, placement), [*old, *leaving])) == {"a": 2, "b": 2}


def test_hosts_without_the_label_take_none() -> None:
    fleet = [host("a", labels={"rack": "r"}), host("b"), host("c")]
    assert placements(decide(fleet, group(2, Placement(spread=(Spread("rack"),))))) == ["a", "a"]
    assert placements(decide(fleet, group(2, Placement(distinct=(Distinct("rack"),))))) == ["a", ""]


def test_distinct_counts_the_group_the_template_or_labels() -> None:
    fleet = [host("a"), host("b")]
    found = decide(fleet, group(3, Placement(distinct=(Distinct(),))))
    assert placements(found) == ["a", "b", ""]
    assert "1 of its group in one host" in found[2].why.summary
    two = Placement(distinct=(Distinct("host", 2),))
    assert Counter(placements(decide(fleet, [instance(f"i{n}", placement=two) for n in range(5)]))) == {
        "a": 2,
        "b": 2,
        "": 1,
    }
    others = [instance("o", on="a", template_uid="other", labels={"app": "db"})]
    by_label = Placement(distinct=(Distinct("host", 1, {"app": "db"}),))
    assert placements(decide(fleet, [instance("i", placement=by_label)], others)) == ["b"]


def test_dedicated_hosts_and_taints() -> None:
    fleet = [
        host("mine", settings=HostSettings(dedicated_to=("projects/p",))),
        host("theirs", settings=HostSettings(dedicated_to=("projects/q", "projects/r"))),
        host("odd", settings=HostSettings(taints=("gpu=yes", "new=1"))),
    ]
    for project, expected in (("p", "mine"), ("q", "theirs"), ("r", "theirs"), ("s", "")):
        found = decide(fleet, [instance("i", project=project)])
        assert placements(found) == [expected]
    assert "dedicated took 2 (is dedicated to other projects than projects/s)" in found[0].why.summary
    assert "taint took 1" in found[0].why.summary
    for tolerations, expected in (
        (("gpu", "new=1"), "odd"),
        (("gpu=yes",), ""),
        (("gpu=no", "new"), ""),
    ):
        wants = instance("i", project="s", placement=Placement(tolerations=tolerations))
        assert placements(decide(fleet, [wants])) == [expected]


def test_overcommit_and_what_is_kept_for_the_machine() -> None:
    settings = HostSettings(
        reserved_cpu_millis=1000, reserved_memory_bytes=96, cpu_overcommit=2.0, memory_overcommit=0.5
    )
    fleet = [host("a", cpu=4000, memory=4096, settings=settings)]
    assert placements(decide(fleet, [instance("i", cpu=6000, memory=2000)])) == ["a"]
    assert placements(decide(fleet, [instance("i", cpu=6001)])) == [""]
    assert placements(decide(fleet, [instance("i", memory=2001)])) == [""]


def test_a_reservation_is_kept_until_its_owner_uses_it() -> None:
    fleet = [host("a", cpu=1000, settings=HostSettings(reservations=(HostReservation("projects/q", 600),)))]

    def fits(project: str, cpu: int, *placed: Instance) -> bool:
        return placements(decide(fleet, [instance("i", cpu=cpu, project=project)], list(placed))) == ["a"]

    used = instance("o", cpu=500, project="q", on="a")
    assert fits("p", 400)
    assert not fits("p", 401)
    assert fits("q", 1000)
    assert fits("p", 400, used), "what its owner uses is not kept twice"
    assert not fits("p", 401, used)
    assert fits("q", 500, used)


def test_devices_are_given_once_and_the_choosy_are_served_first() -> None:
    fleet = [host("a", devices=gpus("0", "1", "2"))]
    wants = instance("i", device_requests=(DeviceRequest("gpu"), DeviceRequest("nvidia.com/gpu", ids=("0",))))
    (found,) = decide(fleet, [wants])
    assert isinstance(found, Assign)
    assert [request.ids for request in found.devices] == [("GPU-1",), ("GPU-0",)]
    assert found.why.devices == ("nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-0")
    ones = [instance(f"i{n}", device_requests=(DeviceRequest("gpu", 1),)) for n in range(4)]
    refused = decide(fleet, ones)
    assert placements(refused) == ["a", "a", "a", ""]
    assert "device took 1 (has not free: 1 gpu)" in refused[3].why.summary


def test_all_devices_means_all_and_kinds_are_not_mixed() -> None:
    both = (*gpus("0"), *gpus("1", kind="amd.com/gpu", drivers=("cdi",)))
    every = DeviceRequest("gpu", -1)
    assert placements(decide([host("a")], [instance("i", device_requests=(every,))])) == [""]
    assert placements(decide([host("a", devices=gpus("0", "1"))], [instance("i", device_requests=(every,))])) == ["a"]
    two = instance("i", device_requests=(DeviceRequest("gpu", 2),))
    assert placements(decide([host("a", devices=both)], [two])) == [""]
    (found,) = decide([host("a", devices=both)], [instance("i", device_requests=(DeviceRequest("gpu", driver="cdi"),))])
    assert isinstance(found, Assign)
    assert (found.devices[0].kind, found.devices[0].driver) == ("nvidia.com/gpu", "cdi")
    nameless = (HostDevice("x/y", ("n",), ("path",)),)
    assert placements(
        decide([host("a", devices=nameless)], [instance("i", device_requests=(DeviceRequest("y"),))])
    ) == ["a"]


def test_where_the_image_is_comes_before_small_differences_of_load() -> None:
    fleet = [host("a"), host("b", images=("d",))]
    assert placements(decide(fleet, [instance("i")], [instance("o", on="b", template_uid="x")])) == ["b"]
    assert placements(decide(fleet, [instance("i")], [instance("o", on="b")])) == ["a"], "but not before the spread"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (HostAdminState.CORDONED, "admin took 1 (cordoned)"),
        (HostAdminState.DRAINING, "draining took 1 (being drained)"),
        (HostAdminState.MAINTENANCE, "maintenance took 1 (in maintenance)"),
    ],
)
def test_hosts_that_shall_take_nothing_take_nothing(state: HostAdminState, words: str) -> None:
    (found,) = decide([host("a", admin_state=state)], [instance("i")])
    assert found.why.summary == f"none of 1 hosts fits: {words}"

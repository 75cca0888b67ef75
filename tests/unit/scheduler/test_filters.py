"""Each filter by itself: whom it lets stay, and what it says of the others."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.containers import PublishedPort
from controlplane.domain.hosts import Host, HostAdminState, HostCondition, HostLinkState
from controlplane.domain.instances import Placement
from controlplane.scheduler import scores
from controlplane.scheduler.explain import fit_on
from controlplane.scheduler.filters import FILTERS
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.request import PlacementRequest, VolumeNeed, Wiring, port_key, ports_clash, request_of
from moorage.store import MemoryStore
from tests.unit.scheduler.values import host, instance

_FILTERS = {f.name: f for f in FILTERS}


def kept(name: str, request: PlacementRequest, *fleet: Host, placed: Any = ()) -> list[str]:
    columns = Fleet(fleet, placed)
    return [h.id for h, stays in zip(columns.hosts, _FILTERS[name].keeps(request, columns), strict=True) if stays]


def wish(**placement: Any) -> PlacementRequest:
    return request_of(instance("i", placement=Placement(**placement)))


def test_link_admin_and_condition() -> None:
    request = request_of(instance("i"))
    for state in HostLinkState:
        expected = ["a"] if state is HostLinkState.UP else []
        assert kept("link", request, host("a", link_state=state)) == expected
    for admin in HostAdminState:
        names = {HostAdminState.CORDONED: "admin"}
        for name in ("admin", "draining", "maintenance"):
            expected = [] if name == names.get(admin, admin.name.lower()) else ["a"]
            assert kept(name, request, host("a", admin_state=admin)) == expected
    ill = host("b", conditions=(HostCondition("ENGINE_DOWN", ""),))
    assert kept("condition", request, host("a"), ill) == ["a"]


def test_a_host_that_has_to_clear_up_first() -> None:
    request = request_of(instance("i"))
    fleet = (host("a"), host("b"))
    lost = instance("x", host="b", host_uid="uid-b", given_up="hosts/b is lost")
    assert kept("given-up", request, *fleet, placed=[lost]) == ["a"]
    columns = Fleet(fleet, [lost])
    columns.update_instance(lost, None)
    assert list(columns.given_up) == [0, 0]


def test_host_zone_and_label() -> None:
    fleet = (host("a", zone="z", labels={"disk": "ssd", "gpu": ""}), host("b", labels={"disk": "hdd"}))
    assert kept("host", wish(host="hosts/b"), *fleet) == ["b"]
    assert kept("host", wish(host="hosts/c"), *fleet) == []
    assert kept("zone", wish(zone="zones/z"), *fleet) == ["a"]
    assert kept("label", wish(host_labels={"disk": "ssd"}), *fleet) == ["a"]
    assert kept("label", wish(host_labels={"gpu": ""}), *fleet) == ["a"], "an empty value is not an absent label"
    assert kept("label", wish(host_labels={"disk": "ssd", "gpu": "x"}), *fleet) == []
    for name in ("host", "zone", "label"):
        assert kept(name, wish(), *fleet) == ["a", "b"]


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ((), ["arm", "none", "pc"]),
        (("linux/amd64",), ["pc"]),
        (("linux/arm64",), ["arm"]),
        (("linux/arm64/v8", "linux/amd64"), ["arm", "pc"]),
        (("windows/amd64",), []),
    ],
)
def test_platform(offered: tuple[str, ...], expected: list[str]) -> None:
    fleet = (host("pc"), host("arm", platform="linux/arm64/v8"), host("none", platform=""))
    assert kept("platform", request_of(instance("i", platforms=offered)), *fleet) == expected


def test_bridge() -> None:
    fleet = (host("a", bridges=("br0", "br1")), host("b", bridges=("br0",)))
    assert kept("bridge", request_of(instance("i"), Wiring(("br0", "br1"))), *fleet) == ["a"]
    assert kept("bridge", request_of(instance("i")), *fleet) == ["a", "b"]


def test_cpu_and_memory_count_what_is_placed() -> None:
    fleet = (host("a", cpu=1000, memory=1000), host("b", cpu=1000, memory=1000))
    placed = [instance("o", cpu=600, memory=300, on="a")]
    assert kept("cpu", request_of(instance("i", cpu=400)), *fleet, placed=placed) == ["a", "b"]
    assert kept("cpu", request_of(instance("i", cpu=401)), *fleet, placed=placed) == ["b"]
    assert kept("memory", request_of(instance("i", memory=701)), *fleet, placed=placed) == ["b"]
    over = [instance("o", cpu=5000, memory=5000, on="a")]
    nothing = request_of(instance("i"))
    assert kept("cpu", nothing, *fleet, placed=over) == ["a", "b"], "what reserves nothing always fits"


def test_host_ports() -> None:
    placed = [instance("o", ports=(80,), on="a")]
    assert kept("host-port", request_of(instance("i", ports=(80,))), host("a"), host("b"), placed=placed) == ["b"]
    assert kept("host-port", request_of(instance("i", ports=(81,))), host("a"), placed=placed) == ["a"]


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (PublishedPort(80, 1), PublishedPort(80, 2, "tcp"), True),
        (PublishedPort(80, 1), PublishedPort(80, 1, "udp"), False),
        (PublishedPort(80, 1, host_address="10.0.0.1"), PublishedPort(80, 1, host_address="10.0.0.2"), False),
        (PublishedPort(80, 1, host_address="10.0.0.1"), PublishedPort(80, 1), True),
        (PublishedPort(80, 1, host_address="10.0.0.1"), PublishedPort(80, 2, host_address="10.0.0.1"), True),
        (PublishedPort(80, 1), PublishedPort(81, 1), False),
    ],
)
def test_which_ports_clash(one: PublishedPort, other: PublishedPort, clash: bool) -> None:
    assert ports_clash(port_key(one), port_key(other)) is clash
    assert ports_clash(port_key(other), port_key(one)) is clash


def test_every_filter_explains_itself() -> None:
    request = request_of(
        instance(
            "i",
            cpu=5,
            memory=6,
            ports=(80,),
            placement=Placement(host="hosts/h", zone="zones/z", host_labels={"k": "v"}),
        ),
        Wiring(("br9",), ("eth9",), volumes=(VolumeNeed("projects/p/volumes/v", "uid-h7", "h7"),)),
    )
    texts = {name: f.explain(request) for name, f in _FILTERS.items()}
    assert all(texts.values())
    for name, word in {
        "host": "hosts/h",
        "zone": "zones/z",
        "label": "k=v",
        "bridge": "br9",
        "nic": "eth9",
        "volume": "hosts/h7",
        "cpu": "5 millicores",
        "memory": "6 bytes",
        "host-port": "80/tcp",
        "platform": "linux/amd64",
    }.items():
        assert word in texts[name]


def test_load_is_that_of_the_fullest_resource() -> None:
    fleet = Fleet(
        [host("a", cpu=1000, memory=1000), host("b", cpu=0, memory=0)], [instance("o", cpu=100, memory=500, on="a")]
    )
    assert list(scores.load(fleet)) == [0.5, 0.0]
    assert scores.explain(fleet, 0) == "1 instances, cpu 100/1000 m, memory 0/0 MiB"


def test_what_stays_where_it_is_need_not_like_the_hosts_state() -> None:
    """An update of an instance on a host that is cordoned, away or ill is judged by room only."""
    ill = host("a", cpu=1000, admin_state=HostAdminState.CORDONED, link_state=HostLinkState.DOWN)
    ill = replace(ill, conditions=(HostCondition("x", ""),))
    view = MemoryStore(()).snapshot()
    others = [instance("o", cpu=500, on="a")]
    before = instance("i", cpu=400, on="a")
    assert fit_on(ill, others, before, instance("i", cpu=500, on="a"), view)[0] == ""
    assert "cpu took 1" in fit_on(ill, others, before, instance("i", cpu=501, on="a"), view)[0]
    too_small = replace(ill, facts=replace(ill.facts, cpu_millis=600))
    assert fit_on(too_small, others, before, before, view)[0] == "", "what it has, it keeps"


def test_the_page_about_scheduling_has_every_filter() -> None:
    page = (Path(__file__).parents[3] / "docs/scheduling.md").read_text()
    table = page.partition("## Filters")[2].partition("## Scores")[0]
    listed = [
        name
        for line in table.splitlines()
        for name in re.findall(r"`([a-z-]+)`", line.split("|")[1] if "|" in line else "")
    ]
    assert listed == [f.name for f in FILTERS]

"""Hosts, instances and requests for tests of the scheduler, and strategies that make small crowded fleets of them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from controlplane.domain.containers import PublishedPort, Resources
from controlplane.domain.hosts import Host, HostAdminState, HostCondition, HostFacts, HostLinkState
from controlplane.domain.instances import (
    Affinity,
    Instance,
    InstanceSpec,
    Placement,
    PlacementStrategy,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def host(name: str, cpu: int = 4000, memory: int = 4096, **fields: Any) -> Host:
    """A host that takes work."""
    facts = HostFacts(
        platform=fields.pop("platform", "linux/amd64"),
        cpu_millis=cpu,
        memory_bytes=memory,
        bridges=fields.pop("bridges", ()),
    )
    return Host(
        **{
            "uid": f"uid-{name}",
            "id": name,
            "create_time": NOW,
            "facts": facts,
            "link_state": HostLinkState.UP,
            **fields,
        }
    )


def instance(
    uid: str, *, cpu: int = 0, memory: int = 0, ports: tuple[int, ...] = (), on: str = "", **fields: Any
) -> Instance:
    """An instance; `on` names its host."""
    spec = InstanceSpec(
        template="web",
        resources=Resources(cpu_millis=cpu, memory_bytes=memory),
        published_ports=tuple(PublishedPort(port, 80, "tcp") for port in ports),
        placement=fields.pop("placement", Placement()),
    )
    return Instance(
        **{
            "uid": uid,
            "project": "p",
            "id": uid,
            "create_time": NOW,
            "spec": spec,
            "effective": spec,
            "template_uid": "t",
            "image": "r@d",
            "platforms": ("linux/amd64",),
            "host_uid": f"uid-{on}" if on else "",
            "host": on,
            **fields,
        }
    )


_ZONES = st.sampled_from(["", "z1", "z2"])
_LABELS = st.dictionaries(st.sampled_from(["rack", "disk"]), st.sampled_from(["a", "b"]), max_size=2)
_APPS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]), max_size=2)
_TERMS = st.builds(
    Affinity,
    labels=st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]), min_size=1, max_size=2),
    topology=st.sampled_from(["", "host", "zone", "rack"]),
    soft=st.booleans(),
)
_PLACEMENTS = st.builds(
    Placement,
    zone=st.sampled_from(["", "", "zones/z1"]),
    host=st.sampled_from(["", "", "", "hosts/h0"]),
    host_labels=st.one_of(st.just({}), _LABELS),
    affinity=st.lists(_TERMS, max_size=1).map(tuple),
    anti_affinity=st.lists(_TERMS, max_size=1).map(tuple),
    strategy=st.sampled_from(PlacementStrategy),
)


@st.composite
def hosts(draw: st.DrawFn, size: int = 6) -> list[Host]:
    """A few hosts, most of which take work."""
    count = draw(st.integers(0, size))
    return [draw(any_host(f"h{number}")) for number in range(count)]


@st.composite
def any_host(draw: st.DrawFn, name: str) -> Host:
    """One host in any condition."""
    return host(
        name,
        draw(st.sampled_from([0, 1000, 4000])),
        draw(st.sampled_from([0, 1024, 4096])),
        zone=draw(_ZONES),
        labels=draw(_LABELS),
        platform=draw(st.sampled_from(["linux/amd64", "linux/amd64", "linux/arm64/v8"])),
        bridges=draw(st.sampled_from([(), ("br0",)])),
        link_state=draw(st.sampled_from([HostLinkState.UP] * 4 + [HostLinkState.DOWN])),
        admin_state=draw(st.sampled_from([HostAdminState.ENABLED] * 4 + [HostAdminState.CORDONED])),
        conditions=draw(st.sampled_from([(), (), (), (HostCondition("DISK_PRESSURE", ""),)])),
    )


@st.composite
def any_instance(draw: st.DrawFn, uid: str, on: tuple[str, ...] = ("",)) -> Instance:
    """One instance, wishing for anything."""
    return instance(
        uid,
        cpu=draw(st.sampled_from([0, 100, 600])),
        memory=draw(st.sampled_from([0, 256, 1024])),
        ports=draw(st.sampled_from([(), (), (80,), (80, 443)])),
        on=draw(st.sampled_from(on)),
        labels=draw(_APPS),
        placement=draw(_PLACEMENTS),
        platforms=draw(st.sampled_from([(), ("linux/amd64",), ("linux/arm64",)])),
        template_uid=draw(st.sampled_from(["t", "u"])),
        project=draw(st.sampled_from(["p", "q"])),
    )


@st.composite
def pendings(draw: st.DrawFn, size: int = 8) -> list[Instance]:
    """Instances without a host; some of them alike, as the members of a group are."""
    kinds = [draw(any_instance(f"kind{number}")) for number in range(draw(st.integers(1, 3)))]
    count = draw(st.integers(0, size))
    chosen = [draw(st.sampled_from(kinds)) for _ in range(count)]
    return [replace(one, uid=f"i{number}", id=f"i{number}") for number, one in enumerate(chosen)]

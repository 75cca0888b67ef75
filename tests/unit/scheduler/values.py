"""Hosts, instances and requests for tests of the scheduler, and strategies that make small crowded fleets of them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from controlplane.domain.containers import DeviceRequest, PublishedPort, Resources
from controlplane.domain.hosts import (
    Host,
    HostAdminState,
    HostCondition,
    HostDevice,
    HostFacts,
    HostLinkState,
    HostReservation,
    HostSettings,
)
from controlplane.domain.instances import (
    Affinity,
    Distinct,
    Instance,
    InstanceSpec,
    Placement,
    PlacementStrategy,
    Spread,
    SpreadTarget,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def host(name: str, cpu: int = 4000, memory: int = 4096, **fields: Any) -> Host:
    """A host that takes work."""
    facts = HostFacts(
        platform=fields.pop("platform", "linux/amd64"),
        cpu_millis=cpu,
        memory_bytes=memory,
        bridges=fields.pop("bridges", ()),
        devices=fields.pop("devices", ()),
        images=fields.pop("images", ()),
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


def gpus(
    *names: str, kind: str = "nvidia.com/gpu", drivers: tuple[str, ...] = ("nvidia", "cdi")
) -> tuple[HostDevice, ...]:
    """GPUs of a host, each with a long name and a number."""
    return tuple(HostDevice(kind, (f"GPU-{name}", name), drivers) for name in names)


def instance(
    uid: str, *, cpu: int = 0, memory: int = 0, ports: tuple[int, ...] = (), on: str = "", **fields: Any
) -> Instance:
    """An instance; `on` names its host."""
    spec = InstanceSpec(
        template="web",
        resources=Resources(cpu_millis=cpu, memory_bytes=memory),
        published_ports=tuple(PublishedPort(port, 80, "tcp") for port in ports),
        placement=fields.pop("placement", Placement()),
        device_requests=fields.pop("device_requests", ()),
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
_SPREADS = st.builds(
    Spread,
    topology=st.sampled_from(["", "host", "rack"]),
    max_skew=st.integers(0, 2),
    soft=st.booleans(),
    targets=st.sampled_from([(), (), (SpreadTarget("a", 75),), (SpreadTarget("z1", 0), SpreadTarget("b", 100))]),
)
_DISTINCTS = st.builds(
    Distinct,
    topology=st.sampled_from(["", "zone", "rack"]),
    limit=st.integers(0, 2),
    labels=st.sampled_from([{}, {}, {"app": "x"}]),
)
_PLACEMENTS = st.builds(
    Placement,
    zone=st.sampled_from(["", "", "zones/z1"]),
    host=st.sampled_from(["", "", "", "hosts/h0"]),
    host_labels=st.one_of(st.just({}), _LABELS),
    affinity=st.lists(_TERMS, max_size=1).map(tuple),
    anti_affinity=st.lists(_TERMS, max_size=1).map(tuple),
    strategy=st.sampled_from(PlacementStrategy),
    priority=st.sampled_from([0, 0, 5, 9]),
    preempts=st.booleans(),
    spread=st.lists(_SPREADS, max_size=1).map(tuple),
    distinct=st.lists(_DISTINCTS, max_size=1).map(tuple),
    tolerations=st.sampled_from([(), (), ("special",), ("special=yes",)]),
)
_SETTINGS = st.builds(
    HostSettings,
    reserved_cpu_millis=st.sampled_from([0, 0, 500]),
    reserved_memory_bytes=st.sampled_from([0, 0, 512]),
    cpu_overcommit=st.sampled_from([0.0, 0.0, 0.5, 2.0]),
    dedicated_to=st.sampled_from([(), (), (), ("projects/p",)]),
    taints=st.sampled_from([(), (), (), ("special=yes",)]),
    reservations=st.sampled_from([(), (), (HostReservation("projects/q", 700, 700),)]),
)
_DEVICES = st.sampled_from([(), (), gpus("0"), gpus("0", "1"), gpus("0", kind="amd.com/gpu", drivers=("cdi",))])
_DEVICE_REQUESTS = st.sampled_from(
    [
        (),
        (),
        (),
        (DeviceRequest("gpu"),),
        (DeviceRequest("nvidia.com/gpu", 2),),
        (DeviceRequest("gpu", -1),),
        (DeviceRequest("nvidia.com/gpu", ids=("1",)), DeviceRequest("gpu", 1)),
    ]
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
        devices=draw(_DEVICES),
        images=draw(st.sampled_from([(), ("d",)])),
        settings=draw(_SETTINGS),
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
        device_requests=draw(_DEVICE_REQUESTS),
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

"""Words about places, priorities and devices, and what they become."""

from typing import Any

import pytest

from cli.host_settings import apply_settings, reservation
from cli.instance.explain import explanation_lines
from cli.placement import apply_placement, device_request, distinct, gpus, spread
from moorage.errors import InvalidSpec
from moorage.v1 import hosts_pb2, instances_pb2
from tests.unit.cli.conftest import Moor
from tests.unit.cli.plane import Plane

Device = instances_pb2.DeviceRequest


def test_spread() -> None:
    assert spread("zone") == instances_pb2.Spread(topology="zone")
    assert spread("soft:rack:2") == instances_pb2.Spread(topology="rack", max_skew=2, soft=True)
    shares = spread("zone,a=60,b=30%")
    assert [(target.place, target.percent) for target in shares.targets] == [("a", 60), ("b", 30)]


def test_distinct() -> None:
    assert distinct("host") == instances_pb2.Distinct(topology="host")
    assert distinct("app=web,tier=a@zone:3") == instances_pb2.Distinct(
        topology="zone", limit=3, labels={"app": "web", "tier": "a"}
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("all", Device(kind="gpu", count=-1)),
        ("2", Device(kind="gpu", count=2)),
        ('device="0,1"', Device(kind="gpu", ids=["0", "1"])),
    ],
)
def test_gpus(word: str, expected: Any) -> None:
    assert gpus(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("nvidia.com/gpu=0", Device(kind="nvidia.com/gpu", ids=["0"])),
        ("nvidia.com/gpu=all", Device(kind="nvidia.com/gpu", count=-1)),
        ("kind=x.y/z,count=all,driver=cdi", Device(kind="x.y/z", count=-1, driver="cdi")),
        (
            "kind=gpu,id=0,id=1,driver=nvidia,capability=compute",
            Device(kind="gpu", ids=["0", "1"], driver="nvidia", capabilities=["compute"]),
        ),
    ],
)
def test_device_requests(word: str, expected: Any) -> None:
    assert device_request(word) == expected


@pytest.mark.parametrize(
    ("parse", "word"),
    [
        (spread, ""),
        (spread, "zone:x"),
        (spread, "zone,a"),
        (spread, "zone,=5"),
        (distinct, "zone:many"),
        (distinct, "web@"),
        (gpus, "0"),
        (gpus, "some"),
        (gpus, "device="),
        (device_request, "kind=gpu,count=x"),
        (device_request, "gpu"),
        (reservation, "demo"),
        (reservation, "demo:disk=4"),
        (reservation, "demo:cpu=x"),
    ],
)
def test_what_cannot_be_understood_is_refused(parse: Any, word: str) -> None:
    with pytest.raises(InvalidSpec):
        parse(word)


def test_a_device_is_a_node_or_a_name() -> None:
    spec = instances_pb2.InstanceSpec()
    apply_placement(spec, {"device": ["/dev/fuse", "nvidia.com/gpu=1"], "gpus": "1", "priority": -3, "preempt": True})
    assert list(spec.device_requests) == [Device(kind="gpu", count=1), Device(kind="nvidia.com/gpu", ids=["1"])]
    assert (spec.placement.priority, spec.placement.preempts) == (-3, True)


def options(**given: Any) -> dict[str, Any]:
    single = dict.fromkeys(("reserve_cpu", "reserve_memory", "cpu_overcommit", "memory_overcommit"))
    return {**single, "dedicate": (), "taint": (), "reserve_for": (), **given}


def test_settings_that_are_not_named_stay() -> None:
    settings = hosts_pb2.HostSettings(reserved_cpu_millis=1, taints=["a=b"], dedicated_to=["projects/x"])
    apply_settings(settings, options(reserve_memory="1Gi", dedicate=("none",), reserve_for=("demo:cpu=2,memory=4Gi",)))
    assert settings == hosts_pb2.HostSettings(
        reserved_cpu_millis=1,
        reserved_memory_bytes=2**30,
        taints=["a=b"],
        reservations=[hosts_pb2.HostReservation(project="projects/demo", cpu_millis=2000, memory_bytes=2**32)],
    )


def test_host_update(moor: Moor, plane: Plane) -> None:
    for name, labels in (("h1", {"class": "batch"}), ("h2", {})):
        settings = hosts_pb2.HostSettings(taints=["a=b"])
        plane.put(hosts_pb2.Host(name=f"hosts/{name}", labels=labels, etag="e7", settings=settings))
    moor("host", "update", code=2)
    moor("host", "update", "h1", code=2)
    moor("host", "update", "h1", "--filter", "labels.class=batch", "--reserve-cpu", "1", code=2)
    moor("host", "update", "h1", "h2", "--reserve-cpu", "0.5", "--cpu-overcommit", "4")
    asked = plane.requests("UpdateHost")
    assert [(one.host.name, one.host.etag, list(one.update_mask.paths)) for one in asked] == [
        ("hosts/h1", "e7", ["settings"]),
        ("hosts/h2", "e7", ["settings"]),
    ]
    wanted = hosts_pb2.HostSettings(reserved_cpu_millis=500, cpu_overcommit=4, taints=["a=b"])
    assert [one.host.settings for one in asked] == [wanted, wanted]


def test_explain_names_devices_and_what_is_kept() -> None:
    placed = instances_pb2.PlacementExplanation(host="hosts/h1", summary="fits", devices=["nvidia.com/gpu=GPU-1"])
    waits = instances_pb2.PlacementExplanation(summary="others must go", promised_host="hosts/h2")
    for placement, line in (
        (placed, "Its devices: nvidia.com/gpu=GPU-1."),
        (waits, "A place on h2 is kept for it."),
    ):
        status = instances_pb2.InstanceStatus(placement=placement)
        assert line in explanation_lines(instances_pb2.Instance(name="projects/p/instances/i", status=status))

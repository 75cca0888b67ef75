"""What may be asked of placement, what hosts are told to give, and devices of instances that change."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.domain.containers import DeviceRequest, Resources
from controlplane.domain.hosts import Host, HostDevice, HostReservation, HostSettings
from controlplane.domain.instances import Distinct, Instance, Placement, Spread, SpreadTarget
from controlplane.domain.kinds import HOST, INSTANCE
from controlplane.scheduler.explain import explain
from controlplane.services.lookup import etag_of
from moorage.errors import InvalidSpec, MoorageError, NotFound, NotReady, VersionConflict
from tests.unit.controlplane.world import P, World, problems

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GPUS = tuple(HostDevice("nvidia.com/gpu", (f"GPU-{n}", str(n)), ("nvidia", "cdi")) for n in range(3))
ANY = (DeviceRequest("gpu"),)


async def refused(call: Any, kind: type[MoorageError]) -> Any:
    with pytest.raises(kind) as caught:
        await call
    return caught.value


async def test_every_bad_wish_is_named(world: World) -> None:
    placement = Placement(
        priority=2_000_000,
        spread=(
            Spread(max_skew=-1, targets=(SpreadTarget("", 60), SpreadTarget("a", 50), SpreadTarget("a", -1))),
            *(Spread(),) * 4,
        ),
        distinct=(Distinct(limit=-1, labels={"": "x"}),),
        tolerations=("a=b", "no good"),
    )
    devices = (
        DeviceRequest("", -2, ids=("a", "a"), driver="magic", capabilities=("BIG",)),
        DeviceRequest("gpu", 3, ids=("a b",)),
    )
    error = await refused(world.create("i", placement=placement, device_requests=devices), InvalidSpec)
    where, device = "instance.spec.placement", "instance.spec.device_requests"
    assert problems(error) == [
        (f"{where}.priority", "OUT_OF_RANGE"),
        (f"{where}.spread", "OUT_OF_RANGE"),
        (f"{where}.spread[0].max_skew", "OUT_OF_RANGE"),
        (f"{where}.spread[0].targets[2]", "INVALID"),
        (f"{where}.spread[0].targets[0].place", "REQUIRED"),
        (f"{where}.spread[0].targets[2].percent", "OUT_OF_RANGE"),
        (f"{where}.spread[0].targets", "OUT_OF_RANGE"),
        (f"{where}.distinct[0].limit", "OUT_OF_RANGE"),
        (f"{where}.distinct[0].labels[]", "LABEL_INVALID"),
        (f"{where}.tolerations[1]", "TAINT_INVALID"),
        (f"{device}[0].kind", "INVALID"),
        (f"{device}[0].count", "OUT_OF_RANGE"),
        (f"{device}[0].count", "OUT_OF_RANGE"),
        (f"{device}[0].ids[1]", "INVALID"),
        (f"{device}[0].driver", "INVALID"),
        (f"{device}[0].capabilities", "INVALID"),
        (f"{device}[0].capabilities[0]", "INVALID"),
        (f"{device}[1].count", "OUT_OF_RANGE"),
        (f"{device}[1].ids[0]", "INVALID"),
    ]
    assert world.store.view().count(INSTANCE) == 0


async def test_priority_and_devices_need_the_policy(world: World) -> None:
    wishes: dict[str, Any] = {"placement": Placement(priority=7), "device_requests": ANY}
    error = await refused(world.create("i", **wishes), InvalidSpec)
    assert problems(error) == [
        ("instance.spec.device_requests[0].kind", "POLICY_DEVICE_KIND"),
        ("instance.spec.placement.priority", "POLICY_PRIORITY"),
    ]
    await world.projects.update(P, policy=ProjectPolicy(allowed_device_kinds=("gpu",), max_priority=6))
    assert problems(await refused(world.create("i", **wishes), InvalidSpec)) == [
        ("instance.spec.placement.priority", "POLICY_PRIORITY")
    ]
    await world.projects.update(P, policy=ProjectPolicy(allowed_device_kinds=("ALL",), max_priority=7))
    await world.create("i", **wishes)
    await world.create("j", placement=Placement(priority=-5))


async def test_what_a_host_gives(world: World) -> None:
    host = await world.host("a")
    settings = HostSettings(
        1000, 2**20, 2.0, 1.5, (f"projects/{P}",), ("new=1",), (HostReservation(f"projects/{P}", 1),)
    )
    changed = await world.hosts.update("a", settings=settings, etag=etag_of(host))
    assert changed.settings == settings
    assert (await world.hosts.update("a", labels={"x": "y"})).settings == settings, "the rest stays"
    await refused(world.hosts.update("a", settings=HostSettings(), etag=etag_of(host)), VersionConflict)
    await refused(world.hosts.update("a", settings=HostSettings(dedicated_to=("projects/none",))), NotFound)
    bad = HostSettings(
        -1, -1, 0.01, 200.0, ("projects/x",) * 2, ("a", "a=b", "a=b"), (HostReservation("projects/x", -1, -1),) * 2
    )
    error = await refused(world.hosts.update("a", settings=bad), InvalidSpec)
    assert [field.removeprefix("host.settings.") for field, _ in problems(error)] == [
        "reserved_cpu_millis",
        "reserved_memory_bytes",
        "cpu_overcommit",
        "memory_overcommit",
        "taints[0]",
        "taints[2]",
        "dedicated_to[1]",
        "reservations[1]",
        "reservations[0].cpu_millis",
        "reservations[0].memory_bytes",
        "reservations[1].cpu_millis",
        "reservations[1].memory_bytes",
    ]
    assert world.hosts.get("a").settings == settings
    dry = await world.hosts.update("a", settings=HostSettings(), validate_only=True)
    assert dry.settings == HostSettings()
    assert world.hosts.get("a").settings == settings


async def test_a_dry_run_says_what_would_be_pushed_out(world: World) -> None:
    await world.projects.update(P, policy=ProjectPolicy(max_priority=9))
    await host_with(world, cpu_millis=1000)
    await world.create("low", resources=Resources(cpu_millis=1000))
    await world.place("low", "a")
    wish = Placement(priority=9, preempts=True)
    wants = await world.create("high", resources=Resources(cpu_millis=500), placement=wish)
    (found,) = explain(world.store.view(), [wants], NOW)
    assert found.placement is not None
    assert found.placement.promised_host == "hosts/a"
    assert f"from which projects/{P}/instances/low of lower priority must go" in found.placement.summary


async def host_with(world: World, **facts: Any) -> Host:
    """A host with these facts besides the usual ones."""
    host = await world.host("a")
    changed = replace(host, facts=replace(host.facts, **facts))
    await world.store.update(lambda tx: tx.put(HOST, changed))
    return changed


async def with_gpu(world: World, name: str, given: str) -> Instance:
    """An instance that was given this one."""
    made = await world.create(name, device_requests=ANY)
    placed = await world.place(name, "a")
    got = (DeviceRequest("nvidia.com/gpu", 1, (given,), "nvidia"),)
    placed = replace(placed, effective=replace(made.effective, device_requests=got))
    await world.store.update(lambda tx: tx.put(INSTANCE, placed))
    return placed


def devices_of(instance: Instance) -> list[str]:
    return [name for request in instance.effective.device_requests for name in request.ids]


async def test_an_instance_keeps_its_devices(world: World) -> None:
    await world.projects.update(P, policy=ProjectPolicy(allowed_device_kinds=("gpu",)))
    host = await host_with(world, devices=GPUS)
    await with_gpu(world, "i", "GPU-2")
    assert devices_of(await world.changes.update(P, "i", labels={"x": "y"})) == ["GPU-2"]
    assert devices_of(await world.changes.replace(P, "i")) == ["GPU-2"], "the first free one would be another"
    await with_gpu(world, "j", "GPU-0")
    two = replace(world.get("i").spec, device_requests=(DeviceRequest("gpu", 2),))
    assert devices_of(await world.changes.replace(P, "i", spec=two)) == ["GPU-1", "GPU-2"]
    three = replace(two, device_requests=(DeviceRequest("gpu", 3),))
    error = await refused(world.changes.replace(P, "i", spec=three), NotReady)
    assert error.reason == "DOES_NOT_FIT"
    assert "device took 1" in error.message
    # One that is gone from its host does not stand in the way of anything but a new container.
    gone = replace(host, facts=replace(host.facts, devices=()))
    await world.store.update(lambda tx: tx.put(HOST, gone))
    await world.changes.update(P, "j", labels={"x": "z"})
    await refused(world.changes.replace(P, "j"), NotReady)


async def test_a_project_that_hosts_are_kept_for_stays(world: World) -> None:
    await world.host("a")
    await world.projects.create("other", "", Quota(), ProjectPolicy())
    for settings in (
        HostSettings(dedicated_to=("projects/other",)),
        HostSettings(reservations=(HostReservation("projects/other", 1),)),
    ):
        await world.hosts.update("a", settings=settings)
        error = await refused(world.projects.delete("other"), NotReady)
        assert error.reason == "PROJECT_IN_USE"
        assert "parts of hosts/a" in error.message
    await world.hosts.update("a", settings=HostSettings())
    await world.projects.delete("other")


@pytest.mark.parametrize(
    ("facts", "fields"),
    [
        ({"devices": (HostDevice("gpu", ("a",), ("cdi",)),)}, ["devices[0].kind"]),
        ({"devices": (HostDevice("x/gpu", (), ("cdi",)),)}, ["devices[0].names"]),
        ({"devices": (HostDevice("x/gpu", ("a b",), ("cdi",)),)}, ["devices[0].names"]),
        ({"devices": (HostDevice("x/gpu", ("a",), ()), HostDevice("x/gpu", ("a",), ("magic",)))}, None),
        ({"devices": tuple(HostDevice("x/gpu", (f"a{n}",), ("cdi",)) for n in range(257))}, ["devices"]),
        ({"images": ("d",) * 65}, ["images"]),
    ],
)
async def test_what_hosts_say_of_devices_is_checked(
    world: World, facts: dict[str, Any], fields: list[str] | None
) -> None:
    """The scheduler builds on it for every host."""
    host = await world.host("a")
    error = await refused(world.reports.connect(host.uid, replace(host.facts, **facts), "n", 1), InvalidSpec)
    expected = fields or ["devices[0].drivers", "devices[1].names", "devices[1].drivers"]
    assert [field.removeprefix("facts.") for field, _ in problems(error)] == expected
    assert world.hosts.get("a") == host


async def test_what_hosts_may_say(world: World) -> None:
    host = await world.host("a")
    facts = replace(host.facts, devices=GPUS, images=("sha256:0",))
    assert (await world.reports.connect(host.uid, facts, "n", 1)).facts == facts

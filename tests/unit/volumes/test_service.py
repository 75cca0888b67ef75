"""Volumes: what may be asked for, who may have one, where that binds them, and how they go."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.access.quota import Quota
from controlplane.dispatch.volumes import volumes_of
from controlplane.domain.hosts import HostLinkState, HostLoss
from controlplane.domain.instances import Instance, InstanceState
from controlplane.domain.kinds import HOST, INSTANCE, VOLUME
from controlplane.domain.volumes import (
    HostLossPolicy,
    Volume,
    VolumeCopy,
    VolumeMount,
    VolumeSharing,
    VolumeSpec,
    VolumeState,
    state_of,
)
from controlplane.scheduler.loop import Scheduler
from controlplane.services import lookup
from controlplane.services.paging import PageRequest
from controlplane.services.volume_reports import VolumeReport, VolumeReports
from controlplane.volumes.loop import VolumeKeeper
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, NotReady, QuotaExceeded, Unavailable, VersionConflict
from moorage.store.base import Transaction
from moorage.tasks import TaskOwner
from tests.support.controlplane import make_host
from tests.unit.controlplane.world import P, World, problems

PLAIN = VolumeSpec()
SHARED = VolumeSpec(sharing=VolumeSharing.SHARED)
DATA = (VolumeMount("data", "/data"),)


async def volume(world: World, name: str = "data", spec: VolumeSpec = PLAIN) -> Volume:
    return await world.volumes.create(P, name, {}, spec)


async def schedule(world: World) -> None:
    def push_out(_tx: Transaction, _victim: Instance, _why: str) -> None:
        raise AssertionError("nobody is pushed out here")

    scheduler = Scheduler(world.store, world.clock, push_out)
    view = world.store.view()
    scheduler._fleet = type(scheduler._fleet)((h.value for h in view.all(HOST)), (i.value for i in view.all(INSTANCE)))
    await scheduler.schedule_once()


class Hosts:
    """Hosts that do what they are asked, or refuse."""

    def __init__(self) -> None:
        self.removed: list[tuple[str, str, int]] = []
        self.is_away = False

    async def remove(self, host_uid: str, wanted: Any) -> None:
        if self.is_away:
            raise Unavailable("away", reason="HOST_AWAY")
        self.removed.append((host_uid, wanted.volume_id, wanted.incarnation))


async def settle(world: World, hosts: Hosts) -> None:
    """What the loop would do until it rests."""
    for _ in range(4):
        async with TaskOwner("removals") as tasks:
            keeper: Any = VolumeKeeper(world.context, hosts, tasks)  # type: ignore[arg-type]
            await keeper.reconcile_once()
            await asyncio.gather(*(t for t in asyncio.all_tasks() if t.get_name() in tasks.running))


async def test_a_volume_is_kept_with_nothing_left_to_guess(world: World) -> None:
    made = await volume(world)
    assert made.name == f"projects/{P}/volumes/data"
    assert (made.spec.sharing, made.spec.on_host_loss, made.spec.mode) == (
        VolumeSharing.EXCLUSIVE,
        HostLossPolicy.WAIT,
        0o755,
    )
    assert world.volumes.get(P, "data") == made
    assert [item.value.id for item in world.volumes.list(P, PageRequest(filter="state=UNPLACED")).items] == ["data"]
    assert lookup.project(world.store.view(), P).usage.volumes == 1
    with pytest.raises(AlreadyExists):
        await volume(world)


async def test_all_that_is_wrong_is_said_at_once(world: World) -> None:
    with pytest.raises(InvalidSpec) as refused:
        await volume(world, "Bad", VolumeSpec(owner_uid=-1, owner_gid=2**40, mode=0o10000, host="nowhere"))
    assert dict(problems(refused.value)) == {
        "volume_id": "NAME_INVALID",
        "volume.spec.owner_uid": "OUT_OF_RANGE",
        "volume.spec.owner_gid": "OUT_OF_RANGE",
        "volume.spec.mode": "OUT_OF_RANGE",
        "volume.spec.host": "NAME_INVALID",
    }
    assert not list(world.store.view().all(VOLUME))


@pytest.mark.parametrize(
    ("mounts", "field", "reason"),
    [
        ((VolumeMount("", "/a"),), "volumes[0].volume", "REQUIRED"),
        ((VolumeMount("data", "a"),), "volumes[0].target", "INVALID_PATH"),
        ((VolumeMount("data", "/"),), "volumes[0].target", "INVALID_PATH"),
        ((VolumeMount("data", "/a/../b"),), "volumes[0].target", "INVALID_PATH"),
        ((VolumeMount("data", "/a"), VolumeMount("data", "/a")), "volumes[1].target", "INVALID"),
        ((VolumeMount("data", "/a", sub_path="/x"),), "volumes[0].sub_path", "INVALID_PATH"),
        ((VolumeMount("data", "/a", sub_path="x/../../y"),), "volumes[0].sub_path", "INVALID_PATH"),
        (tuple(VolumeMount("data", f"/a{n}") for n in range(33)), "volumes", "OUT_OF_RANGE"),
    ],
)
async def test_mounts_that_are_refused(world: World, mounts: tuple[VolumeMount, ...], field: str, reason: str) -> None:
    await volume(world)
    with pytest.raises(InvalidSpec) as refused:
        await world.create("i", volumes=mounts)
    assert problems(refused.value) == [(f"instance.spec.{field}", reason)]


async def test_one_at_a_time(world: World) -> None:
    await volume(world)
    await volume(world, "files", SHARED)
    both = (*DATA, VolumeMount("files", "/files"))
    await world.create("one", volumes=both)
    with pytest.raises(NotReady) as refused:
        await world.create("two", volumes=both)
    assert (refused.value.reason, refused.value.metadata["instance"]) == (
        "VOLUME_IN_USE",
        f"projects/{P}/instances/one",
    )
    await world.create("two", volumes=both[1:])
    with pytest.raises(NotFound) as missing:
        await world.create("three", volumes=(VolumeMount("nothing", "/n"),))
    assert "moor volume create nothing" in missing.value.message
    with pytest.raises(NotReady):
        await world.changes.replace(P, "two", spec=replace(world.get("two").spec, volumes=both))
    await world.changes.replace(P, "one")


async def test_who_was_given_up_does_not_keep_it(world: World) -> None:
    await volume(world)
    await world.create("one", volumes=DATA)
    await world.place("one", "h1")
    lost = replace(world.get("one"), given_up="its host is lost")
    await world.store.update(lambda tx: tx.put(INSTANCE, lost))
    await world.create("two", volumes=DATA)


async def test_instances_go_where_the_files_are(world: World) -> None:
    await world.host("h1")
    await world.host("h2")
    await volume(world, "files", SHARED)
    mounts = (VolumeMount("files", "/files", read_only=True, sub_path="a/b"),)
    for name in ("one", "two", "three"):
        await world.create(name, volumes=mounts)
    for _ in range(3):
        await schedule(world)
    assert len({world.get(name).host for name in ("one", "two", "three")} - {""}) == 1
    made = world.volumes.get(P, "files")
    assert made.host == world.get("one").host
    assert state_of(made) is VolumeState.READY
    (told,) = volumes_of(world.store.view(), world.get("one"))
    assert (told.volume.volume_id, told.target, told.read_only, told.sub_path, told.exclusive) == (
        *(made.uid, "/files", True, "a/b", False),
    )
    assert not told.volume.must_exist
    reports = VolumeReports(world.context)
    await reports.apply("uid-h9", [VolumeReport(made.uid, 1, 5)])
    await reports.apply(made.host_uid, [VolumeReport(made.uid, 2, 6)])
    assert not world.volumes.get(P, "files").is_made
    await reports.apply(made.host_uid, [VolumeReport(made.uid, 1, 7)])
    assert world.volumes.get(P, "files").used_bytes == 7
    assert volumes_of(world.store.view(), world.get("one"))[0].volume.must_exist


async def test_where_the_files_are_is_the_reason(world: World) -> None:
    await world.host("h1")
    await world.host("h2")
    await volume(world, spec=VolumeSpec(host="hosts/h2"))
    await world.create("one", volumes=DATA)
    await schedule(world)
    assert world.get("one").host == "h2"
    with pytest.raises(NotFound):
        await volume(world, "other", VolumeSpec(host="hosts/h9"))


async def test_a_volume_in_use_stays(world: World) -> None:
    made = await volume(world)
    await world.create("one", volumes=DATA)
    with pytest.raises(NotReady) as refused:
        await world.volumes.delete(P, "data")
    assert refused.value.reason == "VOLUME_IN_USE"
    with pytest.raises(NotReady):
        await world.volumes.update(P, "data", spec_fields={"on_host_loss": HostLossPolicy.REPLACE})
    changed = await world.volumes.update(
        P, "data", spec_fields={"on_host_loss": HostLossPolicy.FAIL}, labels={"a": "b"}
    )
    assert (changed.spec.on_host_loss, changed.labels) == (HostLossPolicy.FAIL, {"a": "b"})
    with pytest.raises(VersionConflict):
        await world.volumes.update(P, "data", labels={}, etag=lookup.etag_of(made))
    assert world.volumes.instances(changed) == (f"projects/{P}/instances/one",)


async def test_it_is_forgotten_when_its_host_has_removed_it(world: World) -> None:
    hosts = Hosts()
    await world.host("h1")
    made = await volume(world, spec=VolumeSpec(host="hosts/h1"))
    await world.volumes.delete(P, "data")
    with pytest.raises(NotReady) as refused:
        await world.create("one", volumes=DATA)
    assert refused.value.reason == "VOLUME_DELETING"
    hosts.is_away = True
    await settle(world, hosts)
    assert state_of(world.volumes.get(P, "data")) is VolumeState.DELETING
    hosts.is_away = False
    await settle(world, hosts)
    assert hosts.removed == [("uid-h1", made.uid, 1)]
    with pytest.raises(NotFound):
        world.volumes.get(P, "data")
    assert lookup.project(world.store.view(), P).usage == Quota(templates=1)
    assert world.reasons() == ["CREATED", "DELETING", "DELETED"]


async def test_what_is_declared_happens_when_its_host_is_lost(world: World) -> None:
    hosts = Hosts()
    down = await world.host("h1", link_state=HostLinkState.DOWN, loss=HostLoss(world.clock.now()))
    await world.host("h2")
    for policy in (HostLossPolicy.WAIT, HostLossPolicy.REPLACE, HostLossPolicy.FAIL):
        name = policy.name.lower()
        await volume(world, name, VolumeSpec(host="hosts/h1", on_host_loss=policy))
        await world.create(name, volumes=(VolumeMount(name, "/data"),))
    await settle(world, hosts)
    await schedule(world)
    waiting, replaced, failed = (world.get(name) for name in ("wait", "replace", "fail"))
    assert (waiting.observed.state, waiting.observed.reason) == (InstanceState.PENDING, "UNPLACEABLE")
    assert "which is on hosts/h1" in waiting.observed.message
    assert replaced.host == "h2"
    assert (failed.observed.state, failed.observed.reason) == (InstanceState.FAILED, "VOLUME_LOST")
    anew = world.volumes.get(P, "replace")
    assert (anew.host, anew.incarnation, anew.is_made) == ("h2", 2, False)
    assert {"BEGUN_ANEW", "LOST"} <= set(world.reasons())
    await world.store.update(lambda tx: tx.put(HOST, replace(down, link_state=HostLinkState.UP, loss=None)))
    await settle(world, hosts)
    await schedule(world)
    assert [world.get(name).host for name in ("wait", "replace", "fail")] == ["h1", "h2", "h1"]
    await world.instances.delete(P, ["replace"])
    gone = world.get("replace")
    await world.report(gone, InstanceState.DELETED)
    await world.volumes.delete(P, "replace")
    await settle(world, hosts)
    assert sorted(hosts.removed) == [("uid-h1", anew.uid, 1), ("uid-h2", anew.uid, 2)]


async def test_quota(world: World) -> None:
    project = lookup.project(world.store.view(), P)
    await world.projects.update(P, quota=replace(project.quota, volumes=1))
    await volume(world)
    with pytest.raises(QuotaExceeded):
        await volume(world, "two")
    with pytest.raises(NotReady) as refused:
        await world.projects.delete(P)
    assert "volumes" in refused.value.message


async def test_a_size_needs_a_host_that_can_limit_it(world: World) -> None:
    lacking = replace(make_host("h1", world.clock.now()).facts, volume_size_problem="it lacks mkfs.ext4")
    await world.host("h1", facts=lacking)
    sized = VolumeSpec(size_bytes=1 << 30)
    with pytest.raises(NotReady) as refused:
        await volume(world, "there", replace(sized, host="hosts/h1"))
    assert refused.value.reason == "VOLUME_SIZE_NOT_SUPPORTED"
    with pytest.raises(InvalidSpec):
        await volume(world, "tiny", VolumeSpec(size_bytes=1))
    await volume(world, spec=sized)
    await world.create("one", volumes=DATA)
    await schedule(world)
    assert "cannot limit the size" in world.get("one").observed.message
    await world.host("h2")
    await schedule(world)
    assert world.get("one").host == "h2"
    project = lookup.project(world.store.view(), P)
    assert project.usage.volume_bytes == 1 << 30
    await world.projects.update(P, quota=replace(project.quota, volume_bytes=3 << 29))
    with pytest.raises(QuotaExceeded):
        await volume(world, "more", sized)
    with pytest.raises(InvalidSpec) as required:
        await volume(world, "endless")
    assert problems(required.value) == [("volume.spec.size_bytes", "REQUIRED")]


async def test_a_host_with_files_is_not_taken_away_by_mistake(world: World) -> None:
    await world.host("h1")
    await volume(world, spec=VolumeSpec(host="hosts/h1"))
    with pytest.raises(NotReady) as refused:
        await world.hosts.delete("h1")
    assert (refused.value.reason, refused.value.metadata["volumes"]) == ("HOST_IN_USE", "1")
    await world.hosts.delete("h1", force=True)
    await settle(world, Hosts())
    assert state_of(world.volumes.get(P, "data")) is VolumeState.LOST


async def test_one_work_follows_the_other(world: World) -> None:
    hosts = Hosts()
    await world.host("h1")
    await world.host("h2")
    made = await volume(world, spec=VolumeSpec(host="hosts/h2"))
    left = replace(made, incarnation=2, copies=(VolumeCopy("uid-h1", "h1", 1),))
    await world.store.update(lambda tx: tx.put(VOLUME, left))
    await world.volumes.delete(P, "data")
    async with TaskOwner("work") as tasks, asyncio.timeout(5):
        await VolumeKeeper(world.context, hosts, tasks).reconcile_once()  # type: ignore[arg-type]
        while waiting := [task for task in asyncio.all_tasks() if task.get_name() in tasks.running]:
            await asyncio.gather(*waiting)
    assert sorted(hosts.removed) == [("uid-h1", made.uid, 1), ("uid-h2", made.uid, 2)]
    assert not list(world.store.view().all(VOLUME))

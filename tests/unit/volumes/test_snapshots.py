"""Snapshots, restores and clones: brought about by the loop, tried again while a host cannot, and waited for by instances."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.hosts import HostLinkState
from controlplane.domain.instances import InstanceState, Observed
from controlplane.domain.kinds import HOST, INSTANCE, VOLUME, VOLUME_SNAPSHOT
from controlplane.domain.volumes import VolumeSnapshotState, VolumeSpec, VolumeState, state_of
from controlplane.services import lookup
from controlplane.services.instance_claims import release
from controlplane.services.paging import PageRequest
from controlplane.services.volume_snapshots import VolumeSnapshotService
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, NotReady, Unavailable, VersionConflict
from tests.unit.controlplane.world import P, World, problems
from tests.unit.volumes.test_service import DATA, Hosts, schedule, settle, volume


class Copying(Hosts):
    """Hosts that copy, as a list of what they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, ...]] = []

    def _do(self, *what: str) -> None:
        if self.is_away:
            raise Unavailable("the disk is busy", reason="DISK_BUSY")
        self.done.append(what)

    async def snapshot(self, host_uid: str, wanted: Any, snapshot_id: str, *, no_pause: bool) -> None:
        self._do("snapshot", host_uid, wanted.volume_id, snapshot_id)

    async def remove_snapshot(self, host_uid: str, wanted: Any, snapshot_id: str) -> None:
        self._do("remove_snapshot", host_uid, snapshot_id)

    async def copy(self, host_uid: str, wanted: Any, source: Any, snapshot_id: str) -> None:
        self._do("copy", host_uid, source.volume_id, wanted.volume_id, snapshot_id)

    async def read(self, host_uid: str, wanted: Any, *, no_pause: bool, snapshot_id: str = "") -> Any:
        self._do("read", host_uid, wanted.volume_id, snapshot_id)
        yield b"tar"

    async def write(self, host_uid: str, wanted: Any, tar: Any) -> None:
        assert [chunk async for chunk in tar] == [b"tar"]
        self._do("write", host_uid, wanted.volume_id)


@pytest.fixture
async def placed(world: World) -> World:
    await world.host("h1")
    await world.host("h2")
    await volume(world, spec=VolumeSpec(host="hosts/h1"))
    return world


async def test_a_snapshot_is_made_kept_and_removed(placed: World) -> None:
    world, hosts, snapshots = placed, Copying(), VolumeSnapshotService(placed.context)
    made = await snapshots.create(P, "data", "s1", {"a": "b"})
    assert (made.name, made.state) == (f"projects/{P}/volumes/data/snapshots/s1", VolumeSnapshotState.CREATING)
    with pytest.raises(NotReady) as refused:
        await snapshots.restore(P, "data", "s1")
    assert refused.value.reason == "SNAPSHOT_NOT_READY"
    with pytest.raises(AlreadyExists):
        await snapshots.create(P, "data", "s1", {})
    hosts.is_away = True
    await settle(world, hosts)
    assert "DISK_BUSY" in snapshots.get(P, "data", "s1").message
    hosts.is_away = False
    await settle(world, hosts)
    assert (snapshots.get(P, "data", "s1").state, snapshots.get(P, "data", "s1").message) == (
        VolumeSnapshotState.READY,
        "",
    )
    assert hosts.done == [("snapshot", "uid-h1", made.volume_uid, made.uid)]
    assert [item.value.id for item in snapshots.list(P, "data", PageRequest()).items] == ["s1"]
    with pytest.raises(NotReady) as kept:
        await world.volumes.delete(P, "data")
    assert kept.value.reason == "VOLUME_HAS_SNAPSHOTS"
    with pytest.raises(VersionConflict):
        await snapshots.delete(P, "data", "s1", etag="other")
    await snapshots.delete(P, "data", "s1")
    await settle(world, hosts)
    assert not list(world.store.view().all(VOLUME_SNAPSHOT))
    await world.volumes.delete(P, "data")


async def test_what_cannot_be_kept(placed: World) -> None:
    snapshots = VolumeSnapshotService(placed.context)
    await volume(placed, "new")
    with pytest.raises(NotReady) as unplaced:
        await snapshots.create(P, "new", "s1", {})
    assert unplaced.value.reason == "VOLUME_UNPLACED"
    with pytest.raises(InvalidSpec) as bad:
        await snapshots.create(P, "data", "S1", {"": ""})
    assert problems(bad.value)[0] == ("volume_snapshot_id", "NAME_INVALID")
    with pytest.raises(NotFound):
        snapshots.list(P, "nothing", PageRequest())


async def test_a_restore_waits_for_nobody_and_instances_wait_for_it(placed: World) -> None:
    world, hosts, snapshots = placed, Copying(), VolumeSnapshotService(placed.context)
    made = await snapshots.create(P, "data", "s1", {})
    await settle(world, hosts)
    await world.create("one", volumes=DATA)
    await world.place("one", "h1")
    running = replace(world.get("one"), observed=Observed(InstanceState.RUNNING))
    await world.store.update(lambda tx: tx.put(INSTANCE, running))
    with pytest.raises(NotReady) as used:
        await snapshots.restore(P, "data", "s1")
    assert used.value.reason == "VOLUME_IN_USE"
    await world.store.update(lambda tx: release(tx, running, world.clock.now()))
    restoring = await snapshots.restore(P, "data", "s1")
    assert state_of(restoring) is VolumeState.COPYING
    with pytest.raises(NotReady) as busy:
        await snapshots.restore(P, "data", "s1")
    assert busy.value.reason == "VOLUME_COPYING"
    with pytest.raises(NotReady) as held:
        await snapshots.delete(P, "data", "s1")
    assert held.value.reason == "SNAPSHOT_IN_USE"
    await settle(world, hosts)
    assert state_of(world.volumes.get(P, "data")) is VolumeState.READY
    assert hosts.done[-1] == ("copy", "uid-h1", made.volume_uid, made.volume_uid, made.uid)


async def test_clones(placed: World) -> None:
    world, hosts, snapshots = placed, Copying(), VolumeSnapshotService(placed.context)
    source = world.volumes.get(P, "data")
    near = await volume(world, "near", VolumeSpec(source="data"))
    assert (near.host, near.spec.source, state_of(near)) == ("h1", source.name, VolumeState.COPYING)
    await world.create("one", volumes=(replace(DATA[0], volume="near"),))
    await schedule(world)
    assert "is being copied into" in world.get("one").observed.message
    with pytest.raises(NotReady) as used:
        await world.volumes.delete(P, "data")
    assert used.value.reason == "VOLUME_IN_USE"
    await settle(world, hosts)
    await schedule(world)
    assert world.get("one").host == "h1"
    kept = await snapshots.create(P, "data", "s1", {})
    await settle(world, hosts)
    far = await volume(world, "far", VolumeSpec(source=kept.name, host="hosts/h2"))
    await settle(world, hosts)
    assert hosts.done[-2:] == [("read", "uid-h1", source.uid, kept.uid), ("write", "uid-h2", far.uid)]
    for bad in ("data/snapshots", "data/x/s1", "projects/other/volumes/data"):
        with pytest.raises(InvalidSpec):
            await volume(world, "bad", VolumeSpec(source=bad))
    with pytest.raises(NotFound):
        await volume(world, "bad", VolumeSpec(source="nothing"))


async def test_they_go_with_their_host(placed: World) -> None:
    world, hosts, snapshots = placed, Copying(), VolumeSnapshotService(placed.context)
    await snapshots.create(P, "data", "s1", {})
    await settle(world, hosts)
    down = replace(lookup.host(world.store.view(), "h1"), link_state=HostLinkState.DOWN)
    await world.store.update(lambda tx: tx.put(HOST, down))
    await snapshots.create(P, "data", "s2", {})
    await settle(world, hosts)
    assert snapshots.get(P, "data", "s2").state is VolumeSnapshotState.CREATING
    await world.store.update(lambda tx: tx.delete(HOST, "h1"))
    await settle(world, hosts)
    assert not list(world.store.view().all(VOLUME_SNAPSHOT))
    assert state_of(world.volumes.get(P, "data")) is VolumeState.LOST
    await world.volumes.delete(P, "data")
    await settle(world, hosts)
    assert not list(world.store.view().all(VOLUME))

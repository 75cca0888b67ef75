"""Hosts that are emptied: what is asked for, what is done by and by, and how it ends."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from controlplane.domain.hosts import Host, HostAdminState
from controlplane.domain.instances import DesiredState, InstanceSpec, InstanceState, Placement
from controlplane.domain.kinds import INSTANCE, VOLUME
from controlplane.domain.volumes import VolumeMount, VolumeSpec
from controlplane.drain.loop import Drains
from controlplane.services.host_drains import DrainWish, HostDrains
from controlplane.services.lookup import etag_of
from moorage.errors import InvalidSpec, NotFound, VersionConflict
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World, problems


@pytest.fixture
async def drained(world: World) -> HostDrains:
    """Two hosts, and on the first an instance that nobody makes anew."""
    await world.host("a")
    await world.host("b")
    await world.create("own")
    await world.place("own", "a")
    return HostDrains(world.context)


async def turn(world: World) -> Host:
    await Drains(world.context, world.making).reconcile_once()
    return world.hosts.get("a")


def waits(host: Host) -> list[tuple[str, str]]:
    assert host.drain is not None
    return [(wait.instance.rpartition("/")[2], wait.reason) for wait in host.drain.waits]


async def test_what_is_asked_is_checked(world: World, drained: HostDrains) -> None:
    for wish, field in ((DrainWish(-1.0), "deadline"), (DrainWish(force=True), "deadline")):
        with pytest.raises(InvalidSpec) as caught:
            await drained.drain("a", wish)
        assert [name for name, _ in problems(caught.value)] == [field]
    with pytest.raises(NotFound):
        await drained.drain("c", DrainWish())
    with pytest.raises(VersionConflict):
        await drained.drain("a", DrainWish(), etag="other")
    before = world.hosts.get("a")
    told = await drained.drain("a", DrainWish(), etag=etag_of(before), validate_only=True)
    assert told.admin_state is HostAdminState.DRAINING
    assert world.hosts.get("a") == before


async def test_an_instance_of_nobody_is_named_and_waited_for(world: World, drained: HostDrains) -> None:
    await drained.drain("a", DrainWish(10.0))
    host = await turn(world)
    assert (host.admin_state, waits(host)) == (HostAdminState.DRAINING, [("own", "UNMANAGED")])
    world.clock.advance(11.0)
    host = await turn(world)
    assert host.drain is not None
    assert host.drain.overdue
    assert world.get("own").desired is DesiredState.RUNNING
    await drained.drain("a", DrainWish(0.0, delete_unmanaged=True))
    await turn(world)
    assert world.get("own").desired is DesiredState.DELETED
    assert waits(await turn(world)) == [("own", "LEAVING")]
    await world.report(world.get("own"), InstanceState.DELETED)
    host = await turn(world)
    assert host.admin_state is HostAdminState.MAINTENANCE
    assert await drained.drain("a", DrainWish()) == host
    host = await world.hosts.set_admin_state("a", HostAdminState.ENABLED)
    assert host.drain is None
    assert world.reasons()[-5:] == ["DRAIN_OVERDUE", "DELETING", "DELETED", "MAINTENANCE", "ENABLED"]


async def test_members_are_marked_and_may_stay_when_it_is_taken_back(world: World, drained: HostDrains) -> None:
    await world.group("web", 1)

    def make(tx: Transaction) -> None:
        group = world.groups.get(P, "web")
        found = tx.get(INSTANCE, f"{P}/own")
        assert found is not None
        tx.put(INSTANCE, replace(found.value, owner=group.name, slot=0, revision=1))

    await world.store.update(make)
    await drained.drain("a", DrainWish())
    assert waits(await turn(world)) == [("own", "MOVING")]
    assert world.get("own").evict == "hosts/a is drained"
    revision = world.store.view().revision
    await turn(world)
    assert world.store.view().revision == revision, "once more is nothing"
    await world.hosts.set_admin_state("a", HostAdminState.CORDONED)
    assert world.get("own").evict == ""


async def test_files_and_words_that_bind_to_the_host_are_told(world: World, drained: HostDrains) -> None:
    group = await world.group("web", 1, instance=InstanceSpec("web", placement=Placement(host="hosts/a")))
    await world.volumes.create(P, "data", {}, VolumeSpec())
    made = await world.create("with-files", volumes=(VolumeMount("data", "/data"),))

    def write(tx: Transaction) -> None:
        for name, owner in (("own", group.name), ("with-files", "projects/demo/groups/other")):
            found = tx.get(INSTANCE, f"{P}/{name}")
            assert found is not None
            tx.put(INSTANCE, replace(found.value, owner=owner, slot=0, host="a", host_uid="uid-a"))
        volume = tx.find(VOLUME, "uid", made.volume_uids[0])[0].value
        tx.put(VOLUME, replace(volume, host="a", host_uid="uid-a"))

    await world.store.update(write)
    await drained.drain("a", DrainWish(10.0, force=True))
    host = await turn(world)
    assert host.drain is not None
    assert [(wait.reason, wait.message) for wait in host.drain.waits] == [
        ("MUST_STAY", f"{group.name} asks for this host"),
        ("MUST_STAY", f"the files of projects/{P}/volumes/data are on this host"),
    ]
    world.clock.advance(10.0)
    await turn(world)
    assert {world.get(name).desired for name in ("own", "with-files")} == {DesiredState.DELETED}


async def test_without_another_host_it_says_so(world: World, drained: HostDrains) -> None:
    group = await world.group("web", 1)
    member = replace(world.get("own"), owner=group.name, slot=0)
    await world.store.update(lambda tx: tx.put(INSTANCE, member))
    await world.hosts.set_admin_state("b", HostAdminState.CORDONED)
    await drained.drain("a", DrainWish())
    host = await turn(world)
    assert host.drain is not None
    assert host.drain.waits[0].message.endswith("no other host takes instances now")


async def test_a_host_that_goes_while_it_is_drained_is_let_go(world: World, drained: HostDrains) -> None:
    drains = Drains(world.context, world.making)
    running = asyncio.create_task(drains.run())
    await drained.drain("a", DrainWish())

    async def seen(reason: str) -> None:
        async with asyncio.timeout(10):
            while True:
                host = world.hosts.get("a")
                if host.drain is not None and [wait.reason for wait in host.drain.waits] == [reason]:
                    return
                await asyncio.sleep(0)

    await seen("UNMANAGED")
    await world.instances.delete(P, ["own"])
    await seen("LEAVING")
    await world.hosts.delete("a", force=True)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

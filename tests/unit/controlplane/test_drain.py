"""Hosts that are emptied: what is asked for, what is done by and by, and how it ends."""

from dataclasses import replace

import pytest

from controlplane.domain.hosts import Host, HostAdminState
from controlplane.domain.instances import DesiredState, InstanceState
from controlplane.domain.kinds import INSTANCE
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

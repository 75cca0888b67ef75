"""What is deleted in a project with an undelete window: kept, brought back, or gone when the window is over."""

from typing import Any

import pytest

from controlplane.domain.groups import GroupSpec, GroupState
from controlplane.domain.instances import DesiredState, InstanceSpec, InstanceState
from controlplane.domain.kinds import GROUP, INSTANCE, PROJECT
from controlplane.domain.volumes import VolumeSpec
from controlplane.services.instance_making import Membership, NewInstance
from controlplane.services.instance_names import InstanceNames
from controlplane.services.undelete import UndeleteService
from controlplane.undelete.loop import Purge
from moorage.errors import AlreadyExists, InvalidSpec, MoorageError, NotReady
from tests.unit.controlplane.world import P, World, problems

HOUR = 3600.0


@pytest.fixture
async def kept(world: World) -> World:
    """A project that keeps what is deleted for an hour, with a running instance `web` on a host."""
    await world.projects.update(P, undelete_window_seconds=HOUR)
    await world.host("h1")
    await world.create("web")
    await world.report(await world.place("web", "h1"), InstanceState.RUNNING)
    return world


async def refused(call: Any, kind: type[MoorageError], reason: str) -> str:
    with pytest.raises(kind) as caught:
        await call
    assert caught.value.reason == reason
    return caught.value.message


async def test_an_instance_stands_still_and_comes_back(kept: World) -> None:
    before = kept.get("web")
    await kept.instances.delete(P, ["web"])
    found = kept.get("web")
    assert (found.desired, found.uid, found.nics) == (DesiredState.STOPPED, before.uid, before.nics)
    assert found.purge_time is not None
    assert (found.purge_time - kept.clock.now()).total_seconds() == HOUR
    assert kept.reasons()[-1] == "KEPT"
    for call in (kept.instances.start(P, "web"), kept.changes.update(P, "web", labels={"a": "b"})):
        assert "moor instance undelete web" in await refused(call, NotReady, "INSTANCE_DELETING")
    await refused(InstanceNames(kept.context).rename(P, "web", "shop"), NotReady, "INSTANCE_DELETING")
    assert "moor rm --now web" in await refused(kept.create("web"), AlreadyExists, "ALREADY_EXISTS")
    await kept.instances.delete(P, ["web"])
    assert kept.get("web") == found, "asking again changes nothing"
    back = await UndeleteService(kept.context).instance(P, "web")
    assert (back.desired, back.run_request) == (DesiredState.RUNNING, before.run_request + 1)
    assert (back.purge_time, back.leave_time, back.container_generation) == (None, None, before.container_generation)
    await refused(UndeleteService(kept.context).instance(P, "web"), NotReady, "NOT_DELETED")


async def test_one_that_was_stopped_stays_so(kept: World) -> None:
    await kept.instances.stop(P, "web")
    await kept.instances.delete(P, ["web"])
    back = await UndeleteService(kept.context).instance(P, "web")
    assert (back.desired, back.was_stopped, back.run_request) == (DesiredState.STOPPED, False, 1)


async def test_it_goes_when_the_window_is_over_and_not_before(kept: World) -> None:
    purge = Purge(kept.context, kept.making)
    await kept.instances.delete(P, ["web"], force=True)
    assert kept.get("web").force
    kept.clock.advance(HOUR - 1)
    await purge.reconcile_once()
    assert kept.get("web").desired is DesiredState.STOPPED
    kept.clock.advance(1)
    await purge.reconcile_once()
    gone = kept.get("web")
    assert gone.desired is DesiredState.DELETED
    await refused(UndeleteService(kept.context).instance(P, "web"), NotReady, "INSTANCE_DELETING")
    await purge.reconcile_once()
    assert kept.get("web") == gone


async def test_now_skips_the_window_at_first_and_later(kept: World) -> None:
    await kept.create("other")
    await kept.place("other", "h1")
    await kept.instances.delete(P, ["other"], now=True)
    assert kept.get("other").desired is DesiredState.DELETED
    await kept.instances.delete(P, ["web"])
    await kept.instances.delete(P, ["web"], now=True)
    assert kept.get("web").desired is DesiredState.DELETED


async def test_what_is_not_kept(kept: World) -> None:
    """What has no container yet, members of groups, and everything where there is no window."""
    await kept.create("new")
    await kept.instances.delete(P, ["new"])
    assert [i.id for i in await members(kept)] == ["web"]
    group = await kept.groups.create(P, "db", {}, GroupSpec(replicas=1, instance=InstanceSpec("web")))
    wanted = [NewInstance("db-0", {}, InstanceSpec("web"))]
    await kept.store.update(lambda tx: kept.making.admit_all(tx, P, wanted, Membership(group.name, 0, 1)))
    await kept.place("db-0", "h1")
    await kept.instances.delete(P, ["db-0"])
    assert kept.get("db-0").desired is DesiredState.DELETED
    await kept.projects.update(P, undelete_window_seconds=0.0)
    await kept.instances.delete(P, ["web"])
    assert kept.get("web").desired is DesiredState.DELETED


async def members(world: World) -> list[Any]:
    return [found.value for found in world.store.view().all(INSTANCE)]


async def test_a_group_and_a_volume_come_back_or_go(kept: World) -> None:
    purge, undelete = Purge(kept.context, kept.making), UndeleteService(kept.context)
    await kept.groups.create(P, "db", {}, GroupSpec(replicas=1, instance=InstanceSpec("web")))
    await kept.volumes.create(P, "data", {}, VolumeSpec())
    for _ in range(2):
        await kept.groups.delete(P, "db")
        await kept.volumes.delete(P, "data")
        assert kept.groups.get(P, "db").is_deleting
        assert kept.volumes.get(P, "data").is_deleting
        await kept.groups.delete(P, "db")
        kept.clock.advance(HOUR - 1)
        await purge.reconcile_once()
        group, volume = await undelete.group(P, "db"), await undelete.volume(P, "data")
        assert (group.is_deleting, group.purge_time) == (volume.is_deleting, volume.purge_time) == (False, None)
        assert group.state is GroupState.DEGRADED
    await refused(undelete.group(P, "db"), NotReady, "NOT_DELETED")
    await refused(undelete.volume(P, "data"), NotReady, "NOT_DELETED")
    await kept.groups.delete(P, "db")
    await kept.volumes.delete(P, "data")
    assert "moor volume rm --now data" in await refused(
        kept.volumes.create(P, "data", {}, VolumeSpec()), AlreadyExists, "ALREADY_EXISTS"
    )
    kept.clock.advance(HOUR)
    await purge.reconcile_once()
    for found in (kept.groups.get(P, "db"), kept.volumes.get(P, "data")):
        assert (found.is_deleting, found.purge_time) == (True, None)
    await refused(undelete.group(P, "db"), NotReady, "NOT_DELETED")


async def test_now_of_a_group_and_a_volume(kept: World) -> None:
    await kept.groups.create(P, "db", {}, GroupSpec(replicas=1, instance=InstanceSpec("web")))
    await kept.volumes.create(P, "data", {}, VolumeSpec())
    await kept.groups.delete(P, "db")
    await kept.volumes.delete(P, "data")
    await kept.groups.delete(P, "db", now=True)
    await kept.volumes.delete(P, "data", now=True)
    assert kept.groups.get(P, "db").purge_time is None
    assert kept.volumes.get(P, "data").purge_time is None
    assert kept.store.view().get(GROUP, f"{P}/db") is not None


async def test_the_window_of_a_project(world: World) -> None:
    for bad in (-1.0, 31 * 86_400.0):
        with pytest.raises(InvalidSpec) as caught:
            await world.projects.update(P, undelete_window_seconds=bad)
        assert problems(caught.value) == [("project.undelete_window", "OUT_OF_RANGE")]
    await world.projects.update(P, undelete_window_seconds=60.0)
    found = world.store.view().get(PROJECT, P)
    assert found is not None
    assert found.value.undelete_window_seconds == 60.0
    await world.projects.update(P, description="text")
    assert world.projects.get(P).undelete_window_seconds == 60.0

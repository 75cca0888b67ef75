"""Instances that are renamed: the same one under another name, and whoever named it follows."""

import pytest

from controlplane.domain.groups import GroupSpec
from controlplane.domain.instances import InstanceSpec, InstanceState
from controlplane.domain.kinds import INSTANCE
from controlplane.services.instance_making import Membership, NewInstance
from controlplane.services.instance_names import InstanceNames
from controlplane.services.lookup import etag_of
from moorage.errors import AlreadyExists, InvalidSpec, MoorageError, NotFound, NotReady, VersionConflict
from tests.unit.controlplane.world import P, World, problems


async def rename(world: World, old: str, new: str, **fields: object) -> object:
    return await InstanceNames(world.context).rename(P, old, new, **fields)  # type: ignore[arg-type]


async def test_it_is_the_same_instance(world: World) -> None:
    await world.host("h1")
    await world.create("web")
    before = await world.place("web", "h1")
    await rename(world, "web", "shop")
    after = world.get("shop")
    assert (after.uid, after.nics, after.host) == (before.uid, before.nics, before.host)
    assert after.effective.hostname == "shop"
    assert after.generation == before.generation + 1
    assert after.container_generation == before.container_generation, "no new container"
    with pytest.raises(NotFound):
        world.get("web")
    assert world.reasons()[-1] == "RENAMED"
    world.audit()
    await world.report(after, InstanceState.RUNNING)
    assert world.get("shop").observed.state is InstanceState.RUNNING
    assert (await world.create("web")).uid != after.uid, "the old name is free"
    world.audit()


async def test_a_host_name_of_its_own_stays(world: World) -> None:
    await world.create("web", hostname="front")
    await rename(world, "web", "shop")
    assert world.get("shop").effective.hostname == "front"


async def test_what_is_refused_changes_nothing(world: World) -> None:
    made = await world.create("web")
    await world.create("taken")

    async def refused(kind: type[MoorageError], reason: str, new: str, **fields: object) -> MoorageError:
        with pytest.raises(kind) as caught:
            await rename(world, "web", new, **fields)
        assert reason in ("", caught.value.reason)
        assert world.get("web") == made
        return caught.value

    error = await refused(InvalidSpec, "", "No Name")
    assert isinstance(error, InvalidSpec)
    assert problems(error) == [("new_instance_id", "NAME_INVALID")]
    await refused(AlreadyExists, "", "taken")
    await refused(VersionConflict, "ETAG_MISMATCH", "shop", etag="old")
    await rename(world, "web", "shop", validate_only=True)
    assert world.get("web") == made
    assert await rename(world, "web", "web", etag=etag_of(made)) == made
    await world.place("web", "h1")
    await world.instances.delete(P, ["web"])
    with pytest.raises(NotReady) as caught:
        await rename(world, "web", "shop")
    assert caught.value.reason == "INSTANCE_DELETING"


async def test_members_are_called_after_their_group(world: World) -> None:
    group = await world.groups.create(P, "db", {}, GroupSpec(replicas=1, instance=InstanceSpec("web")))
    wanted = [NewInstance("db-0", {}, InstanceSpec("web"))]
    await world.store.update(lambda tx: world.making.admit_all(tx, P, wanted, Membership(group.name, 0, 1)))
    with pytest.raises(NotReady) as caught:
        await rename(world, "db-0", "other")
    assert caught.value.reason == "INSTANCE_OWNED"
    assert world.store.view().get(INSTANCE, f"{P}/db-0") is not None

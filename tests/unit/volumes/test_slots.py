"""Volumes of slots: each slot has its own, which stays with it, and goes with the group if it shall."""

from dataclasses import replace

import pytest

from controlplane.domain.budget import order_of
from controlplane.domain.groups import GroupSpec, RolloutOrder, SlotPolicy, SlotVolume
from controlplane.domain.instances import Instance, InstanceSpec
from controlplane.domain.kinds import VOLUME
from controlplane.domain.volumes import VolumeMount, VolumeRemoval, VolumeSharing, VolumeSpec
from controlplane.services.group_rules import check_spec
from controlplane.services.instance_making import Membership, NewInstance
from controlplane.volumes.loop import VolumeKeeper
from moorage.errors import AlreadyExists, InvalidSpec, NotReady
from moorage.tasks import TaskOwner
from tests.unit.controlplane.world import P, World, problems

GROUP = f"projects/{P}/groups/db"
DATA = SlotVolume("data", VolumeSpec(removal=VolumeRemoval.WITH_OWNER), {"a": "b"}, "/data")
SLOTS = SlotPolicy(volumes=(DATA,))


async def member(world: World, slot: int, name: str) -> Instance:
    wanted = [NewInstance(name, {}, InstanceSpec(template="web"))]
    membership = Membership(GROUP, slot, 1, SLOTS)
    (made,) = await world.store.update(lambda tx: world.making.admit_all(tx, P, wanted, membership))
    return made


async def test_each_slot_has_its_own_and_keeps_it(world: World) -> None:
    first = await member(world, 0, "db-0-a")
    assert first.spec.volumes == (VolumeMount(f"projects/{P}/volumes/db-0-data", "/data"),)
    made = world.volumes.get(P, "db-0-data")
    assert (made.owner, made.labels, made.spec.removal) == (GROUP, {"a": "b"}, VolumeRemoval.WITH_OWNER)
    with pytest.raises(NotReady) as refused:
        await member(world, 0, "db-0-b")
    assert refused.value.reason == "VOLUME_IN_USE"
    other = await member(world, 1, "db-1-a")
    assert other.volume_uids != first.volume_uids
    await world.store.update(lambda tx: world.making.ask_removal(tx, first, "replaced"))
    assert (await member(world, 0, "db-0-b")).volume_uids == first.volume_uids


async def test_what_is_not_the_groups_is_not_taken(world: World) -> None:
    await world.volumes.create(P, "db-0-data", {}, VolumeSpec())
    with pytest.raises(AlreadyExists):
        await member(world, 0, "db-0-a")


async def test_they_go_with_the_group(world: World) -> None:
    made = await member(world, 0, "db-0-a")
    async with TaskOwner("removals") as tasks:
        keeper = VolumeKeeper(world.context, object(), tasks)  # type: ignore[arg-type]
        await keeper.reconcile_once()
        assert not world.volumes.get(P, "db-0-data").is_deleting
        await world.store.update(lambda tx: world.making.ask_removal(tx, made, "the group is deleted"))
        await keeper.reconcile_once()
        await keeper.reconcile_once()
    assert not list(world.store.view().all(VOLUME))


def test_what_a_group_may_ask_for() -> None:
    good = GroupSpec(replicas=3, instance=InstanceSpec(template="web"), slots=SLOTS)
    assert check_spec(good, "spec") == []
    assert order_of(good) is RolloutOrder.STOP_FIRST
    bad = SlotPolicy(
        volumes=(
            replace(DATA, name="Data"),
            replace(DATA, target="data"),
            replace(DATA, spec=VolumeSpec(host="hosts/h1", mode=-1), target="/other"),
            replace(DATA, name="much-too-long", target="/more", sub_path=".."),
        )
    )
    found = check_spec(replace(good, slots=bad), "spec")
    assert {(v.field, v.reason) for v in found} == {
        ("spec.slots.volumes[0].name", "NAME_INVALID"),
        ("spec.slots.volumes[1].target", "INVALID_PATH"),
        ("spec.slots.volumes[2].name", "INVALID"),
        ("spec.slots.volumes[2].spec.host", "NOT_ALLOWED"),
        ("spec.slots.volumes[2].spec.mode", "OUT_OF_RANGE"),
        ("spec.slots.volumes[3].name", "NAME_INVALID"),
        ("spec.slots.volumes[3].sub_path", "INVALID_PATH"),
    }


async def test_several_members_need_a_shared_volume(world: World) -> None:
    await world.volumes.create(P, "one", {}, VolumeSpec())
    await world.volumes.create(P, "all", {}, VolumeSpec(sharing=VolumeSharing.SHARED))
    instance = InstanceSpec(template="web", volumes=(VolumeMount("all", "/all"), VolumeMount("one", "/one")))
    with pytest.raises(InvalidSpec) as refused:
        await world.groups.create(P, "db", {}, GroupSpec(replicas=2, instance=instance))
    assert problems(refused.value) == [("group.spec.instance.volumes[1].volume", "VOLUME_NOT_SHARED")]
    made = await world.groups.create(P, "db", {}, GroupSpec(replicas=1, instance=instance))
    assert made.spec.instance.volumes[0].volume == f"projects/{P}/volumes/all"

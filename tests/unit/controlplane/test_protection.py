"""Delete protection: refused until it is cleared, whoever asks and however."""

import pytest

from controlplane.domain.groups import Dependency, GroupSpec
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.kinds import GROUP, VOLUME
from controlplane.domain.volumes import VolumeSpec
from controlplane.services.group_changes import GroupChange
from controlplane.services.paging import PageRequest
from moorage.errors import InvalidSpec, NotReady
from tests.unit.controlplane.world import P, World, problems

_PROTECTED = InstanceSpec(template="web", delete_protection=True)


async def test_a_protected_instance_stays_until_it_is_cleared(world: World) -> None:
    await world.create("a", delete_protection=True)
    await world.create("b")
    for force in (False, True):
        with pytest.raises(NotReady) as caught:
            await world.instances.delete(P, ["b", "a"], force=force)
        assert caught.value.reason == "DELETE_PROTECTED"
        assert "moor instance update a --no-delete-protection" in caught.value.message
    assert world.get("a").spec.delete_protection
    assert world.get("b"), "all or none"
    await world.changes.update(P, "a", spec_fields={"delete_protection": False})
    await world.instances.delete(P, ["b", "a"])
    assert world.instances.list(P, PageRequest()).items == ()


async def test_a_protected_group_stays_and_its_members_have_none_of_their_own(world: World) -> None:
    await world.groups.create(P, "web", {}, GroupSpec(instance=InstanceSpec("web")), delete_protection=True)
    with pytest.raises(NotReady) as caught:
        await world.groups.delete(P, "web")
    assert caught.value.reason == "DELETE_PROTECTED"
    changed = await world.group_changes.update(P, "web", GroupChange(delete_protection=False))
    assert not changed.delete_protection
    assert changed.target_revision == 1, "no rollout"
    await world.groups.delete(P, "web")
    assert world.store.view().get(GROUP, f"{P}/web").value.is_deleting
    with pytest.raises(InvalidSpec) as refused:
        await world.groups.create(P, "other", {}, GroupSpec(instance=_PROTECTED))
    assert problems(refused.value) == [("group.spec.instance.delete_protection", "NOT_ALLOWED")]


async def test_a_protected_dependent_keeps_what_it_needs(world: World) -> None:
    await world.group("db")
    spec = GroupSpec(instance=InstanceSpec("web"), depends_on=(Dependency("groups/db"),))
    await world.groups.create(P, "web", {}, spec, delete_protection=True)
    with pytest.raises(NotReady) as caught:
        await world.groups.delete(P, "db", with_dependents=True)
    assert caught.value.metadata["name"] == f"projects/{P}/groups/web"
    assert not world.store.view().get(GROUP, f"{P}/db").value.is_deleting


async def test_a_protected_volume_stays(world: World) -> None:
    await world.volumes.create(P, "data", {}, VolumeSpec(delete_protection=True))
    with pytest.raises(NotReady) as caught:
        await world.volumes.delete(P, "data")
    assert caught.value.reason == "DELETE_PROTECTED"
    await world.volumes.update(P, "data", spec_fields={"delete_protection": False})
    await world.volumes.delete(P, "data")
    assert world.store.view().get(VOLUME, f"{P}/data").value.is_deleting

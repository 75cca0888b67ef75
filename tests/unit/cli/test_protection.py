"""--delete-protection of instances and groups: set, cleared, and left alone."""

from moorage.v1 import groups_pb2, instances_pb2
from tests.unit.cli.conftest import Moor
from tests.unit.cli.plane import Plane


def test_of_an_instance(moor: Moor, plane: Plane) -> None:
    plane.put(instances_pb2.Instance(name="projects/default/instances/web", etag="e1"))
    moor("instance", "update", "web", "--delete-protection")
    moor("instance", "update", "web", "--no-delete-protection")
    on, off = plane.requests("UpdateInstance")
    assert (on.instance.spec.delete_protection, off.instance.spec.delete_protection) == (True, False)
    assert list(off.update_mask.paths) == ["spec.delete_protection"]
    moor("instance", "update", "web", code=2)


def test_of_a_group(moor: Moor, plane: Plane) -> None:
    spec = groups_pb2.GroupSpec(instance=instances_pb2.InstanceSpec(template="projects/default/templates/web"))
    plane.put(groups_pb2.Group(name="projects/default/groups/web", spec=spec, delete_protection=True))
    moor("group", "update", "web", "--no-delete-protection")
    (asked,) = plane.requests("UpdateGroup")
    assert list(asked.update_mask.paths) == ["delete_protection"]
    assert not asked.group.delete_protection

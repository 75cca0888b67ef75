"""rm of what is kept says so and does not wait for its end; undelete brings it back."""

from moorage.v1 import groups_pb2, instances_pb2, projects_pb2
from tests.unit.cli.conftest import Moor
from tests.unit.cli.plane import EPOCH, Plane


def test_rm_of_a_kept_instance(moor: Moor, plane: Plane) -> None:
    found = instances_pb2.Instance(name="projects/default/instances/web")
    found.status.purge_time.seconds = EPOCH
    plane.put(found)
    result = moor("instance", "rm", "web")
    assert result.output.startswith("web\n")
    assert "`moor instance undelete web` brings it back" in result.output + result.stderr
    moor("rm", "--now", "--no-wait", "web")
    assert [asked.now for asked in plane.requests("DeleteInstance")] == [False, True]


def test_undelete(moor: Moor, plane: Plane) -> None:
    plane.put(instances_pb2.Instance(name="projects/default/instances/web"))
    plane.put(groups_pb2.Group(name="projects/default/groups/web"))
    assert moor("instance", "undelete", "web").output == "web\n"
    assert moor("group", "undelete", "web").output == "projects/default/groups/web\n"
    assert len(plane.requests("UndeleteInstance")) == len(plane.requests("UndeleteGroup")) == 1


def test_the_window_of_a_project(moor: Moor, plane: Plane) -> None:
    plane.put(projects_pb2.Project(name="projects/p"))
    moor("project", "update", "p", "--undelete-window", "90m")
    (asked,) = plane.requests("UpdateProject")
    assert (asked.project.undelete_window.seconds, list(asked.update_mask.paths)) == (5400, ["undelete_window"])

"""group: what is asked for, from options and files, and how one is waited for."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.group.show import line_of, revision_of
from moorage.client import Client
from moorage.errors import NotReady
from moorage.v1 import groups_pb2, instances_pb2, templates_pb2
from tests.unit.cli.conftest import Moor, Served
from tests.unit.cli.plane import KEY, Plane

P = "projects/default"
WEB = f"{P}/groups/web"


@pytest.fixture(autouse=True)
def template(plane: Plane) -> None:
    found = templates_pb2.Template(name=f"{P}/templates/nginx")
    found.status.state = templates_pb2.TEMPLATE_STATE_READY
    plane.put(found)


def group_of(plane: Plane) -> groups_pb2.Group:
    found = plane.get(WEB)
    assert isinstance(found, groups_pb2.Group)
    return found


def test_create_from_options(moor: Moor, plane: Plane) -> None:
    policy = (
        "--max-surge",
        "25%",
        "--min-ready",
        "3s",
        "--canaries",
        "1",
        "--no-rollback",
        "--keep",
        "4",
        "--sticky-name",
    )
    members = ("-e", "A=1", "-l", "app=web", "-p", "8080:80", "--group-label", "team=x")
    moor("group", "create", "web", "nginx", "-r", "3", *policy, *members, "--", "nginx", "-g", "daemon off;")
    (request,) = plane.requests("CreateGroup")
    spec = request.group.spec
    assert (request.parent, request.group_id, bool(request.request_id)) == (P, "web", True)
    assert (spec.replicas, spec.kept_revisions, spec.slots.sticky_name) == (3, 4, True)
    assert spec.instance.template == f"{P}/templates/nginx"
    assert list(spec.instance.command) == ["nginx", "-g", "daemon off;"]
    assert (dict(spec.instance.env), dict(spec.instance_labels)) == ({"A": "1"}, {"app": "web"})
    assert spec.instance.published_ports[0].host_port == 8080
    rollout = spec.rollout
    assert (rollout.max_surge, rollout.min_ready.seconds, rollout.canaries, rollout.no_rollback) == ("25%", 3, 1, True)
    assert dict(request.group.labels) == {"team": "x"}


def test_one_per_host_has_no_number(moor: Moor, plane: Plane) -> None:
    moor("group", "create", "web", "nginx", "--per-host")
    spec = plane.requests("CreateGroup")[0].group.spec
    assert (spec.mode, spec.replicas) == (groups_pb2.GROUP_MODE_PER_HOST, 0)
    moor("group", "create", "db", "nginx")
    assert plane.requests("CreateGroup")[1].group.spec.replicas == 1


def test_a_file_that_get_printed_makes_the_same_again(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    moor("group", "create", "web", "nginx", "-r", "2", "-e", "A=1")
    file = tmp_path / "web.yaml"
    file.write_text(moor("group", "get", "web").stdout)
    moor("group", "create", "second", "-f", str(file), "-r", "5")
    request = plane.requests("CreateGroup")[1]
    assert (request.group_id, request.group.spec.replicas) == ("second", 5)
    assert request.group.spec.instance == group_of(plane).spec.instance
    content = yaml.safe_load(file.read_text())
    content["spec"]["instance"]["env"] = {"B": "2"}
    file.write_text(yaml.safe_dump(content))
    moor("group", "update", "-f", str(file))
    assert dict(group_of(plane).spec.instance.env) == {"B": "2"}
    for bad, words in (
        ("[1]", "mapping"),
        ("speck: 1", "speck"),
        ("spec: {replicaz: 1}", "replicaz"),
        ("{", "cannot be read"),
    ):
        file.write_text(bad)
        assert words in moor("group", "create", "web", "-f", str(file), code=2).stderr
    assert "cannot be read" in moor("group", "create", "web", "-f", str(tmp_path / "none"), code=2).stderr


def test_what_is_missing(moor: Moor) -> None:
    assert "NAME" in moor("group", "create", code=2).stderr
    assert "made from" in moor("group", "create", "web", code=2).stderr
    assert "nothing to change" in moor("group", "update", "web", code=2).stderr
    assert "which group" in moor("group", "update", "-r", "3", code=2).stderr
    assert "write KEY=VALUE" in moor("group", "create", "web", "nginx", "--group-label", "x", code=2).stderr


def test_update_changes_what_is_named(moor: Moor, plane: Plane) -> None:
    moor("group", "create", "web", "nginx", "-r", "2", "-e", "A=1", "-e", "B=2", "--cpu", "1", "--max-surge", "2")
    moor("group", "update", "web", "-e", "A=3", "--wait")
    (request,) = plane.requests("UpdateGroup")
    assert (list(request.update_mask.paths), request.group.etag) == (["spec.instance"], "e1")
    spec = group_of(plane).spec
    assert (dict(spec.instance.env), spec.instance.resources.cpu_millis, spec.replicas) == ({"A": "3"}, 1000, 2)
    moor("group", "update", "web", "--max-unavailable", "1", "-r", "4", "-l", "a=b")
    assert list(plane.requests("UpdateGroup")[1].update_mask.paths) == [
        *("spec.replicas", "spec.instance_labels", "spec.rollout")
    ]
    rollout = group_of(plane).spec.rollout
    assert (rollout.max_surge, rollout.max_unavailable) == ("2", "1")
    moor("group", "update", "web", "--", "sleep", "-x")
    assert list(group_of(plane).spec.instance.command) == ["sleep", "-x"]


def test_verbs(moor: Moor, plane: Plane) -> None:
    moor("group", "create", "web", "nginx")
    moor("group", "scale", "web", "4", "--wait")
    assert group_of(plane).spec.replicas == 4
    for verb in ("pause", "resume", "promote"):
        assert moor("group", verb, "web").stdout == f"{WEB}\n"
    moor("group", "update", "web", "--cpu", "2")
    moor("group", "rollback", "web", "--to", "1", "--wait")
    assert plane.requests("RollbackGroup")[0].revision == 1
    listed = moor("group", "ls").stdout
    assert "STABLE" in listed
    assert "4/4" in listed
    assert moor("group", "revisions", "web", "-o", "name").stdout == f"{WEB}/revisions/1\n"
    moor("ps", "--group", "web", "--filter", "state=RUNNING")
    assert plane.requests("ListInstances")[-1].filter == f"state=RUNNING group={WEB}"
    assert moor("group", "rm", "web").stdout == "web\n"
    moor("group", "get", "web", code=3)


def test_plans(moor: Moor, plane: Plane) -> None:
    moor("group", "create", "web", "nginx", "-e", "A=1")
    assert moor("group", "plan", "web").stdout == "Nothing would be done.\n"
    told = moor("group", "plan", "web", "-e", "A=2").stdout
    assert "make     0      2          on h1      it is of revision 1" in told
    assert "There it would stand: the canaries wait for PromoteGroup." in told
    request = plane.requests("PlanGroup")[1]
    assert (list(request.update_mask.paths), dict(request.group.spec.instance.env)) == (["spec.instance"], {"A": "2"})
    assert not plane.requests("UpdateGroup")
    moor("group", "plan", "web", "--to", "0")
    assert plane.requests("PlanGroup")[2].HasField("revision")
    assert "no other option" in moor("group", "plan", "web", "--to", "1", "-e", "A=1", code=2).stderr
    assert '"ends_because"' in moor("group", "plan", "web", "-r", "3", "-o", "json").stdout


def status(**fields: object) -> groups_pb2.Group:
    group = groups_pb2.Group(name=WEB)
    group.spec.replicas = 3
    values: dict[str, object] = {
        "wanted": 3,
        "members": 3,
        "ready": 3,
        "updated": 3,
        "stable_revision": 1,
        "target_revision": 1,
        "state": groups_pb2.GROUP_STATE_STABLE,
    }
    for name, value in {**values, **fields}.items():
        setattr(group.status, name, value)
    return group


Change = Callable[[], None]


def waited(served: Served, first: groups_pb2.Group, *then: groups_pb2.Group, revision: int = 0) -> groups_pb2.Group:
    """What a wait gives that begins with the first, and sees the others come."""
    plane = served.plane
    plane.put(first)
    plane.script.extend([lambda group=group: plane.put(group) for group in then])

    async def work() -> groups_pb2.Group:
        async with Client.connect(served.address, api_key=KEY, ca_file=served.ca_file) as client:
            return await client.wait_group(WEB, 20, revision=revision)

    return asyncio.run(work())


ROLLING = groups_pb2.GROUP_STATE_ROLLING


def test_waiting(served: Served) -> None:
    degraded = status(state=groups_pb2.GROUP_STATE_DEGRADED)
    steps = (status(state=ROLLING, ready=2), degraded, status(members=4), status(updated=2), status(target_revision=2))
    done = status(ready=3, target_revision=2, stable_revision=2)
    assert waited(served, *steps, done).status.target_revision == 2
    canary = status(state=groups_pb2.GROUP_STATE_CANARY, target_revision=2)
    assert waited(served, canary, revision=2).status.state == canary.status.state


def test_a_change_of_a_member_is_looked_at(served: Served) -> None:
    plane = served.plane
    plane.put(status(ready=2))

    def come_up() -> None:
        plane.objects[WEB] = status()  # the record itself does not change
        member = instances_pb2.Instance(name=f"{P}/instances/web-0")
        member.status.owner = WEB
        plane.put(member)

    plane.script.append(come_up)

    async def work() -> groups_pb2.Group:
        async with Client.connect(served.address, api_key=KEY, ca_file=served.ca_file) as client:
            return await client.wait_group(WEB, 20)

    assert asyncio.run(work()).status.ready == 3


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (status(state=groups_pb2.GROUP_STATE_FAILED, reason="ROLLOUT_FAILED", message="web-0 dies"), "ROLLOUT_FAILED"),
        (status(state=groups_pb2.GROUP_STATE_ROLLING_BACK, reason="ROLLED_BACK", message="web-0 dies"), "ROLLED_BACK"),
        (status(state=groups_pb2.GROUP_STATE_PAUSED, target_revision=2), "GROUP_PAUSED"),
        (status(target_revision=3), "TARGET_CHANGED"),
    ],
)
def test_waiting_ends_when_nothing_will_come(served: Served, last: groups_pb2.Group, reason: str) -> None:
    with pytest.raises(NotReady) as refused:
        waited(served, status(state=ROLLING, target_revision=2), last, revision=2)
    assert refused.value.reason == reason


def test_lines() -> None:
    group = status(state=ROLLING, ready=2, updated=1, target_revision=2, message="web-1: PULLING\nmore")
    assert line_of(group) == "web: ROLLING, 2 of 3 ready, 1 of them updated: web-1: PULLING"
    assert (revision_of(group.status), revision_of(status().status)) == ("1->2", "1")
    group.status.message = "2 of 3 ready: 2 hosts lack memory, 1 is cordoned"
    assert line_of(group) == "web: ROLLING, 2 of 3 ready, 1 of them updated: 2 hosts lack memory, 1 is cordoned"
    group.status.message = "web-0 dies; 2 of 3 ready: web-0: RESTARTING"
    assert line_of(group).endswith("updated: web-0 dies; web-0: RESTARTING")
    group = status(ready=1)
    group.status.slots.add(message="no host fits")
    assert line_of(group).endswith("no host fits")

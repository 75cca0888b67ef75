"""Watch over the wire: what exists, then what changes, and nothing of other tenants."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest

from controlplane.access.roles import Role
from controlplane.domain.kinds import API_KEY, INSTANCE, MEMBER, ZONE
from controlplane.domain.networks import NetworkKind
from controlplane.domain.projects import Member
from moorage.v1 import (
    instances_pb2,
    instances_pb2_grpc,
    security_groups_pb2,
    security_groups_pb2_grpc,
    watch_pb2,
    watch_pb2_grpc,
)
from tests.support.controlplane import Plane, bearer, instance, reason_of, refusal, running


class Watching:
    """An open watch."""

    def __init__(self, plane: Plane, metadata: Any, **fields: Any) -> None:
        stub: Any = watch_pb2_grpc.WatchServiceStub(plane.channel())
        self.call = stub.Watch(watch_pb2.WatchRequest(**fields), metadata=metadata)

    async def read(self) -> Any:
        message = await asyncio.wait_for(self.call.read(), 30)
        assert message is not grpc.aio.EOF
        return message

    async def until_synced(self) -> tuple[list[Any], int]:
        found = []
        while not (message := await self.read()).synced:
            assert message.change.type == watch_pb2.CHANGE_TYPE_EXISTING
            found.append(message.change)
        return found, message.revision

    def end(self) -> None:
        self.call.cancel()


def _name(change: Any) -> str:
    return str(getattr(change, change.WhichOneof("object")).name)


async def _make(plane: Plane, instance_id: str, project: str = "default") -> Any:
    api: Any = instances_pb2_grpc.InstanceServiceStub(plane.channel())
    return await api.CreateInstance(
        instances_pb2.CreateInstanceRequest(parent=f"projects/{project}", instance_id=instance_id, instance=instance()),
        metadata=bearer(plane.admin_key),
    )


async def _delete(plane: Plane, name: str) -> None:
    api: Any = instances_pb2_grpc.InstanceServiceStub(plane.channel())
    await api.DeleteInstance(instances_pb2.DeleteInstanceRequest(name=name), metadata=bearer(plane.admin_key))


async def test_existing_then_changes_then_on_from_there(plane: Plane) -> None:
    await plane.template()
    await _make(plane, "one")
    await plane.eventually(lambda: plane.record("default", "one").placement is not None)
    watch = Watching(plane, bearer(plane.admin_key), kinds=["instances"])
    existing, revision = await watch.until_synced()
    assert [_name(c) for c in existing] == ["projects/default/instances/one"]
    two = await _make(plane, "two")
    await _delete(plane, two.name)
    seen: list[tuple[int, str]] = []
    last = revision
    while not seen or seen[-1][0] != watch_pb2.CHANGE_TYPE_DELETED:
        message = await watch.read()
        assert message.revision >= last
        last = message.revision
        seen.append((message.change.type, message.change.instance.name))
    watch.end()
    assert seen[0] == (watch_pb2.CHANGE_TYPE_CREATED, two.name)
    assert {kind for kind, _ in seen[1:-1]} <= {watch_pb2.CHANGE_TYPE_UPDATED}

    again = Watching(plane, bearer(plane.admin_key), kinds=["instances"], from_revision=revision)
    existing, at = await again.until_synced()
    assert (existing, at) == ([], revision)
    repeated: list[tuple[int, str]] = []
    while len(repeated) < len(seen):
        message = await again.read()
        repeated.append((message.change.type, message.change.instance.name))
    again.end()
    assert repeated == seen, "nothing missed, nothing twice"


async def test_every_kind_can_be_watched(plane: Plane) -> None:
    await plane.template()
    await plane.agent("a")
    await _make(plane, "one")
    watch = Watching(plane, bearer(plane.admin_key))
    existing, _ = await watch.until_synced()
    watch.end()
    assert {c.WhichOneof("object") for c in existing} >= {"project", "template", "network", "instance", "host", "event"}
    (network,) = [c.network for c in existing if c.WhichOneof("object") == "network"]
    assert network.spec.kind == NetworkKind.ISOLATED.value
    assert network.status.addresses_used == 2


async def test_other_projects_are_invisible(plane: Plane) -> None:
    await plane.project("mine")
    await plane.project("theirs")
    for project in ("mine", "theirs"):
        await plane.template(project)
    metadata = await plane.key("ann", {"mine": Role.VIEWER})
    await _make(plane, "secret", "theirs")
    await plane.agent("a")
    watch = Watching(plane, metadata)
    existing, _ = await watch.until_synced()
    assert {_name(c) for c in existing} == {"projects/mine", "projects/mine/templates/web"}
    await _make(plane, "secret2", "theirs")
    await _make(plane, "own", "mine")
    seen = set()
    while "projects/mine/instances/own" not in seen:
        seen.add(_name((await watch.read()).change))
    watch.end()
    assert all(name.startswith("projects/mine") for name in seen), seen

    for fields in ({"parent": "projects/theirs"}, {"kinds": ["hosts"]}):
        error = await refusal(Watching(plane, metadata, **fields).call)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_one_project_of_several(plane: Plane) -> None:
    for project in ("one", "two"):
        await plane.project(project)
    watch = Watching(plane, bearer(plane.admin_key), parent="projects/one", kinds=["projects"])
    existing, _ = await watch.until_synced()
    watch.end()
    assert [_name(c) for c in existing] == ["projects/one"]


async def test_unknown_kinds_are_all_named(plane: Plane) -> None:
    error = await refusal(Watching(plane, bearer(plane.admin_key), kinds=["pods", "instances", "nodes"]).call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'pods'" in (error.details() or "")
    assert "'nodes'" in (error.details() or "")


async def test_bookmarks_move_on_in_quiet_times(plane: Plane) -> None:
    with mock.patch("controlplane.api.watch._BOOKMARK_SECONDS", 0.02):
        watch = Watching(plane, bearer(plane.admin_key), kinds=["instances"], bookmarks=True)
        _, revision = await watch.until_synced()
        await plane.project("other")  # a commit of another kind
        async with asyncio.timeout(30):
            while (message := await watch.read()).revision <= revision:
                assert not message.HasField("change")
        watch.end()
    assert not message.HasField("change")


@pytest.fixture
async def forgetful(keys_folder: Path) -> AsyncIterator[Plane]:
    async with running(keys_folder, history_commits=5) as plane:
        yield plane


async def test_history_that_is_gone(forgetful: Plane) -> None:
    for number in range(10):
        await forgetful.project(f"p{number}")
    error = await refusal(Watching(forgetful, bearer(forgetful.admin_key), from_revision=1).call)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.OUT_OF_RANGE, "HISTORY_COMPACTED")
    error = await refusal(Watching(forgetful, bearer(forgetful.admin_key), from_revision=10**9).call)
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE, "a revision that never was"
    assert forgetful.store.view().count(INSTANCE) == 0
    assert forgetful.store.view().count(ZONE) == 0


async def test_what_the_caller_may_see_can_change(plane: Plane) -> None:
    await plane.template()
    await plane.project("other")
    await plane.template("other")
    metadata = await plane.key("ann", {"default": Role.VIEWER})
    watch = Watching(plane, metadata, kinds=["instances", "projects"])
    await watch.until_synced()
    await _make(plane, "seen")
    while _name((await watch.read()).change) != "projects/default/instances/seen":
        continue
    await plane.store.update(lambda tx: tx.delete(MEMBER, "default/ann"))
    await plane.store.update(lambda tx: tx.put(MEMBER, Member("other", "ann", Role.VIEWER)))
    await _make(plane, "unseen")
    await _make(plane, "new", "other")
    names = set()
    while "projects/other/instances/new" not in names:
        names.add(_name((await watch.read()).change))
    assert "projects/default/instances/unseen" not in names
    (key,) = plane.store.view().find(API_KEY, "user", "ann")
    await plane.store.update(lambda tx: tx.delete(API_KEY, key.value.id))
    await _make(plane, "after", "other")
    error = await asyncio.wait_for(refusal(_rest(watch.call)), 30)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN")


async def _rest(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        continue


async def test_what_is_counted_is_there_in_a_watch_as_well(plane: Plane) -> None:
    await plane.template()
    await plane.agent("a")
    await _make(plane, "one")
    await plane.eventually(lambda: bool(plane.record("default", "one").host))
    watch = Watching(plane, bearer(plane.admin_key), kinds=["hosts", "instances"])
    existing, _ = await watch.until_synced()
    watch.end()
    host, made = (next(getattr(c, n) for c in existing if c.WhichOneof("object") == n) for n in ("host", "instance"))
    assert host.status.used.instances == 1
    assert not made.status.stale


async def test_security_groups(plane: Plane) -> None:
    metadata = bearer(plane.admin_key)
    api: Any = security_groups_pb2_grpc.SecurityGroupServiceStub(plane.channel())
    make = security_groups_pb2.CreateSecurityGroupRequest(parent="projects/default", security_group_id="web")
    made = await api.CreateSecurityGroup(make, metadata=metadata)
    watching = Watching(plane, metadata, kinds=["security_groups"])
    try:
        existing, _ = await watching.until_synced()
        assert [change.security_group for change in existing] == [made]
        changed = security_groups_pb2.SecurityGroup(name=made.name, etag=made.etag)
        changed.spec.rules.add(direction=security_groups_pb2.SECURITY_DIRECTION_IN, ports=["80"], protocol=2)
        changed = await api.UpdateSecurityGroup(
            security_groups_pb2.UpdateSecurityGroupRequest(security_group=changed), metadata=metadata
        )
        assert changed.etag != made.etag
        message = await watching.read()
        assert (message.change.type, message.change.security_group) == (watch_pb2.CHANGE_TYPE_UPDATED, changed)
        listed = await api.ListSecurityGroups(
            security_groups_pb2.ListSecurityGroupsRequest(parent="projects/-"), metadata=metadata
        )
        assert list(listed.security_groups) == [changed]
        gone = security_groups_pb2.DeleteSecurityGroupRequest(name=made.name, etag=changed.etag)
        await api.DeleteSecurityGroup(gone, metadata=metadata)
        assert (await watching.read()).change.type == watch_pb2.CHANGE_TYPE_DELETED
    finally:
        watching.end()

"""Groups over the wire: which fields an update sets, and what a watch tells."""

from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2

from controlplane.domain.kinds import AUDIT_EVENT, INSTANCE
from moorage.v1 import groups_pb2, groups_pb2_grpc, watch_pb2
from tests.support.controlplane import Plane, bearer, reason_of, refusal
from tests.unit.api.test_watch import Watching

WEB = "projects/default/groups/web"


def stub(plane: Plane) -> Any:
    return groups_pb2_grpc.GroupServiceStub(plane.channel())


async def make(plane: Plane) -> groups_pb2.Group:
    await plane.template()
    group = groups_pb2.Group(labels={"a": "b"})
    group.spec.replicas = 2
    group.spec.instance.template = "web"
    group.spec.instance.env["A"] = "1"
    group.spec.rollout.max_surge = "25%"
    group.spec.rollout.min_ready.seconds = 4
    request = groups_pb2.CreateGroupRequest(parent="projects/default", group_id="web", group=group, request_id="r")
    made: groups_pb2.Group = await stub(plane).CreateGroup(request, metadata=bearer(plane.admin_key))
    again = await stub(plane).CreateGroup(request, metadata=bearer(plane.admin_key))
    assert again.uid == made.uid
    return made


async def test_a_group_and_its_revisions(plane: Plane) -> None:
    made = await make(plane)
    metadata = bearer(plane.admin_key)
    assert made.spec.instance.template == "projects/default/templates/web"
    assert (made.status.wanted, made.status.target_revision) == (2, 1)
    found = await stub(plane).GetGroup(groups_pb2.GetGroupRequest(name=WEB), metadata=metadata)
    assert (found.uid, found.etag) == (made.uid, made.etag)
    listed = await stub(plane).ListGroups(groups_pb2.ListGroupsRequest(parent="projects/-"), metadata=metadata)
    assert [group.name for group in listed.groups] == [WEB]
    request = groups_pb2.ListGroupRevisionsRequest(parent=WEB)
    (revision,) = (await stub(plane).ListGroupRevisions(request, metadata=metadata)).revisions
    assert (revision.number, revision.instance, revision.author) == (1, made.spec.instance, "root")


@pytest.mark.parametrize(
    ("paths", "env", "command", "min_ready", "labels"),
    [
        ([], {"A": "1"}, ["x"], 4, {"a": "b"}),
        (["spec.instance.command"], {"A": "1"}, ["x"], 4, {"a": "b"}),
        (["spec.instance"], {}, ["x"], 4, {"a": "b"}),
        (["spec.rollout", "labels"], {"A": "1"}, [], 0, {}),
        (["spec.rollout.min_ready"], {"A": "1"}, [], 0, {"a": "b"}),
    ],
)
async def test_what_an_update_sets(
    plane: Plane, paths: list[str], env: dict[str, str], command: list[str], min_ready: int, labels: dict[str, str]
) -> None:
    made = await make(plane)
    change = groups_pb2.Group(name=WEB, etag=made.etag)
    change.spec.instance.template = "web"
    change.spec.instance.command.append("x")
    request = groups_pb2.UpdateGroupRequest(group=change, update_mask=field_mask_pb2.FieldMask(paths=paths))
    changed = await stub(plane).UpdateGroup(request, metadata=bearer(plane.admin_key))
    spec = changed.spec
    assert (dict(spec.instance.env), list(spec.instance.command)) == (env, command)
    assert (spec.rollout.min_ready.seconds, dict(changed.labels)) == (min_ready, labels)
    assert spec.replicas == 2
    assert changed.status.target_revision == (2 if command else 1)


async def test_a_mask_of_all_and_one_of_nothing_known(plane: Plane) -> None:
    made = await make(plane)
    change = groups_pb2.Group(name=WEB, etag=made.etag)
    change.spec.instance.template = "web"
    request = groups_pb2.UpdateGroupRequest(group=change, update_mask=field_mask_pb2.FieldMask(paths=["status.ready"]))
    error = await refusal(stub(plane).UpdateGroup(request, metadata=bearer(plane.admin_key)))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "MASK_INVALID")
    request = groups_pb2.UpdateGroupRequest(group=change, update_mask=field_mask_pb2.FieldMask(paths=["*"]))
    changed = await stub(plane).UpdateGroup(request, metadata=bearer(plane.admin_key))
    assert (changed.spec.replicas, dict(changed.spec.instance.env), changed.spec.rollout.max_surge) == (0, {}, "")


async def test_verbs_and_watch(plane: Plane) -> None:
    await make(plane)
    metadata = bearer(plane.admin_key)
    watching = Watching(plane, metadata, kinds=["groups"])
    try:
        existing, _ = await watching.until_synced()
        assert [change.group.name for change in existing] == [WEB]
        api = stub(plane)
        scaled = await api.ScaleGroup(groups_pb2.ScaleGroupRequest(name=WEB, replicas=5), metadata=metadata)
        assert scaled.status.wanted == 5
        while (message := await watching.read()).change.group.spec.replicas != 5:
            assert message.change.type == watch_pb2.CHANGE_TYPE_UPDATED
        paused = await api.PauseGroup(groups_pb2.PauseGroupRequest(name=WEB), metadata=metadata)
        stale = groups_pb2.ResumeGroupRequest(name=WEB, etag=scaled.etag)
        error = await refusal(api.ResumeGroup(stale, metadata=metadata))
        assert reason_of(error) == "ETAG_MISMATCH"
        await api.ResumeGroup(groups_pb2.ResumeGroupRequest(name=WEB, etag=paused.etag), metadata=metadata)
        error = await refusal(api.PromoteGroup(groups_pb2.PromoteGroupRequest(name=WEB), metadata=metadata))
        assert reason_of(error) == "NO_CANARY"
        error = await refusal(
            api.RollbackGroup(groups_pb2.RollbackGroupRequest(name=WEB, revision=3), metadata=metadata)
        )
        assert reason_of(error) == "REVISION_UNKNOWN"
        await api.DeleteGroup(groups_pb2.DeleteGroupRequest(name=WEB), metadata=metadata)
        while (await watching.read()).change.group.status.state != groups_pb2.GROUP_STATE_DELETING:
            continue
    finally:
        watching.end()


async def test_plans(plane: Plane) -> None:
    await make(plane)
    metadata = bearer(plane.admin_key)
    await plane.eventually(lambda: sum(i.value.owner == WEB for i in plane.store.view().all(INSTANCE)) == 2)
    change = groups_pb2.Group()
    change.spec.replicas = 3
    answer = await stub(plane).PlanGroup(groups_pb2.PlanGroupRequest(name=WEB, group=change), metadata=metadata)
    (first, *_) = answer.waves
    assert [(step.action, step.slot) for step in first.steps] == [(groups_pb2.PLAN_ACTION_MAKE, 2)]
    assert (answer.spec.replicas, answer.target_revision) == (3, 1)
    found = await stub(plane).GetGroup(groups_pb2.GetGroupRequest(name=WEB), metadata=metadata)
    assert found.spec.replicas == 2
    assert not [e.value for e in plane.store.view().all(AUDIT_EVENT) if e.value.method.endswith("PlanGroup")]

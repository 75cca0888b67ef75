"""Templates and their operations, as records."""

import asyncio
from typing import Any

import pytest

from controlplane.access.quota import Quota
from controlplane.domain.containers import ContainerDefaults, HealthCheck, Resources
from controlplane.domain.instances import InstanceState
from controlplane.domain.kinds import OPERATION, TEMPLATE
from controlplane.domain.operations import Operation, OperationState, failure_error
from controlplane.domain.templates import (
    DockerfileSource,
    RepositorySource,
    SnapshotSource,
    TarSource,
    TemplateSource,
    TemplateState,
)
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest
from controlplane.services.templates import LARGEST_LOG, MadeImage, NewTemplate
from moorage.errors import (
    AlreadyExists,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    QuotaExceeded,
    Unauthenticated,
    VersionConflict,
)
from tests.unit.controlplane.world import P, World, problems

IMAGE = MadeImage("sha256:" + "1" * 64, 1000, ("linux/amd64",), ContainerDefaults(("sh",)))


def new_template(template_id: str, **fields: Any) -> NewTemplate:
    source = TemplateSource(repository=RepositorySource("docker.io/library/busybox", "ann", "secret"))
    return NewTemplate(
        template_id,
        fields.get("source", source),
        fields.get("description", ""),
        fields.get("labels", {}),
        fields.get("defaults", ContainerDefaults()),
    )


async def refused(call: Any, kind: type[MoorageError], reason: str = "") -> Any:
    with pytest.raises(kind) as caught:
        await call
    assert not reason or caught.value.reason == reason
    return caught.value


async def begun(world: World, template_id: str = "t") -> Operation:
    operation, is_new = await world.templates.create(P, new_template(template_id), "ann")
    assert is_new
    return operation


async def test_one_that_is_made(world: World) -> None:
    operation = await begun(world)
    template = world.templates.get(P, "t")
    assert (template.status.state, template.status.operation) == (TemplateState.PENDING, operation.name)
    assert world.templates.template_of(operation) == template
    assert template.source.repository is not None
    assert template.source.repository.password == "secret"
    await world.templates.progress(operation, "copying", 40, 4, 10, "a")
    await world.templates.progress(operation, "copying", 30, 5, 10, "b")
    found = world.operations.get(P, operation.uid)
    assert (found.percent, found.done_bytes, found.log) == (40, 5, "ab"), "percent never falls"
    await world.templates.progress(operation, "copying", 100, 10, 10)
    assert world.operations.get(P, operation.uid).percent == 99
    assert await world.templates.succeed(operation, IMAGE, "c")
    ended = world.operations.get(P, operation.uid)
    assert (ended.state, ended.percent, ended.log, ended.end_time) == (
        OperationState.SUCCEEDED,
        100,
        "abc",
        world.clock.now(),
    )
    ready = world.templates.get(P, "t")
    assert (ready.status.state, ready.status.digest) == (TemplateState.READY, IMAGE.digest)
    assert ready.source.repository is not None
    assert ready.source.repository.password == "", "it has done its work"
    assert etag_of(ready) == etag_of(template)
    assert not await world.templates.succeed(operation, IMAGE)
    await world.templates.fail(operation, NotFound("too late"))
    assert world.operations.get(P, operation.uid).state is OperationState.SUCCEEDED
    assert world.reasons() == ["READY"]


async def test_one_that_cannot_be_had_is_gone(world: World) -> None:
    operation = await begun(world)
    error = Unauthenticated("wrong password", reason="REGISTRY_AUTH")
    await world.templates.fail(operation, error, "x" * (LARGEST_LOG + 10))
    with pytest.raises(NotFound):
        world.templates.get(P, "t")
    ended = world.operations.get(P, operation.uid)
    assert ended.state is OperationState.FAILED
    assert len(ended.log) == LARGEST_LOG
    assert ended.failure is not None
    again = failure_error(ended.failure)
    assert (type(again), again.reason, again.message) == (Unauthenticated, "REGISTRY_AUTH", "wrong password")
    assert not await world.templates.succeed(operation, IMAGE)
    await world.templates.progress(operation, "late", 50, 1, 1)
    assert world.operations.get(P, operation.uid) == ended
    await begun(world)
    assert world.reasons() == ["REGISTRATION_FAILED"]


async def test_an_old_operation_leaves_a_new_template_alone(world: World) -> None:
    old = await begun(world)
    await world.templates.fail(old, NotFound("x"), cancelled=True)
    assert world.operations.get(P, old.uid).state is OperationState.CANCELLED
    new = await begun(world)
    assert world.templates.template_of(old) is None
    assert not await world.templates.succeed(old, IMAGE)
    assert await world.templates.succeed(new, IMAGE)


async def test_what_is_asked_for_must_make_sense(world: World) -> None:
    two = TemplateSource(RepositorySource(""), DockerfileSource(memory_bytes=-1))
    bad = new_template(
        "T",
        source=two,
        labels={"moorage.x": "y"},
        defaults=ContainerDefaults(
            env={"A=": ""},
            workdir="x",
            ports=("80/tcp", "0", "x", "80/sctp"),
            resources=Resources(cpu_millis=1),
            health_check=HealthCheck((), -1),
        ),
    )
    error = await refused(world.templates.create(P, bad, "ann"), InvalidSpec)
    assert [field.removeprefix("template.") for field, _ in problems(error)] == [
        "template_id",
        "labels[moorage.x]",
        "source",
        "source.repository.reference",
        "source.dockerfile",
        "source.dockerfile",
        "defaults.env[A=]",
        "defaults.workdir",
        "defaults.resources.cpu_millis",
        "defaults.ports[1]",
        "defaults.ports[2]",
        "defaults.ports[3]",
        "defaults.health_check",
    ]
    for source in (TemplateSource(), TemplateSource(tar=TarSource()), TemplateSource(snapshot=SnapshotSource())):
        await refused(world.templates.create(P, new_template("t", source=source), "ann"), InvalidSpec)
    upload = new_template("t", source=TemplateSource(tar=TarSource()))
    operation, _ = await world.templates.create(P, upload, "ann", is_upload=True)
    assert operation.state is OperationState.RUNNING


async def test_snapshots_need_a_container(world: World) -> None:
    source = TemplateSource(snapshot=SnapshotSource("projects/demo/instances/i"))
    await refused(world.templates.create(P, new_template("t", source=source), "ann"), NotFound)
    await world.create("i")
    await refused(world.templates.create(P, new_template("t", source=source), "ann"), NotReady, "NO_CONTAINER")
    await world.host("a")
    placed = await world.place("i", "a")
    await world.report(placed, InstanceState.RUNNING, container_id="c")
    await world.templates.create(P, new_template("t", source=source), "ann")


async def test_names_quota_and_retries(world: World) -> None:
    first, new = await world.templates.create(P, new_template("t"), "ann", request_key="k", body=b"x")
    again, is_new = await world.templates.create(P, new_template("t"), "ann", request_key="k", body=b"x")
    assert (new, is_new, first.uid) == (True, False, again.uid)
    await refused(world.templates.create(P, new_template("t"), "ann"), AlreadyExists)
    await world.projects.update(P, quota=Quota(templates=2))
    await refused(world.templates.create(P, new_template("u"), "ann"), QuotaExceeded)
    await world.templates.fail(first, NotFound("x"))
    dry, is_new = await world.templates.create(P, new_template("u"), "ann", validate_only=True)
    assert not is_new
    assert world.store.view().get(OPERATION, f"{P}/{dry.uid}") is None
    assert world.store.view().get(TEMPLATE, f"{P}/u") is None


async def test_delete(world: World) -> None:
    operation = await begun(world)
    await refused(world.templates.delete(P, "t"), NotReady, "TEMPLATE_NOT_READY")
    await world.templates.succeed(operation, IMAGE)
    await world.create("i", template="t")
    error = await refused(world.templates.delete(P, "t"), NotReady, "TEMPLATE_IN_USE")
    assert "projects/demo/instances/i" in error.message
    await world.instances.delete(P, ["i"])
    await refused(world.templates.delete(P, "t", etag="x"), VersionConflict)
    deleting = await world.templates.delete(P, "t")
    assert deleting.status.state is TemplateState.DELETING
    await refused(world.create("i", template="t"), NotReady, "TEMPLATE_NOT_READY")
    await refused(world.templates.create(P, new_template("t"), "ann"), AlreadyExists)
    await world.templates.forget(deleting)
    await world.templates.forget(deleting)
    await begun(world)


async def test_updates_leave_instances_as_they_are(world: World) -> None:
    before = await world.create("i")
    changed = await world.templates.update(P, "web", defaults=ContainerDefaults(user="new"), labels={"a": "b"})
    assert (changed.defaults.user, changed.labels, changed.description) == ("new", {"a": "b"}, "")
    assert world.get("i") == before
    after = await world.changes.update(P, "i", spec_fields={"resources": Resources(pids=5)})
    assert (after.effective.user, after.effective.resources.pids) == ("", 5)
    assert (await world.changes.replace(P, "i")).effective.user == "new"
    await refused(world.templates.update(P, "web", defaults=ContainerDefaults(workdir="x")), InvalidSpec)
    found = world.templates.list(P, PageRequest(filter="labels.a=b")).items
    assert [t.value.id for t in found] == ["web"]


async def test_waiting_for_an_operation(world: World) -> None:
    operation = await begun(world)
    waiting = asyncio.ensure_future(world.operations.wait(P, operation.uid))
    await asyncio.sleep(0)
    await world.templates.progress(operation, "copying", 5, 1, 2)
    await world.clock.settle()
    assert not waiting.done()
    assert (await world.operations.require_running(P, operation.uid)).uid == operation.uid
    await world.templates.succeed(operation, IMAGE)
    assert (await waiting).state is OperationState.SUCCEEDED
    assert (await world.operations.wait(P, operation.uid)).state is OperationState.SUCCEEDED
    await refused(world.operations.require_running(P, operation.uid), NotReady, "OPERATION_ENDED")
    await refused(world.operations.wait(P, "none"), NotFound)
    for terms, count in (("state=SUCCEEDED", 1), ("state=RUNNING", 0), ("target=projects/demo/templates/t", 1)):
        assert len(world.operations.list(P, PageRequest(filter=terms)).items) == count

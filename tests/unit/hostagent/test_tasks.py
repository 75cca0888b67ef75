"""Builds and snapshots: made, pushed under a grant, removed from the host, and reported."""

import io
import tarfile

import pytest

from hostagent.executor.dockerfile_bases import rewrite_bases
from moorage.errors import InvalidSpec
from moorage.status import error_from_status
from moorage.v1 import agent_pb2
from moorage.v1 import instances_pb2 as pb
from tests.unit.hostagent.conftest import Host, instance, network

MADE = "127.0.0.1:5577/p/made:latest"


async def run_task(host: Host, task: agent_pb2.Task) -> list[agent_pb2.TaskReport]:
    host.control_plane.send(agent_pb2.SessionResponse(task=task))
    await host.control_plane.until(lambda: any(r.done for r in host.control_plane.tasks))
    return host.control_plane.tasks


@pytest.fixture
async def ready(host: Host) -> Host:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    return host


async def test_an_inline_dockerfile_is_built_and_pushed(ready: Host) -> None:
    build = agent_pb2.BuildTask(
        repository="p/made",
        tag="latest",
        dockerfile="FROM debian:12\nRUN true\n",
        base_images={"debian:12": "p/debian@sha256:" + "b" * 64},
    )
    ready.engine.registry["127.0.0.1:5577/p/debian@sha256:" + "b" * 64] = ready.engine.add_image("base:1")
    reports = await run_task(ready, agent_pb2.Task(task_id="t1", build=build))
    assert not reports[-1].HasField("error"), reports[-1]
    assert "FROM 127.0.0.1:5577/p/debian@sha256:" in "".join(r.log for r in reports)
    assert {"build", "push"} <= {r.phase for r in reports}
    assert MADE in ready.engine.registry
    assert MADE not in ready.engine.images
    assert ready.door.granted == ["pull p/debian@sha256:" + "b" * 64, "push p/made"]


async def test_a_context_is_fetched_and_a_failed_build_keeps_its_log(ready: Host) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("docker/Dockerfile")
        text = b"FROM scratch\nRUN false\n"
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    ready.control_plane.contexts["t1"] = buffer.getvalue()
    build = agent_pb2.BuildTask(repository="p/made", tag="latest", path="docker/Dockerfile", has_context=True)
    reports = await run_task(ready, agent_pb2.Task(task_id="t1", build=build))
    error = error_from_status(reports[-1].error)
    assert isinstance(error, InvalidSpec)
    assert error.reason == "BUILD_FAILED"
    assert "RUN false" in "".join(r.log for r in reports)
    assert MADE not in ready.engine.registry


async def test_a_build_with_network_is_refused(ready: Host) -> None:
    build = agent_pb2.BuildTask(repository="p/made", tag="latest", dockerfile="FROM scratch\n", egress=True)
    reports = await run_task(ready, agent_pb2.Task(task_id="t1", build=build))
    assert error_from_status(reports[-1].error).reason == "EGRESS_NOT_SUPPORTED"


async def test_a_snapshot_carries_no_mark_of_ours(ready: Host) -> None:
    snapshot = agent_pb2.SnapshotTask(instance_id="i1", repository="p/made", tag="latest")
    reports = await run_task(ready, agent_pb2.Task(task_id="t1", snapshot=snapshot))
    assert not reports[-1].HasField("error"), reports[-1]
    labels = ready.engine.registry[MADE].labels
    assert {value for key, value in labels.items() if key.startswith("moorage.")} == {""}


def test_bases_are_replaced_and_stages_are_not() -> None:
    text = (
        "FROM --platform=linux/amd64 debian:12 AS build\r\n"
        "FROM build AS next\n"
        "copy --chown=1 --from=debian:12 /a /b\n"
        "COPY --from=build /a /b\n"
        "RUN echo FROM debian:12\n"
        "FROM other\n"
    )
    assert rewrite_bases(text, {"debian:12": "R/d@1", "build": "R/x"}) == (
        "FROM --platform=linux/amd64 R/d@1 AS build\r\n"
        "FROM build AS next\n"
        "copy --chown=1 --from=R/d@1 /a /b\n"
        "COPY --from=build /a /b\n"
        "RUN echo FROM debian:12\n"
        "FROM other\n"
    )

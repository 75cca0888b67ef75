"""Looking into instances: each call joined with the side stream that the host's agent opens."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from controlplane.access.roles import Role
from controlplane.api.errors import status_of
from controlplane.domain.kinds import HOST, INSTANCE
from moorage.errors import NotReady
from moorage.v1 import agent_pb2, instance_streams_pb2_grpc, instances_pb2, instances_pb2_grpc
from moorage.v1 import instance_streams_pb2 as pb
from tests.support.controlplane import Plane, bearer, instance, reason_of, refusal
from tests.unit.api.stream_agent import StreamAgent, ended


@pytest.fixture
async def fake(plane: Plane) -> AsyncIterator[StreamAgent]:
    await plane.template()
    agent = await plane.agent("a")
    api: Any = instances_pb2_grpc.InstanceServiceStub(plane.channel())
    made = await api.CreateInstance(
        instances_pb2.CreateInstanceRequest(parent="projects/default", instance_id="web", instance=instance()),
        metadata=bearer(plane.admin_key),
    )
    fake = StreamAgent(plane, agent)
    await plane.running(made.name)
    await plane.eventually(lambda: any(h.value.epoch for h in plane.store.view().all(HOST)))
    yield fake
    await fake.end()


NAME = "projects/default/instances/web"


def _stub(plane: Plane) -> Any:
    stub: Any = instance_streams_pb2_grpc.InstanceStreamServiceStub(plane.channel())
    return stub


async def test_logs_and_stats(plane: Plane, fake: StreamAgent) -> None:
    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        if request.WhichOneof("kind") == "logs":
            assert request.logs.tail == 5
            for line in (b"one", b"two"):
                yield agent_pb2.OpenStreamRequest(logs=pb.StreamLogsResponse(data=line))
        else:
            yield agent_pb2.OpenStreamRequest(stats=pb.StreamStatsResponse(pids=3))
        yield ended()

    fake.answer = answer
    metadata = bearer(plane.admin_key)
    logs = _stub(plane).StreamLogs(pb.StreamLogsRequest(name=NAME, tail=5), metadata=metadata)
    assert [piece.data async for piece in logs] == [b"one", b"two"]
    stats = _stub(plane).StreamStats(pb.StreamStatsRequest(name=NAME), metadata=metadata)
    assert [one.pids async for one in stats] == [3]
    assert all(r.instance_id == plane.record("default", "web").uid for r in fake.requests)


async def test_what_went_wrong_on_the_host_is_told(plane: Plane, fake: StreamAgent) -> None:
    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        yield agent_pb2.OpenStreamRequest(logs=pb.StreamLogsResponse(data=b"one"))
        yield ended(status_of(NotReady("it is gone", reason="NO_CONTAINER")))

    fake.answer = answer
    call = _stub(plane).StreamLogs(pb.StreamLogsRequest(name=NAME), metadata=bearer(plane.admin_key))
    assert (await call.read()).data == b"one"
    error = await refusal(call.read())
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_CONTAINER")


async def test_exec_goes_both_ways(plane: Plane, fake: StreamAgent) -> None:
    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        assert list(request.exec.command) == ["cat"]
        yield agent_pb2.OpenStreamRequest(exec=pb.ExecInstanceResponse(started=True))
        while (message := await inputs.get()) is not None:
            if message.exec.WhichOneof("part") == "stdin_closed":
                break
            yield agent_pb2.OpenStreamRequest(exec=pb.ExecInstanceResponse(stdout=message.exec.stdin.upper()))
        yield agent_pb2.OpenStreamRequest(exec=pb.ExecInstanceResponse(exit_code=3))
        yield ended()

    fake.answer = answer
    inputs = [
        pb.ExecInstanceRequest(start=pb.ExecStart(name=NAME, command=["cat"], stdin=True)),
        *(pb.ExecInstanceRequest(stdin=word) for word in (b"a", b"b")),
        pb.ExecInstanceRequest(stdin_closed=True),
    ]
    call = _stub(plane).ExecInstance(iter(inputs), metadata=bearer(plane.admin_key))
    seen = [message async for message in call]
    assert seen[0].started
    assert b"".join(message.stdout for message in seen) == b"AB"
    assert seen[-1].exit_code == 3


async def test_files_in_and_out(plane: Plane, fake: StreamAgent) -> None:
    received = []

    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        if request.WhichOneof("kind") == "copy_in":
            while not (message := await inputs.get()).closed:
                received.append(message.chunk)
        else:
            for chunk in (b"x", b"y"):
                yield agent_pb2.OpenStreamRequest(chunk=chunk)
        yield ended()

    fake.answer = answer
    metadata = bearer(plane.admin_key)
    parts = [pb.CopyInRequest(target=pb.CopyTarget(name=NAME, path="/tmp")), pb.CopyInRequest(chunk=b"tar")]
    await _stub(plane).CopyIn(iter(parts), metadata=metadata)
    assert received == [b"tar"]
    out = _stub(plane).CopyOut(pb.CopyOutRequest(name=NAME, path="/tmp/x"), metadata=metadata)
    assert [piece.chunk async for piece in out] == [b"x", b"y"]
    twice = [parts[0], parts[0]]
    error = await refusal(_stub(plane).CopyIn(iter(twice), metadata=metadata))
    assert reason_of(error) == "STREAM_INVALID"


async def test_ports(plane: Plane, fake: StreamAgent) -> None:
    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        assert request.forward.port == 8080
        message = await inputs.get()
        yield agent_pb2.OpenStreamRequest(forward=pb.ForwardPortResponse(data=message.forward.data[::-1]))
        yield ended()

    fake.answer = answer
    parts = [pb.ForwardPortRequest(start=pb.ForwardStart(name=NAME, port=8080)), pb.ForwardPortRequest(data=b"abc")]
    call = _stub(plane).ForwardPort(iter(parts), metadata=bearer(plane.admin_key))
    assert [message.data async for message in call] == [b"cba"]


async def test_bad_requests(plane: Plane, fake: StreamAgent) -> None:
    metadata = bearer(plane.admin_key)
    stub = _stub(plane)
    calls = {
        "tail": stub.StreamLogs(pb.StreamLogsRequest(name=NAME, tail=-1), metadata=metadata),
        "path": stub.CopyOut(pb.CopyOutRequest(name=NAME, path="x"), metadata=metadata),
        "command": stub.ExecInstance(iter([pb.ExecInstanceRequest(start=pb.ExecStart(name=NAME))]), metadata=metadata),
        "port": stub.ForwardPort(
            iter([pb.ForwardPortRequest(start=pb.ForwardStart(name=NAME, port=0))]), metadata=metadata
        ),
        "nothing": stub.CopyIn(iter([]), metadata=metadata),
    }
    for name, call in calls.items():
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, name
    assert fake.requests == []


async def test_a_caller_who_goes_away_ends_the_side_stream(plane: Plane, fake: StreamAgent) -> None:
    ended = asyncio.Event()

    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        yield agent_pb2.OpenStreamRequest(exec=pb.ExecInstanceResponse(started=True))
        assert await inputs.get() is None
        ended.set()

    fake.answer = answer
    hold = asyncio.Event()

    async def inputs() -> AsyncIterator[pb.ExecInstanceRequest]:
        yield pb.ExecInstanceRequest(start=pb.ExecStart(name=NAME, command=["cat"], stdin=True))
        await hold.wait()

    call = _stub(plane).ExecInstance(inputs(), metadata=bearer(plane.admin_key))
    assert (await call.read()).started
    call.cancel()
    hold.set()
    await asyncio.wait_for(ended.wait(), 30)


async def test_a_host_that_goes_away_ends_the_call(plane: Plane, fake: StreamAgent) -> None:
    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        yield agent_pb2.OpenStreamRequest(logs=pb.StreamLogsResponse(data=b"one"))
        await inputs.get()

    fake.answer = answer
    call = _stub(plane).StreamLogs(pb.StreamLogsRequest(name=NAME, follow=True), metadata=bearer(plane.admin_key))
    assert (await call.read()).data == b"one"
    fake.opened[0].cancel()
    error = await asyncio.wait_for(refusal(call.read()), 30)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "HOST_AWAY")


async def test_only_fleet_admins_enter_what_the_platform_runs(plane: Plane, fake: StreamAgent) -> None:
    """Its logs and figures are for all members; powers and secrets in there are not."""

    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        yield ended()

    fake.answer = answer
    web = plane.record("default", "web")
    owned = replace(web, owner="projects/default/routers/edge")
    await plane.store.update(lambda tx: tx.put(INSTANCE, owned))
    metadata = await plane.key("ann", {"default": Role.OPERATOR})
    assert [m async for m in _stub(plane).StreamLogs(pb.StreamLogsRequest(name=NAME), metadata=metadata)] == []
    copying = _stub(plane).CopyOut(pb.CopyOutRequest(name=NAME, path="/etc"), metadata=metadata)
    assert reason_of(await refusal(copying)) == "FLEET_ADMIN_ONLY"
    copying = _stub(plane).CopyOut(pb.CopyOutRequest(name=NAME, path="/etc"), metadata=bearer(plane.admin_key))
    assert [m async for m in copying] == []


async def test_members_of_groups_are_entered_like_other_instances(plane: Plane, fake: StreamAgent) -> None:
    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        yield ended()

    fake.answer = answer
    owned = replace(plane.record("default", "web"), owner="projects/default/groups/web", slot=0)
    await plane.store.update(lambda tx: tx.put(INSTANCE, owned))
    metadata = await plane.key("ann", {"default": Role.OPERATOR})
    copying = _stub(plane).CopyOut(pb.CopyOutRequest(name=NAME, path="/etc"), metadata=metadata)
    assert [m async for m in copying] == []

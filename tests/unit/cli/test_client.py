"""The client library: credentials, paging, waiting by watch."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cli.instance.create import wait_until_run
from moorage.client import Client, paginate
from moorage.errors import DeadlineExceeded, InvalidSpec, NotFound, NotReady, Unauthenticated, Unavailable
from moorage.v1 import hosts_pb2, instance_streams_pb2, instances_pb2, operations_pb2, templates_pb2
from tests.unit.cli.conftest import Certificate, Served
from tests.unit.cli.plane import KEY, Plane

RUNNING = instances_pb2.INSTANCE_STATE_RUNNING
STOPPED = instances_pb2.INSTANCE_STATE_STOPPED
DELETED = instances_pb2.INSTANCE_STATE_DELETED
WEB = "projects/default/instances/web"


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    async with Client.connect(served.address, api_key=KEY, ca_file=served.ca_file) as connected:
        yield connected


def put_instance(plane: Plane, name: str = WEB, run: int = 1, state: int = RUNNING) -> None:
    plane.put(instances_pb2.Instance(name=name, status=instances_pb2.InstanceStatus(state=state, run=run)))  # type: ignore[arg-type]


async def register(client: Client, reference: str) -> operations_pb2.Operation:
    source = templates_pb2.TemplateSource(repository=templates_pb2.RepositorySource(reference=reference))
    request = templates_pb2.CreateTemplateRequest(
        parent="projects/default", template_id="t", template=templates_pb2.Template(source=source)
    )
    return await client.templates.CreateTemplate(request)


async def test_calls_carry_the_key_and_a_trace_id(client: Client, plane: Plane) -> None:
    await client.hosts.ListHosts(hosts_pb2.ListHostsRequest())
    await client.hosts.ListHosts(hosts_pb2.ListHostsRequest())
    first, second = plane.metadata
    assert first["authorization"] == f"Bearer {KEY}"
    assert len(first["x-trace-id"]) == 32
    assert first["x-trace-id"] != second["x-trace-id"]


async def test_errors_carry_the_trace_id(served: Served) -> None:
    async with Client.connect(served.address, api_key="wrong", ca_file=served.ca_file, trace_id="abc") as client:
        with pytest.raises(Unauthenticated) as caught:
            await client.hosts.ListHosts(hosts_pb2.ListHostsRequest())
    assert caught.value.reason == "KEY_UNKNOWN"
    assert caught.value.metadata == {"trace_id": "abc"}


async def test_streams_raise_our_errors(client: Client) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        async for _ in client.streams.StreamLogs(instance_streams_pb2.StreamLogsRequest(name=WEB)):
            pass

    async def requests() -> AsyncIterator[instance_streams_pb2.ExecInstanceRequest]:
        yield instance_streams_pb2.ExecInstanceRequest(start=instance_streams_pb2.ExecStart(name=WEB))

    with pytest.raises(NotFound, match="does not exist"):
        await client.streams.ExecInstance(requests()).read()


async def test_nobody_there(certificate: Certificate) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        async with Client.connect(address, ca_pem=certificate.pem) as client:
            with pytest.raises(Unavailable, match=f"cannot reach the control plane at {address}"):
                await client.hosts.ListHosts(hosts_pb2.ListHostsRequest())


async def test_a_foreign_authority_is_refused(served: Served) -> None:
    async with Client.connect(served.address, api_key=KEY) as client:
        with pytest.raises(Unavailable) as caught:
            await client.hosts.ListHosts(hosts_pb2.ListHostsRequest())
    assert served.plane.metadata == []
    assert "check the CA file" in caught.value.message


def test_bad_connections_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec):
        Client.connect("")
    with pytest.raises(InvalidSpec):
        Client.connect("a:1", ca_file=tmp_path / "none")


async def test_paginate(client: Client, plane: Plane) -> None:
    for number in range(5):
        plane.put(hosts_pb2.Host(name=f"hosts/h{number}"))
    request = hosts_pb2.ListHostsRequest(filter="zone=a")
    names = [host.name async for host in paginate(client.hosts.ListHosts, request, lambda page: page.hosts)]
    assert names == [f"hosts/h{number}" for number in range(5)]
    assert [asked.page_token for asked in plane.requests("ListHosts")] == ["", "2", "4"]
    assert {asked.filter for asked in plane.requests("ListHosts")} == {"zone=a"}
    assert request.page_token == ""


async def test_wait_operation_shows_each_step(client: Client) -> None:
    operation = await register(client, "nginx")
    seen: list[tuple[str, int]] = []
    done = await client.wait_operation(operation.name, lambda each: seen.append((each.phase, each.percent)))
    assert done.state == operations_pb2.OPERATION_STATE_SUCCEEDED
    assert seen == [("", 0), ("pull", 10), ("", 100)]


async def test_wait_operation_fails_as_the_operation_does(client: Client) -> None:
    operation = await register(client, "missing")
    with pytest.raises(NotFound, match="no such image") as caught:
        await client.wait_operation(operation.name)
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    assert caught.value.metadata["operation"] == operation.name


async def test_wait_operation_cancelled_and_too_slow(client: Client, plane: Plane) -> None:
    operation = await register(client, "nginx")
    plane.script.clear()
    with pytest.raises(DeadlineExceeded, match="still waiting for operation"):
        await client.wait_operation(operation.name, timeout_seconds=0.1)
    await client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    with pytest.raises(NotReady, match="cancelled"):
        await client.wait_operation(operation.name)


async def test_wait_instance_sees_changes(client: Client, plane: Plane) -> None:
    put_instance(plane, state=instances_pb2.INSTANCE_STATE_ASSIGNED, run=0)
    plane.script.append(lambda: plane.state(WEB, "PULLING"))
    plane.script.append(lambda: plane.state(WEB, "RUNNING", run=1))
    seen: list[int] = []
    found = await client.wait_instance(WEB, [RUNNING], 10, on_change=lambda each: seen.append(each.status.state))
    assert found.status.run == 1
    assert seen == [200, 300, 600]


async def test_wait_instances_of_several_uses_one_watch(client: Client, plane: Plane) -> None:
    names = [f"projects/default/instances/i{number}" for number in range(4)]
    for name in names:
        put_instance(plane, name, state=instances_pb2.INSTANCE_STATE_ASSIGNED)
        plane.script.append(lambda name=name: plane.state(name, "RUNNING"))  # type: ignore[misc]
    found = await client.wait_instances(names, [RUNNING], 10)
    assert sorted(found) == names
    assert len(plane.requests("Watch")) == 1
    assert await client.wait_instances([], [RUNNING], 10) == {}


async def test_an_older_run_does_not_count(client: Client, plane: Plane) -> None:
    put_instance(plane, run=3)
    plane.script.append(lambda: plane.state(WEB, "STOPPED"))
    plane.script.append(lambda: plane.state(WEB, "RUNNING", run=4))
    assert (await client.wait_instance(WEB, [RUNNING], 10, after_run=3)).status.run == 4


async def test_wait_instance_until_it_is_gone(client: Client, plane: Plane) -> None:
    put_instance(plane)
    plane.script.append(lambda: plane.remove(WEB))
    await client.wait_instance(WEB, [DELETED], 10)
    await client.wait_instance(WEB, [DELETED], 10)  # it is gone already


async def test_wait_instance_that_vanishes_or_fails(client: Client, plane: Plane) -> None:
    put_instance(plane, state=STOPPED)
    plane.script.append(lambda: plane.remove(WEB))
    with pytest.raises(NotFound, match="deleted meanwhile"):
        await client.wait_instance(WEB, [RUNNING], 10)
    put_instance(plane, state=STOPPED)
    plane.script.append(lambda: plane.state(WEB, "FAILED", reason="CRASH_LOOP", message="it ends again and again"))
    with pytest.raises(NotReady, match="it ends again and again") as caught:
        await client.wait_instance(WEB, [RUNNING], 10)
    assert caught.value.reason == "CRASH_LOOP"


async def test_the_end_of_a_wait_says_what_was_missing(client: Client, plane: Plane) -> None:
    put_instance(plane, state=instances_pb2.INSTANCE_STATE_PENDING)
    plane.state(WEB, "PENDING", message="cpu took out 3 hosts")
    with pytest.raises(DeadlineExceeded, match=r"web \(PENDING: cpu took out 3 hosts\)"):
        await client.wait_instance(WEB, [RUNNING], 0.2)


async def test_waiting_survives_compacted_history(client: Client, plane: Plane) -> None:
    put_instance(plane, state=STOPPED)
    plane.compacted_before = 1000
    plane.script.append(lambda: plane.state(WEB, "RUNNING"))
    await client.wait_instance(WEB, [RUNNING], 10)
    assert len(plane.requests("Watch")) == 2


async def test_waiting_survives_a_control_plane_that_is_away(client: Client, plane: Plane) -> None:
    put_instance(plane, state=STOPPED)
    plane.failures["Watch"] = Unavailable("starting")
    waiting = asyncio.create_task(client.wait_instance(WEB, [RUNNING], 10))
    await asyncio.to_thread(plane.wait_for_call, "Watch")
    plane.state(WEB, "RUNNING")
    plane.failures.clear()
    assert (await waiting).status.state == RUNNING


def test_names_must_be_full(served: Served) -> None:
    async def body() -> None:
        async with Client.connect(served.address, api_key=KEY, ca_file=served.ca_file) as client:
            await client.wait_operation("op")

    with pytest.raises(InvalidSpec):
        asyncio.run(body())


def put_unplaced(plane: Plane) -> instances_pb2.Instance:
    status = instances_pb2.InstanceStatus(
        state=instances_pb2.INSTANCE_STATE_PENDING, reason="UNPLACEABLE", message="no host has 9 cores"
    )
    instance = instances_pb2.Instance(name=WEB, status=status)
    plane.put(instance)
    return instance


async def test_waiting_ends_early_when_no_host_fits(client: Client, plane: Plane) -> None:
    instance = put_unplaced(plane)
    with pytest.raises(NotReady, match="no host has 9 cores; it waits without moor") as caught:
        await wait_until_run(client, [instance], 20, unplaced_seconds=0.1)
    assert caught.value.reason == "UNPLACEABLE"


@pytest.mark.parametrize("unplaced_seconds", [None, 15.0])
async def test_an_instance_that_gets_its_host_in_time_is_waited_for(
    client: Client, plane: Plane, unplaced_seconds: float | None
) -> None:
    waiting = asyncio.create_task(wait_until_run(client, [put_unplaced(plane)], 20, unplaced_seconds=unplaced_seconds))
    await asyncio.to_thread(plane.wait_for_call, "Watch")
    put_instance(plane)
    (found,) = await waiting
    assert found.status.state == RUNNING


async def test_a_refusal_that_meets_a_writing_client_is_not_lost(served: Served, plane: Plane) -> None:
    """grpc.aio tells an error of its own then, in one of five such calls."""

    async def upload() -> AsyncIterator[templates_pb2.UploadTemplateRequest]:
        create = templates_pb2.CreateTemplateRequest(parent="projects/default")
        yield templates_pb2.UploadTemplateRequest(create=create)
        for _ in range(20):
            yield templates_pb2.UploadTemplateRequest(chunk=bytes(1 << 18))

    def command() -> Iterator[instance_streams_pb2.ExecInstanceRequest]:
        yield instance_streams_pb2.ExecInstanceRequest(start=instance_streams_pb2.ExecStart(name=WEB))
        for _ in range(20):
            yield instance_streams_pb2.ExecInstanceRequest(stdin=bytes(1 << 18))

    async with Client.connect(served.address, api_key="wrong", ca_file=served.ca_file) as client:
        for _ in range(15):
            with pytest.raises(Unauthenticated, match="the API key is not known"):
                await client.templates.UploadTemplate(upload())
            with pytest.raises(Unauthenticated, match="the API key is not known"):
                async for _ in client.streams.ExecInstance(command()):
                    pass
    assert plane.requests("ExecInstance") == []

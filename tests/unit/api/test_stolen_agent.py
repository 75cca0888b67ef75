"""A host's certificate in the wrong hands: what it opens, and what it does not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import jwt
import pytest

from controlplane.dispatch.tasks import BuildTask
from controlplane.domain.hosts import HostLinkState
from controlplane.domain.instances import InstanceState
from controlplane.domain.kinds import EVENT, HOST, INSTANCE
from moorage.tls import Authority, certificate_facts, generate_request
from moorage.v1 import (
    agent_pb2,
    hosts_pb2,
    hosts_pb2_grpc,
    instance_streams_pb2,
    instance_streams_pb2_grpc,
    instances_pb2,
    instances_pb2_grpc,
)
from tests.support.controlplane import Agent, Plane, bearer, hello, instance, reason_of, refusal


class Session:
    """An agent's session: what it sends, and what it was told."""

    def __init__(self, plane: Plane, agent: Agent, first: agent_pb2.SessionRequest | None = None) -> None:
        self._messages: asyncio.Queue[agent_pb2.SessionRequest | None] = asyncio.Queue()
        self._messages.put_nowait(first or hello())
        self.call: Any = plane.agent_stub(agent).Session(self._outgoing())

    async def _outgoing(self) -> AsyncIterator[agent_pb2.SessionRequest]:
        while (message := await self._messages.get()) is not None:
            yield message

    async def read(self) -> agent_pb2.SessionResponse:
        message: Any = await asyncio.wait_for(self.call.read(), 30)
        assert message is not grpc.aio.EOF, await self.call.details()
        return message  # type: ignore[no-any-return]

    async def begin(self) -> agent_pb2.Assignments:
        """Welcome, then the whole set."""
        assert (await self.read()).WhichOneof("part") == "welcome"
        return (await self.read()).assignments

    def send(self, **part: Any) -> None:
        self._messages.put_nowait(agent_pb2.SessionRequest(**part))

    def end(self) -> None:
        self._messages.put_nowait(None)
        self.call.cancel()

    def report(self, *reports: agent_pb2.InstanceReport) -> None:
        self.send(status=agent_pb2.StatusBatch(reports=reports))


Dial = Callable[..., Session]


@pytest.fixture
async def dial(plane: Plane) -> AsyncIterator[Dial]:
    """Opens sessions, which end with the test."""
    opened: list[Session] = []

    def open_session(agent: Agent, first: agent_pb2.SessionRequest | None = None) -> Session:
        opened.append(Session(plane, agent, first))
        return opened[-1]

    yield open_session
    for session in opened:
        session.end()


@pytest.fixture
async def fleet(plane: Plane) -> tuple[Agent, Agent, Any]:
    """(owner's host, thief's host, an instance that runs on the owner's)."""
    await plane.template()
    owner = await plane.agent("owner")
    api: Any = instances_pb2_grpc.InstanceServiceStub(plane.channel())
    made = await api.CreateInstance(
        instances_pb2.CreateInstanceRequest(parent="projects/default", instance_id="web", instance=instance()),
        metadata=bearer(plane.admin_key),
    )
    record = await plane.running(made.name)
    return owner, await plane.agent("thief"), record


async def test_reports_about_anothers_instances_change_nothing(
    plane: Plane, dial: Dial, fleet: tuple[Agent, Agent, Any]
) -> None:
    _, thief, record = fleet
    session = dial(thief)
    assert not (await session.begin()).instances
    for sequence, state in enumerate(("FAILED", "DELETED", "STOPPED"), 1):
        value = instances_pb2.InstanceState.Value(f"INSTANCE_STATE_{state}")
        session.report(agent_pb2.InstanceReport(instance_id=record.uid, run=9, sequence=sequence, state=value))
    session.send(event=agent_pb2.AgentEvent(instance_id=record.uid, reason="FORGED", message="x"))
    session.send(event=agent_pb2.AgentEvent(reason="OWN", message="about the host itself"))
    await plane.eventually(lambda: any(e.value.reason == "OWN" for e in plane.store.view().all(EVENT)))
    assert plane.record("default", "web") == record
    assert not any(e.value.reason == "FORGED" for e in plane.store.view().all(EVENT))
    hosts = {found.value.id: found.value.link_state for found in plane.store.view().all(HOST)}
    assert hosts["thief"] is HostLinkState.UP


async def test_the_hello_cannot_report_anothers_instances(
    plane: Plane, dial: Dial, fleet: tuple[Agent, Agent, Any]
) -> None:
    _, thief, record = fleet
    forged = agent_pb2.InstanceReport(
        instance_id=record.uid, run=9, sequence=1, state=instances_pb2.INSTANCE_STATE_FAILED
    )
    session = dial(thief, hello(instances=[forged]))
    await session.begin()
    assert plane.record("default", "web") == record


async def test_its_own_host_is_heard(plane: Plane, dial: Dial, fleet: tuple[Agent, Agent, Any]) -> None:
    owner, _, record = fleet
    session = dial(owner)
    (assignment,) = (await session.begin()).instances
    assert assignment.instance_id == record.uid
    assert assignment.image == record.image
    session.report(
        agent_pb2.InstanceReport(
            instance_id=record.uid, run=1, sequence=1, state=instances_pb2.INSTANCE_STATE_STOPPED, exit_code=3
        )
    )
    await plane.eventually(lambda: plane.record("default", "web").observed.state is InstanceState.STOPPED)
    assert plane.record("default", "web").observed.exit_code == 3


async def test_leases_are_for_ones_own_instances_only(
    plane: Plane, dial: Dial, fleet: tuple[Agent, Agent, Any]
) -> None:
    owner, thief, _ = fleet
    api: Any = instances_pb2_grpc.InstanceServiceStub(plane.channel())
    wanted = instance(exclusive=True)
    wanted.spec.placement.host = "hosts/owner"
    made = await api.CreateInstance(
        instances_pb2.CreateInstanceRequest(parent="projects/default", instance_id="alone", instance=wanted),
        metadata=bearer(plane.admin_key),
    )
    assert made.status.lease.seconds > 0
    await plane.running(made.name)
    for agent, given in ((thief, []), (owner, [made.uid])):
        session = dial(agent)
        await session.begin()
        session.send(lease_request=agent_pb2.LeaseRequest(number=7, instance_ids=[made.uid, "nobody"]))
        while (answer := await session.read()).WhichOneof("part") != "lease_renewal":
            continue
        assert answer.lease_renewal == agent_pb2.LeaseRenewal(number=7, instance_ids=given)


async def test_registry_tokens_are_for_ones_own_images_only(plane: Plane, fleet: tuple[Agent, Agent, Any]) -> None:
    owner, thief, record = fleet
    repository = record.image.partition("@")[0]
    wanted = agent_pb2.IssueRegistryTokenRequest(repository=repository)
    answer = await plane.agent_stub(owner).IssueRegistryToken(wanted)
    claims = jwt.decode(answer.token, options={"verify_signature": False})
    assert claims["access"] == [{"type": "repository", "name": repository, "actions": ["pull"]}]

    error = await refusal(plane.agent_stub(thief).IssueRegistryToken(wanted))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_REPOSITORY")
    for agent in (owner, thief):
        push = agent_pb2.IssueRegistryTokenRequest(repository=repository, push=True)
        error = await refusal(plane.agent_stub(agent).IssueRegistryToken(push))
        assert reason_of(error) == "NOT_YOUR_REPOSITORY"


async def test_side_streams_of_another_host(plane: Plane, dial: Dial, fleet: tuple[Agent, Agent, Any]) -> None:
    owner, thief, record = fleet
    owners, thieves = dial(owner), dial(thief)
    await owners.begin()
    await thieves.begin()
    streams: Any = instance_streams_pb2_grpc.InstanceStreamServiceStub(plane.channel())
    logs = streams.StreamLogs(
        instance_streams_pb2.StreamLogsRequest(name=record.name), metadata=bearer(plane.admin_key)
    )
    reading = asyncio.ensure_future(logs.read())
    stream_id = (await owners.read()).stream.stream_id
    answer = agent_pb2.OpenStreamRequest(stream_id=stream_id)
    error = await refusal(plane.agent_stub(thief).OpenStream(iter([answer])))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "STREAM_UNKNOWN")

    piece = instance_streams_pb2.StreamLogsResponse(data=b"hello")
    parts = [answer, agent_pb2.OpenStreamRequest(logs=piece), agent_pb2.OpenStreamRequest(end=agent_pb2.StreamEnd())]
    opened = plane.agent_stub(owner).OpenStream(iter(parts))
    assert (await reading).data == b"hello"
    error = await refusal(plane.agent_stub(owner).OpenStream(iter([answer])))
    assert reason_of(error) == "STREAM_UNKNOWN", "a stream is claimed once"
    assert await logs.read() is grpc.aio.EOF
    assert await opened.read() is grpc.aio.EOF


class _Context:
    async def stream(self) -> AsyncIterator[bytes]:
        yield b"secret source"


async def test_build_contexts_and_pushes_of_another_host(
    plane: Plane, dial: Dial, fleet: tuple[Agent, Agent, Any]
) -> None:
    owner, thief, _ = fleet
    session = dial(owner)
    await session.begin()
    tasks = plane.tasks
    work = BuildTask("p/built", "t", has_context=True, base_images={"busybox": "p/base@sha256:1"})
    running = asyncio.ensure_future(tasks.run(owner.uid, work, lambda report: None, _Context()))
    task = (await session.read()).task
    assert task.build.repository == "p/built"

    wanted = agent_pb2.FetchBuildContextRequest(task_id=task.task_id)
    error = await refusal(plane.agent_stub(thief).FetchBuildContext(wanted))
    assert reason_of(error) == "TASK_UNKNOWN"
    for request in (
        agent_pb2.IssueRegistryTokenRequest(repository="p/built", push=True),
        agent_pb2.IssueRegistryTokenRequest(repository="p/base"),
    ):
        error = await refusal(plane.agent_stub(thief).IssueRegistryToken(request))
        assert reason_of(error) == "NOT_YOUR_REPOSITORY"
        assert (await plane.agent_stub(owner).IssueRegistryToken(request)).token
    chunks = [part.chunk async for part in plane.agent_stub(owner).FetchBuildContext(wanted)]
    assert chunks == [b"secret source"]

    intruder = dial(thief)
    await intruder.begin()
    intruder.send(task=agent_pb2.TaskReport(task_id=task.task_id, done=True))
    intruder.send(event=agent_pb2.AgentEvent(reason="AFTER"))
    await plane.eventually(lambda: any(e.value.reason == "AFTER" for e in plane.store.view().all(EVENT)))
    assert not running.done()
    session.send(task=agent_pb2.TaskReport(task_id=task.task_id, done=True))
    await asyncio.wait_for(running, 30)


async def test_a_removed_host_is_refused_at_once(plane: Plane, dial: Dial, fleet: tuple[Agent, Agent, Any]) -> None:
    _, thief, _ = fleet
    session = dial(thief)
    await session.begin()
    hosts: Any = hosts_pb2_grpc.HostServiceStub(plane.channel())
    await hosts.DeleteHost(hosts_pb2.DeleteHostRequest(name="hosts/thief"), metadata=bearer(plane.admin_key))
    error = await asyncio.wait_for(refusal(_rest(session.call)), 30)
    assert error.code() is grpc.StatusCode.UNAVAILABLE, "the open session is ended"
    stub = plane.agent_stub(thief)
    calls: dict[str, Callable[[], Any]] = {
        "Session": lambda: stub.Session(iter([hello(epoch=2)])),
        "OpenStream": lambda: stub.OpenStream(iter([agent_pb2.OpenStreamRequest(stream_id="x")])),
        "RenewCertificate": lambda: stub.RenewCertificate(agent_pb2.RenewCertificateRequest()),
        "IssueRegistryToken": lambda: stub.IssueRegistryToken(agent_pb2.IssueRegistryTokenRequest(repository="x")),
        "FetchBuildContext": lambda: stub.FetchBuildContext(agent_pb2.FetchBuildContextRequest(task_id="x")),
    }
    for name, call in calls.items():
        error = await refusal(call())
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "HOST_REMOVED"), name


async def _rest(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        continue


async def test_a_foreign_certificate_ends_in_the_handshake(plane: Plane) -> None:
    agent = await plane.agent("a")
    key_pem, request_pem = generate_request("a")
    foreign = Authority.create("Moorage").sign_host_request(request_pem, agent.uid, "a")
    for pretender in (Agent("a", agent.uid, key_pem, foreign), None):
        error = await refusal(plane.agent_stub(pretender).Session(iter([hello()]), timeout=5))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    found = plane.store.view().get(HOST, "a")
    assert found is not None
    assert found.value.epoch == 0, "nothing of it was heard"


async def test_the_servers_own_certificate_is_no_hosts(plane: Plane, keys_folder: Any) -> None:
    """It is signed by the same authority: what it says of itself must not pass for a host."""
    pair = Agent("x", "", (keys_folder / "server.key").read_bytes(), (keys_folder / "server.crt").read_bytes())
    error = await refusal(plane.agent_stub(pair).Session(iter([hello()]), timeout=5))
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)


async def test_a_second_machine_with_one_identity(plane: Plane, dial: Dial) -> None:
    agent = await plane.agent("a")
    first = dial(agent, hello(epoch=5, nonce="one"))
    await first.begin()
    for message in (hello(epoch=6, nonce="two"), hello(epoch=4, nonce="one")):
        error = await refusal(plane.agent_stub(agent).Session(iter([message])))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.ABORTED, "HOST_IDENTITY_TAKEN")
    second = dial(agent, hello(epoch=6, nonce="one"))
    await second.begin()
    error = await asyncio.wait_for(refusal(_rest(first.call)), 30)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_agent_of_an_unknown_version(plane: Plane) -> None:
    agent = await plane.agent("a")
    error = await refusal(plane.agent_stub(agent).Session(iter([hello(protocol_version=2)])))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "AGENT_VERSION")


async def test_a_session_that_begins_without_hello(plane: Plane) -> None:
    agent = await plane.agent("a")
    beat = agent_pb2.SessionRequest(heartbeat=agent_pb2.AgentHeartbeat())
    error = await refusal(plane.agent_stub(agent).Session(iter([beat])))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_INVALID")


async def test_a_state_that_this_version_does_not_know(plane: Plane, fleet: tuple[Agent, Agent, Any]) -> None:
    owner, _, record = fleet
    report = agent_pb2.InstanceReport(instance_id=record.uid, run=1, sequence=1)
    report.MergeFromString(b"\x20\xe7\x07")  # field 4, 999
    error = await refusal(plane.agent_stub(owner).Session(iter([hello(instances=[report])])))
    assert reason_of(error) == "STATE_UNKNOWN"
    assert plane.record("default", "web") == record


async def test_a_certificate_is_renewed_for_the_same_host_only(plane: Plane) -> None:
    agent = await plane.agent("a")
    _, request_pem = generate_request("somebody-else")
    answer = await plane.agent_stub(agent).RenewCertificate(
        agent_pb2.RenewCertificateRequest(certificate_request_pem=request_pem.decode())
    )
    assert certificate_facts(answer.certificate_pem).host_uid == agent.uid
    error = await refusal(
        plane.agent_stub(agent).RenewCertificate(agent_pb2.RenewCertificateRequest(certificate_request_pem="x"))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_new_session_fails_the_tasks_of_the_old_one(plane: Plane, dial: Dial) -> None:
    """The agent has given them up with its session; nobody would ever end them."""
    agent = await plane.agent("a")
    first = dial(agent)
    await first.begin()
    running = asyncio.ensure_future(plane.tasks.run(agent.uid, BuildTask("p/x", "t"), lambda report: None))
    await first.read()
    second = dial(agent, hello(epoch=2))
    await second.begin()
    with pytest.raises(Exception, match="went away") as caught:
        await asyncio.wait_for(running, 30)
    assert getattr(caught.value, "reason", "") == "HOST_AWAY"


async def test_the_end_of_a_session_is_seen(plane: Plane, dial: Dial) -> None:
    agent = await plane.agent("a")
    session = dial(agent)
    await session.begin()
    session.end()

    def link() -> HostLinkState:
        found = plane.store.view().get(HOST, "a")
        assert found is not None
        return found.value.link_state

    await plane.eventually(lambda: link() is HostLinkState.DISCONNECTED)
    assert plane.store.view().count(INSTANCE) == 0

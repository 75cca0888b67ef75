"""The parts together: a machine joins, is given work, falls silent, and comes back; and what the ports do not take."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from controlplane.domain.hosts import HostLinkState
from controlplane.domain.kinds import HOST, REQUEST
from controlplane.services import lookup
from moorage.errors import NotReady
from moorage.tls import generate_request
from moorage.v1 import (
    agent_pb2,
    enrollment_pb2,
    enrollment_pb2_grpc,
    hosts_pb2,
    hosts_pb2_grpc,
    instances_pb2,
    instances_pb2_grpc,
)
from tests.support.controlplane import Agent, NoRegistry, Plane, bearer, hello, instance, reason_of, refusal, running


def _stub(kind: Any, plane: Plane) -> Any:
    return kind(plane.channel())


async def _join(plane: Plane, name: str) -> Agent:
    """As a machine does it: a token from an admin, no key of its own."""
    enrollment = _stub(enrollment_pb2_grpc.EnrollmentServiceStub, plane)
    token = await enrollment.CreateJoinToken(enrollment_pb2.CreateJoinTokenRequest(), metadata=bearer(plane.admin_key))
    key_pem, request_pem = generate_request(name)
    answer = await enrollment.EnrollHost(
        enrollment_pb2.EnrollHostRequest(
            secret=token.secret, host_id=name, certificate_request_pem=request_pem.decode()
        )
    )
    authority = await enrollment.GetAuthority(enrollment_pb2.GetAuthorityRequest())
    assert authority.certificate_pem == answer.authority_pem
    assert list(answer.agent_endpoints) == [plane.agent_address]
    return Agent(name, answer.host_uid, key_pem, answer.certificate_pem.encode())


def _link(plane: Plane, name: str) -> HostLinkState:
    found = plane.store.view().get(HOST, name)
    assert found is not None
    return found.value.link_state


class Talking:
    """A session that stays open until it is ended."""

    def __init__(self, plane: Plane, agent: Agent, **fields: Any) -> None:
        self._end = asyncio.Event()
        facts = hosts_pb2.HostFacts(platform="linux/amd64", cpu_millis=4000, memory_bytes=2**32)
        first = hello(facts=facts, **fields)

        async def outgoing() -> AsyncIterator[agent_pb2.SessionRequest]:
            yield first
            await self._end.wait()

        self.call = plane.agent_stub(agent).Session(outgoing())

    async def read(self) -> Any:
        message = await asyncio.wait_for(self.call.read(), 30)
        assert message is not grpc.aio.EOF
        return message

    def end(self) -> None:
        self._end.set()
        self.call.cancel()


async def test_a_machine_joins_and_is_given_work(plane: Plane) -> None:
    agent = await _join(plane, "one")
    await plane.template()
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    metadata = bearer(plane.admin_key)
    made = await api.CreateInstance(
        instances_pb2.CreateInstanceRequest(parent="projects/default", instance_id="i", instance=instance()),
        metadata=metadata,
    )
    await plane.eventually(lambda: plane.record("default", "i").placement is not None)
    waiting = await api.GetInstance(instances_pb2.GetInstanceRequest(name=made.name), metadata=metadata)
    assert waiting.status.reason == "UNPLACEABLE"
    assert [f.filter for f in waiting.status.placement.filters] == ["link"]

    session = Talking(plane, agent)
    welcome = (await session.read()).welcome
    assert (welcome.host_name, welcome.store_id, welcome.term) == ("hosts/one", plane.store.id, plane.store.epoch)
    assert welcome.heartbeat_period.seconds == 1
    assert welcome.registry_ca_pem == plane.authority.cert_pem.decode(), "of the registry that the control plane runs"
    complete = (await session.read()).assignments
    assert complete.type == agent_pb2.Assignments.TYPE_COMPLETE
    if not complete.instances:  # it was placed because of this very session
        complete = (await session.read()).assignments
    (assignment,) = complete.instances
    assert (assignment.name, assignment.project) == ("i", "default")
    assert [n.network_id for n in complete.networks] == [assignment.nics[0].network_id]

    placed = await api.GetInstance(instances_pb2.GetInstanceRequest(name=made.name), metadata=metadata)
    assert (placed.status.host, placed.status.stale) == ("hosts/one", False)
    session.end()
    await plane.eventually(lambda: _link(plane, "one") is HostLinkState.DISCONNECTED)
    stale = await api.GetInstance(instances_pb2.GetInstanceRequest(name=made.name), metadata=metadata)
    assert stale.status.stale, "what was seen last may be old"
    await plane.clock.run_for(45)
    await plane.eventually(lambda: _link(plane, "one") is HostLinkState.DOWN)
    assert plane.record("default", "i").host == "one", "it never moves"

    again = Talking(plane, agent, epoch=2)
    await again.read()
    (known,) = (await again.read()).assignments.instances
    assert known == assignment
    assert _link(plane, "one") is HostLinkState.UP
    again.end()


async def test_an_agent_that_falls_silent(plane: Plane) -> None:
    agent = await _join(plane, "one")
    session = Talking(plane, agent)
    await session.read()
    await session.read()
    hosts = _stub(hosts_pb2_grpc.HostServiceStub, plane)
    found = await hosts.GetHost(hosts_pb2.GetHostRequest(name="hosts/one"), metadata=bearer(plane.admin_key))
    assert found.status.heartbeat_time.ToDatetime().replace(tzinfo=plane.clock.now().tzinfo) == plane.clock.now()
    await plane.clock.run_for(12)
    error = await asyncio.wait_for(refusal(session.call.read()), 30)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SESSION_ENDED")
    await plane.eventually(lambda: _link(plane, "one") is HostLinkState.DISCONNECTED)
    session.end()


async def test_release_of_a_sweep_goes_to_the_agent(plane: Plane) -> None:
    agent = await _join(plane, "one")
    hosts = _stub(hosts_pb2_grpc.HostServiceStub, plane)
    request = hosts_pb2.ReleaseSweepBrakeRequest(name="hosts/one")
    error = await refusal(hosts.ReleaseSweepBrake(request, metadata=bearer(plane.admin_key)))
    assert reason_of(error) == "HOST_AWAY"
    session = Talking(plane, agent)
    await session.read()
    await session.read()
    await hosts.ReleaseSweepBrake(request, metadata=bearer(plane.admin_key))
    assert (await session.read()).release_sweep_brake
    session.end()


async def test_a_certificate_that_has_ended(plane: Plane) -> None:
    agent = await plane.agent("a")
    key_pem, request_pem = generate_request("a")
    ended = plane.authority.sign_host_request(request_pem, agent.uid, "a", now=plane.clock.now() - timedelta(days=400))
    stub = plane.agent_stub(Agent("a", agent.uid, key_pem, ended))
    error = await refusal(stub.RenewCertificate(agent_pb2.RenewCertificateRequest(), timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_message_that_is_too_large(plane: Plane) -> None:
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    wanted = instance(env={"A": "x" * (9 * 1024 * 1024)})
    error = await refusal(
        api.CreateInstance(
            instances_pb2.CreateInstanceRequest(parent="projects/default", instance=wanted),
            metadata=bearer(plane.admin_key),
        )
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    after = await api.ListInstances(
        instances_pb2.ListInstancesRequest(parent="projects/default"), metadata=bearer(plane.admin_key)
    )
    assert not after.instances


async def test_only_tls_is_spoken(plane: Plane) -> None:
    for address in (plane.api_address, plane.agent_address):
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary("/moorage.v1.EnrollmentService/GetAuthority")
            error = await refusal(call(b"", timeout=5))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_housekeeping(plane: Plane) -> None:
    await plane.store.update(lambda tx: lookup.remember(tx, "old", b"", (), plane.clock.now() - timedelta(days=2)))
    await plane.store.update(lambda tx: lookup.remember(tx, "new", b"", (), plane.clock.now()))
    await plane.clock.run_for(61)
    await plane.eventually(lambda: [r.value.key for r in plane.store.view().all(REQUEST)] == ["new"])


async def test_an_address_that_is_taken(plane: Plane, keys_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one says so, and leaves nothing behind: not even a registry that is still starting."""

    async def start(self: NoRegistry) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(NoRegistry, "start", start)
    ports = [int(plane.api_address.rpartition(":")[2]), int(plane.agent_address.rpartition(":")[2])]
    monkeypatch.setattr("tests.support.controlplane.free_ports", lambda count: ports)
    with pytest.raises(NotReady, match="cannot listen on"):
        async with running(keys_folder):
            raise AssertionError

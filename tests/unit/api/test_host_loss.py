"""A host that is lost, over the wire: its session ends, another host is asked, and says what it found."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from controlplane.domain.hosts import Host
from controlplane.domain.kinds import HOST
from moorage import neighbours
from moorage.v1 import agent_pb2, hosts_pb2, hosts_pb2_grpc
from tests.support.controlplane import Plane, bearer, hello, reason_of, refusal


class Session:
    """An agent's end of a session, written by hand."""

    def __init__(self, plane: Plane, agent: Any, nonce: str) -> None:
        self._outgoing: asyncio.Queue[agent_pb2.SessionRequest | None] = asyncio.Queue()
        facts = hosts_pb2.HostFacts(underlay_address="192.0.2.1", neighbour_port=7461)
        self._outgoing.put_nowait(hello(nonce=nonce, facts=facts))

        async def messages() -> AsyncIterator[agent_pb2.SessionRequest]:
            while (message := await self._outgoing.get()) is not None:
                yield message

        self.call = plane.agent_stub(agent).Session(messages())

    def say(self, **part: Any) -> None:
        self._outgoing.put_nowait(agent_pb2.SessionRequest(**part))

    def end(self) -> None:
        self._outgoing.put_nowait(None)

    async def read(self, part: str) -> Any:
        """The next message of this kind."""
        async with asyncio.timeout(30):
            while (message := await self.call.read()) is not grpc.aio.EOF:
                if message.WhichOneof("part") == part:
                    return getattr(message, part)
        raise AssertionError(f"the session ended before {part}")


def host(plane: Plane, name: str) -> Host:
    found = plane.store.view().get(HOST, name)
    assert found is not None
    return found.value


async def pass_time(plane: Plane, seconds: float, heard: Session, name: str) -> None:
    """Let time pass in which one agent is heard."""
    hosts: Any = hosts_pb2_grpc.HostServiceStub(plane.channel())
    for _ in range(round(seconds * 2)):
        await plane.clock.run_for(0.5)
        heard.say(heartbeat=agent_pb2.AgentHeartbeat())

        async def is_heard() -> bool:
            request = hosts_pb2.GetHostRequest(name=f"hosts/{name}")
            found = await hosts.GetHost(request, metadata=bearer(plane.admin_key))
            return bool(found.status.heartbeat_time.ToDatetime() == plane.clock.now().replace(tzinfo=None))

        async with asyncio.timeout(10):
            while not await is_heard():
                pass


@pytest.mark.parametrize("answers", [True, False])
async def test_its_neighbour_is_asked(plane: Plane, answers: bool) -> None:
    first, second = Session(plane, await plane.agent("a"), "na"), Session(plane, await plane.agent("b"), "nb")
    for session in (first, second):
        await session.read("assignments")
    first.end()
    await plane.eventually(lambda: host(plane, "a").link_state.name == "DISCONNECTED")
    await pass_time(plane, 2.5, second, "b")
    question = await second.read("neighbour")
    assert (question.address, question.port) == ("192.0.2.1", 7461)
    datagram = neighbours.answer("na", question.datagram)
    assert datagram is not None
    assert neighbours.answer("nb", question.datagram) is None
    verdict = agent_pb2.NEIGHBOUR_VERDICT_ANSWERS if answers else agent_pb2.NEIGHBOUR_VERDICT_REFUSED
    answer = agent_pb2.NeighbourAnswer(
        question_id=question.question_id, verdict=verdict, datagram=datagram if answers else b""
    )
    second.say(neighbour=answer)
    await pass_time(plane, 1.5, second, "b")
    if answers:
        await plane.eventually(lambda: "hosts/b reached it" in host(plane, "a").link_message)
        assert host(plane, "a").loss is None
    else:
        await plane.eventually(lambda: host(plane, "a").loss is not None)
        found = host(plane, "a").loss
        assert found is not None
        assert found.evidence == ("hosts/b: the machine is there, its agent is not",)
    second.end()


async def test_a_farewell_gives_time(plane: Plane) -> None:
    first, second = Session(plane, await plane.agent("a"), "na"), Session(plane, await plane.agent("b"), "nb")
    for session in (first, second):
        await session.read("assignments")
    first.say(farewell=agent_pb2.AgentFarewell())
    first.end()
    await plane.eventually(lambda: host(plane, "a").link_state.name == "DISCONNECTED")
    await pass_time(plane, 2.5, second, "b")
    question = await second.read("neighbour")
    second.say(
        neighbour=agent_pb2.NeighbourAnswer(
            question_id=question.question_id, verdict=agent_pb2.NEIGHBOUR_VERDICT_REFUSED
        )
    )
    await pass_time(plane, 3, second, "b")
    assert (host(plane, "a").loss, host(plane, "a").link_message) == (None, "")
    second.end()


async def test_an_operators_word(plane: Plane) -> None:
    session = Session(plane, await plane.agent("a"), "na")
    await session.read("assignments")
    hosts: Any = hosts_pb2_grpc.HostServiceStub(plane.channel())
    request = hosts_pb2.DeclareHostLostRequest(name="hosts/a")
    error = await refusal(hosts.DeclareHostLost(request, metadata=bearer(plane.admin_key)))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "HOST_CONNECTED")
    session.end()
    await plane.eventually(lambda: host(plane, "a").link_state.name == "DISCONNECTED")
    error = await refusal(
        hosts.DeclareHostLost(
            hosts_pb2.DeclareHostLostRequest(name="hosts/a", etag="x"), metadata=bearer(plane.admin_key)
        )
    )
    assert error.code() is grpc.StatusCode.ABORTED
    said = await hosts.DeclareHostLost(request, metadata=bearer(plane.admin_key))
    assert said.status.link_state == hosts_pb2.HOST_LINK_STATE_DOWN
    assert said.status.loss.message == "an operator said so"
    assert said.status.loss.time.ToDatetime() == plane.clock.now().replace(tzinfo=None)

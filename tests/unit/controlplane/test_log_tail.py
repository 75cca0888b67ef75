"""The last lines of an instance, for messages: soon, few, or none."""

import asyncio
from dataclasses import replace

import pytest

from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.dispatch.log_tail import LONGEST_LINE, TAIL_LINES, LogTails
from controlplane.dispatch.streams import StreamBroker, StreamRequest
from controlplane.domain.instances import Instance, InstanceState, Observed
from controlplane.domain.networks import NetworkKind
from moorage.errors import NotReady
from moorage.v1 import instance_streams_pb2
from tests.unit.controlplane.world import World


@pytest.fixture
async def instance(world: World) -> Instance:
    await world.network("net", "10.1.0.0/24", kind=NetworkKind.ISOLATED)
    made = await world.create("web")
    return replace(made, host_uid="uid-h1", observed=Observed(InstanceState.FAILED, container_id="c"))


async def test_the_last_lines_are_read_as_text(world: World, instance: Instance) -> None:
    dispatcher = Dispatcher(world.store, world.clock)
    broker = StreamBroker(dispatcher, lambda: "s")
    session = dispatcher.open("uid-h1", 1)
    reading = asyncio.ensure_future(LogTails(broker)(instance))
    await asyncio.sleep(0)
    request = session.requests.popleft()
    assert isinstance(request, StreamRequest)
    assert (request.kind, request.wanted.tail) == ("logs", TAIL_LINES)
    stream = broker.claim("uid-h1", request.stream_id)
    for data in (b"no such ", b"table\n\xff\n", b"x" * 1000):
        await stream.from_agent.put(instance_streams_pb2.StreamLogsResponse(data=data))
    await stream.from_agent.put(None)
    assert await reading == ["no such table", "\ufffd", "x" * LONGEST_LINE]
    assert stream.ended.is_set()


async def test_without_a_container_a_host_or_an_answer_there_are_none(
    world: World, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(world.store, world.clock)
    broker = StreamBroker(dispatcher, lambda: "s")
    tails = LogTails(broker)
    assert list(await tails(replace(instance, observed=Observed(InstanceState.PENDING)))) == []
    assert await tails(instance) == []  # its host has no session
    session = dispatcher.open("uid-h1", 1)
    monkeypatch.setattr("controlplane.dispatch.log_tail.WAIT_SECONDS", 0.01)
    assert await tails(instance) == []  # its host does not answer
    monkeypatch.undo()
    session.requests.clear()
    reading = asyncio.ensure_future(tails(instance))
    await asyncio.sleep(0)
    request = session.requests.popleft()
    assert isinstance(request, StreamRequest)
    stream = broker.claim("uid-h1", request.stream_id)
    stream.error = NotReady("it is gone", reason="NO_CONTAINER")
    await stream.from_agent.put(None)
    assert await reading == []

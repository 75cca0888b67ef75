"""An agent that is asked whether it lives, and one that asks; both over real sockets."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from hostagent.neighbours.asker import Verdict, ask
from hostagent.neighbours.responder import ANSWERS_A_SECOND, Responder
from moorage import neighbours
from moorage.clock import ManualClock, SystemClock
from moorage.v1 import agent_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support.plane import until
from tests.unit.hostagent.conftest import Host, instance, network

KEY, NONCE = "the host's own", b"n" * neighbours.NONCE_BYTES
HERE = "127.0.0.1"


def has_port(responder: Responder) -> Callable[[], Awaitable[int]]:
    async def port() -> int:
        return responder.port

    return port


def sleeps(clock: ManualClock) -> Callable[[], Awaitable[int]]:
    async def sleepers() -> int:
        return clock.sleepers

    return sleepers


@contextlib.asynccontextmanager
async def listening(responder: Responder) -> AsyncIterator[int]:
    """The port of a responder that runs."""
    running = asyncio.create_task(responder.run())
    try:
        yield await until(has_port(responder), what="its port")
    finally:
        running.cancel()
        await asyncio.wait({running})


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HERE, 0))
        return int(one.getsockname()[1])


@given(st.binary(max_size=60), st.binary(min_size=16, max_size=16))
def test_only_the_control_plane_is_answered_and_only_by_the_host(noise: bytes, nonce: bytes) -> None:
    question = neighbours.question(KEY, nonce)
    answer = neighbours.answer(KEY, question)
    assert answer is not None
    assert len(answer) == len(question) == neighbours.DATAGRAM_BYTES
    assert neighbours.is_answer(KEY, nonce, answer)
    assert not neighbours.is_answer("another", nonce, answer)
    assert not neighbours.is_answer(KEY, bytes(16) if nonce != bytes(16) else b"x" * 16, answer)
    assert not neighbours.is_answer(KEY, nonce, question), "an echo is no answer"
    assert neighbours.answer(KEY, neighbours.question("another", nonce)) is None
    assert neighbours.answer(KEY, answer) is None
    assert neighbours.answer(KEY, noise) is None
    assert neighbours.answer("", neighbours.question("", nonce)) is None, "without a key nobody is known"
    assert not neighbours.is_answer("", nonce, noise)


async def test_an_agent_that_lives() -> None:
    async with listening(Responder(HERE, 0, KEY, SystemClock())) as port:
        verdict, datagram = await ask(HERE, port, neighbours.question(KEY, NONCE), 5.0)
        assert verdict is Verdict.ANSWERS
        assert neighbours.is_answer(KEY, NONCE, datagram)
        verdict, _ = await ask(HERE, port, neighbours.question("another", NONCE), 0.1)
        assert verdict is Verdict.SILENT


async def test_nobody_listens() -> None:
    began = time.monotonic()
    assert await ask(HERE, free_port(), neighbours.question(KEY, NONCE), 30.0) == (Verdict.REFUSED, b"")
    assert time.monotonic() - began < 20, "it is known at once"
    assert (await ask("no address", 1, b"", 0.1))[0] is Verdict.SILENT


async def test_a_question_that_is_sent_without_end() -> None:
    clock = ManualClock()
    clock.advance(100)
    async with listening(Responder(HERE, 0, KEY, clock)) as port:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.connect((HERE, port))
            for _ in range(ANSWERS_A_SECOND):
                await loop.sock_sendall(one, neighbours.question(KEY, NONCE))
                await loop.sock_recv(one, 100)
        assert (await ask(HERE, port, neighbours.question(KEY, NONCE), 0.1))[0] is Verdict.SILENT
        clock.advance(1.0)
        assert (await ask(HERE, port, neighbours.question(KEY, NONCE), 5.0))[0] is Verdict.ANSWERS


async def test_a_port_that_is_taken_is_had_later() -> None:
    clock = ManualClock()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HERE, 0))
        responder = Responder(HERE, other.getsockname()[1], KEY, clock)
        running = asyncio.create_task(responder.run())
        await until(sleeps(clock), what="the first failure")
        assert responder.port == 0
    clock.advance(10)
    await until(has_port(responder), what="its port")
    running.cancel()
    await asyncio.wait({running})


async def test_an_agent_asks_for_the_control_plane(host: Host) -> None:
    host.control_plane.set_complete([], [])
    await host.start_agent()
    await host.control_plane.until(lambda: bool(host.control_plane.heartbeats))
    async with listening(Responder(HERE, 0, KEY, SystemClock())) as port:
        for question_id, key in (("good", KEY), ("bad", "another")):
            question = agent_pb2.NeighbourQuestion(
                question_id=question_id, address=HERE, port=port, datagram=neighbours.question(key, NONCE)
            )
            question.wait.FromMilliseconds(200)
            host.control_plane.send(agent_pb2.SessionResponse(neighbour=question))
        await host.control_plane.until(lambda: len(host.control_plane.neighbours) == 2)
    said = {one.question_id: one for one in host.control_plane.neighbours}
    assert said["good"].verdict == agent_pb2.NEIGHBOUR_VERDICT_ANSWERS
    assert neighbours.is_answer(KEY, NONCE, said["good"].datagram)
    assert said["bad"].verdict == agent_pb2.NEIGHBOUR_VERDICT_SILENT


async def test_an_agent_that_ends_in_order_says_so(host: Host) -> None:
    host.control_plane.set_complete([], [])
    await host.start_agent()
    await host.control_plane.until(lambda: bool(host.control_plane.heartbeats))
    await host.stop_agent()
    assert host.control_plane.farewells == 1
    assert len(host.control_plane.hellos) == 1


async def test_what_was_replaced_meanwhile_is_not_started_again(host: Host) -> None:
    """After a reboot the agent knows from its journal what it ran; the control plane knows that another one does by now."""
    host.control_plane.set_complete([instance(), instance("i2", 6)], [network()])
    await host.start_agent()
    for instance_id in ("i1", "i2"):
        await host.control_plane.until_state(instance_id, pb.INSTANCE_STATE_RUNNING)
    await host.stop_agent()
    await host.reboot()
    gone = instance("i1", generation=2, desired=pb.DESIRED_STATE_DELETED)
    host.control_plane.set_complete([gone, instance("i2", 6)], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i2", pb.INSTANCE_STATE_RUNNING, run=2)
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_DELETED)
    assert [report.run for report in host.control_plane.history if report.instance_id == "i1"][-1] == 1

"""Each kind of check against a real server, and against what may stand there instead: something that hangs, says
nonsense, or is not there. Commands run in the fake engine always, in a real one where this machine can run one.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from hostagent.probe_domain import ExecCheck, GrpcCheck, HttpCheck, Probe, TcpCheck
from hostagent.probes.checks import PASSED, Checks, Target
from moorage.errors import NotFound
from moorage.ids import ContainerId, InstanceId
from tests.contract.engine.conftest import FAILS, FOREVER, Bench
from tests.contract.engine.conftest import bed as bed
from tests.contract.engine.conftest import bench as bench
from tests.fakes.engine import FakeEngine, FakeProgram
from tests.support.certificates import make

_HERE = Target(InstanceId("i1"), ContainerId("c1"), ("127.0.0.1",))
_QUICK = 0.5
_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Loopback:
    """A namespace that is this machine's."""

    def __init__(self) -> None:
        self.opened: list[socket.socket] = []
        self.has_opened = asyncio.Event()
        self.is_missing = False

    async def open_socket_inside(self, instance_id: InstanceId, family: int, kind: int) -> socket.socket:
        if self.is_missing:
            raise NotFound("no such namespace")
        made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        self.opened.append(made)
        self.has_opened.set()
        return made


@pytest.fixture
async def fabric() -> AsyncIterator[Loopback]:
    """Whatever a check opened, it has closed."""
    loopback = Loopback()
    yield loopback
    assert all(one.fileno() == -1 for one in loopback.opened)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No check fills the log with what it left behind."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def checks(fabric: Loopback) -> Checks:
    return Checks(FakeEngine(), fabric)


@asynccontextmanager
async def serving(handler: _Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server; yields its port. Connections that the other side has left are cut."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await handler(reader, writer)
        except (OSError, EOFError):
            pass  # the other side has left
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


def answering(answer: bytes, requests: list[bytes] | None = None) -> _Handler:
    """Reads a head and answers."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(head)
        writer.write(answer)
        await writer.drain()

    return handle


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything and says nothing."""
    while await reader.read(1024):
        pass


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nonsense without an end, and without a line end."""
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hangs up at once."""


def http(port: int, **fields: object) -> Probe:
    return Probe(http=HttpCheck(port, **fields), timeout_seconds=_QUICK)  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.parametrize("status", [200, 204, 301, 399])
async def test_http_passes_with_200_to_399(checks: Checks, status: int) -> None:
    async with serving(answering(b"HTTP/1.1 %d Whatever\r\n\r\n" % status)) as port:
        assert await checks.make(http(port), _HERE) == PASSED


@pytest.mark.parametrize("status", [199, 400, 404, 500, 503])
async def test_http_fails_with_any_other(checks: Checks, status: int) -> None:
    async with serving(answering(b"HTTP/1.0 %d\r\n\r\n" % status)) as port:
        outcome = await checks.make(http(port, path="/health?x=1"), _HERE)
    assert (outcome.has_passed, outcome.words) == (False, f"http {port}/health?x=1: status {status}")


async def test_what_is_sent(checks: Checks) -> None:
    requests: list[bytes] = []
    async with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n", requests)) as port:
        await checks.make(http(port, path="/a", headers={"X-Probe": "1", "user-agent": "me"}), _HERE)
        await checks.make(http(port, host="app.example"), _HERE)
    first, second = (request.decode().split("\r\n") for request in requests)
    assert first[0] == "GET /a HTTP/1.1"
    assert {f"Host: 127.0.0.1:{port}", "X-Probe: 1", "user-agent: me", "Connection: close"} <= set(first)
    assert "User-Agent: moorage-probe" not in first
    assert "Host: app.example" in second


async def test_answers_before_the_answer_are_passed_over(checks: Checks) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    async with serving(answering(early)) as port:
        assert await checks.make(http(port), _HERE) == PASSED


async def test_https_is_spoken_without_verification(checks: Checks, tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = make("nobody.example")
    (tmp_path / "pem").write_text(made.certificate_pem + made.private_key_pem)
    tls.load_cert_chain(tmp_path / "pem")
    async with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n"), tls) as port:
        assert await checks.make(http(port, https=True), _HERE) == PASSED
        assert await checks.make(http(port, https=True, host="other.example:444"), _HERE) == PASSED
    async with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        outcome = await checks.make(http(port, https=True), _HERE)
    assert outcome.has_passed is False


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (silent, "no answer within 0.5 s"),
        (endless, "the answer is no HTTP"),
        (rude, "the connection was closed without an answer"),
        (answering(b"SSH-2.0-OpenSSH\r\n"), "the answer is no HTTP"),
    ],
)
async def test_a_bad_http_server_fails_and_hangs_nothing(checks: Checks, handler: _Handler, words: str) -> None:
    async with serving(handler) as port:
        outcome = await checks.make(http(port), _HERE)
    assert outcome.has_passed is False
    assert outcome.words in (f"http {port}/: {words}", f"http {port}/: connection reset by peer")


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
async def test_a_port_on_which_nothing_listens(checks: Checks, kind: str) -> None:
    port = free_port()
    probe = {
        "http": http(port),
        "tcp": Probe(tcp=TcpCheck(port)),
        "grpc": Probe(grpc=GrpcCheck(port), timeout_seconds=_QUICK),
    }[kind]
    outcome = await checks.make(probe, _HERE)
    assert outcome.has_passed is False
    assert outcome.words.startswith(f"{kind} {port}")
    assert outcome.words.endswith("connection refused")


async def test_tcp_passes_when_the_connection_is_accepted(checks: Checks) -> None:
    async with serving(silent) as port:
        assert await checks.make(Probe(tcp=TcpCheck(port)), _HERE) == PASSED


async def test_the_addresses_are_tried_in_turn_and_one_can_be_named(checks: Checks) -> None:
    two = Target(_HERE.instance_id, _HERE.container_id, ("127.0.0.9", "127.0.0.1"))
    none = Target(_HERE.instance_id, _HERE.container_id, ())
    async with serving(silent) as port:
        assert await checks.make(Probe(tcp=TcpCheck(port)), two) == PASSED
        assert await checks.make(Probe(tcp=TcpCheck(port)), none) == PASSED, "127.0.0.1 where it has none"
        outcome = await checks.make(Probe(tcp=TcpCheck(port, "127.0.0.9")), _HERE)
    assert outcome.has_passed is False


@pytest.fixture
async def grpc_port() -> AsyncIterator[int]:
    """A gRPC server that serves "" and "good", and "bad" not."""
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await servicer.set("good", health_pb2.HealthCheckResponse.SERVING)
    await servicer.set("bad", health_pb2.HealthCheckResponse.NOT_SERVING)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


@pytest.mark.parametrize(("service", "words"), [("", ""), ("good", ""), ("bad", "NOT_SERVING"), ("who", "NOT_FOUND")])
async def test_grpc_passes_with_serving(checks: Checks, grpc_port: int, service: str, words: str) -> None:
    outcome = await checks.make(Probe(grpc=GrpcCheck(grpc_port, service), timeout_seconds=10.0), _HERE)
    assert outcome.has_passed is (not words)
    assert words in outcome.words


@pytest.mark.parametrize("handler", [silent, endless, rude, answering(b"HTTP/1.1 200 OK\r\n\r\n")])
async def test_a_bad_grpc_server_fails_and_hangs_nothing(checks: Checks, handler: _Handler) -> None:
    async with serving(handler) as port:
        outcome = await checks.make(Probe(grpc=GrpcCheck(port), timeout_seconds=_QUICK), _HERE)
    assert outcome.has_passed is False
    assert "moorage-probe" not in outcome.words, "words must not change with each check"


async def test_a_hundred_that_hang_hold_up_nobody(checks: Checks, fabric: Loopback) -> None:
    async with serving(silent) as hanging, serving(answering(b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        stuck = [asyncio.create_task(checks.make(http(hanging), _HERE)) for _ in range(100)]
        async with asyncio.timeout(20):
            assert await checks.make(http(port), _HERE) == PASSED
            outcomes = await asyncio.gather(*stuck)
    assert {outcome.has_passed for outcome in outcomes} == {False}


async def test_a_cancelled_check_leaves_nothing_open(checks: Checks, fabric: Loopback) -> None:
    async with serving(silent) as port:
        task = asyncio.create_task(checks.make(Probe(grpc=GrpcCheck(port), timeout_seconds=60.0), _HERE))
        async with asyncio.timeout(20):
            await fabric.has_opened.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


async def test_a_namespace_that_is_missing_is_no_failure_of_the_instance(checks: Checks, fabric: Loopback) -> None:
    fabric.is_missing = True
    assert (await checks.make(Probe(tcp=TcpCheck(80)), _HERE)).has_passed is None


async def _exec(
    bench: Bench, fabric: Loopback, command: tuple[str, ...], seconds: float = 20.0
) -> tuple[bool | None, str]:
    container_id = await bench.run("probed")
    target = Target(InstanceId("i1"), ContainerId(container_id), ())
    outcome = await Checks(bench.engine, fabric).make(Probe(exec=ExecCheck(command), timeout_seconds=seconds), target)
    return outcome.has_passed, outcome.words


async def test_a_command_passes_with_exit_code_0(bench: Bench, fabric: Loopback) -> None:
    if bench.fake:
        bench.fake.programs["true",] = FakeProgram(exit_code=0)
    assert await _exec(bench, fabric, ("true",)) == (True, "")


async def test_a_command_that_fails_is_told_with_what_it_printed(bench: Bench, fabric: Loopback) -> None:
    has_passed, words = await _exec(bench, fabric, FAILS)
    assert has_passed is False
    assert words.startswith("exec sh -c")
    assert words.endswith((": exit code 3, out", ": exit code 3, err"))


async def test_a_command_that_hangs_is_ended(bench: Bench, fabric: Loopback) -> None:
    """With what it has started: else a target that hangs would fill up with our programs."""
    command = ("sh", "-c", "sleep 1234 & sleep 1234; true")
    if bench.fake:
        bench.fake.programs[command] = FakeProgram()
    has_passed, words = await _exec(bench, fabric, command, 0.5)
    assert (has_passed, "has not ended within 0.5 s" in words) == (False, True)

    async def is_gone() -> bool:
        if bench.fake:
            return True
        (seen,) = await bench.engine.list()
        async with await bench.engine.exec(seen.container_id, ("ps",)) as session:
            output = b"".join([chunk.data async for chunk in _chunks(session)])
        return b"1234" not in output

    await bench.until(is_gone)


async def _chunks(session: object) -> AsyncIterator[object]:
    while (chunk := await session.read()) is not None:  # type: ignore[attr-defined]
        yield chunk


async def test_a_program_that_is_not_there(bench: Bench, fabric: Loopback) -> None:
    has_passed, words = await _exec(bench, fabric, ("/no/such/program",))
    assert has_passed is False
    assert "exit code 12" in words


async def test_a_container_that_does_not_run_is_no_outcome(bench: Bench, fabric: Loopback) -> None:
    container_id = await bench.engine.create(bench.spec("idle", FOREVER), runtime="")
    target = Target(InstanceId("i1"), ContainerId(container_id), ())
    outcome = await Checks(bench.engine, fabric).make(Probe(exec=ExecCheck(("true",))), target)
    assert outcome.has_passed is None

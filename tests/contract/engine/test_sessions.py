"""exec and attach, on the fake and on a real engine."""

import asyncio

import pytest

from hostagent.engine.sessions import ExecSession
from moorage.errors import EngineUnavailable
from tests.contract.engine.conftest import CAT, DEADLINE_SECONDS, FAILS, SIZE, Bench
from tests.fakes.engine import FakeSession


async def output(session: ExecSession | FakeSession) -> dict[str, bytes]:
    """All output, by stream."""
    seen: dict[str, bytes] = {}
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (chunk := await session.read()) is not None:
            seen[chunk.stream] = seen.get(chunk.stream, b"") + chunk.data
    return seen


async def test_exec_gives_both_streams_and_the_exit_code(bench: Bench) -> None:
    container_id = await bench.run("exec")
    async with await bench.engine.exec(container_id, FAILS) as session:
        assert await output(session) == {"stdout": b"out\n", "stderr": b"err\n"}
        assert await session.exit_code() == 3


async def test_exec_reads_its_input_to_the_end(bench: Bench) -> None:
    container_id = await bench.run("exec-input")
    async with await bench.engine.exec(container_id, CAT, stdin=True) as session:
        for _ in range(3):
            await session.write(b"hello\n")
        await session.close_stdin()
        assert await output(session) == {"stdout": b"hello\n" * 3}
        assert await session.exit_code() == 5


async def test_exec_with_a_terminal_of_a_size(bench: Bench) -> None:
    container_id = await bench.run("exec-terminal")
    async with await bench.engine.exec(container_id, FAILS, tty=True, rows=33, cols=101) as session:
        assert await output(session) == {"stdout": b"out\r\nerr\r\n"}
        assert await session.exit_code() == 3
        await session.resize(10, 20)  # it has ended: nothing happens


async def test_exec_of_a_program_that_does_not_exist(bench: Bench) -> None:
    container_id = await bench.run("exec-mistyped")
    async with await bench.engine.exec(container_id, ("/no/such/program",)) as session:
        await output(session)
        assert await session.exit_code() in (126, 127)


async def test_a_session_can_be_left_while_it_runs(bench: Bench) -> None:
    container_id = await bench.run("exec-left")
    async with await bench.engine.exec(container_id, CAT, stdin=True) as session:
        await session.write(b"x")
    await session.close()  # closed already: nothing happens


async def test_attach_before_the_start_misses_nothing(bench: Bench) -> None:
    container_id = await bench.engine.create(bench.spec("attached", FAILS), runtime="")
    async with await bench.engine.attach(container_id) as session:
        await bench.engine.start(container_id)
        assert await output(session) == {"stdout": b"out\n", "stderr": b"err\n"}
        assert await session.exit_code() == 3


async def test_the_exit_code_of_a_session_that_was_closed_is_not_waited_for(bench: Bench) -> None:
    container_id = await bench.run("attached-closed")
    session = await bench.engine.attach(container_id)
    await session.close()
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(EngineUnavailable):
            await session.exit_code()


async def test_attach_talks_to_the_process(bench: Bench) -> None:
    container_id = await bench.engine.create(bench.spec("attached-input", CAT, stdin_open=True), runtime="")
    async with await bench.engine.attach(container_id) as session:
        await bench.engine.start(container_id)
        await session.write(b"hello")
        await session.close_stdin()
        assert await output(session) == {"stdout": b"hello"}
        assert await session.exit_code() == 5


async def test_the_terminal_has_the_size_that_was_asked_for(bench: Bench) -> None:
    container_id = await bench.run("exec-size")
    async with await bench.engine.exec(container_id, SIZE, tty=True, rows=33, cols=101) as session:
        assert (await output(session))["stdout"].split() == [b"33", b"101"]

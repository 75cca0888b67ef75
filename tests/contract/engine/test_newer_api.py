"""What is sent to engines newer than the one at hand.

A server that answers as API 1.52 is documented, and notes the requests.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hostagent.engine.docker_engine import DockerEngine
from hostagent.engine.streams import MULTIPLEXED
from hostagent.engine.values import LogChunk
from moorage.errors import EngineUnavailable, InvalidSpec, MoorageError

FRAMES = b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n"


class ScriptedEngine:
    """Answers by path (without the version), remembers what came."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.content_type = MULTIPLEXED
        self.stream = FRAMES
        self.gate = asyncio.Event()  # a pull waits for it
        self.gate.set()
        self.arrived = asyncio.Event()  # a pull has come

    def query(self, path: str) -> dict[str, str]:
        """The query of the last request to a path."""
        return next(query for _, seen, query, _ in reversed(self.requests) if seen == path)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        version, path = "", request.path
        if path.startswith("/v1."):
            version, path = path[1:].split("/", 1)
            path = f"/{path}"
        self.requests.append((version, path, dict(request.query), json.loads(text) if text else None))
        if path == "/version":
            return web.json_response({"ApiVersion": "1.55", "MinAPIVersion": "1.44"})
        if path.endswith("/logs"):
            return web.Response(body=self.stream, headers={"Content-Type": self.content_type})
        if path.endswith("/exec"):
            return web.json_response({"Id": "e1"}, status=201)
        if path == "/exec/e1/start":
            started = web.Response(body=b"33 101\r\n", headers={"Content-Type": "application/vnd.docker.raw-stream"})
            started.force_close()  # the end of the program is the end of the connection
            return started
        if path == "/exec/e1/json":
            return web.json_response({"Running": False, "ExitCode": 4})
        if path == "/build/prune":
            return web.json_response({"SpaceReclaimed": 7})
        if path == "/images/create":
            self.arrived.set()
            await self.gate.wait()
            lines = [{"status": "Waiting", "id": "a"}, {"errorDetail": {"message": "toomanyrequests: slow down"}}]
            return web.Response(body=b"".join(json.dumps(line).encode() + b"\r\n" for line in lines))
        if path.endswith("/stop"):
            return web.Response(status=204)
        return web.json_response({"message": "the script has no answer"}, status=404)


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[ScriptedEngine, DockerEngine]]:
    script = ScriptedEngine()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", script.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    # Not tmp_path: a socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="mt-api-") as folder:
        path = Path(folder) / "docker.sock"
        await web.UnixSite(runner, path).start()
        engine = await DockerEngine.connect(f"unix://{path}")
        yield script, engine
        await engine.close()
        await runner.cleanup()


Scripted = tuple[ScriptedEngine, DockerEngine]


async def test_the_newest_version_that_we_know_is_spoken(scripted: Scripted) -> None:
    script, engine = scripted
    await engine.stop("c", grace_seconds=1)
    assert [version for version, *_ in script.requests] == ["", "v1.52"]


async def test_the_signal_goes_with_the_stop(scripted: Scripted) -> None:
    script, engine = scripted
    await engine.stop("c", grace_seconds=2.2, signal="SIGHUP")
    assert script.query("/containers/c/stop") == {"t": "3", "signal": "SIGHUP"}


async def test_logs_are_framed_as_the_answer_says(scripted: Scripted) -> None:
    script, engine = scripted
    assert [chunk async for chunk in engine.logs("c")] == [LogChunk("stdout", b"out\n"), LogChunk("stderr", b"err\n")]
    script.content_type, script.stream = "application/vnd.docker.raw-stream", b"raw\r\n"
    assert [chunk async for chunk in engine.logs("c")] == [LogChunk("stdout", b"raw\r\n")]
    assert [path for _, path, *_ in script.requests] == ["/version", "/containers/c/logs", "/containers/c/logs"]


async def test_the_terminals_size_goes_with_the_start(scripted: Scripted) -> None:
    script, engine = scripted
    async with await engine.exec("c", ("stty", "size"), tty=True, rows=33, cols=101) as session:
        chunk = await session.read()
        assert chunk is not None
        assert chunk.data == b"33 101\r\n"
        assert await session.read() is None
        assert await session.exit_code() == 4
    body = next(body for _, path, _, body in script.requests if path == "/exec/e1/start")
    assert body == {"Detach": False, "Tty": True, "ConsoleSize": [33, 101]}
    assert not any(path.endswith("/resize") for _, path, *_ in script.requests)


async def test_the_build_caches_limit_has_its_new_name(scripted: Scripted) -> None:
    script, engine = scripted
    assert await engine.prune_build_cache(keep_bytes=5) == 7
    assert script.query("/build/prune")["reserved-space"] == "5"


async def test_an_error_in_the_middle_of_a_stream(scripted: Scripted) -> None:
    _, engine = scripted
    with pytest.raises(MoorageError, match="slow down") as caught:
        await engine.pull("registry/app:1")
    assert caught.value.reason == "REGISTRY_UNREACHABLE"


async def test_closing_ends_the_pulls_under_way(scripted: Scripted) -> None:
    script, engine = scripted
    script.gate.clear()
    pulling = asyncio.create_task(engine.pull("registry/slow:1"))
    async with asyncio.timeout(10):
        await script.arrived.wait()
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await pulling
        script.gate.set()


async def test_a_pull_that_nobody_waits_for_ends(scripted: Scripted) -> None:
    script, engine = scripted
    script.gate.clear()
    pulls = [asyncio.create_task(engine.pull("registry/slow:1")) for _ in range(2)]
    async with asyncio.timeout(10):
        await script.arrived.wait()
        pulls[0].cancel()
        await asyncio.wait([pulls[0]])
        assert not pulls[1].done()
        pulls[1].cancel()
        await asyncio.wait(pulls)
        script.gate.set()
        with pytest.raises(MoorageError, match="slow down"):
            await engine.pull("registry/slow:1")  # a new one
    assert [path for _, path, *_ in script.requests].count("/images/create") == 2


async def test_a_closed_engine_says_so(scripted: Scripted) -> None:
    _, engine = scripted
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await engine.ping()


async def test_only_sockets_of_this_machine_are_engines() -> None:
    with pytest.raises(InvalidSpec):
        await DockerEngine.connect("tcp://10.0.0.1:2376")

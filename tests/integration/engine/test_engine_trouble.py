"""An engine that is killed, frozen, absent or restarted, and what its callers see."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from hostagent.domain import ContainerPhase, ContainerSpec
from hostagent.engine.docker_engine import DockerEngine
from moorage.errors import EngineUnavailable, InvalidSpec
from tests.integration.engine_bed import BASE_IMAGE, EngineBed, require_engine

pytestmark = pytest.mark.docker


async def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable):
        await DockerEngine.connect(f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(InvalidSpec):
        await DockerEngine.connect("tcp://127.0.0.1:2375")


async def test_an_engine_dies_and_comes_back() -> None:
    require_engine()
    async with EngineBed(config={"live-restore": True}) as bed:
        engine = await DockerEngine.connect(bed.url)
        spec = ContainerSpec(name="survivor", image=BASE_IMAGE, command=("sleep", "600"))
        container_id = await engine.create(spec, runtime="")
        await engine.start(container_id)
        before = await engine.inspect(container_id)
        events = await engine.events().open()
        waiting = asyncio.create_task(engine.wait(container_id))
        await engine.ping()

        bed.kill_dockerd()
        async with asyncio.timeout(10):
            with pytest.raises(EngineUnavailable):
                _ = [event async for event in events]
            with pytest.raises(EngineUnavailable):
                await waiting
            for call in (engine.ping(), engine.list(), engine.info(), engine.start(container_id)):
                with pytest.raises(EngineUnavailable):
                    await call

        await asyncio.to_thread(bed.start_dockerd)
        after = await engine.inspect(container_id)  # the same object, no new connect
        assert before is not None
        assert after is not None
        assert (after.phase, after.pid, after.started_at) == (ContainerPhase.RUNNING, before.pid, before.started_at)
        await engine.remove(container_id)
        await engine.close()


async def test_a_session_ends_with_its_engine() -> None:
    # Apart from the restart above: Docker 20.10 now and then takes half a minute to remove a container whose exec
    # session
    # was cut off by the death of dockerd.
    require_engine()
    async with EngineBed() as bed:
        engine = await DockerEngine.connect(bed.url)
        spec = ContainerSpec(name="talker", image=BASE_IMAGE, command=("sleep", "600"))
        container_id = await engine.create(spec, runtime="")
        await engine.start(container_id)
        async with asyncio.timeout(10), await engine.exec(container_id, ("cat",), stdin=True) as session:
            bed.kill_dockerd()
            assert await session.read() is None
            with pytest.raises(EngineUnavailable):
                await session.exit_code()
        await engine.close()


async def test_a_frozen_engine_does_not_hang_its_callers() -> None:
    require_engine()
    async with EngineBed() as bed:
        engine = await DockerEngine.connect(bed.url)
        os.kill(bed.dockerd_pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(EngineUnavailable) as caught:
                await engine.ping()
            assert 4 < time.monotonic() - started < 10
            assert "silent" in caught.value.message
            waiting = asyncio.create_task(engine.list())
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            waiting.cancel()
            started = time.monotonic()
            await asyncio.wait([waiting])
            assert time.monotonic() - started < 1
        finally:
            os.kill(bed.dockerd_pid, signal.SIGCONT)
        await engine.ping()
        await engine.close()


async def test_waiting_for_a_slow_stop_holds_up_nobody() -> None:
    require_engine()
    async with EngineBed() as bed:
        engine = await DockerEngine.connect(bed.url, connections=2)
        names = [f"slow-{number}" for number in range(4)]
        for name in names:
            spec = ContainerSpec(name=name, image=BASE_IMAGE, command=("sleep", "600"))
            await engine.start(await engine.create(spec, runtime=""))
        stops = [asyncio.create_task(engine.stop(name, grace_seconds=2)) for name in names]
        await asyncio.sleep(0)
        started = time.monotonic()
        assert len(await engine.list()) == 4
        assert time.monotonic() - started < 1
        await asyncio.gather(*stops)
        await engine.close()

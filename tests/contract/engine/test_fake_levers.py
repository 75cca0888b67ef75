"""The levers of the fake engine: what tests of the agent lean on."""

import asyncio

import pytest

from hostagent.domain import ContainerPhase, ContainerSpec
from moorage.errors import EngineUnavailable, NotReady, Unavailable
from tests.fakes.engine import FakeEngine, FakeProgram


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine(clock=lambda: 1000.0)
    engine.add_image("app:1", labels={"from": "image"})
    return engine


async def started(engine: FakeEngine, name: str = "web", **values: object) -> str:
    spec = ContainerSpec(name=name, image="app:1", command=("serve",), **values)  # type: ignore[arg-type]
    container_id = await engine.create(spec, runtime="moorage")
    await engine.start(container_id)
    return container_id


async def test_a_planned_fault_comes_once(engine: FakeEngine) -> None:
    engine.fail_next("start", NotReady("no", reason="START_FAILED"))
    with pytest.raises(NotReady) as caught:
        await started(engine)
    assert caught.value.reason == "START_FAILED"
    await engine.start("web")
    assert engine.container("web").phase is ContainerPhase.RUNNING


async def test_an_engine_that_is_down_keeps_its_containers(engine: FakeEngine) -> None:
    await started(engine)
    events = await engine.events().open()
    engine.go_down()
    with pytest.raises(EngineUnavailable):
        await anext(events)
    with pytest.raises(EngineUnavailable):
        await engine.list()
    engine.come_back()
    assert [seen.phase for seen in await engine.list()] == [ContainerPhase.RUNNING]


async def test_a_frozen_engine_answers_later(engine: FakeEngine) -> None:
    engine.freeze()
    waiting = asyncio.create_task(engine.list())
    done, _ = await asyncio.wait([waiting], timeout=0.01)
    assert not done
    engine.thaw()
    assert await waiting == []


async def test_processes_end_by_script(engine: FakeEngine) -> None:
    engine.programs["job",] = FakeProgram(exit_code=4)
    await engine.create(ContainerSpec(name="job", image="app:1", command=("job",)), runtime="")
    await engine.start("job")
    assert await engine.wait("job") == 4
    container_id = await started(engine)
    waiting = asyncio.create_task(engine.wait(container_id))
    engine.finish("web", 137, oom_killed=True)
    assert await waiting == 137
    assert [event.action for event in engine.history if event.container_id == container_id] == [
        "create", "start", "oom", "die",
    ]  # fmt: skip
    await engine.start(container_id)
    assert engine.container("web").oom_killed is False


async def test_labels_of_image_and_spec_are_joined(engine: FakeEngine) -> None:
    container_id = await started(engine, labels={"own": "yes"})
    seen = await engine.inspect(container_id)
    assert seen is not None
    assert seen.labels == {"from": "image", "own": "yes"}


async def test_strangers_and_health(engine: FakeEngine) -> None:
    await started(engine)
    engine.set_health("web", "unhealthy")
    seen = await engine.inspect("web")
    assert seen is not None
    assert seen.health == "unhealthy"
    engine.vanish("web")
    assert await engine.inspect("web") is None
    assert [event.action for event in engine.history][-3:] == ["health_status: unhealthy", "die", "destroy"]


async def test_a_registry_that_is_away(engine: FakeEngine) -> None:
    engine.registry["r/app:1"] = engine.images["app:1"]
    engine.registry_is_down = True
    with pytest.raises(Unavailable):
        await engine.pull("r/app:1")
    engine.registry_is_down = False
    await engine.pull("r/app:1")
    assert await engine.inspect_image("r/app:1") is not None


async def test_a_session_follows_its_container(engine: FakeEngine) -> None:
    container_id = await started(engine, tty=True)
    async with await engine.attach(container_id) as session:
        engine.write_log("web", b"hello\n")
        chunk = await session.read()
        assert chunk is not None
        assert chunk.data == b"hello\r\n"
        engine.finish("web", 0)
        assert await session.read() is None
        assert await session.exit_code() == 0

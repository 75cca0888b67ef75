"""Containers from creation to removal, on the fake and on a real engine."""

import asyncio
import time
from dataclasses import replace

import pytest

from hostagent.domain import ContainerPhase, HealthCheck, Mount, Resources
from moorage.errors import AlreadyExists, InvalidSpec, MoorageError, NotFound, NotReady
from tests.contract.engine.conftest import FAILS, HUNGRY, POLITE, Bench


async def test_a_container_is_created_started_and_removed(bench: Bench) -> None:
    engine = bench.engine
    container_id = await engine.create(bench.spec("life"), runtime="")
    created = await engine.inspect(container_id)
    assert created is not None
    assert (created.phase, created.name, created.pid) == (ContainerPhase.CREATED, "life", 0)
    assert (created.exit_code, created.started_at, created.finished_at) == (None, None, None)
    assert (created.labels["suite"], created.image) == ("life", bench.image)

    before = time.time()
    await engine.start(container_id)
    running = await engine.inspect("life")
    assert running is not None
    assert running.phase is ContainerPhase.RUNNING
    assert running.pid > 0
    assert running.exit_code is None
    assert running.started_at == pytest.approx(before, abs=5)

    await engine.start(container_id)  # it runs: nothing happens
    await engine.remove(container_id)
    assert await engine.inspect(container_id) is None
    await engine.remove(container_id)  # it is gone: nothing happens


async def test_a_name_is_taken_once(bench: Bench) -> None:
    await bench.engine.create(bench.spec("once"), runtime="")
    with pytest.raises(AlreadyExists) as caught:
        await bench.engine.create(bench.spec("once"), runtime="")
    assert caught.value.metadata["name"] == "once"


async def test_create_names_what_is_wrong(bench: Bench) -> None:
    with pytest.raises(NotFound) as missing:
        await bench.engine.create(replace(bench.spec("no-image"), image="nobody/has:this"), runtime="")
    assert missing.value.reason == "IMAGE_NOT_FOUND"
    assert missing.value.metadata["image"] == "nobody/has:this"
    with pytest.raises(InvalidSpec) as name:
        await bench.engine.create(bench.spec("not a name"), runtime="")
    assert name.value.reason == "ENGINE_REFUSED"
    with pytest.raises(InvalidSpec) as runtime:
        await bench.engine.create(bench.spec("runtime"), runtime="no-such-runtime")
    assert runtime.value.reason == "ENGINE_REFUSED"


async def test_what_is_not_there_is_not_found(bench: Bench) -> None:
    engine = bench.engine
    assert await engine.inspect("nobody") is None
    for call in (
        engine.start("nobody"),
        engine.stop("nobody", grace_seconds=1),
        engine.kill("nobody", "SIGKILL"),
        engine.pause("nobody"),
        engine.update("nobody", Resources()),
        engine.exec("nobody", ("true",)),
        engine.commit("nobody", "a", "b"),
    ):
        with pytest.raises(NotFound):
            await call


async def test_inspect_takes_whole_ids_and_names_only(bench: Bench) -> None:
    container_id = await bench.engine.create(bench.spec("whole"), runtime="")
    assert await bench.engine.inspect(container_id[:12]) is None
    assert await bench.engine.inspect("who") is None


async def test_the_exit_code_is_the_process_own(bench: Bench) -> None:
    container_id = await bench.run("fails", FAILS)
    assert await bench.engine.wait(container_id) == 3
    seen = await bench.ended(container_id)
    assert (seen.exit_code, seen.oom_killed, seen.pid) == (3, False, 0)
    assert seen.finished_at is not None
    assert seen.started_at is not None
    assert seen.finished_at >= seen.started_at


async def test_stop_asks_first(bench: Bench) -> None:
    container_id = await bench.run("polite", POLITE)
    await bench.engine.stop(container_id, grace_seconds=10)
    assert (await bench.ended(container_id)).exit_code == 7
    await bench.engine.stop(container_id, grace_seconds=10)  # it does not run: nothing happens


async def test_stop_kills_after_the_grace(bench: Bench) -> None:
    container_id = await bench.run("stubborn")
    started = time.monotonic()
    await bench.engine.stop(container_id, grace_seconds=1)
    assert time.monotonic() - started < 5
    assert (await bench.ended(container_id)).exit_code == 137


async def test_stop_with_a_signal_of_the_callers_choice(bench: Bench) -> None:
    container_id = await bench.run("chosen", POLITE)
    await bench.engine.stop(container_id, grace_seconds=10, signal="SIGTERM")
    assert (await bench.ended(container_id)).exit_code == 7
    again = await bench.run("chosen-stubborn")
    await bench.engine.stop(again, grace_seconds=1, signal="SIGUSR1")
    assert (await bench.ended(again)).exit_code == 137
    await bench.engine.stop(again, grace_seconds=1, signal="SIGTERM")


async def test_kill_needs_a_process(bench: Bench) -> None:
    container_id = await bench.run("killed")
    await bench.engine.kill(container_id, "SIGKILL")
    assert (await bench.ended(container_id)).exit_code == 137
    with pytest.raises(NotReady) as caught:
        await bench.engine.kill(container_id, "SIGKILL")
    assert caught.value.reason == "CONTAINER_STATE"


async def test_a_stopped_container_starts_again(bench: Bench) -> None:
    container_id = await bench.run("again")
    first = await bench.engine.inspect(container_id)
    await bench.engine.stop(container_id, grace_seconds=0)
    await bench.engine.start(container_id)
    second = await bench.engine.inspect(container_id)
    assert first is not None
    assert second is not None
    assert second.phase is ContainerPhase.RUNNING
    assert (second.exit_code, second.finished_at) == (None, None)
    assert (second.started_at or 0) > (first.started_at or 0)


async def test_pause_and_unpause(bench: Bench) -> None:
    engine = bench.engine
    container_id = await bench.run("paused")
    with pytest.raises(NotReady):
        await engine.unpause(container_id)
    await engine.pause(container_id)
    seen = await engine.inspect(container_id)
    assert seen is not None
    assert seen.phase is ContainerPhase.PAUSED
    for call in (engine.pause(container_id), engine.start(container_id), engine.exec(container_id, ("true",))):
        with pytest.raises(NotReady):
            await call
    await engine.unpause(container_id)
    seen = await engine.inspect(container_id)
    assert seen is not None
    assert seen.phase is ContainerPhase.RUNNING


async def test_a_paused_container_can_be_stopped_and_removed(bench: Bench) -> None:
    container_id = await bench.run("frozen")
    await bench.engine.pause(container_id)
    await bench.engine.stop(container_id, grace_seconds=1)
    assert (await bench.ended(container_id)).exit_code == 137
    other = await bench.run("frozen-too")
    await bench.engine.pause(other)
    await bench.engine.remove(other)
    assert await bench.engine.inspect(other) is None


async def test_a_running_container_is_removed_by_force_only(bench: Bench) -> None:
    container_id = await bench.run("forced")
    with pytest.raises(NotReady):
        await bench.engine.remove(container_id, force=False)
    await bench.engine.remove(container_id, force=True)
    assert await bench.engine.inspect(container_id) is None


async def test_removals_at_once_all_succeed(bench: Bench) -> None:
    container_id = await bench.run("removed-by-many")
    await asyncio.gather(*(bench.engine.remove(container_id) for _ in range(4)))
    assert await bench.engine.inspect(container_id) is None


async def test_out_of_memory_is_told_apart(bench: Bench) -> None:
    container_id = await bench.run("hungry", HUNGRY, resources=Resources(memory_bytes=16 << 20))
    seen = await bench.ended(container_id)
    assert (seen.exit_code, seen.oom_killed) == (137, True)


async def test_health_is_reported(bench: Bench) -> None:
    check = HealthCheck(test=("CMD", "true"), interval_seconds=0.05, timeout_seconds=5, retries=1)
    container_id = await bench.run("healthy", health_check=check)
    if bench.fake:
        bench.fake.set_health("healthy", "healthy")

    async def is_healthy() -> bool:
        seen = await bench.engine.inspect(container_id)
        return seen is not None and seen.health == "healthy"

    await bench.until(is_healthy)
    without = await bench.engine.inspect(await bench.run("unchecked"))
    assert without is not None
    assert without.health == ""


async def test_list_shows_every_state_and_filters_by_label(bench: Bench) -> None:
    engine = bench.engine
    await engine.create(bench.spec("b-created"), runtime="")
    await bench.run("a-running")
    ended = await bench.run("c-ended", FAILS)
    await bench.ended(ended)
    seen = await engine.list("suite")
    assert [(one.name, one.phase) for one in seen] == [
        ("a-running", ContainerPhase.RUNNING),
        ("b-created", ContainerPhase.CREATED),
        ("c-ended", ContainerPhase.EXITED),
    ]
    assert [one.exit_code for one in seen] == [None, None, 3]
    assert [one.name for one in await engine.list("suite=c-ended")] == ["c-ended"]
    assert await engine.list("other") == []
    assert len(await engine.list()) == 3


async def test_stats_of_running_and_ended_containers(bench: Bench) -> None:
    limit = 64 << 20
    container_id = await bench.run("counted", resources=Resources(memory_bytes=limit))
    stats = await bench.engine.stats(container_id)
    assert 0 < stats.memory_bytes < limit
    assert stats.memory_limit_bytes == limit
    assert stats.cpu_nanos > 0
    assert stats.pids == 1
    await bench.engine.stop(container_id, grace_seconds=0)
    ended = await bench.engine.stats(container_id)
    assert (ended.memory_bytes, ended.cpu_nanos, ended.pids) == (0, 0, 0)


async def test_limits_change_in_place_and_can_be_lifted(bench: Bench) -> None:
    container_id = await bench.run("resized", resources=Resources(memory_bytes=32 << 20, cpu_millis=250, pids=50))
    for memory in (64 << 20, 16 << 20):
        await bench.engine.update(container_id, Resources(memory_bytes=memory, cpu_millis=500, pids=20))
        assert (await bench.engine.stats(container_id)).memory_limit_bytes == memory
    await bench.engine.update(container_id, Resources())
    assert (await bench.engine.stats(container_id)).memory_limit_bytes >= 1 << 30
    seen = await bench.engine.inspect(container_id)
    assert seen is not None
    assert seen.phase is ContainerPhase.RUNNING


async def test_a_command_that_does_not_exist(bench: Bench) -> None:
    if bench.fake:
        bench.fake.fail_next("start", InvalidSpec.of("command", "not found", reason="START_REFUSED"))
    container_id = await bench.engine.create(bench.spec("mistyped", ("/no/such/program",)), runtime="")
    with pytest.raises(InvalidSpec) as caught:
        await bench.engine.start(container_id)
    assert caught.value.reason == "START_REFUSED"
    await bench.engine.remove(container_id)


async def test_a_bind_mount_without_a_source_is_refused(bench: Bench) -> None:
    if bench.fake:
        pytest.skip("the fake has no file system to look into")
    mount = Mount(target="/data", source="/no/such/folder")
    with pytest.raises(MoorageError) as caught:
        await bench.engine.create(bench.spec("unbound", mounts=(mount,)), runtime="")
    assert caught.value.reason == "ENGINE_REFUSED"

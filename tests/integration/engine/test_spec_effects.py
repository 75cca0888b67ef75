"""Every field of ContainerSpec, seen from inside a container that has it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostagent.domain import ContainerSpec, Device, HealthCheck, Mount, Resources, Ulimit
from hostagent.engine.docker_engine import DockerEngine
from tests.integration.engine_bed import BASE_IMAGE, EngineBed, require_engine

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def bed() -> Iterator[EngineBed]:
    require_engine()
    with EngineBed() as bed:
        yield bed


@pytest.fixture
async def engine(bed: EngineBed) -> AsyncIterator[DockerEngine]:
    engine = await DockerEngine.connect(bed.url)
    yield engine
    for seen in await engine.list():
        await engine.remove(seen.container_id)
    await engine.close()


async def said(engine: DockerEngine, script: str, **values: Any) -> str:
    """What a shell script prints in a container with these fields."""
    spec = ContainerSpec(name="inside", image=BASE_IMAGE, command=("sh", "-c", script), **values)
    container_id = await engine.create(spec, runtime="")
    await engine.start(container_id)
    async with asyncio.timeout(20):
        await engine.wait(container_id)
    text = b"".join([chunk.data async for chunk in engine.logs(container_id)]).decode().strip()
    await engine.remove(container_id)
    return text


async def test_process_fields(engine: DockerEngine) -> None:
    script = 'echo "$0 $WHO $(pwd) $(id -u):$(id -g) $(hostname)"'
    values = {"env": {"WHO": "me=too"}, "workdir": "/tmp", "user": "65534:65534", "hostname": "web-1"}
    assert await said(engine, script, **values) == "sh me=too /tmp 65534:65534 web-1"


async def test_entrypoint_and_command(engine: DockerEngine) -> None:
    spec = ContainerSpec(name="entry", image=BASE_IMAGE, entrypoint=("echo", "from"), command=("the", "entrypoint"))
    container_id = await engine.create(spec, runtime="")
    await engine.start(container_id)
    await engine.wait(container_id)
    assert [chunk.data async for chunk in engine.logs(container_id)] == [b"from the entrypoint\n"]


async def test_no_network_but_a_loopback(engine: DockerEngine) -> None:
    assert await said(engine, "ls /sys/class/net") == "lo"


async def test_raw_sockets_are_dropped_but_ping_works(engine: DockerEngine) -> None:
    raw = 1 << 13
    script = "grep CapEff /proc/self/status | cut -f2; cat /proc/sys/net/ipv4/ping_group_range"
    capabilities, groups = (await said(engine, script)).splitlines()
    assert not int(capabilities, 16) & raw
    assert groups.split() == ["0", "2147483647"]
    assert int((await said(engine, script, capabilities_add=("CAP_NET_RAW",))).splitlines()[0], 16) & raw
    assert int((await said(engine, script, capabilities_drop=("all",))).splitlines()[0], 16) == 0


async def test_privileged_is_passed_on(engine: DockerEngine, bed: EngineBed) -> None:
    # Not started: a machine that is itself a sandbox may not give all capabilities away.
    spec = ContainerSpec(name="mighty", image=BASE_IMAGE, command=("true",), privileged=True)
    container_id = await engine.create(spec, runtime="")
    assert bed.docker("inspect", "--format", "{{.HostConfig.Privileged}}", container_id).strip() == "true"
    assert "NET_RAW" not in bed.docker("inspect", "--format", "{{.HostConfig.CapDrop}}", container_id)


async def test_mounts(engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    mounts = (
        Mount(target="/in", source=str(tmp_path), read_only=True),
        Mount(target="/scratch", kind="tmpfs", size_bytes=1 << 20),
    )
    script = (
        "cat /in/file; touch /in/x 2>&1 || echo read-only; df -k /scratch | tail -1; touch /scratch/x && echo written"
    )
    text = await said(engine, script, mounts=mounts)
    assert text.startswith("from the host")
    assert "read-only" in text
    assert "1024" in text
    assert text.endswith("written")


async def test_read_only_root(engine: DockerEngine) -> None:
    assert "refused" in await said(engine, "touch /x || echo refused", read_only_root=True)


async def test_limits(engine: DockerEngine, bed: EngineBed) -> None:
    resources = Resources(
        cpu_millis=1500, cpu_shares=512, memory_bytes=64 << 20, memory_swap_bytes=96 << 20, pids=33, shm_bytes=1 << 20
    )
    assert "1024" in await said(engine, "df -k /dev/shm | tail -1", resources=resources)
    spec = ContainerSpec(name="limited", image=BASE_IMAGE, command=("sleep", "60"), resources=resources)
    container_id = await engine.create(spec, runtime="")
    await engine.start(container_id)
    for name_v1, name_v2, expected in (
        ("cpu/{}/cpu.cfs_quota_us", "{}/cpu.max", "150000"),
        ("memory/{}/memory.limit_in_bytes", "{}/memory.max", str(64 << 20)),
        ("pids/{}/pids.max", "{}/pids.max", "33"),
    ):
        place = f"{bed.name}/{container_id}"
        top = Path("/sys/fs/cgroup")
        files = [file for file in (top / name_v1.format(place), top / name_v2.format(place)) if file.exists()]
        assert files, f"no {name_v1} and no {name_v2} on this machine"
        assert files[0].read_text().split()[0] == expected


async def test_more_processors_than_the_machine_has_are_no_error(engine: DockerEngine) -> None:
    assert await said(engine, "echo fine", resources=Resources(cpu_millis=512_000)) == "fine"


async def test_ulimits_sysctls_and_devices(engine: DockerEngine) -> None:
    text = await said(
        engine,
        "ulimit -n; cat /proc/sys/net/core/somaxconn; test -c /dev/mine && echo device",
        ulimits=(Ulimit("nofile", 321, 654),),
        sysctls={"net.core.somaxconn": "99"},
        devices=(Device("/dev/null", "/dev/mine"),),
    )
    assert text.split() == ["321", "99", "device"]


async def test_init_is_process_one(engine: DockerEngine) -> None:
    assert "docker-init" in await said(engine, "cat /proc/1/cmdline", init=True)
    assert "docker-init" not in await said(engine, "cat /proc/1/cmdline")


async def test_terminal(engine: DockerEngine) -> None:
    assert await said(engine, "test -t 1 && echo terminal", tty=True) == "terminal"


async def test_stop_signal_and_grace(engine: DockerEngine, bed: EngineBed) -> None:
    spec = ContainerSpec(
        name="settings",
        image=BASE_IMAGE,
        command=("sleep", "60"),
        stop_signal="SIGUSR1",
        stop_grace_seconds=2.5,
        log_max_bytes=4096,
        log_max_files=2,
        health_check=HealthCheck(test=("CMD-SHELL", "exit 1"), interval_seconds=1.5, retries=2),
    )
    container_id = await engine.create(spec, runtime="runc")
    form = (
        "{{.Config.StopSignal}} {{.Config.StopTimeout}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Runtime}} "
        '{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config "max-size"}} '
        '{{index .HostConfig.LogConfig.Config "max-file"}} {{.Config.Healthcheck.Interval}} {{.HostConfig.NetworkMode}}'
    )
    assert bed.docker("inspect", "--format", form, container_id).split() == [
        "SIGUSR1", "3", "no", "runc", "json-file", "4096", "2", "1.5s", "none",
    ]  # fmt: skip


async def test_logs_are_rotated(engine: DockerEngine, bed: EngineBed) -> None:
    spec = ContainerSpec(
        name="loud",
        image=BASE_IMAGE,
        command=("sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"),
        log_max_bytes=16384,
        log_max_files=2,
    )
    container_id = await engine.create(spec, runtime="")
    await engine.start(container_id)
    await engine.wait(container_id)
    files = list((bed.folder / "data/containers" / container_id).glob("*-json.log*"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 3 * 16384
    assert [chunk.data async for chunk in engine.logs(container_id, tail=1)] == [b"line 2999\n"]

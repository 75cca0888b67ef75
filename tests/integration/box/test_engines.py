"""A host of the box is a real Docker host: users' containers and networks work; a crash, a cut cable and
a power cut do to it what they do to a real one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cli.dev import processes
from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.rootfs import demo_rootfs
from moorage.errors import Internal, NotReady
from tests.support.fleet import box, in_own_loop

pytestmark = [pytest.mark.root, pytest.mark.docker]
IMAGE = "box-test:latest"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts without control plane, each with a busybox image."""
    rootfs = demo_rootfs(tmp_path_factory.mktemp("rootfs") / "rootfs.tar")
    with box(3) as fleet:
        started = time.monotonic()
        in_own_loop(fleet.up())
        print(f"\n3 hosts up in {time.monotonic() - started:.2f} s")
        for host in fleet.hosts():
            in_own_loop(host.docker("import", str(rootfs), IMAGE))
        yield fleet


@pytest.fixture(autouse=True)
async def no_containers(engines: Fleet) -> AsyncIterator[None]:
    """Every test begins with a whole fleet and leaves no container."""
    yield
    await engines.up()
    for host in engines.hosts():
        await engines.heal(host.name)
        ids = (await host.docker("ps", "-aq")).split()
        if ids:
            await host.docker("rm", "-f", *ids)


async def eventually(condition: Callable[[], Awaitable[bool]], within_seconds: float = 10) -> None:
    deadline = time.monotonic() + within_seconds
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.05)


async def reaches(host: Host, address: str) -> bool:
    try:
        await host.run(["ping", "-c1", "-W1", address])
    except Internal:
        return False
    return True


async def get(address: str, port: int) -> bytes:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 2)
    except (OSError, TimeoutError):
        return b""
    writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_published_port_answers_from_the_machine(engines: Fleet) -> None:
    host = engines.host(1)
    await host.docker("run", "-d", "-p", "8080:80", IMAGE, "httpd", "-f", "-h", "/www")

    async def answers() -> bool:
        return b"It runs" in await get(host.address, 8080)

    await eventually(answers)


async def test_users_own_networks_work_and_isolate(engines: Fleet) -> None:
    host = engines.host(1)
    for network in ("one", "two"):
        await host.docker("network", "create", network)
    try:
        for name, network in (("aa", "one"), ("bb", "one"), ("cc", "two")):
            await host.docker("run", "-d", "--name", name, "--network", network, IMAGE, "sleep", "600")
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        same = (await host.docker("inspect", "-f", template, "bb")).strip()
        other = (await host.docker("inspect", "-f", template, "cc")).strip()
        await host.docker("exec", "aa", "ping", "-c1", "-W2", same)
        with pytest.raises(Internal):
            await host.docker("exec", "aa", "ping", "-c1", "-W1", other)
        await host.docker("rm", "-f", "aa", "bb", "cc")
    finally:
        await host.docker("network", "rm", "one", "two")


async def test_a_host_looks_like_a_machine_of_its_own(engines: Fleet) -> None:
    host = engines.host(2)
    assert (await host.run(["hostname"])).strip() == "h2"
    assert set((await host.run(["ls", "/sys/class/net"])).split()) >= {"docker0", "eth0", "lo"}
    assert "moorbox0" not in await host.run(["ls", "/sys/class/net"])
    assert await host.run(["cat", "/etc/machine-id"]) != await engines.host(1).run(["cat", "/etc/machine-id"])
    assert (await host.run(["cat", "/proc/sys/kernel/random/boot_id"])) not in Path(
        "/proc/sys/kernel/random/boot_id"
    ).read_text()
    assert "live-restore" in await host.run(["cat", "/etc/docker/daemon.json"])
    assert (await host.run(["docker", "version", "--format", "{{.Server.Os}}"])).strip() == "linux"
    assert not Path("/etc/docker/daemon.json").exists() or "moorage" not in Path("/etc/docker/daemon.json").read_text()


async def test_cut_and_heal(engines: Fleet) -> None:
    one, two = engines.host(1), engines.host(2)
    assert await reaches(one, two.address)
    assert await reaches(one, engines.config.machine_address)
    await engines.cut("h2")
    assert not await reaches(one, two.address)
    status = await engines.status()
    assert [host.is_plugged_in for host in status.hosts] == [True, False, True]
    await engines.up()  # what was cut on purpose stays cut
    assert not await reaches(one, two.address)
    await engines.heal("h2")
    await eventually(lambda: reaches(one, two.address))


@pytest.mark.parametrize("part", ["engine", "containerd"])
async def test_containers_run_on_when_a_daemon_is_killed(engines: Fleet, part: str) -> None:
    host = engines.host(3)
    await host.docker("run", "-d", "--name", "stays", IMAGE, "sleep", "600")
    pid = (await host.docker("inspect", "-f", "{{.State.Pid}}", "stays")).strip()
    await engines.kill("h3", part)
    with pytest.raises(NotReady):
        await engines.kill("h3", part)
    assert Path("/proc", pid).exists()
    await engines.start("h3")

    async def same_process() -> bool:
        return (await host.docker("inspect", "-f", "{{.State.Pid}}", "stays", check=False)).strip() == pid

    async def commands_work() -> bool:  # dockerd takes its time to dial a new containerd
        return (await host.docker("exec", "stays", "echo", "here", check=False)).strip() == "here"

    await eventually(same_process)
    await eventually(commands_work, within_seconds=30)


async def test_power_cut_ends_everything_and_disks_stay(engines: Fleet) -> None:
    host = engines.host(3)
    await host.docker("run", "-d", "--name", "gone", IMAGE, "sleep", "600")
    await host.docker("pause", "gone")  # a frozen process must die with the others
    pid = (await host.docker("inspect", "-f", "{{.State.Pid}}", "gone")).strip()
    boot = await host.run(["cat", "/proc/sys/kernel/random/boot_id"])
    assert await engines.power_off("h3") >= 4
    assert processes.start_time(int(pid)) is None
    with pytest.raises(NotReady):
        engines.host(3)
    status = await engines.status()
    assert [status.hosts[2].is_on, status.hosts[2].is_plugged_in] == [False, False]
    await engines.start("h3")
    again = engines.host(3)
    assert await again.run(["cat", "/proc/sys/kernel/random/boot_id"]) != boot
    assert "exited" in await again.docker("ps", "-a", "--format", "{{.State}}")
    assert await reaches(again, engines.host(1).address)

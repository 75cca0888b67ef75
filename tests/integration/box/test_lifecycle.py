"""Nothing is left: after `down`, after a kill -9 in the middle of `up`, after the folder itself was lost."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.dev import processes
from cli.dev.fleet import Fleet
from cli.dev.removal import reap
from cli.dev.rootfs import demo_rootfs
from moorage.errors import AlreadyExists
from tests.integration.box import observe
from tests.support.fleet import OWN, box, require_fleet, to_ourselves

pytestmark = [pytest.mark.root, pytest.mark.docker]

_UP = """
import asyncio, sys
from pathlib import Path
from cli.dev.config import FleetConfig
from cli.dev.fleet import Fleet
prefix, subnet, directory, port = sys.argv[1:]
asyncio.run(Fleet(FleetConfig(prefix, subnet, Path(directory), 2, int(port))).up())
"""


def before() -> dict[str, object]:
    """The machine without any fleet of ours."""
    require_fleet()
    with to_ourselves(OWN):
        return observe.machine()


async def kill_up_at(record: Path, arguments: list[str]) -> None:
    """Start `up` in a process of its own and kill it the moment that the record is there."""
    command = subprocess.Popen([sys.executable, "-c", _UP, *arguments], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 20
    while True:
        if record.exists():
            break
        assert time.monotonic() < deadline
        assert command.poll() is None
        await asyncio.sleep(0.001)
    command.kill()
    command.wait()


async def test_down_leaves_nothing(tmp_path: Path) -> None:
    clean = before()
    with box(1, egress=True) as fleet:
        await fleet.up()
        host = fleet.host(1)
        await host.docker("import", str(demo_rootfs(tmp_path / "rootfs.tar")), "image")
        assert (await host.docker("run", "--rm", "image", "echo", "hello")).strip() == "hello"
        await host.docker("run", "-d", "-p", "8080:80", "image", "sleep", "600")
        await host.docker("network", "create", "extra")
        assert observe.machine() != clean
        await fleet.up()  # changes nothing
        assert (await host.docker("ps", "-q")).strip()
        await fleet.down()
        assert observe.machine() == clean
        await fleet.down()


async def test_kept_data_is_found_again(tmp_path: Path) -> None:
    clean = before()
    with box(1) as fleet:
        await fleet.up()
        await fleet.host(1).docker("import", str(demo_rootfs(tmp_path / "rootfs.tar")), "image")
        await fleet.host(1).docker("run", "-d", "--name", "kept", "image", "sleep", "600")
        await fleet.down(keep_data=True)
        assert {**observe.machine(), "folders": []} == {**clean, "folders": []}
        await Fleet.open(fleet.config.directory).up()
        assert "kept" in await fleet.host(1).docker("ps", "-a")


@pytest.mark.parametrize("moment", ["underlay", "h1-holder", "h2-containerd", "h1-engine"])
async def test_killed_in_the_middle_of_up(moment: str) -> None:
    clean = before()
    with box(2) as fleet:
        config = fleet.config
        arguments = [config.prefix, config.subnet, str(config.directory), str(config.loopback_port)]
        await kill_up_at(config.records / moment, arguments)
        await fleet.down()
        assert observe.machine() == clean


async def test_up_repairs_what_a_killed_up_has_left() -> None:
    with box(2) as fleet:
        config = fleet.config
        arguments = [config.prefix, config.subnet, str(config.directory), str(config.loopback_port)]
        await kill_up_at(config.records / "h1-holder", arguments)
        await fleet.up()
        status = await fleet.status()
        assert all(host.is_plugged_in and host.pids["engine"] for host in status.hosts)


async def test_up_repairs_a_fleet_whose_underlay_was_killed() -> None:
    with box(2) as fleet:
        await fleet.up()
        keeper = int((fleet.config.records / "underlay").read_text().split()[0])
        os.kill(keeper, signal.SIGKILL)
        await fleet.up()
        status = await fleet.status()
        assert all(host.is_plugged_in and host.pids["engine"] for host in status.hosts)
        subprocess.run(["ping", "-c", "1", "-W", "5", fleet.host(2).address], check=True, stdout=subprocess.DEVNULL)


async def test_a_fleet_whose_folder_is_lost_is_found_by_its_prefix() -> None:
    clean = before()
    with box(1) as fleet:
        await fleet.up()
        shutil.rmtree(fleet.config.directory, ignore_errors=True)
        await reap(OWN.prefix)
        shutil.rmtree(fleet.config.directory, ignore_errors=True)
        assert observe.machine() == clean


async def test_a_folder_with_other_files_is_refused_and_left_alone() -> None:
    with box(1) as fleet:
        (fleet.config.directory / "thesis.txt").write_text("years of work")
        with pytest.raises(AlreadyExists, match=r"thesis\.txt"):
            await fleet.up()
        await fleet.down()
        assert (fleet.config.directory / "thesis.txt").exists()


async def test_down_can_be_killed_and_repeated() -> None:
    clean = before()
    with box(2) as fleet:
        await fleet.up()
        down = "import asyncio, sys; from pathlib import Path; from cli.dev.fleet import Fleet\n"
        down += "asyncio.run(Fleet.open(Path(sys.argv[1])).down())"
        command = subprocess.Popen(
            [sys.executable, "-c", down, str(fleet.config.directory)], cwd=Path(__file__).parents[3]
        )
        deadline = time.monotonic() + 20
        while True:
            if len(processes.tagged(f"{OWN.prefix}-")) < 7:  # it has begun
                break
            assert time.monotonic() < deadline
        command.kill()
        command.wait()
        await fleet.down()
        assert observe.machine() == clean


async def test_engines_can_form_a_swarm() -> None:
    with box(2, engine_settings={"live-restore": False}) as fleet:
        await fleet.up()
        one, two = fleet.hosts()
        await one.docker("swarm", "init", "--advertise-addr", one.address)
        token = (await one.docker("swarm", "join-token", "-q", "worker")).strip()
        await two.docker("swarm", "join", "--token", token, f"{one.address}:2377")
        assert len((await one.docker("node", "ls", "-q")).split()) == 2


async def test_a_foreign_link_of_our_name_is_left_alone() -> None:
    with box(1) as fleet:
        link = fleet.config.machine_link
        subprocess.run(["ip", "link", "add", link, "type", "bridge"], check=True)
        try:
            with pytest.raises(AlreadyExists):
                await fleet.up()
            await fleet.down()
            assert Path("/sys/class/net", link).exists()
        finally:
            subprocess.run(["ip", "link", "del", link], check=True)


async def test_a_record_with_the_pid_of_another_process_is_not_believed() -> None:
    with box(1) as fleet:
        await fleet.up()
        stranger = subprocess.Popen(["sleep", "600"])
        try:
            started = processes.start_time(stranger.pid)
            for record in fleet.config.records.iterdir():
                record.write_text(f"{stranger.pid} {started}\n")
            assert (await fleet.status()).hosts[0].pids["engine"] is None
            await fleet.down()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

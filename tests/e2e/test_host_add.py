"""A machine of the box with an engine and sshd, and no agent, becomes a host."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.programs import Access, Programs, agent_command, agent_is_up
from moorage import __version__
from moorage.v1 import hosts_pb2
from tests.e2e.conftest import connect, run_moor
from tests.support.fleet import box, in_own_loop
from tests.support.plane import until

AGENT = Path(sys.executable).with_name("moorage-hostagent")
#: The box's own agents are on the first host alone.
BARE = "h2"


def _agent(config: Path) -> list[str]:
    return ["sleep", "infinity"] if config.parent.name == BARE else agent_command(config)


async def _is_ready(access: Access, name: str) -> bool:
    return name == BARE or await agent_is_up(access, name)


@pytest.fixture(scope="module")
def pair() -> Iterator[Fleet]:
    programs = replace(Programs(), agent=_agent, agent_ready=_is_ready)
    with box(2, programs=programs) as made:
        in_own_loop(made.up())
        yield made


@dataclass(frozen=True)
class Door:
    """How to get into the bare machine."""

    target: str
    options: tuple[str, ...]
    key: Path


@pytest.fixture
async def door(pair: Fleet, tmp_path: Path) -> AsyncIterator[Door]:
    """sshd on the bare machine, with keys of its own: nothing of this machine's accounts is used or changed."""
    host = pair.hosts()[1]
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "authorized").write_text((tmp_path / "user.pub").read_text())
    (tmp_path / "known").write_text(f"{host.address} {(tmp_path / 'host.pub').read_text()}")
    config = {
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "ListenAddress": host.address,
        "PidFile": "none",
        "StrictModes": "no",  # the folder is a temporary one
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (tmp_path / "sshd").write_text("".join(f"{name} {value}\n" for name, value in config.items()))
    await host.run(["mkdir", "-p", "/run/sshd"])
    daemon = await asyncio.create_subprocess_exec(
        *host.command(["/usr/sbin/sshd", "-D", "-e", "-f", str(tmp_path / "sshd")])
    )
    try:
        options = (f"UserKnownHostsFile={tmp_path / 'known'}", "StrictHostKeyChecking=yes", "BatchMode=yes")
        yield Door(f"root@{host.address}", options, tmp_path)
    finally:
        daemon.terminate()
        await daemon.wait()


async def add(fleet: Fleet, door: Door, key: str, *words: str) -> subprocess.CompletedProcess[str]:
    ssh = [word for option in door.options for word in ("--ssh-option", option)]
    command = ["host", "add", door.target, "-i", str(door.key / key), *ssh, *words]
    return await asyncio.to_thread(run_moor, fleet, *command)


def settings(host: Host, fleet: Fleet) -> list[str]:
    """What of the box an agent must know."""
    plan = host.plan
    values = {
        "data_dir": plan.agent_data,
        "docker_host": f"unix://{plan.docker_socket}",
        "runtime_path": plan.runtime_path,
        "registry_proxy_port": 5460,
    }
    words = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    return [
        *words,
        "--control-plane",
        fleet.config.api_address,
        "--agent",
        str(AGENT),
        "--config",
        f"{plan.folder}/own.yaml",
    ]


def agents_of(config: str) -> list[int]:
    """Processes that were started with this configuration."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[-2:-1] == [config.encode()]:
                found.append(int(path.parent.name))
    return found


async def test_a_machine_becomes_a_host(pair: Fleet, door: Door) -> None:
    host = pair.hosts()[1]
    words = settings(host, pair)
    closed = await add(pair, door, "stranger", "--name", "new", *words)
    assert closed.returncode == 8
    assert "Permission denied" in closed.stderr
    taken = await add(pair, door, "user", "--name", "h1", *words)
    assert (taken.returncode, "hosts/h1 exists" in taken.stderr) == (5, True)
    lacking = await add(pair, door, "user", "--name", "new", "--agent", "/nowhere/agent", *words[:-4], *words[-2:])
    assert (lacking.returncode, "there is no /nowhere/agent" in lacking.stderr) == (6, True)
    unfit = await add(pair, door, "user", "--name", "new", *words, "--set", "docker_host=unix:///nowhere")
    assert unfit.returncode == 6
    assert "the set-up failed" in unfit.stderr
    done = await add(pair, door, "user", "--name", "new", "--label", "disk=ssd", *words, "--replace-config")
    assert done.returncode == 0, done.stderr
    async with connect(pair) as client:
        try:
            made = await client.hosts.GetHost(hosts_pb2.GetHostRequest(name="hosts/new"))
            assert made.status.link_state == hosts_pb2.HOST_LINK_STATE_UP
            assert (made.labels["disk"], made.status.facts.underlay_address) == ("ssd", host.address)
            again = await add(pair, door, "user", "--name", "other", *words)
            assert (again.returncode, "was set up before" in again.stderr) == (6, True)
        finally:
            for pid in agents_of(f"{host.plan.folder}/own.yaml"):
                os.kill(pid, signal.SIGTERM)

        async def is_away() -> bool:
            found = await client.hosts.GetHost(hosts_pb2.GetHostRequest(name="hosts/new"))
            return found.status.link_state != hosts_pb2.HOST_LINK_STATE_UP

        await until(is_away, what="its agent has ended")


def stub_wheel(folder: Path) -> None:
    """A package of our name whose agent only says what it was asked."""
    info = f"moorage-{__version__}.dist-info"
    code = "import sys\ndef main():\n    print('the stub got', *sys.argv[1:]); sys.exit('setup' in sys.argv)\n"
    with zipfile.ZipFile(folder / f"moorage-{__version__}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stub_agent.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: moorage\nVersion: {__version__}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nmoorage-hostagent = stub_agent:main\n")
        wheel.writestr(f"{info}/RECORD", "")


async def test_the_agent_is_installed_from_wheels(pair: Fleet, door: Door, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    stub_wheel(wheels)
    there = ["--agent", f"{tmp_path}/there/bin/moorage-hostagent", "--config", f"{tmp_path}/there.yaml"]
    words = ["--control-plane", pair.config.api_address, "--package", str(wheels), "--python", sys.executable, *there]
    done = await add(pair, door, "user", "--name", "new2", *words)
    assert done.returncode == 6
    assert f"the stub got setup --config {tmp_path}/there.yaml" in done.stderr
    assert (tmp_path / "there.yaml").stat().st_mode & 0o777 == 0o600

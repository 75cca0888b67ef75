"""`moor dev ...`: the fleet in a box on the command line. Words only; the work is in fleet.py.

Errors go up as they are: the root command prints them and picks the exit code.
"""

import asyncio
import dataclasses
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import yaml

from moorage.errors import InvalidSpec, NotFound

from . import machine, programs, rootfs
from .config import FleetConfig
from .fleet import PARTS, Fleet, FleetStatus, HostStatus

_DEFAULT = FleetConfig()
_directory = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=_DEFAULT.directory,
    show_default=True,
    help="Folder of the fleet.",
)
_part = click.argument("part", type=click.Choice([*PARTS, "all"]), required=False)


@click.group()
def dev() -> None:
    """A fleet in a box: several real Docker hosts on this machine. Needs root.

    It can be cut, healed, killed and revived. It cannot be slowed down: that needs the kernel's netem, which many
    machines lack.
    """


@dev.command()
@click.option("--hosts", type=click.IntRange(1, 60), default=_DEFAULT.hosts, show_default=True, help="How many hosts.")
@click.option("--subnet", default=_DEFAULT.subnet, show_default=True, help="The network between the hosts.")
@click.option("--prefix", default=_DEFAULT.prefix, show_default=True, help="Start of every name that is made.")
@click.option("--port", type=click.IntRange(1024, 65533), default=_DEFAULT.loopback_port, show_default=True)
@click.option("--zone", "zones", multiple=True, default=_DEFAULT.zones, show_default=True, help="Zones, in turn.")
@click.option("--egress/--no-egress", default=True, show_default=True, help="Let the hosts out through this machine.")
@click.option("--engines-only", is_flag=True, help="Docker hosts only: no control plane, no agents.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the control plane, such as lost_after_seconds=10; from its next start on.",
)
@_directory
def up(
    hosts: int,
    subnet: str,
    prefix: str,
    port: int,
    zones: tuple[str, ...],
    egress: bool,
    engines_only: bool,
    settings: tuple[str, ...],
    directory: Path,
) -> None:
    """Bring up the fleet, or whatever of it is missing."""

    async def work() -> None:
        config = FleetConfig(
            prefix=prefix,
            subnet=subnet,
            directory=directory,
            hosts=hosts,
            loopback_port=port,
            egress=egress,
            zones=zones,
            controlplane_settings=parse_settings(settings),
        )
        fleet = Fleet(config, programs=None if engines_only else programs.Programs(), say=click.echo)
        await fleet.up()
        _show(await fleet.status())
        if not engines_only:
            option = "" if directory == _DEFAULT.directory else f" --directory {directory}"
            click.echo(f'To use it from this shell: eval "$(moor dev env{option})"')

    _run(work())


@dev.command()
@click.option("--keep-data", is_flag=True, help="Keep the folder: the next `up` finds containers and objects again.")
@_directory
def down(keep_data: bool, directory: Path) -> None:
    """Remove the fleet and everything that it made."""

    async def work() -> None:
        try:
            fleet = _open(directory)
        except NotFound:
            click.echo(f"There is no fleet in {directory}.")
            # A `down` that was killed at its very end may have left an empty folder.
            fleet = Fleet(FleetConfig(directory=directory))
        await fleet.down(keep_data=keep_data)

    _run(work())


@dev.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_directory
def status(output: str, directory: Path) -> None:
    """Show hosts and processes."""

    async def work() -> None:
        found = await _open(directory).status()
        if output == "json":
            click.echo(json.dumps(dataclasses.asdict(found), indent=2))
        else:
            _show(found)

    _run(work())


@dev.command()
@click.argument("host")
@_directory
def cut(host: str, directory: Path) -> None:
    """Pull the cable of HOST."""
    _run_on(directory, lambda fleet: fleet.cut(host))


@dev.command()
@click.argument("host")
@_directory
def heal(host: str, directory: Path) -> None:
    """Plug the cable of HOST in again."""
    _run_on(directory, lambda fleet: fleet.heal(host))


@dev.command()
@click.argument("target", metavar="HOST|controlplane")
@_part
@_directory
def kill(target: str, part: str | None, directory: Path) -> None:
    """SIGKILL a PART of HOST (default: agent), or the control plane. Containers run on."""
    _run_on(directory, lambda fleet: fleet.kill(target, part or machine.AGENT))


@dev.command()
@click.argument("target", metavar="HOST|controlplane")
@_part
@_directory
def start(target: str, part: str | None, directory: Path) -> None:
    """Start what is missing of HOST (or one PART of it), or the control plane."""
    _run_on(directory, lambda fleet: fleet.start(target, part or "all"))


@dev.command(name="power-off")
@click.argument("host")
@_directory
def power_off(host: str, directory: Path) -> None:
    """Kill HOST with all its containers, as a power cut would; `start` revives it."""

    async def work() -> None:
        click.echo(f"{await _open(directory).power_off(host)} processes killed")

    _run(work())


@dev.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--directory", type=click.Path(path_type=Path), default=_DEFAULT.directory, help="Folder of the fleet.")
@click.pass_context
def execute(context: click.Context, host: str, command: tuple[str, ...], directory: Path) -> None:
    """Run COMMAND (default: a shell) on HOST; `docker` there is the host's own."""
    number = int(host.removeprefix("h")) if host.removeprefix("h").isdigit() else 0
    words = command[1:] if command[:1] == ("--",) else command
    argv = _open(directory).host(number).command(words or (shutil.which("bash") or "sh",))
    context.exit(subprocess.run(argv, check=False).returncode)


@dev.command(name="rootfs")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def make_rootfs(path: Path) -> None:
    """Write a small root file system (static busybox with a web server) as a tar to PATH."""
    click.echo(f"{rootfs.demo_rootfs(path)}: {path.stat().st_size} bytes")


@dev.command()
@_directory
def env(directory: Path) -> None:
    """Print the variables that make `moor` speak to the fleet as its administrator: eval "$(moor dev env)"."""
    access = _open(directory).access()
    values = {"ADDRESS": access.address, "API_KEY": access.api_key, "CA_FILE": str(access.ca_file)}
    for name, value in values.items():
        click.echo(f"export MOORAGE_{name}={shlex.quote(value)}")


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE, the value as it would stand in the YAML file. The control plane itself says what it does not take.

    Raises:
        InvalidSpec: another form.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise InvalidSpec.of("set", f"{setting!r}: write NAME=VALUE")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise InvalidSpec.of("set", f"{setting!r}: {exc}") from exc
    return found


def _open(directory: Path) -> Fleet:
    """The fleet of the folder, its programs included when it has a control plane."""
    config = Fleet.open(directory).config
    has_programs = config.controlplane_folder.exists()
    return Fleet(config, programs=programs.Programs() if has_programs else None, say=click.echo)


def _run_on(directory: Path, work: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await work(_open(directory))

    _run(run())


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def _show(found: FleetStatus) -> None:
    pid = found.controlplane_pid
    click.echo(f"control plane  {found.api_address}  {f'pid {pid}' if pid else 'not running'}")
    for host in found.hosts:
        click.echo(f"{host.name:<4} {host.address:<15} {_state(host):<12} {_processes(host)}")
        click.echo(f"     docker -H unix://{host.docker_socket}")


def _state(host: HostStatus) -> str:
    if not host.is_on:
        return "off"
    return "on" if host.is_plugged_in else "on, cut off"


def _processes(host: HostStatus) -> str:
    parts = [f"{part} {pid or 'not running'}" for part, pid in host.pids.items()]
    return ", ".join([*parts, f"{host.containers} containers"])

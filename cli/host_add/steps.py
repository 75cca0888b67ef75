"""The steps that make a machine a host. Each says what it does, can be repeated, and fails with the machine's own words."""

import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cli.host_add import probe
from cli.host_add.probe import Machine
from cli.host_add.remote import Remote
from moorage import __version__
from moorage.client import Client
from moorage.errors import AlreadyExists, DeadlineExceeded, NotFound, NotReady, Unavailable
from moorage.v1 import enrollment_pb2, hosts_pb2

LOG = "/var/log/moorage-hostagent.log"
_TOKEN_SECONDS = 3600
#: $1: where to, $2: the Python. What to install comes as a tar: wheels. With all that it needs among them nothing is fetched.
_INSTALL = """
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tar -x -f - -C "$folder"
[ -x "$1/bin/pip" ] || "$2" -m venv "$1"
"$1/bin/pip" install --quiet --find-links "$folder" $3 --upgrade "$folder"/moorage-*.whl
"""
#: $1: the file. Before its name has it, nobody else can read it: it holds the token.
_CONFIGURE = """
set -e
umask 077
mkdir -p "$(dirname "$1")"
cat >"$1.new"
mv "$1.new" "$1"
"""
_SETUP = '"$1" setup --config "$2" 2>&1'
_START = """
if [ -d /run/systemd/system ]; then systemctl restart moorage-hostagent.service moorage-watchdog.service
else setsid -f "$1" run --config "$2" >>"$3" 2>&1 </dev/null
fi
"""
_LAST_WORDS = """
if [ -d /run/systemd/system ]; then journalctl --unit moorage-hostagent --lines 15 --no-pager --output cat
else tail -n 15 "$1"
fi
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Attributes:
        control_plane: host:port, as the new host reaches it.
        name: last part of its name; empty: the machine's own.
        underlay_address: where other hosts reach it; empty: where ssh did.
        package: a wheel, or a folder with it and the wheels that it needs; None: the agent is there.
        settings: of the agent's configuration, over what is worked out.
    """

    control_plane: str
    name: str = ""
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    underlay_address: str = ""
    package: Path | None = None
    python: str = "python3"
    agent: str = "/opt/moorage/bin/moorage-hostagent"
    config: str = "/etc/moorage/agent.yaml"
    replaces_config: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


async def look(remote: Remote, wish: Wish) -> Machine:
    """What the machine is like. Raises Unavailable (SSH_FAILED), NotReady (MACHINE_UNFIT): all that it lacks."""
    arguments = (wish.agent, wish.config, wish.python)
    machine = probe.parse(await remote.run(probe.SCRIPT, *arguments, what="the first look"))
    missing = probe.lacks(
        machine,
        version=__version__,
        agent=wish.agent,
        has_package=wish.package is not None,
        config=wish.config,
        replaces_config=wish.replaces_config,
    )
    if missing:
        lines = "\n".join(f"  {sentence}" for sentence in missing)
        raise NotReady(f"{remote.target} cannot be set up:\n{lines}", reason="MACHINE_UNFIT")
    remote.is_root = machine.is_root
    return machine


async def add(client: Client, remote: Remote, wish: Wish, timeout_seconds: float | None, say: Say) -> hosts_pb2.Host:
    """All steps, until the host is UP.

    Raises:
        AlreadyExists: a host of that name. Unavailable: SSH_FAILED. NotReady: MACHINE_UNFIT, REMOTE_STEP_FAILED.
        DeadlineExceeded: it was not UP in time; with the agent's last words.
    """
    machine = await look(remote, wish)
    name = wish.name or machine.hostname
    await _check_free(client, f"hosts/{name}")
    say(f"reached {remote.target}{'' if machine.is_root else ', with sudo'}")
    if wish.package is not None and probe.needs_install(machine, __version__, has_package=True):
        say(f"installing {wish.package.name}")
        is_offline = "--no-index" if wish.package.is_dir() else ""
        prefix = str(Path(wish.agent).parent.parent)
        await remote.run(
            _INSTALL, prefix, wish.python, is_offline, stdin=wheels(wish.package), what="installing the agent"
        )
    token = await client.enrollment.CreateJoinToken(_token_request(wish))
    try:
        say(f"writing {wish.config}")
        text = configuration(wish, name, wish.underlay_address or machine.address, token.secret)
        await remote.run(_CONFIGURE, wish.config, stdin=text, what="writing the configuration")
        say("setting the machine up")
        said = await remote.run(_SETUP, wish.agent, wish.config, what="the set-up")
        say("\n".join(f"  {line}" for line in said.splitlines()))
        await remote.run(_START, wish.agent, wish.config, LOG, what="starting the agent")
        say(f"waiting until hosts/{name} is UP")
        if not machine.has_systemd:
            say(f"  this machine has no systemd: see to it that {wish.agent} is started with it; its log is {LOG}")
        return await _until_up(client, remote, f"hosts/{name}", timeout_seconds)
    finally:
        # Whatever came of it, nobody can join with this token any more.
        await client.enrollment.RevokeJoinToken(enrollment_pb2.RevokeJoinTokenRequest(name=token.join_token.name))


def _token_request(wish: Wish) -> enrollment_pb2.CreateJoinTokenRequest:
    request = enrollment_pb2.CreateJoinTokenRequest(max_uses=1, zone=wish.zone)
    request.time_to_live.FromSeconds(_TOKEN_SECONDS)
    return request


async def _check_free(client: Client, name: str) -> None:
    try:
        await client.hosts.GetHost(hosts_pb2.GetHostRequest(name=name))
    except NotFound:
        return
    raise AlreadyExists(f"{name} exists; give the machine another --name, or remove that host", metadata={"name": name})


async def _until_up(client: Client, remote: Remote, name: str, timeout_seconds: float | None) -> hosts_pb2.Host:
    try:
        return await client.wait_host_up(name, timeout_seconds)
    except DeadlineExceeded as late:
        try:
            words = (await remote.run(_LAST_WORDS, LOG, what="reading the agent's log")).strip()
        except (NotReady, Unavailable) as error:
            words = error.message
        raise DeadlineExceeded(f"{late.message}; its agent's last words:\n{words}") from late


def configuration(wish: Wish, name: str, underlay_address: str, token: str) -> bytes:
    """The agent's configuration file."""
    values: dict[str, Any] = {
        "name": name,
        "control_plane": wish.control_plane,
        "join_token": token,
        "underlay_address": underlay_address,
    }
    if wish.labels:
        values["labels"] = dict(wish.labels)
    return yaml.safe_dump({**values, **wish.settings}, sort_keys=False).encode()


def wheels(package: Path) -> bytes:
    """A tar of the wheel, or of all wheels of the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(package.glob("*.whl")) if package.is_dir() else [package]:
            tar.add(path, arcname=path.name)
    return buffer.getvalue()

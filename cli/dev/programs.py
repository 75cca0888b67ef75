"""The control plane and the agents as the box starts them: configuration files, commands, readiness. They are
processes to us; nothing of them is imported."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from moorage.errors import NotReady

from . import enroll
from .config import FleetConfig, HostPlan

CONTROLPLANE = "controlplane"
REGISTRY_PROXY_PORT = 5460


@dataclass(frozen=True, slots=True)
class Access:
    """How to call the control plane as its first administrator."""

    address: str
    api_key: str
    ca_file: Path


def controlplane_command(config_file: Path) -> list[str]:
    """The command that starts the control plane."""
    return [sys.executable, "-m", "controlplane.main", "--config", str(config_file)]


def agent_command(config_file: Path) -> list[str]:
    """The command that starts an agent."""
    return [sys.executable, "-m", "hostagent.main", "run", "--config", str(config_file)]


async def controlplane_is_ready(access: Access) -> bool:
    """Whether the API accepts connections."""
    host, _, port = access.address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 1)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def agent_is_up(access: Access, host_name: str) -> bool:
    """Whether the control plane says that the host's link is up."""
    return await enroll.host_is_up(access.address, access.api_key, access.ca_file, host_name)


async def make_join_token(access: Access, uses: int) -> str:
    """A join token for so many hosts."""
    return await enroll.create_join_token(access.address, access.api_key, access.ca_file, max_uses=uses)


@dataclass(frozen=True, slots=True)
class Programs:
    """What runs in the box beside the engines; tests put other programs here."""

    controlplane: Callable[[Path], list[str]] = controlplane_command
    agent: Callable[[Path], list[str]] = agent_command
    controlplane_ready: Callable[[Access], Awaitable[bool]] = controlplane_is_ready
    agent_ready: Callable[[Access, str], Awaitable[bool]] = agent_is_up
    join_token: Callable[[Access, int], Awaitable[str]] = make_join_token


def write_controlplane_config(config: FleetConfig) -> Path:
    """Write the control plane's configuration file and return its path."""
    folder = config.controlplane_folder
    (folder / "data").mkdir(parents=True, exist_ok=True)
    return _write(
        folder / "config.yaml",
        {
            "data_dir": str(folder / "data"),
            "api_listen": [f"127.0.0.1:{config.loopback_port}", config.api_address],
            "agent_listen": [config.agent_address],
            "registry_listen": config.registry_address,
            "advertise": [config.machine_address, "127.0.0.1"],
            "plain_http_registries": [config.sample_registry_address],
            **config.controlplane_settings,
        },
    )


def write_agent_config(config: FleetConfig, host: HostPlan, join_token: str) -> Path:
    """Write an agent's configuration file (mode 0600: it holds the token) and return its path."""
    return _write(
        host.folder / "agent.yaml",
        {
            "name": host.name,
            "zone": config.zone_of(host.number),
            "control_plane": config.api_address,
            "join_token": join_token,
            "data_dir": str(host.agent_data),
            "run_dir": "/run/moorage",
            "docker_host": f"unix://{host.docker_socket}",
            "underlay_address": host.address,
            "vxlan_port": config.vxlan_port_of(host.number),
            "runtime_path": str(host.runtime_path),
            "labels": config.labels,
            "registry_proxy_port": REGISTRY_PROXY_PORT,
        },
    )


def read_access(config: FleetConfig) -> Access:
    """The first administrator's access, which the control plane wrote at its first start.

    Raises:
        NotReady: it has not.
    """
    path = config.controlplane_folder / "data/admin.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as missing:
        raise NotReady(f"the control plane has not written {path} yet") from missing
    except json.JSONDecodeError as half:
        raise NotReady(f"{path} is not whole yet") from half
    return Access(address=raw["address"], api_key=raw["api_key"], ca_file=Path(raw["ca_file"]))


def _write(path: Path, values: dict[str, object]) -> Path:
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path

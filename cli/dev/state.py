"""What a fleet has made, on disk before it is made; and the lock that keeps two commands apart.

`fleet.json` holds the token that marks every process and the machine's leg as ours. It is written before the first
process starts, so that whatever is interrupted, the next command knows what to look for.

The lock is a flock on a file in the fleet's folder. Commands in flight inherit it (see processes.py): when the
command line itself is killed, the next one waits until nothing of it moves any more.
"""

# Small files on the machine's own disk and in /proc: an asynchronous file library would gain nothing.
# ruff: noqa: ASYNC240

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from moorage.errors import DeadlineExceeded

from .config import FleetConfig

LOCK_SECONDS = 900.0
OWN_FILES = ("fleet.json", "fleet.json.new", "lock")


@dataclass(frozen=True, slots=True)
class FleetState:
    """What is kept of a fleet between commands.

    Attributes:
        token: `<prefix>-<random>`; in the environment of every process of ours.
        ip_forward_was: the machine's net.ipv4.ip_forward before egress changed it; None: not changed.
    """

    token: str
    prefix: str
    subnet: str
    hosts: int
    loopback_port: int
    egress: bool
    zones: tuple[str, ...]
    labels: dict[str, str]
    engine_settings: dict[str, Any]
    vxlan_ports: tuple[int, ...] = (4789,)
    ip_forward_was: str | None = None
    controlplane_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def machine_mac(self) -> str:
        """Address of the machine's leg, made from the token: a link of this name with another address is not ours."""
        digits = self.token.rpartition("-")[2]
        return "02:" + ":".join(digits[n : n + 2] for n in range(0, 10, 2))

    def config(self, directory: Path) -> FleetConfig:
        """The configuration that the fleet was made with."""
        return FleetConfig(
            prefix=self.prefix,
            subnet=self.subnet,
            directory=directory,
            hosts=self.hosts,
            loopback_port=self.loopback_port,
            egress=self.egress,
            zones=self.zones,
            labels=self.labels,
            vxlan_ports=self.vxlan_ports,
            engine_settings=self.engine_settings,
            controlplane_settings=self.controlplane_settings,
        )


def load(directory: Path) -> FleetState | None:
    """The state of the fleet in this folder; None when there is none."""
    try:
        raw: dict[str, Any] = json.loads((directory / "fleet.json").read_text())
    except FileNotFoundError:
        return None
    raw |= {
        name: tuple(raw[name]) for name in ("zones", "vxlan_ports") if name in raw
    }  # a fleet of before has no ports
    return FleetState(**raw)


def save(directory: Path, state: FleetState) -> None:
    """Write the state so that a reader sees the old or the new, also after a power cut."""
    new = directory / "fleet.json.new"
    with new.open("w") as output:
        json.dump(asdict(state), output, indent=2)
        output.flush()
        os.fsync(output.fileno())
    new.replace(directory / "fleet.json")


def create(config: FleetConfig) -> FleetState:
    """Make and save the state of a new fleet."""
    made = FleetState(
        token=f"{config.prefix}-{secrets.token_hex(8)}",
        prefix=config.prefix,
        subnet=config.subnet,
        hosts=config.hosts,
        loopback_port=config.loopback_port,
        egress=config.egress,
        zones=config.zones,
        labels=config.labels,
        vxlan_ports=config.vxlan_ports,
        engine_settings=config.engine_settings,
        controlplane_settings=config.controlplane_settings,
    )
    save(config.directory, made)
    return made


def adjusted(state: FleetState, config: FleetConfig) -> FleetState:
    """The same fleet with what may change while it lives: more hosts, egress, zones, labels and VXLAN ports
    of later hosts."""
    return replace(
        state,
        hosts=config.hosts,
        egress=state.egress or config.egress,
        zones=config.zones,
        labels=config.labels,
        vxlan_ports=config.vxlan_ports,
        engine_settings=config.engine_settings,
        controlplane_settings=config.controlplane_settings,
    )


def with_ip_forward(state: FleetState, was: str) -> FleetState:
    """The same fleet, with the machine's net.ipv4.ip_forward as it was found."""
    return replace(state, ip_forward_was=was)


@contextlib.asynccontextmanager
async def locked(directory: Path) -> AsyncIterator[int]:
    """Hold the fleet's lock; yields its file descriptor, for children to inherit. Makes the folder.

    Raises:
        DeadlineExceeded: another command held it for 15 minutes.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `down` removes the folder with the lock in it: a lock on a file that is gone protects nothing.
            if _same_file(descriptor, directory / "lock"):
                break
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"another command has been working on {directory} for {LOCK_SECONDS:.0f} s; wait or end it"
            )
        await asyncio.sleep(0.05)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

"""What a fleet in a box is: names, addresses and folders, all computed from one `FleetConfig`. Pure values; nothing
is touched here.

Every name that is made outside the fleet's folder starts with the prefix: `<prefix>-underlay` (network namespace),
`<prefix>0` (the machine's leg), `/<prefix>-h1` (control groups), `moorage-box-<prefix>` (nftables table).
"""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moorage.errors import FieldViolation, InvalidSpec

MAX_HOSTS = 60
_PREFIX = re.compile(r"[a-z][a-z0-9]{0,12}")
# Every host has a /run and an /etc of its own: what lies below them on the machine cannot be seen from inside a host.
_HIDDEN = ("/run", "/var/run", "/etc", "/sys", "/proc", "/dev")


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host of the box: its number (from 1), name, underlay address and folder."""

    number: int
    name: str
    address: str
    folder: Path
    cgroup: str

    @property
    def docker_socket(self) -> Path:
        """The engine's socket as the machine sees it (inside the host it is also /run/docker.sock)."""
        return self.folder / "docker.sock"

    @property
    def etc(self) -> Path:
        """The upper layer of the host's /etc; daemon.json and resolv.conf are in it."""
        return self.folder / "etc"

    @property
    def agent_data(self) -> Path:
        """The agent's data_dir."""
        return self.folder / "agent"

    @property
    def runtime_path(self) -> Path:
        """Where the agent keeps its runtime wrapper, under which daemon.json lists it as `moorage`."""
        return self.agent_data / "moorage-runtime"


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """A fleet in a box.

    Args:
        prefix: 1 to 13 lower-case letters and digits; two fleets on one machine need two.
        subnet: the underlay, IPv4, at most 64 - /26 or larger. The machine is its first address, host N its 10+Nth.
        directory: everything of the fleet; removed by `down`. On a file system that overlayfs can write to.
        hosts: how many, 1 to 60.
        loopback_port: port of the API on 127.0.0.1 and on the machine's leg; agents and the two
            registries have the next three.
        egress: let the hosts out through the machine (IP forwarding and one masquerade table, both undone by `down`).
        zones: host N gets the zone N, round and round.
        labels: labels of every host.
        vxlan_ports: host N gets the UDP port N, round and round.
        engine_settings: entries of the first daemon.json, over those of the box ({"live-restore": False} for a Swarm).
        controlplane_settings: entries of the control plane's configuration, over those of the box.

    Raises:
        InvalidSpec: a value is out of bounds.
    """

    prefix: str = "moordev"
    subnet: str = "172.31.250.0/24"
    directory: Path = Path("/var/lib/moorage-dev")
    hosts: int = 3
    loopback_port: int = 7460
    egress: bool = False
    zones: tuple[str, ...] = ("default",)
    labels: dict[str, str] = field(default_factory=dict)
    vxlan_ports: tuple[int, ...] = (4789,)
    engine_settings: dict[str, Any] = field(default_factory=dict)
    controlplane_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bad: list[FieldViolation] = []
        if not _PREFIX.fullmatch(self.prefix):
            bad.append(FieldViolation("prefix", "must be 1 to 13 lower-case letters and digits, a letter first"))
        try:
            network = ipaddress.IPv4Network(self.subnet)
        except ValueError as error:
            bad.append(FieldViolation("subnet", f"is no IPv4 subnet: {error}"))
        else:
            if not network.is_private:
                bad.append(FieldViolation("subnet", "must be a private range"))
            if network.num_addresses < 12 + self.hosts:
                bad.append(FieldViolation("subnet", f"is too small for {self.hosts} hosts"))
        if not 1 <= self.hosts <= MAX_HOSTS:
            bad.append(FieldViolation("hosts", f"must be 1 to {MAX_HOSTS}"))
        if not self.directory.is_absolute() or str(self.directory).startswith(tuple(f"{top}/" for top in _HIDDEN)):
            bad.append(FieldViolation("directory", f"must be an absolute path, and not below {', '.join(_HIDDEN)}"))
        if len(str(self.directory)) > 80:
            bad.append(FieldViolation("directory", "must be at most 80 characters: socket paths are limited"))
        if not self.zones:
            bad.append(FieldViolation("zones", "must name at least one zone"))
        if not self.vxlan_ports or not all(0 < port < 65536 for port in self.vxlan_ports):
            bad.append(FieldViolation("vxlan_ports", "must name at least one port, from 1 to 65535"))
        if bad:
            raise InvalidSpec(bad)

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The underlay."""
        return ipaddress.IPv4Network(self.subnet)

    @property
    def machine_address(self) -> str:
        """The machine on the underlay; the control plane listens there."""
        return str(self.network[1])

    @property
    def machine_link(self) -> str:
        """The machine's leg: the only link that is made in the machine's own network namespace."""
        return f"{self.prefix}0"

    @property
    def underlay(self) -> str:
        """Name of the underlay's network namespace."""
        return f"{self.prefix}-underlay"

    @property
    def nft_table(self) -> str:
        """The nftables table of egress."""
        return f"moorage-box-{self.prefix}"

    @property
    def api_address(self) -> str:
        """host:port of the API on the underlay."""
        return f"{self.machine_address}:{self.loopback_port}"

    @property
    def agent_address(self) -> str:
        """host:port for the agents' sessions."""
        return f"{self.machine_address}:{self.loopback_port + 1}"

    @property
    def registry_address(self) -> str:
        """host:port of the platform's registry."""
        return f"{self.machine_address}:{self.loopback_port + 2}"

    @property
    def sample_registry_address(self) -> str:
        """host:port of a plain registry that stands for any registry of a user's."""
        return f"{self.machine_address}:{self.loopback_port + 3}"

    @property
    def controlplane_folder(self) -> Path:
        """Folder of the control plane."""
        return self.directory / "controlplane"

    @property
    def logs(self) -> Path:
        """Folder of the processes' output, one file a role."""
        return self.directory / "logs"

    @property
    def records(self) -> Path:
        """Folder of the process records, one file a role."""
        return self.directory / "processes"

    def host(self, number: int) -> HostPlan:
        """The host of this number, from 1."""
        name = f"h{number}"
        return HostPlan(
            number=number,
            name=name,
            address=str(self.network[10 + number]),
            folder=self.directory / "hosts" / name,
            cgroup=f"{self.prefix}-{name}",
        )

    def all_hosts(self) -> list[HostPlan]:
        """All hosts, in order."""
        return [self.host(number) for number in range(1, self.hosts + 1)]

    def zone_of(self, number: int) -> str:
        """Zone of the host of this number."""
        return self.zones[(number - 1) % len(self.zones)]

    def vxlan_port_of(self, number: int) -> int:
        """VXLAN port of the host of this number."""
        return self.vxlan_ports[(number - 1) % len(self.vxlan_ports)]

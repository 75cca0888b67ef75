"""Hosts, zones and what enrolls them: mirrors protos/moorage/v1/hosts.proto and zones.proto."""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime


class HostAdminState(enum.Enum):
    """Whether the host may be given work."""

    ENABLED = 1
    CORDONED = 2
    DRAINING = 3
    MAINTENANCE = 4


class HostLinkState(enum.Enum):
    """Whether the agent can be reached."""

    CONNECTING = 1
    UP = 2
    DISCONNECTED = 3
    DOWN = 4


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device that one instance can have for itself. The first of its names is the one that is counted."""

    kind: str = ""
    names: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostReservation:
    """A part of a host that one project has for sure."""

    project: str = ""  # projects/{project}
    cpu_millis: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a host gives to instances, and to whom. Zeros are the defaults of the proto's comments."""

    reserved_cpu_millis: int = 0
    reserved_memory_bytes: int = 0
    cpu_overcommit: float = 0.0
    memory_overcommit: float = 0.0
    dedicated_to: tuple[str, ...] = ()  # projects/{project}
    taints: tuple[str, ...] = ()  # KEY=VALUE
    reservations: tuple[HostReservation, ...] = ()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What an agent found on its machine."""

    agent_version: str = ""
    platform: str = ""
    cpu_millis: int = 0
    memory_bytes: int = 0
    engine_version: str = ""
    engine_api_version: str = ""
    kernel: str = ""
    cgroup_version: int = 0
    underlay_address: str = ""
    vxlan_port: int = 0
    registry_proxy_port: int = 0
    hostname: str = ""
    bridges: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    neighbour_port: int = 0
    devices: tuple[HostDevice, ...] = ()
    volume_size_problem: str = ""  # why it cannot limit the size of volumes
    images: tuple[str, ...] = ()  # digests of manifests whose images the engine holds


@dataclass(frozen=True, slots=True)
class HostCondition:
    """Something that is wrong with a host."""

    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class QuarantinedItem:
    """Something that carries our mark but that nobody assigned."""

    kind: str = ""
    id: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class HostLoss:
    """Why a host was given up, and what its neighbours said of it."""

    time: datetime
    message: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostDrainWait:
    """Why an instance is still on a host that is being emptied."""

    instance: str = ""  # full name
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class HostDrain:
    """How a host is emptied, and how far that is."""

    start_time: datetime
    deadline_time: datetime | None = None
    force: bool = False
    delete_unmanaged: bool = False
    left: int = 0
    waits: tuple[HostDrainWait, ...] = ()
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that carries instances."""

    uid: str
    id: str
    create_time: datetime
    zone: str = ""  # the last part of its name
    labels: Mapping[str, str] = field(default_factory=dict)
    admin_state: HostAdminState = HostAdminState.ENABLED
    generation: int = 1
    settings: HostSettings = HostSettings()
    link_state: HostLinkState = HostLinkState.CONNECTING
    link_change_time: datetime | None = None
    facts: HostFacts = HostFacts()
    conditions: tuple[HostCondition, ...] = ()
    quarantined: tuple[QuarantinedItem, ...] = ()
    sweep_brake: str = ""
    nonce: str = ""  # of the agent's data directory; another one is another machine with a copied identity
    epoch: int = 0  # of the agent
    loss: HostLoss | None = None  # until its agent connects again
    link_message: str = ""  # why it is away and not given up
    drain: HostDrain | None = None  # while it is DRAINING or in MAINTENANCE
    join_key: str = ""  # digest of the public key that it joined with: the same machine may ask again

    @property
    def name(self) -> str:
        """hosts/{host}."""
        return f"hosts/{self.id}"


@dataclass(frozen=True, slots=True)
class Zone:
    """A failure domain."""

    uid: str
    id: str
    create_time: datetime
    description: str = ""
    generation: int = 1

    @property
    def name(self) -> str:
        """zones/{zone}."""
        return f"zones/{self.id}"


def drain_why(host: Host) -> str:
    """What `Instance.evict` says of those that go because the host is emptied; when it is not any more, those that have it may stay."""
    return f"{host.name} is drained"


def is_emptied(host: Host) -> bool:
    """Whether the host is to have nothing."""
    return host.admin_state in (HostAdminState.DRAINING, HostAdminState.MAINTENANCE)


def capacity_of(host: Host) -> tuple[int, int]:
    """What the instances of a host can reserve together: (thousandths of a core, bytes)."""
    settings = host.settings
    cpu = max(0, host.facts.cpu_millis - settings.reserved_cpu_millis)
    memory = max(0, host.facts.memory_bytes - settings.reserved_memory_bytes)
    return int(cpu * (settings.cpu_overcommit or 1.0)), int(memory * (settings.memory_overcommit or 1.0))


def tolerates(tolerations: Collection[str], taint: str) -> bool:
    """Whether a taint, KEY=VALUE, does not keep away an instance that tolerates these: KEY=VALUE, or KEY for every value of it."""
    return taint in tolerations or taint.partition("=")[0] in tolerations


def lets_in(settings: HostSettings, project: str, tolerations: Collection[str]) -> bool:
    """Whether a host is for instances of the project (last part of its name) that tolerate these taints."""
    is_for_it = not settings.dedicated_to or f"projects/{project}" in settings.dedicated_to
    return is_for_it and all(tolerates(tolerations, taint) for taint in settings.taints)

"""Instances: mirrors protos/moorage/v1/instances.proto."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.containers import (
    Device,
    DeviceRequest,
    HealthCheck,
    Mount,
    PublishedPort,
    Resources,
    RestartPolicy,
    Ulimit,
)
from controlplane.domain.probes import Probes
from controlplane.domain.secrets import ConfigUse, Pin, SecretUse, Use
from controlplane.domain.volumes import VolumeMount


class DesiredState(enum.Enum):
    """What the control plane wants of an instance."""

    RUNNING = 1
    STOPPED = 2
    PAUSED = 3
    DELETED = 4


class InstanceState(enum.IntEnum):
    """Observed; within a run it only rises."""

    UNSPECIFIED = 0
    PENDING = 100
    ASSIGNED = 200
    PULLING = 300
    PREPARING = 400
    STARTING = 500
    RUNNING = 600
    PAUSED = 650
    STOPPING = 700
    STOPPED = 800
    FAILED = 850
    DELETING = 900
    DELETED = 1000


class PlacementStrategy(enum.Enum):
    """How the scheduler chooses among the hosts that fit."""

    UNSPECIFIED = 0
    SPREAD = 1
    PACK = 2


@dataclass(frozen=True, slots=True)
class NicRoute:
    """A route through an interface; no gateway: on the link itself."""

    destination: str = ""
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class NicRule:
    """A policy rule, with the routes of its table."""

    source: str = ""
    destination: str = ""
    fwmark: int = 0
    table: int = 0
    priority: int = 0
    routes: tuple[NicRoute, ...] = ()


@dataclass(frozen=True, slots=True)
class Nic:
    """An interface that the user asks for."""

    network: str = ""  # projects/{project}/networks/{network}
    interface: str = ""
    addresses: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 0
    routes: tuple[NicRoute, ...] = ()
    rules: tuple[NicRule, ...] = ()
    rate_in_bits: int = 0
    rate_out_bits: int = 0
    security_groups: tuple[str, ...] = ()  # projects/{project}/securityGroups/{group}


@dataclass(frozen=True, slots=True)
class Affinity:
    """Near to, or far from, instances of the project with all these labels."""

    labels: Mapping[str, str] = field(default_factory=dict)
    topology: str = ""
    soft: bool = False


@dataclass(frozen=True, slots=True)
class SpreadTarget:
    """The share of one place, in percent."""

    place: str = ""
    percent: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """Its like are spread over places."""

    topology: str = ""
    max_skew: int = 0
    soft: bool = False
    targets: tuple[SpreadTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class Distinct:
    """At most `limit` of its like in one place."""

    topology: str = ""
    limit: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an instance may run."""

    host: str = ""  # hosts/{host}
    zone: str = ""  # zones/{zone}
    host_labels: Mapping[str, str] = field(default_factory=dict)
    affinity: tuple[Affinity, ...] = ()
    anti_affinity: tuple[Affinity, ...] = ()
    strategy: PlacementStrategy = PlacementStrategy.UNSPECIFIED
    priority: int = 0
    preempts: bool = False
    spread: tuple[Spread, ...] = ()
    distinct: tuple[Distinct, ...] = ()
    tolerations: tuple[str, ...] = ()


class Claim(enum.Enum):
    """What an instance holds that no second one may hold with it, not for a moment."""

    UNSPECIFIED = 0
    INSTANCE = 1
    NAME = 2
    ADDRESS = 3
    VOLUME = 4


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """What the user asks of an instance."""

    template: str = ""
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    resources: Resources = Resources()
    ulimits: tuple[Ulimit, ...] = ()
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()
    privileged: bool = False
    read_only_root: bool = False
    init: bool = False
    tty: bool = False
    stdin_open: bool = False
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    health_check: HealthCheck | None = None
    stop_signal: str = ""
    stop_grace_seconds: float | None = None
    published_ports: tuple[PublishedPort, ...] = ()
    restart: RestartPolicy = RestartPolicy()
    nics: tuple[Nic, ...] = ()
    no_network: bool = False
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    placement: Placement = Placement()
    log_max_bytes: int = 0
    log_max_files: int = 0
    user_data: str = ""
    probes: Probes = Probes()
    secrets: tuple[SecretUse, ...] = ()
    configs: tuple[ConfigUse, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    exclusive: bool = False
    survives_isolation: bool = False
    drain_seconds: float | None = None
    device_requests: tuple[DeviceRequest, ...] = ()
    delete_protection: bool = False


@dataclass(frozen=True, slots=True)
class FilterResult:
    """What one filter did."""

    filter: str
    hosts_removed: int
    explanation: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostScore:
    """How good a host was."""

    host: str
    score: float
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class PlacementExplanation:
    """Why an instance is where it is, or nowhere."""

    host: str = ""
    summary: str = ""
    hosts_considered: int = 0
    filters: tuple[FilterResult, ...] = ()
    scores: tuple[HostScore, ...] = ()
    decide_time: datetime | None = None
    devices: tuple[str, ...] = ()
    promised_host: str = ""  # hosts/{host} that is kept for it while those that were pushed out of it go


@dataclass(frozen=True, slots=True)
class InstanceNic:
    """An interface as it was given: addresses are leased in the transaction that made the instance."""

    network_uid: str
    network: str  # projects/{project}/networks/{network}
    interface: str
    mac: str
    addresses: tuple[str, ...]  # with prefix length
    gateways: tuple[str, ...] = ()
    forwards: bool = False  # a router's: it sends on what others sent
    lent_addresses: tuple[str, ...] = ()  # with prefix length; held by public addresses, not by the instance
    lent_revision: int = 0  # of the commit that changed them last
    lent_in_turn: bool = False  # a pair's: those that were lent are on its active member only
    mtu: int = 0
    routes: tuple[NicRoute, ...] = ()
    rules: tuple[NicRule, ...] = ()
    rate_in_bits: int = 0
    rate_out_bits: int = 0
    dhcp_client: bool = False  # its addresses are those that a server outside gives
    security_groups: tuple[str, ...] = ()  # projects/{project}/securityGroups/{group}, in order of name
    security_group_uids: tuple[str, ...] = ()  # of the same


@dataclass(frozen=True, slots=True)
class LeasedNic:
    """An interface with what a DHCP server outside gave it."""

    name: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What the agent said last. Ordered by (epoch, run, sequence)."""

    state: InstanceState = InstanceState.PENDING
    reason: str = ""
    message: str = ""
    run: int = 0
    epoch: int = 0  # of the agent
    sequence: int = 0
    generation: int = 0
    restarts: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    health: str = ""
    start_time: datetime | None = None
    finish_time: datetime | None = None
    pull_percent: int = 0
    container_id: str = ""
    network_generation: int = 0  # newest one whose interfaces its host has, and no others
    leased: tuple[LeasedNic, ...] = ()
    probed_ready: bool | None = None  # what startup and readiness probes say; None: nothing
    probe: str = ""  # the one that fails, and what came of it
    failures_in_row: int = 0  # runs that ended soon or could not be started, one after the other


@dataclass(frozen=True, slots=True)
class Instance:
    """One container in one place."""

    uid: str
    project: str
    id: str  # the last part of the name
    create_time: datetime
    spec: InstanceSpec
    effective: InstanceSpec  # spec with the template's defaults worked in; what the host is told
    template_uid: str
    image: str  # repository@digest in the platform's registry
    platforms: tuple[str, ...]  # that the image offers
    nics: tuple[InstanceNic, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    desired: DesiredState = DesiredState.RUNNING
    generation: int = 1  # raised by every change but an observation
    run_request: int = 1
    container_generation: int = 1
    force: bool = False
    host_uid: str = ""
    host: str = ""  # the last part of the host's name
    nics_generation: int = 1  # the one that changed `nics` last
    observed: Observed = Observed()
    placement: PlacementExplanation | None = None
    promised_uid: str = ""  # of the host that is kept for it; only while it has none
    owner: str = ""  # what made it and looks after it, such as projects/{project}/routers/{router}; empty: a user
    slot: int = -1  # of its group; -1: it is in none
    revision: int = 0  # of its group, that it is of
    # Since when it is on its way out: it gets no new clients, and is deleted when those that it has are gone.
    leave_time: datetime | None = None
    leave_revision: int = 0  # of the commit that sent it on its way
    # Why it counts as lost, so that another may take its place; its host removes it first when it comes back.
    given_up: str = ""
    claims: tuple[Claim, ...] = ()  # given when it was made, and never changed: see claims.py
    lease_seconds: float = 0.0  # it runs only under leases of this length; 0: without
    ready_time: datetime | None = None  # since when this run of it has been ready; None: it is not
    evict: str = ""  # why its owner shall have another one elsewhere in its place; empty: it may stay
    avoid_hosts: tuple[str, ...] = ()  # uids of hosts on which those before it failed: others are better
    pins: tuple[Pin, ...] = ()  # versions of its secrets, then of its configs, in the order of its spec
    volume_uids: tuple[str, ...] = ()  # of `effective.volumes`, in the same order
    purge_time: datetime | None = None  # deleted, and kept until then
    was_stopped: bool = False  # before it was deleted; only while it is kept
    is_claim_free: bool = False  # given up, and its last lease has ended for certain: another may have what it claims

    @property
    def name(self) -> str:
        """projects/{project}/instances/{instance}."""
        return f"projects/{self.project}/instances/{self.id}"


def uses_of(spec: InstanceSpec) -> tuple[Use, ...]:
    """All uses, secrets first, as an instance's pins have them."""
    return (*spec.secrets, *spec.configs)

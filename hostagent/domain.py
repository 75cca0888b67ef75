"""What a host agent is told, and what it sees, as plain values. No protobuf, docker or pyroute2 type here.

`session/` turns protobuf into these, `journal/` keeps them, `worker/` decides over them, `executor/`, `engine/` and
`netlink/` carry them out.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hostagent.probe_domain import Probes
from moorage.ids import ContainerId, InstanceId, NetworkId


class NetworkKind(enum.Enum):
    """How a network reaches its members."""

    ISOLATED = "isolated"  # own subnet and VXLAN id, spread over hosts
    SHARED = "shared"  # on a bridge or NIC of the host


class SharedAttachment(enum.Enum):
    """How a shared network is joined to what the host has."""

    EXISTING_BRIDGE = "existing_bridge"
    BRIDGE = "bridge"  # made by us on a NIC
    MACVLAN = "macvlan"
    WHOLE_NIC = "whole_nic"


class MacvlanMode(enum.Enum):
    """What macvlan links of one NIC do with frames for each other."""

    BRIDGE = "bridge"
    PRIVATE = "private"
    VEPA = "vepa"
    PASSTHRU = "passthru"


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet of a network. `cidr` such as 10.1.0.0/24 or fd00:1::/64; `gateway` an address inside it or empty."""

    cidr: str
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A member of an isolated network that lives on another host."""

    mac: str
    addresses: tuple[str, ...]  # without prefix length
    host_address: str  # underlay address of the VXLAN end
    host_port: int = 4789  # UDP port of the VXLAN end
    names: tuple[str, ...] = ()  # what the member is called in /etc/hosts of its peers
    shared_names: tuple[str, ...] = ()  # by which it is found together with others


@dataclass(frozen=True, slots=True)
class NetworkDns:
    """How names are answered to members. Mirrors the message of the same name."""

    domain: str = ""  # lower-case, without the last dot; empty: of an older control plane, {network}.internal
    forwarders: tuple[str, ...] = ()
    no_forwarding: bool = False


class DnsRecordType(enum.Enum):
    """What a name stands for."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    TXT = "TXT"
    SRV = "SRV"
    MX = "MX"


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """A name besides those of the members. Mirrors the message DnsRecordSpec."""

    name: str  # below the domain; @ is the domain itself, * every name that nothing else is said of
    type: DnsRecordType
    values: tuple[str, ...]
    ttl_seconds: float = 0.0  # 0: the default


@dataclass(frozen=True, slots=True)
class VirtualStation:
    """A MAC with addresses that two members hold in turn: where it is now is learned from its own frames, not told."""

    mac: str
    addresses: tuple[str, ...]  # without prefix length


@dataclass(frozen=True, slots=True)
class NetworkAssignment:
    """A network that has at least one member on this host."""

    network_id: NetworkId
    name: str
    kind: NetworkKind
    subnets: tuple[Subnet, ...]
    mtu: int  # of the instances' interfaces, bytes
    vni: int = 0  # VXLAN network identifier; isolated networks only
    bridge: str = ""  # name of the host's bridge; shared networks only
    egress: bool = False  # masquerade traffic that leaves the network
    peers: tuple[Peer, ...] = ()
    dns: NetworkDns = NetworkDns()
    records: tuple[DnsRecord, ...] = ()
    host_resolvers: bool = False  # ask whoever the host asks, where dns names no forwarders
    parent: str = ""  # name of the host's NIC; shared networks only
    attachment: SharedAttachment = SharedAttachment.EXISTING_BRIDGE
    macvlan_mode: MacvlanMode = MacvlanMode.BRIDGE
    vlan_id: int = 0  # 802.1Q, on the NIC; 0: none
    virtual_stations: tuple[VirtualStation, ...] = ()  # gateways that redundant pairs hold; isolated networks only

    def plumbing(self) -> "NetworkAssignment":
        """What of it the host's links and rules depend on: neither members elsewhere nor names."""
        return replace(self, peers=(), dns=NetworkDns(), records=(), host_resolvers=False)

    @property
    def domain(self) -> str:
        """Domain in which members are found by name."""
        return self.dns.domain or f"{self.name}.internal"


@dataclass(frozen=True, slots=True)
class NicRoute:
    """A route through an interface; no gateway: on the link itself."""

    destination: str
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class NicRule:
    """A policy rule, with the routes of its table. `source` and `destination` are CIDRs or empty."""

    source: str = ""
    destination: str = ""
    fwmark: int = 0  # 0: any
    table: int = 0
    priority: int = 0  # 0: by its place in the list
    routes: tuple[NicRoute, ...] = ()


@dataclass(frozen=True, slots=True)
class NicAssignment:
    """One interface of an instance."""

    network_id: NetworkId
    name: str  # inside the instance, such as eth0
    mac: str
    addresses: tuple[str, ...]  # with prefix length, such as 10.1.0.5/24
    gateways: tuple[str, ...] = ()  # default routes through this interface; at most one a family
    routes: tuple[NicRoute, ...] = ()
    forwards: bool = False  # a router's: any source address but those of the network's other members
    mtu: int = 0  # 0: the network's
    rules: tuple[NicRule, ...] = ()
    rate_in_bits: int = 0  # a second, to the instance; 0: no limit
    rate_out_bits: int = 0  # a second, from the instance
    dhcp_client: bool = False  # its address is what a DHCP server outside gives
    lease_seconds: int = 0  # set by this agent: how long that address is good for; 0: for good
    security_groups: tuple[str, ...] = ()  # ids; none: not filtered
    virtual: VirtualStation | None = None  # what it may be as well: a member of a redundant pair


class SecurityDirection(enum.Enum):
    """Which way the first packet of a connection goes."""

    IN = "in"
    OUT = "out"


class RuleProtocol(enum.Enum):
    """What a rule of a security group speaks of."""

    ANY = "any"
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"


@dataclass(frozen=True, slots=True)
class SecurityRule:
    """Something that is allowed. Without cidrs and group: from, or to, everybody."""

    direction: SecurityDirection
    protocol: RuleProtocol = RuleProtocol.ANY
    ports: tuple[str, ...] = ()  # "80", "8000-8010"
    icmp_type: int | None = None
    cidrs: tuple[str, ...] = ()
    group: str = ""  # an id


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A set of rules that interfaces of this host carry."""

    group_id: str
    name: str
    rules: tuple[SecurityRule, ...] = ()
    deny_out: bool = False  # nothing leaves that no OUT rule allows


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """What a rule on an interface of the network means by the group."""

    group_id: str
    network_id: NetworkId
    addresses: tuple[str, ...] = ()  # without prefix length, sorted


@dataclass(frozen=True, slots=True)
class NicFilter:
    """What may pass one interface: its groups, and the members of those that their rules name."""

    interface: str
    network_id: NetworkId
    addresses: tuple[str, ...]  # the interface's own, without prefix length
    groups: tuple[SecurityGroup, ...]
    members: tuple[GroupMembers, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """host_address:host_port of this host leads to container_port of the instance."""

    host_port: int
    container_port: int
    protocol: str = "tcp"  # tcp or udp
    host_address: str = ""  # empty: every address of the host


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits. Zero means no limit."""

    cpu_millis: int = 0  # hard quota, thousandths of a core
    cpu_shares: int = 0  # relative weight, Docker's scale (1024 = one share)
    memory_bytes: int = 0
    memory_swap_bytes: int = 0  # -1 unlimited, 0 the same as memory
    pids: int = 0
    shm_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit of a process, as setrlimit(2) knows it."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount inside the instance. `kind` is bind (source is a host path) or tmpfs (size_bytes)."""

    target: str
    kind: str = "bind"
    source: str = ""
    read_only: bool = False
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A device node handed through."""

    host_path: str
    container_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """Devices that an instance has for itself. As assigned, `ids` are names that this host has told; as given to the engine, its own."""

    kind: str = ""  # such as nvidia.com/gpu
    count: int = 0
    ids: tuple[str, ...] = ()
    driver: str = ""  # nvidia, cdi or path
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceWay:
    """One way in which the engine can hand a device through, and what it is called there: ids, or paths of nodes."""

    driver: str  # nvidia, cdi or path
    handles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A device of this host that one instance can have for itself. The first of its names is the one that it is known by."""

    kind: str
    names: tuple[str, ...]
    ways: tuple[DeviceWay, ...]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Docker's own HEALTHCHECK. An empty test inherits the image's; ("NONE",) turns it off."""

    test: tuple[str, ...] = ()
    interval_seconds: float = 30.0
    timeout_seconds: float = 30.0
    start_period_seconds: float = 0.0
    retries: int = 3


class RestartMode(enum.Enum):
    """When the agent starts a stopped instance again."""

    NEVER = "never"
    ON_FAILURE = "on_failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Back-off doubles from `initial_seconds` to `max_seconds`; `max_restarts` in a row (0: no limit) is a crash
    loop.
    """

    mode: RestartMode = RestartMode.ALWAYS
    initial_seconds: float = 0.5
    max_seconds: float = 60.0
    reset_after_seconds: float = 60.0  # a run this long clears the count
    max_restarts: int = 0


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All that the engine needs to create one container. Networking is not the engine's affair."""

    name: str = ""
    image: str = ""  # repository@sha256:digest, as the engine pulls it
    labels: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None  # None: the image's
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
    init: bool = False  # a small init as process 1 that reaps zombies
    tty: bool = False
    stdin_open: bool = False
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    health_check: HealthCheck | None = None
    stop_signal: str = ""
    stop_grace_seconds: float = 10.0
    log_max_bytes: int = 10 * 1024 * 1024  # of one log file
    log_max_files: int = 3


class ContainerPhase(enum.Enum):
    """What the engine says of a container."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class ContainerObservation:
    """One container as the engine reports it."""

    container_id: ContainerId
    name: str
    labels: Mapping[str, str]
    phase: ContainerPhase
    image: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    health: str = ""  # empty, starting, healthy, unhealthy
    started_at: float | None = None  # seconds since the epoch
    finished_at: float | None = None
    pid: int = 0


class DesiredState(enum.Enum):
    """What the control plane wants of an instance."""

    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    DELETED = "deleted"


class VolumeKind(enum.Enum):
    """Where the files of a volume are."""

    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class HostVolume:
    """A volume as this host has it. Mirrors the message of the same name."""

    volume_id: str
    incarnation: int
    kind: VolumeKind = VolumeKind.LOCAL
    owner_uid: int = 0
    owner_gid: int = 0
    mode: int = 0  # permission bits of its top folder when that is made; 0: 0755
    must_exist: bool = False  # its files were made before
    size_bytes: int = 0  # that it can take; 0: no limit


@dataclass(frozen=True, slots=True)
class VolumeAssignment:
    """A volume that an instance needs."""

    volume: HostVolume
    target: str  # inside the instance
    read_only: bool = False
    sub_path: str = ""  # folder of it that is shown in place of the whole
    exclusive: bool = False  # one instance at a time may have it


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """What a volume takes."""

    volume_id: str
    incarnation: int
    used_bytes: int
    capacity_bytes: int = 0  # 0: no limit


@dataclass(frozen=True, slots=True)
class PayloadAssignment:
    """A version of a secret or config that an instance gets, as a file at `path` or as the variable `env`. The bytes are fetched."""

    payload_id: str
    version: int
    path: str = ""
    mode: int = 0o400
    uid: int = 0
    gid: int = 0
    env: str = ""
    signal: str = ""  # for its process when the file is replaced


@dataclass(frozen=True, slots=True)
class InstanceAssignment:
    """One instance that this host shall carry."""

    instance_id: InstanceId
    name: str
    project: str
    generation: int  # raised by every change of the assignment
    run_request: int  # raised by the control plane for each start or reboot asked for
    desired: DesiredState
    container: ContainerSpec
    nics: tuple[NicAssignment, ...]
    published_ports: tuple[PublishedPort, ...] = ()
    restart: RestartPolicy = RestartPolicy()
    hostname: str = ""
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()  # (name, address) lines of /etc/hosts besides the peers
    container_generation: int = 1  # raised by each replace: a container of an older one is removed and made anew
    force: bool = False  # when it is deleted: kill at once
    labels: Mapping[str, str] = field(default_factory=dict)  # this and what follows is told by its metadata
    zone: str = ""  # of the host; empty: none
    host: str = ""
    user_data: str = ""
    is_router: bool = False  # a RouterBundle belongs to it
    shared_names: tuple[str, ...] = ()  # by which it is found together with others
    payloads: tuple[PayloadAssignment, ...] = ()
    probes: Probes = Probes()
    volumes: tuple[VolumeAssignment, ...] = ()
    lease_seconds: float = 0.0  # it runs, and has a network, only under leases of this length; 0: it needs none


class InstanceState(enum.IntEnum):
    """Observed state; within a run it only rises. docs/states.md explains each."""

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


@dataclass(frozen=True, slots=True)
class LeasedNic:
    """An interface with what a DHCP server outside gave it."""

    name: str
    addresses: tuple[str, ...]  # with prefix length


@dataclass(frozen=True, slots=True)
class InstanceReport:
    """What the agent says of one instance, ordered by (`run`, `sequence`)."""

    instance_id: InstanceId
    run: int
    sequence: int  # rises with each report of this instance by this agent epoch
    state: InstanceState
    reason: str = ""  # UPPER_SNAKE_CASE word, empty when all is well
    message: str = ""
    container_id: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    restarts: int = 0
    health: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    pull_percent: int = 0
    generation: int = 0  # of the assignment that this report answers
    network_generation: int = 0  # of the newest assignment whose interfaces the host has, and no others
    leased: tuple[LeasedNic, ...] = ()  # what DHCP servers outside have given
    ready: bool | None = None  # what startup and readiness probes say; None: nothing
    probe: str = ""  # the one that fails, and what came of its check
    failures_in_row: int = (
        0  # runs that ended soon or could not be started, with the failed attempts to prepare this one
    )


@dataclass(frozen=True, slots=True)
class HostCondition:
    """Something that is wrong with this host: a word for programs, a sentence for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class QuarantinedItem:
    """Something with our mark that nobody assigned. `kind`: container, namespace, link or network."""

    kind: str
    id: str
    why: str


@dataclass(frozen=True, slots=True)
class HostDevice:
    """What others are told of a FoundDevice. Mirrors the message of the same name."""

    kind: str
    names: tuple[str, ...]
    drivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this machine is. Mirrors the message of the same name."""

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
    devices: tuple[HostDevice, ...] = ()
    volume_size_problem: str = ""  # why it cannot limit the size of volumes
    images: tuple[str, ...] = ()  # digests of manifests whose images the engine holds
    neighbour_port: int = 0


@dataclass(frozen=True, slots=True)
class AgentHeartbeat:
    """What the agent tells at each heartbeat. `facts` is None where they did not change."""

    conditions: tuple[HostCondition, ...] = ()
    quarantined: tuple[QuarantinedItem, ...] = ()
    sweep_brake: str = ""
    facts: HostFacts | None = None

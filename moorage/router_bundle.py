"""A router's configuration as its agent gets it, what the agent reports and what the router counted, as plain values.

Mirrors protos/moorage/v1/router_bundles.proto. Both programs have it from here, because it is the same to the last field: the control
plane derives it (controlplane/routers/bundle.py), the agent keeps it in its journal and carries it out (hostagent/router/).
"""

import enum
from dataclasses import dataclass, field

from moorage.ids import InstanceId, NetworkId


class TrafficProtocol(enum.Enum):
    """What a firewall rule speaks of."""

    UNSPECIFIED = 0
    ANY = 1
    TCP = 2
    UDP = 3
    ICMP = 4
    ICMPV6 = 5


class FirewallDirection(enum.Enum):
    """Which way traffic goes that a firewall rule speaks of."""

    UNSPECIFIED = 0
    IN = 1
    OUT = 2
    ACROSS = 3


class BalancerMode(enum.Enum):
    """What a balancer understands of its traffic."""

    UNSPECIFIED = 0
    TCP = 1
    HTTP = 2


class BalancerAlgorithm(enum.Enum):
    """How a back end is chosen."""

    UNSPECIFIED = 0
    ROUNDROBIN = 1
    LEASTCONN = 2
    SOURCE = 3


class Stickiness(enum.Enum):
    """What makes a client come back to the same back end."""

    UNSPECIFIED = 0
    COOKIE = 1
    SOURCE = 2


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key."""

    certificate_pem: str = ""
    private_key_pem: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BackendHealthCheck:
    """How back ends are looked at; zero means the default, see the proto."""

    disabled: bool = False
    http_path: str = ""
    http_host: str = ""
    interval_seconds: float = 0.0
    timeout_seconds: float = 0.0
    rise: int = 0
    fall: int = 0


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """Which requests go to which pool."""

    hosts: tuple[str, ...] = ()
    path_prefix: str = ""
    pool: str = ""


class RouterRole(enum.Enum):
    """What a member of a redundant pair does."""

    UNSPECIFIED = 0
    ACTIVE = 1
    STANDBY = 2


@dataclass(frozen=True, slots=True)
class DhcpOption:
    """One option that is told to whoever asks by DHCP."""

    code: int = 0
    value: str = ""


@dataclass(frozen=True, slots=True)
class DhcpReservation:
    """A fixed address."""

    mac: str
    addresses: tuple[str, ...]
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class DhcpBundle:
    """DHCP on one leg."""

    ranges: tuple[str, ...] = ()
    lease_time_seconds: float = 3600.0
    options: tuple[DhcpOption, ...] = ()
    reservations: tuple[DhcpReservation, ...] = ()
    domain: str = ""
    forwarders: tuple[str, ...] = ()
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class LegBundle:
    """A network behind the router."""

    network_id: NetworkId
    interface: str
    cidrs: tuple[str, ...]
    addresses: tuple[str, ...]  # without prefix length
    deny_egress: bool = False
    dhcp: DhcpBundle | None = None
    gateway_elsewhere: bool = False  # instances answer to another container unless they see this one as the sender


@dataclass(frozen=True, slots=True)
class SourceNatBundle:
    """Traffic of these sources leaves under this address."""

    rule_id: str
    source_cidr: str
    public_address: str


@dataclass(frozen=True, slots=True)
class StaticNatBundle:
    """One to one."""

    rule_id: str
    public_address: str
    address: str


@dataclass(frozen=True, slots=True)
class PortForwardBundle:
    """Ports that lead inside."""

    rule_id: str
    public_address: str
    protocol: str
    first_port: int
    last_port: int
    address: str
    target_port: int
    source_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirewallBundle:
    """What may pass."""

    rule_id: str
    direction: FirewallDirection
    deny: bool = False
    protocol: TrafficProtocol = TrafficProtocol.ANY
    ports: tuple[str, ...] = ()
    icmp_type: int | None = None
    source_cidrs: tuple[str, ...] = ()
    destination_cidrs: tuple[str, ...] = ()
    from_interface: str = ""
    to_interface: str = ""


@dataclass(frozen=True, slots=True)
class ListenerBundle:
    """Where clients come in."""

    address: str
    port: int
    certificates: tuple[Certificate, ...] = ()
    accept_proxy: bool = False
    source_cidrs: tuple[str, ...] = ()
    interface: str = ""


@dataclass(frozen=True, slots=True)
class BackendBundle:
    """One back end."""

    instance_id: str
    address: str
    port: int
    weight: int = 100
    drain: bool = False


@dataclass(frozen=True, slots=True)
class PoolBundle:
    """A set of back ends."""

    pool_id: str
    backends: tuple[BackendBundle, ...] = ()
    algorithm: BalancerAlgorithm = BalancerAlgorithm.ROUNDROBIN
    stickiness: Stickiness = Stickiness.UNSPECIFIED
    health_check: BackendHealthCheck = BackendHealthCheck()
    send_proxy: bool = False


@dataclass(frozen=True, slots=True)
class BalancerBundle:
    """A balancer."""

    balancer_id: str
    mode: BalancerMode
    listeners: tuple[ListenerBundle, ...] = ()
    pools: tuple[PoolBundle, ...] = ()
    routes: tuple[HttpRoute, ...] = ()
    forwarded_for: bool = True
    idle_timeout_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class PairBundle:
    """How two members share one job."""

    virtual_id: int
    priority: int
    own_address: str
    peer_address: str
    outside_virtual_id: int = 0
    outside_addresses: tuple[str, ...] = ()  # those of the router's that only the active member has


def virtual_interface(interface: str) -> str:
    """The interface of a pair's member that has the virtual MAC of a leg: what is sent to the gateway comes in there, and nothing
    leaves there but advertisements and ARP."""
    return f"v-{interface}"


@dataclass(frozen=True, slots=True)
class RouterBundle:
    """The configuration of one router container."""

    instance_id: InstanceId
    version: int
    outside_interface: str = ""
    outside_addresses: tuple[str, ...] = ()
    legs: tuple[LegBundle, ...] = ()
    source_nats: tuple[SourceNatBundle, ...] = ()
    static_nats: tuple[StaticNatBundle, ...] = ()
    port_forwards: tuple[PortForwardBundle, ...] = ()
    firewall: tuple[FirewallBundle, ...] = ()
    balancers: tuple[BalancerBundle, ...] = ()
    drain_time_seconds: float = 60.0
    pair: PairBundle | None = None


@dataclass(frozen=True, slots=True)
class RouterReport:
    """What the agent says of one router."""

    instance_id: InstanceId
    running_version: int = 0
    failed_version: int = 0
    error: str = ""  # the tool's own words about the version that failed
    role: RouterRole = RouterRole.UNSPECIFIED
    draining: tuple[str, ...] = ()  # ids of instances that are no back ends any more and still have connections


@dataclass(frozen=True, slots=True)
class RuleFigure:
    """What a rule counted."""

    rule_id: str
    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class BackendFigure:
    """Figures of a back end."""

    instance_id: str
    state: str = ""  # up, down, drain, maint or "no check"
    check: str = ""
    in_flight: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class PoolFigure:
    """Figures of a pool."""

    balancer_id: str
    pool_id: str
    in_flight: int = 0
    queued: int = 0
    total: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    backends: tuple[BackendFigure, ...] = ()

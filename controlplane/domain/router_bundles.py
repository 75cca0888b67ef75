"""What a router's agent is told: addresses instead of names. Mirrors protos/moorage/v1/router_bundles.proto."""

from dataclasses import dataclass

from controlplane.domain.networks import DhcpOption
from controlplane.domain.routers import (
    BackendHealthCheck,
    BalancerAlgorithm,
    BalancerMode,
    Certificate,
    FirewallDirection,
    HttpRoute,
    Stickiness,
    TrafficProtocol,
)


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

    network_id: str
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


@dataclass(frozen=True, slots=True)
class RouterBundle:
    """The configuration of one router container."""

    instance_id: str
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

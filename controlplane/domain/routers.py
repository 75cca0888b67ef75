"""Routers, their rules and balancers, and public addresses: mirrors the messages of the same names in protos/moorage/v1."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.containers import PublishedPort, Resources
from controlplane.domain.instances import Instance, Placement
from moorage.router_bundle import (
    BackendHealthCheck,
    BalancerAlgorithm,
    BalancerMode,
    Certificate,
    FirewallDirection,
    HttpRoute,
    RouterRole,
    Stickiness,
    TrafficProtocol,
)

NAMES_PORT = 53  # of a router's legs with DHCP, where it answers for names too


class DefaultAction(enum.Enum):
    """What becomes of traffic that no rule names."""

    UNSPECIFIED = 0
    ALLOW = 1
    DENY = 2


class RouterState(enum.Enum):
    """Where a router stands; computed from what its members report."""

    UNSPECIFIED = 0
    PENDING = 100
    ACTIVE = 200
    UPDATING = 300
    DEGRADED = 400
    SPLIT = 500
    DELETING = 600


@dataclass(frozen=True, slots=True)
class RouterLeg:
    """An isolated network behind a router."""

    network: str = ""
    egress: DefaultAction = DefaultAction.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class EdgeHosts:
    """Hosts whose ports lead to a router's balancers."""

    every_host: bool = False
    host_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """What the user asks of a router; names are full once it is stored."""

    legs: tuple[RouterLeg, ...] = ()
    outside_network: str = ""
    template: str = ""
    redundant: bool = False
    resources: Resources = Resources()
    placement: Placement = Placement()
    drain_time_seconds: float = 0.0
    ingress_ports: tuple[PublishedPort, ...] = ()
    edge_hosts: EdgeHosts | None = None


@dataclass(frozen=True, slots=True)
class RouterObserved:
    """What an agent said last of one member."""

    instance_uid: str
    epoch: int = 0  # of the agent
    running_version: int = 0
    failed_version: int = 0
    error: str = ""
    role: RouterRole = RouterRole.UNSPECIFIED
    draining: tuple[str, ...] = ()  # uids of instances that are no back ends any more and still have connections


@dataclass(frozen=True, slots=True)
class Router:
    """A router of a project. Its members are instances with its name as owner."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: RouterSpec
    network_uids: tuple[str, ...] = ()  # of the legs, in their order
    outside_uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1
    is_deleting: bool = False
    reason: str = ""  # why its members cannot be made; a word and a sentence
    message: str = ""
    observed: tuple[RouterObserved, ...] = ()  # at most one a member
    asked_revision: int = (
        0  # of the newest call that changed it, its rules or its balancers; in force once members run it
    )
    outside_virtual_id: int = 0  # of a pair, 1-254: its own among the pairs of its outside network; 0: it is no pair

    @property
    def name(self) -> str:
        """projects/{project}/routers/{router}."""
        return f"projects/{self.project}/routers/{self.id}"


def is_router(instance: Instance) -> bool:
    """Whether an instance is a member of a router."""
    return "/routers/" in instance.owner


class FirewallAction(enum.Enum):
    """What a firewall rule does."""

    UNSPECIFIED = 0
    ALLOW = 1
    DENY = 2


@dataclass(frozen=True, slots=True)
class SourceNat:
    """Traffic of these sources leaves under this address."""

    source_cidr: str = ""
    public_address: str = ""


@dataclass(frozen=True, slots=True)
class StaticNat:
    """One public address is one instance, both ways."""

    public_address: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class PortForward:
    """Ports of an outside address lead to an instance."""

    public_address: str = ""
    protocol: str = ""
    first_port: int = 0
    last_port: int = 0
    instance: str = ""
    target_port: int = 0
    source_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirewallRule:
    """What may pass."""

    direction: FirewallDirection = FirewallDirection.UNSPECIFIED
    action: FirewallAction = FirewallAction.UNSPECIFIED
    order: int = 0
    protocol: TrafficProtocol = TrafficProtocol.UNSPECIFIED
    ports: tuple[str, ...] = ()
    icmp_type: int | None = None
    source_cidrs: tuple[str, ...] = ()
    destination_cidrs: tuple[str, ...] = ()
    from_network: str = ""
    to_network: str = ""


@dataclass(frozen=True, slots=True)
class RouterRuleSpec:
    """Exactly one of these."""

    source_nat: SourceNat | None = None
    static_nat: StaticNat | None = None
    port_forward: PortForward | None = None
    firewall: FirewallRule | None = None


@dataclass(frozen=True, slots=True)
class RouterRule:
    """A rule of a router. Names in its spec are full once it is stored."""

    uid: str
    project: str
    router: str  # the last part of the router's name
    router_uid: str
    id: str
    create_time: datetime
    spec: RouterRuleSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}/routers/{router}/rules/{rule}."""
        return f"projects/{self.project}/routers/{self.router}/rules/{self.id}"


def public_addresses_of(rule: RouterRule) -> tuple[str, ...]:
    """Full names of the public addresses that a rule uses."""
    parts = (rule.spec.source_nat, rule.spec.static_nat, rule.spec.port_forward)
    return tuple(part.public_address for part in parts if part is not None and part.public_address)


@dataclass(frozen=True, slots=True)
class Listener:
    """Where clients come in."""

    public_address: str = ""
    inside_network: str = ""
    port: int = 0
    certificates: tuple[Certificate, ...] = ()
    accept_proxy: bool = False
    source_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """An instance, or a group of them, behind a balancer."""

    instance: str = ""
    port: int = 0
    weight: int = 0
    drain: bool = False
    group: str = ""  # instead of an instance


@dataclass(frozen=True, slots=True)
class BackendPool:
    """A set of back ends."""

    id: str = ""
    backends: tuple[Backend, ...] = ()
    algorithm: BalancerAlgorithm = BalancerAlgorithm.UNSPECIFIED
    stickiness: Stickiness = Stickiness.UNSPECIFIED
    health_check: BackendHealthCheck = BackendHealthCheck()
    send_proxy: bool = False


@dataclass(frozen=True, slots=True)
class BalancerSpec:
    """What the user asks of a balancer."""

    mode: BalancerMode = BalancerMode.UNSPECIFIED
    listeners: tuple[Listener, ...] = ()
    pools: tuple[BackendPool, ...] = ()
    routes: tuple[HttpRoute, ...] = ()
    forwarded_for: bool | None = None
    idle_timeout_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Balancer:
    """A balancer of a router. Names in its spec are full once it is stored."""

    uid: str
    project: str
    router: str
    router_uid: str
    id: str
    create_time: datetime
    spec: BalancerSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}/routers/{router}/balancers/{balancer}."""
        return f"projects/{self.project}/routers/{self.router}/balancers/{self.id}"


def groups_of_balancer(balancer: Balancer) -> tuple[str, ...]:
    """Full names of the groups behind it, each once."""
    return tuple(dict.fromkeys(b.group for pool in balancer.spec.pools for b in pool.backends if b.group))


def public_addresses_of_balancer(balancer: Balancer) -> tuple[str, ...]:
    """Full names of the public addresses that its listeners use, each once."""
    return tuple(dict.fromkeys(x.public_address for x in balancer.spec.listeners if x.public_address))


@dataclass(frozen=True, slots=True)
class PublicAddressSpec:
    """What the user asks for."""

    network: str = ""
    address: str = ""
    ipv6: bool = False


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """An address of an outside network that a project holds; owns the lease of that address."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: PublicAddressSpec
    network_uid: str
    address: str  # without prefix length
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}/publicAddresses/{address}."""
        return f"projects/{self.project}/publicAddresses/{self.id}"

"""Networks and the addresses that are given out: mirrors protos/moorage/v1/networks.proto."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from moorage.router_bundle import DhcpOption


class NetworkKind(enum.Enum):
    """How a network reaches its members."""

    UNSPECIFIED = 0
    ISOLATED = 1
    SHARED = 2


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet; see the proto for the defaults."""

    cidr: str = ""
    gateway: str = ""
    ranges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """A fixed address of a machine that is no instance."""

    mac: str = ""
    address: str = ""
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class DhcpSpec:
    """DHCP on a network, by its router."""

    enabled: bool = False
    ranges: tuple[str, ...] = ()
    lease_time_seconds: float = 0.0
    options: tuple[DhcpOption, ...] = ()
    hosts: tuple[DhcpHost, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkDns:
    """How names are answered to members."""

    domain: str = ""
    forwarders: tuple[str, ...] = ()
    no_forwarding: bool = False


class SharedAttachment(enum.Enum):
    """How a shared network is joined to what the hosts have."""

    UNSPECIFIED = 0
    EXISTING_BRIDGE = 1
    BRIDGE = 2
    MACVLAN = 3
    WHOLE_NIC = 4


class MacvlanMode(enum.Enum):
    """What macvlan links of one parent do with frames for each other."""

    UNSPECIFIED = 0
    BRIDGE = 1
    PRIVATE = 2
    VEPA = 3
    PASSTHRU = 4


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """What the user asks of a network, with defaults worked in once it is stored."""

    kind: NetworkKind = NetworkKind.UNSPECIFIED
    subnets: tuple[Subnet, ...] = ()
    egress: bool = False
    bridge: str = ""
    mtu: int = 0
    dhcp: DhcpSpec | None = None
    dns: NetworkDns = NetworkDns()
    parent: str = ""
    attachment: SharedAttachment = SharedAttachment.UNSPECIFIED
    macvlan_mode: MacvlanMode = MacvlanMode.UNSPECIFIED
    vlan_id: int = 0
    dhcp_client: bool = False

    @property
    def is_exclusive(self) -> bool:
        """Whether one instance a host takes the whole NIC."""
        return self.attachment is SharedAttachment.WHOLE_NIC or self.macvlan_mode is MacvlanMode.PASSTHRU

    @property
    def has_host_end(self) -> bool:
        """Whether the host has an end of each interface, where what comes out of an instance is checked."""
        return self.attachment not in (SharedAttachment.MACVLAN, SharedAttachment.WHOLE_NIC)


@dataclass(frozen=True, slots=True)
class Network:
    """A network of a project."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: NetworkSpec
    vni: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}/networks/{network}."""
        return f"projects/{self.project}/networks/{self.id}"

    @property
    def dns_domain(self) -> str:
        """Domain in which members are found by name."""
        return self.spec.dns.domain or f"{self.id}.internal"


@dataclass(frozen=True, slots=True)
class AddressLease:
    """One address that is given out: until its owner is forgotten, or its host has said that the interface lost it.

    `leaving_since` is the owner's generation that has it no more; 0: it is in use.
    """

    network_uid: str
    address: str  # without prefix length
    owner_uid: str
    interface: str
    mac: str
    create_time: datetime
    leaving_since: int = 0

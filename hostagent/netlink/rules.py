"""Packet rules of the way out of a network and into it, as nftables text. Pure.

Two tables, both called `inet moorage`: one in the host's namespace, one in the namespace of each network that has an
uplink.

- Egress: the network's namespace hides members behind its transit address (so equal subnets cannot be mixed up), the
  host hides transit addresses behind its own.
- Published ports: the host turns its port into (transit address, transit port), the network's namespace turns that
  into the member. The client's address is kept, but where the answer would not come back this way: from loopback, from
  another network of ours or the same one, from a client inside the network's own subnet, to a member whose default
  route is elsewhere.
- From an uplink nothing else passes: not to the host, pings included, not to other networks, not to link-local addresses
  beyond the host (such as a cloud's metadata service, which tells secrets of the host). Without egress not to other
  networks' published ports either, only to those of the network itself. The user's own traffic is never matched.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hostagent.netlink import names
from moorage.ids import NetworkId

TRANSIT4 = ipaddress.IPv4Network("169.254.128.0/17")
TRANSIT6 = ipaddress.IPv6Network("fd6d:6f6f:7261:6765::/64")
TRANSIT_COUNT = TRANSIT4.num_addresses // 2


@dataclass(frozen=True, slots=True)
class Transit:
    """The addresses of one uplink: a /31 and a /127."""

    index: int

    @property
    def outer4(self) -> str:
        """The host's end."""
        return str(TRANSIT4[2 * self.index])

    @property
    def inner4(self) -> str:
        """The network's end."""
        return str(TRANSIT4[2 * self.index + 1])

    @property
    def outer6(self) -> str:
        """The host's end."""
        return str(TRANSIT6[2 * self.index])

    @property
    def inner6(self) -> str:
        """The network's end."""
        return str(TRANSIT6[2 * self.index + 1])


@dataclass(frozen=True, slots=True)
class Binding:
    """One published port, resolved: where it enters the host, passes the uplink, and ends. One address family."""

    network_id: NetworkId
    protocol: str
    host_address: str  # empty: every address of the host
    host_port: int
    transit_port: int
    target: str  # the member's address
    target_port: int
    answers_here: bool  # the member's default route leads back through this network's gateway

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.target).version


@dataclass(frozen=True, slots=True)
class Entry:
    """A binding with what the host must know of its network."""

    binding: Binding
    transit: Transit
    subnets: tuple[str, ...]


def host_table(entries: Iterable[Entry], egress: Iterable[NetworkId]) -> str:
    """The whole table of the host's namespace; replaces what was there in one transaction."""
    outward = ", ".join(f'"{names.uplink_outer(network)}"' for network in sorted(egress))
    lines = [
        "add table inet moorage",
        "delete table inet moorage",
        "add table inet moorage",
        "add map inet moorage any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }",
        "add map inet moorage any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }",
        "add map inet moorage one4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }",
        "add map inet moorage one6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }",
        "add set inet moorage egress { type ifname; }",
        "add set inet moorage turning { type ifname . ifname; }",
        "add set inet moorage clash4 { type ifname . ipv4_addr; flags interval; }",
        "add set inet moorage clash6 { type ifname . ipv6_addr; flags interval; }",
        "add chain inet moorage ports",
        "add rule inet moorage ports dnat ip to ip daddr . meta l4proto . th dport map @one4",
        "add rule inet moorage ports dnat ip to meta l4proto . th dport map @any4",
        "add rule inet moorage ports dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6",
        "add rule inet moorage ports dnat ip6 to meta l4proto . th dport map @any6",
        # before Docker's own chains, which stand at -100
        "add chain inet moorage prerouting { type nat hook prerouting priority -110; policy accept; }",
        "add rule inet moorage prerouting fib daddr type local meta l4proto { tcp, udp } jump ports",
        "add chain inet moorage output { type nat hook output priority -110; policy accept; }",
        # a packet from ::1 cannot leave the loopback interface: refuse at once, so that clients go on to 127.0.0.1
        "add rule inet moorage output ip6 daddr ::1 return",
        "add rule inet moorage output fib daddr type local meta l4proto { tcp, udp } jump ports",
        "add chain inet moorage postrouting { type nat hook postrouting priority 90; policy accept; }",
        f"add rule inet moorage postrouting ip saddr {{ {TRANSIT4} }} masquerade",
        f"add rule inet moorage postrouting ip6 saddr {{ {TRANSIT6} }} masquerade",
        'add rule inet moorage postrouting ip saddr 127.0.0.0/8 oifname "mu*" masquerade',
        "add rule inet moorage postrouting oifname . ip saddr @clash4 masquerade",
        "add rule inet moorage postrouting oifname . ip6 saddr @clash6 masquerade",
        "add chain inet moorage entry { type filter hook prerouting priority -300; policy accept; }",
        f'add rule inet moorage entry iifname "mu*" ip saddr != {TRANSIT4} drop',
        f'add rule inet moorage entry iifname "mu*" ip6 saddr != {TRANSIT6} drop',
        'add rule inet moorage entry iifname "mu*" ip daddr 127.0.0.0/8 drop',
        "add chain inet moorage input { type filter hook input priority -10; policy accept; }",
        'add rule inet moorage input iifname "mu*" ct state established,related accept',
        'add rule inet moorage input iifname "mu*" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept',
        'add rule inet moorage input iifname "mu*" drop',
        "add chain inet moorage forward { type filter hook forward priority -10; policy accept; }",
        'add rule inet moorage forward iifname != "mu*" oifname != "mu*" accept',
        "add rule inet moorage forward ct state established,related accept",
        'add rule inet moorage forward iifname "mu*" iifname != @egress iifname . oifname != @turning drop',
        'add rule inet moorage forward oifname "mu*" ct status dnat accept',
        'add rule inet moorage forward oifname "mu*" drop',
        "add rule inet moorage forward ip daddr 169.254.0.0/16 drop",
        "add rule inet moorage forward iifname @egress accept",
        "add rule inet moorage forward drop",
    ]
    if outward:
        lines.append(f"add element inet moorage egress {{ {outward} }}")
    text = "\n".join(lines) + "\n"
    return text + host_elements("add", entries)


def host_elements(verb: str, entries: Iterable[Entry]) -> str:
    """`add` or `delete` the elements of these ports in the host's table."""
    lines: list[str] = []
    for entry in entries:
        binding, transit = entry.binding, entry.transit
        key = f"{binding.protocol} . {binding.host_port}"
        inner = transit.inner4 if binding.version == 4 else transit.inner6
        target = f"{inner} . {binding.transit_port}"
        name = f"any{binding.version}"
        if binding.host_address:
            name, key = f"one{binding.version}", f"{binding.host_address} . {key}"
        lines.append(f"{verb} element inet moorage {name} {{ {key} : {target} }}")
        if verb == "add":  # stays when the port goes: others of the network may need it
            uplink = names.uplink_outer(binding.network_id)
            lines.append(f'add element inet moorage turning {{ "{uplink}" . "{uplink}" }}')
            for cidr in entry.subnets:
                clash = f"clash{ipaddress.ip_network(cidr).version}"
                lines.append(f'add element inet moorage {clash} {{ "{uplink}" . {cidr} }}')
    return "\n".join(dict.fromkeys(lines)) + "\n"


def network_table(network_id: NetworkId, bindings: Sequence[Binding]) -> str:
    """The whole table of a network's namespace; replaces what was there in one transaction."""
    inner, bridge = names.uplink_inner(network_id), names.bridge(network_id)
    lines = [
        "add table inet moorage",
        "delete table inet moorage",
        "add table inet moorage",
        "add map inet moorage to4 { type inet_proto . inet_service : ipv4_addr . inet_service; }",
        "add map inet moorage to6 { type inet_proto . inet_service : ipv6_addr . inet_service; }",
        "add set inet moorage elsewhere4 { type ipv4_addr; }",
        "add set inet moorage elsewhere6 { type ipv6_addr; }",
        "add chain inet moorage prerouting { type nat hook prerouting priority -100; policy accept; }",
        f'add rule inet moorage prerouting iifname "{inner}" dnat ip to meta l4proto . th dport map @to4',
        f'add rule inet moorage prerouting iifname "{inner}" dnat ip6 to meta l4proto . th dport map @to6',
        "add chain inet moorage postrouting { type nat hook postrouting priority 100; policy accept; }",
        f'add rule inet moorage postrouting oifname "{inner}" masquerade',
        f'add rule inet moorage postrouting oifname "{bridge}" ip daddr @elsewhere4 masquerade',
        f'add rule inet moorage postrouting oifname "{bridge}" ip6 daddr @elsewhere6 masquerade',
        "add chain inet moorage input { type filter hook input priority 0; policy drop; }",
        'add rule inet moorage input iifname "lo" accept',
        "add rule inet moorage input ct state established,related accept",
        "add rule inet moorage input meta l4proto { icmp, ipv6-icmp } accept",
        "add chain inet moorage forward { type filter hook forward priority 0; policy drop; }",
        "add rule inet moorage forward tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu",
        "add rule inet moorage forward ct state established,related accept",
        f'add rule inet moorage forward iifname "{inner}" ct status dnat accept',
        f'add rule inet moorage forward iifname "{bridge}" oifname "{inner}" accept',
    ]
    for binding in bindings:
        if not binding.answers_here:
            lines.append(f"add element inet moorage elsewhere{binding.version} {{ {binding.target} }}")
    return "\n".join(lines) + "\n" + network_elements("add", bindings)


def network_elements(verb: str, bindings: Iterable[Binding]) -> str:
    """`add` or `delete` the elements of these ports in the network's table."""
    lines = []
    for binding in bindings:
        key = f"{binding.protocol} . {binding.transit_port}"
        target = f"{binding.target} . {binding.target_port}"
        lines.append(f"{verb} element inet moorage to{binding.version} {{ {key} : {target} }}")
    return "\n".join(lines) + "\n"

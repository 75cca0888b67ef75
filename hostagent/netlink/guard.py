"""Anti-spoofing at the host's end of each interface, as nftables text. Pure.

Table `moorage` of the bridge family, in the namespace that holds the bridge: a map leads from a port to a chain of its
own with the MAC and addresses that its instance may use, everything else is dropped: other MACs, other IP sources, ARP
and neighbour advertisements for others, router advertisements and redirects, and every protocol but IP. A port of ours
without a chain passes nothing. A batch of `port_rules` replaces the chain whatever it was, so it is also the repair.

A member of a redundant pair may also use the virtual MAC, but only for what no standby sends: VRRP's advertisements, and packets and
ARP of the virtual addresses. Bridges learn from these frames where the MAC is. Nobody else on an isolated network speaks VRRP,
behind IPv6 extension headers neither: `meta l4proto` looks past them, as the receiver's kernel does.

Where the kernel has no bridge family the same rules hang at netdev ingress of each port.
"""

import ipaddress
from collections.abc import Callable, Sequence
from enum import Enum

from hostagent.domain import VirtualStation
from hostagent.netlink import shaping
from hostagent.netlink.links import mac_bytes
from hostagent.netlink.names import MEMBER_PREFIX
from hostagent.netlink.rules import TRANSIT4, TRANSIT6
from moorage.errors import NotSupported

_NEVER_FORWARDED = {
    4: ("0.0.0.0/8", "127.0.0.0/8", str(TRANSIT4), "224.0.0.0/3"),
    6: ("::/127", str(TRANSIT6), "fe80::/10", "ff00::/8"),
}
_VRRP = 112  # the protocol's number: not every host has a file with its name


class Family(Enum):
    """The nftables family that the guard uses."""

    BRIDGE = "bridge"
    NETDEV = "netdev"


def choose_family(accepts: Callable[[str], bool]) -> Family:
    """What this kernel has, found out by trying (`accepts` runs a batch in the host's namespace).

    Raises: NotSupported: neither, so that nothing could keep an instance from speaking as another.
    """
    for family in Family:
        probe = f"add table {family.value} moorage-probe\n"
        if family is Family.BRIDGE:
            probe += "add map bridge moorage-probe m { type ifname : verdict; }\n"
            probe += "add chain bridge moorage-probe c { type filter hook prerouting priority -300; }\n"
            probe += "add rule bridge moorage-probe c iifname vmap @m\n"
        if accepts(probe + f"delete table {family.value} moorage-probe\n"):
            return family
    raise NotSupported(
        "the kernel has neither nftables' bridge nor its netdev family, which anti-spoofing needs",
        reason="NFTABLES_MISSING",
    )


def base(family: Family, gateway_mac: str = "", vxlan: str = "") -> str:
    """The table. Idempotent. Nobody on another host may speak as the gateway, which each host is itself."""
    if family is Family.NETDEV:
        return "add table netdev moorage\n"
    rules = f"""add table bridge moorage
add map bridge moorage members {{ type ifname : verdict; }}
add chain bridge moorage guard {{ type filter hook prerouting priority -300; policy accept; }}
flush chain bridge moorage guard
add rule bridge moorage guard iifname vmap @members
add rule bridge moorage guard iifname "{MEMBER_PREFIX}*" drop
"""
    if vxlan:
        rules += f'add rule bridge moorage guard iifname "{vxlan}" ether saddr {gateway_mac} drop\n'
    return rules


def port_rules(
    family: Family,
    port: str,
    mac: str,
    addresses: Sequence[str],
    rate_bits: int = 0,
    neighbours: Sequence[str] | None = None,
    asks_dhcp: bool = False,
    virtual: VirtualStation | None = None,
) -> str:
    """Rules of one port: `addresses` without prefix length. Replaces what was there.

    What is sent beyond `rate_bits` a second (0: no limit) is dropped. A little more than that is allowed: who keeps the
    limit loses nothing.

    Args:
        neighbours: of a router's port: the subnets of its network. It sends on what others sent, so any source may come
        out of it but addresses of these subnets that are not its own. None: it is no router's.
        asks_dhcp: whether it may ask DHCP servers for an address.
        virtual: what it may be in turn with another port.
    """
    table = f"{family.value} moorage"
    v4 = [a for a in addresses if ipaddress.ip_address(a).version == 4]
    v6 = [a for a in addresses if ipaddress.ip_address(a).version == 6]
    if v6:
        v6.append(link_local(mac))
    targets = _targets(v6)
    rules = []
    if rate_bits:
        rate, burst = rate_bits // 8 * 9 // 8, 4 * shaping.burst_bytes(rate_bits)
        rules.append(f"limit rate over {rate} bytes/second burst {burst} bytes drop")
    if virtual is not None:
        rules += _virtual_rules(virtual, v4, v6)
    rules += [f"ether saddr != {mac} drop", f"ip protocol {_VRRP} drop", f"meta l4proto {_VRRP} drop"]
    if asks_dhcp:
        rules.append("ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept")
        rules.append(f"ether type arp arp saddr ether {mac} arp saddr ip 0.0.0.0 accept")
    if v4:
        own = ", ".join(v4)
        rules += [
            f"ether type arp arp saddr ether {mac} arp saddr ip {{ 0.0.0.0, {own} }} accept",
            f"ether type ip ip saddr {{ {', '.join([*v4, *_of(virtual, 4)])} }} accept",
            # who asks by DHCP has no address yet
            "ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
        ]
        if neighbours is not None:
            rules.append(f"ether type ip ip saddr != {{ {_strange(neighbours, 4)} }} accept")
    if v6:
        rules += [
            "icmpv6 type { nd-router-advert, nd-redirect } drop",
            f"icmpv6 type nd-neighbor-advert @th,64,128 != {{ {targets} }} drop",
            f"ether type ip6 ip6 saddr {{ {', '.join(['::', *v6, *_of(virtual, 6)])} }} accept",
        ]
        if neighbours is not None:
            rules.append("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } drop")
            rules.append(f"ether type ip6 ip6 saddr != {{ {_strange(neighbours, 6)} }} accept")
    rules.append("drop")
    if family is Family.NETDEV:
        lines = [f'add chain {table} {port} {{ type filter hook ingress device "{port}" priority 0; policy accept; }}']
    else:
        lines = [f"add chain {table} {port}"]
    lines.append(f"flush chain {table} {port}")
    lines += [f"add rule {table} {port} {rule}" for rule in rules]
    if family is Family.BRIDGE:
        lines.append(f'add element {table} members {{ "{port}" : jump {port} }}')
    return "\n".join(lines) + "\n"


def _strange(neighbours: Sequence[str], version: int) -> str:
    """Sources that are never sent on by a router: its neighbours, our transit addresses, what is nobody's address."""
    nets = [ipaddress.ip_network(one) for one in (*neighbours, *_NEVER_FORWARDED[version])]
    if version == 4:
        return ", ".join(
            map(str, ipaddress.collapse_addresses(n for n in nets if isinstance(n, ipaddress.IPv4Network)))
        )
    return ", ".join(map(str, ipaddress.collapse_addresses(n for n in nets if isinstance(n, ipaddress.IPv6Network))))


def _virtual_rules(virtual: VirtualStation, own4: Sequence[str], own6: Sequence[str]) -> list[str]:
    """What may come from a virtual MAC. The packet that says who is active comes from the member's own address."""
    frame = f"ether saddr {virtual.mac.lower()}"
    rules = []
    if own4:
        rules.append(f"{frame} ip protocol {_VRRP} ip saddr {{ {', '.join(own4)} }} ip daddr 224.0.0.18 accept")
    if own6:
        rules.append(f"{frame} ip6 nexthdr {_VRRP} ip6 saddr {{ {', '.join(own6)} }} ip6 daddr ff02::12 accept")
    if v4 := _of(virtual, 4):
        held = ", ".join(v4)
        rules += [
            f"{frame} arp saddr ether {virtual.mac.lower()} arp saddr ip {{ {held} }} accept",
            f"{frame} ip protocol != {_VRRP} ip saddr {{ {held} }} accept",
        ]
    if v6 := _of(virtual, 6):
        rules += [
            f"{frame} icmpv6 type {{ nd-router-advert, nd-redirect }} drop",
            f"{frame} icmpv6 type nd-neighbor-advert @th,64,128 != {{ {_targets(v6)} }} drop",
            f"{frame} meta l4proto != {_VRRP} ip6 saddr {{ {', '.join(v6)} }} accept",
        ]
    return rules


def _of(virtual: VirtualStation | None, version: int) -> list[str]:
    addresses = () if virtual is None else virtual.addresses
    return [address for address in addresses if ipaddress.ip_address(address).version == version]


def _targets(addresses: Sequence[str]) -> str:
    """As a neighbour advertisement has them."""
    return ", ".join(hex(int(ipaddress.ip_address(address))) for address in addresses)


def port_removed(family: Family, ports: Sequence[str]) -> str:
    """Undo of `port_rules`; ports that have none are fine."""
    table = f"{family.value} moorage"
    lines = [f"add table {table}"]
    if family is Family.BRIDGE:
        lines.append(f"add map {table} members {{ type ifname : verdict; }}")
    for port in ports:
        lines.append(f"add chain {table} {port}")
        if family is Family.BRIDGE:
            lines.append(f'add element {table} members {{ "{port}" : jump {port} }}')
            lines.append(f'delete element {table} members {{ "{port}" }}')
        lines.append(f"delete chain {table} {port}")
    return "\n".join(lines) + "\n"


def link_local(mac: str) -> str:
    """The link-local address that the kernel makes of a MAC (RFC 4291, modified EUI-64)."""
    raw = mac_bytes(mac)
    middle = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + middle))

"""Who may send into this host's VXLAN segments, as nftables text. Pure.

Table `inet moorage-segments` of the host's namespace, apart from `inet moorage` because it changes with the peers:

- What arrives at our VXLAN port for the identifier of a network of ours is taken from hosts that have a member of it,
  and from nobody else: not from strangers, and not from hosts that only have members of other networks. Identifiers
  that are not ours pass: the port may be shared with a Swarm, whose packets the kernel tells apart by them.
- What is made to look like this host by masquerade never goes to the VXLAN port of another host: a container of the
  user's, or an instance on a network with egress, would else speak as this host there.
- What goes between the ends of members' hosts is not tracked: the connections in it are, where they begin and end.

The source of a packet is believed. Which member speaks is checked where it is plugged in (guard.py), not here.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostagent.domain import Peer
from moorage.ids import NetworkId

TABLE = "inet moorage-segments"


@dataclass(frozen=True, slots=True)
class Segment:
    """A network's identifier, and the ends of the other hosts that have a member: underlay address and UDP port."""

    vni: int
    ends: frozenset[tuple[str, int]] = frozenset()

    @property
    def hosts(self) -> list[str]:
        """Underlay addresses, sorted."""
        return sorted({address for address, _port in self.ends})


def ends_of(peers: Iterable[Peer]) -> frozenset[tuple[str, int]]:
    """The ends of the hosts that these members live on."""
    return frozenset((str(ipaddress.ip_address(peer.host_address)), peer.host_port) for peer in peers)


def whole(port: int, segments: Mapping[NetworkId, Segment]) -> str:
    """The whole table; replaces what was there in one transaction."""
    lines = [
        f"add table {TABLE}",
        f"delete table {TABLE}",
        f"add table {TABLE}",
        f"add set {TABLE} ends4 {{ type ipv4_addr . inet_service; }}",
        f"add set {TABLE} ends6 {{ type ipv6_addr . inet_service; }}",
        f"add chain {TABLE} segments",
        # fragments have been put together before this hook
        f"add chain {TABLE} input {{ type filter hook input priority -10; policy accept; }}",
        f"add rule {TABLE} input udp dport {port} jump segments",
        # only what ends here: what passes through must still be seen by source NAT, and so by the rule behind it
        f"add chain {TABLE} untracked-in {{ type filter hook prerouting priority -300; policy accept; }}",
        f"add rule {TABLE} untracked-in ip saddr . udp dport @ends4 fib daddr type local notrack",
        f"add rule {TABLE} untracked-in ip6 saddr . udp dport @ends6 fib daddr type local notrack",
        f"add chain {TABLE} untracked-out {{ type filter hook output priority -300; policy accept; }}",
        f"add rule {TABLE} untracked-out ip daddr . udp dport @ends4 notrack",
        f"add rule {TABLE} untracked-out ip6 daddr . udp dport @ends6 notrack",
        # behind every source NAT
        f"add chain {TABLE} postrouting {{ type filter hook postrouting priority 300; policy accept; }}",
        f"add rule {TABLE} postrouting ip daddr . udp dport @ends4 ct status snat drop",
        f"add rule {TABLE} postrouting ip6 daddr . udp dport @ends6 ct status snat drop",
    ]
    return "\n".join(lines) + "\n" + difference({}, segments)


def difference(before: Mapping[NetworkId, Segment], after: Mapping[NetworkId, Segment]) -> str:
    """Turn the table of some segments into that of others; empty when they are the same."""
    lines = [line for network_id in sorted(after) for line in _chain(network_id, before, after)]
    if _identifiers(before) != _identifiers(after):
        lines.append(f"flush chain {TABLE} segments")
        ways = ", ".join(f"{vni} : jump {_name(network_id)}" for vni, network_id in sorted(_identifiers(after).items()))
        if ways:  # the identifier stands behind the UDP header and the first word of VXLAN's
            lines.append(f"add rule {TABLE} segments @th,96,24 vmap {{ {ways} }}")
    lines += [f"delete chain {TABLE} {_name(network_id)}" for network_id in sorted(before.keys() - after.keys())]
    have, want = _all_ends(before), _all_ends(after)
    lines += [_element("delete", end) for end in sorted(have - want)]
    lines += [_element("add", end) for end in sorted(want - have)]
    return "".join(f"{line}\n" for line in lines)


def _chain(network_id: NetworkId, before: Mapping[NetworkId, Segment], after: Mapping[NetworkId, Segment]) -> list[str]:
    hosts, name = after[network_id].hosts, _name(network_id)
    if network_id in before and before[network_id].hosts == hosts:
        return []
    lines = [f"add chain {TABLE} {name}", f"flush chain {TABLE} {name}"]
    for family, version in (("ip", 4), ("ip6", 6)):
        known = [one for one in hosts if ipaddress.ip_address(one).version == version]
        if known:
            lines.append(f"add rule {TABLE} {name} {family} saddr {{ {', '.join(known)} }} accept")
    return [*lines, f"add rule {TABLE} {name} drop"]


def _name(network_id: NetworkId) -> str:
    return f"n-{network_id}"


def _identifiers(segments: Mapping[NetworkId, Segment]) -> dict[int, NetworkId]:
    """An identifier that is given again while its last network is on its way out is the newer one's."""
    return {segment.vni: network_id for network_id, segment in segments.items()}


def _all_ends(segments: Mapping[NetworkId, Segment]) -> set[tuple[str, int]]:
    return {end for segment in segments.values() for end in segment.ends}


def _element(verb: str, end: tuple[str, int]) -> str:
    address, port = end
    return f"{verb} element {TABLE} ends{ipaddress.ip_address(address).version} {{ {address} . {port} }}"

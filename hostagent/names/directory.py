"""The names of one network as its members see them: domain, members, and the way back from addresses. Pure.

A directory is built whole from what the journal knows and never changed, so whoever holds one sees one moment. Names are
lower-case text without the last dot; a member's names stand below the domain, and are known bare as well.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TTL_SECONDS = 5  # of what the platform says itself: right within seconds wherever somebody keeps answers

Node = Mapping[str, tuple["Value", ...]]  # type such as "AAAA" -> values


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a name, in the presentation form of its type; TXT without quotes."""

    text: str
    ttl: int = TTL_SECONDS


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody on the network: the first name is the one that its addresses lead back to."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]  # without prefix length


@dataclass(frozen=True, slots=True)
class Directory:
    """All that is known of one network. Make it with `build`."""

    domain: str
    serial: int
    nodes: Mapping[str, Node]  # full name -> values; an empty node only has names below it
    bare: Mapping[str, Node]  # members' names without the domain
    pointers: Mapping[str, tuple[str, ...]]  # reverse name -> full names
    subnets: tuple["ipaddress.IPv4Network | ipaddress.IPv6Network", ...]

    def covers(self, name: str) -> bool:
        """Whether the name is the domain or below it."""
        return name == self.domain or name.endswith(f".{self.domain}")

    def covers_address(self, address: "ipaddress.IPv4Address | ipaddress.IPv6Address") -> bool:
        """Whether the address is one of the network's."""
        return any(address.version == subnet.version and address in subnet for subnet in self.subnets)


def build(domain: str, subnets: Iterable[str], members: Iterable[Member], serial: int = 1) -> Directory:
    """The directory of a network. Several members may share a name: it has the addresses of all of them."""
    addresses: dict[str, dict[str, None]] = {}
    pointers: dict[str, tuple[str, ...]] = {}
    for member in members:
        names = [name.lower() for name in member.names]
        for name in names:
            addresses.setdefault(name, {}).update(dict.fromkeys(member.addresses))
        for address in member.addresses if names else ():
            reverse = ipaddress.ip_address(address).reverse_pointer
            pointers[reverse] = (*pointers.get(reverse, ()), f"{names[0]}.{domain}")
    bare = {name: _addresses(found) for name, found in addresses.items()}
    nodes: dict[str, Node] = {domain: {}}
    for name, node in bare.items():
        full = f"{name}.{domain}"
        nodes[full] = node
        _add_parents(nodes, full, domain)
    return Directory(domain, serial, nodes, bare, pointers, tuple(ipaddress.ip_network(cidr) for cidr in subnets))


def _addresses(found: Iterable[str]) -> Node:
    node: dict[str, tuple[Value, ...]] = {}
    for address in found:
        kind = "AAAA" if ":" in address else "A"
        node[kind] = (*node.get(kind, ()), Value(address))
    return node


def _add_parents(nodes: dict[str, Node], name: str, domain: str) -> None:
    """A name that only has others below it exists too: it has no values, and that is not the same as no name."""
    parent = name.partition(".")[2]
    while parent != domain and parent not in nodes:
        nodes[parent] = {}
        parent = parent.partition(".")[2]


def closest(directories: Sequence[Directory], name: str) -> list[Directory]:
    """Those of the directories that the name belongs to; the longest domain wins, and several directories may have it."""
    covering = [directory for directory in directories if directory.covers(name)]
    longest = max((len(directory.domain) for directory in covering), default=0)
    return [directory for directory in covering if len(directory.domain) == longest]

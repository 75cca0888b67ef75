"""The names of one network as its members see them: domain, members, extra records, and the way back from addresses.
Pure.

A directory is built whole from what the journal knows and never changed, so whoever holds one sees one moment. Names are
lower-case text without the last dot; a member's names stand below the domain, and are known bare as well.

A member's own addresses win over records of its name: everybody on the network has them in the hosts file too, which
comes before any name server, and one name shall not have two answers.
"""

import functools
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hostagent.domain import DnsRecord, DnsRecordType

TTL_SECONDS = 5  # of what the platform says itself: right within seconds wherever somebody keeps answers
_ADDRESS_TYPES = frozenset({DnsRecordType.A, DnsRecordType.AAAA, DnsRecordType.CNAME})
_WORDS_BEFORE_NAME = {DnsRecordType.CNAME: 0, DnsRecordType.MX: 1, DnsRecordType.SRV: 3}

Node = Mapping[str, tuple["Value", ...]]  # type such as "AAAA" -> values


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a name, in the presentation form of its type; TXT without quotes. Names in it are whole."""

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
    dotted: frozenset[str]  # members' names that have dots themselves
    pointers: Mapping[str, tuple[str, ...]]  # reverse name -> full names
    subnets: tuple["ipaddress.IPv4Network | ipaddress.IPv6Network", ...]

    def covers(self, name: str) -> bool:
        """Whether the name is the domain or below it."""
        return name == self.domain or name.endswith(f".{self.domain}")

    def covers_address(self, address: "ipaddress.IPv4Address | ipaddress.IPv6Address") -> bool:
        """Whether the address is one of the network's."""
        return any(address.version == subnet.version and address in subnet for subnet in self.subnets)

    def bare(self, name: str) -> Node | None:
        """What a name without the domain has: a single word, or a member's name that has dots."""
        if "." in name and name not in self.dotted:
            return None
        return self.nodes.get(f"{name}.{self.domain}") or None

    def wildcard(self, name: str) -> Node | None:
        """What a name below the domain that does not exist gets from `*` beside its nearest relative (RFC 4592)."""
        parent = name.partition(".")[2]
        while parent not in self.nodes:
            parent = parent.partition(".")[2]
        return self.nodes.get(f"*.{parent}")


def build(
    domain: str, subnets: Iterable[str], members: Iterable[Member], records: Iterable[DnsRecord] = (), serial: int = 1
) -> Directory:
    """The directory of a network. Several members may share a name: it has the addresses of all of them."""
    addresses: dict[str, dict[str, None]] = {}
    pointers: dict[str, tuple[str, ...]] = {}
    for member in members:
        names = [name.lower() for name in member.names]
        for name in names:
            addresses.setdefault(name, {}).update(dict.fromkeys(member.addresses))
        for address in member.addresses if names else ():
            reverse = _reverse_name(address)
            pointers[reverse] = (*pointers.get(reverse, ()), f"{names[0]}.{domain}")
    nodes: dict[str, dict[str, tuple[Value, ...]]] = {domain: {}}
    for name, found in addresses.items():
        nodes[f"{name}.{domain}"] = _addresses(found)
    for record in records:
        if record.name not in addresses or record.type not in _ADDRESS_TYPES:
            full = domain if record.name == "@" else f"{record.name}.{domain}"
            nodes.setdefault(full, {})[record.type.value] = _values(record, domain)
    for full in list(nodes):
        _add_parents(nodes, full, domain)
    dotted = frozenset(name for name in addresses if "." in name)
    return Directory(domain, serial, nodes, dotted, pointers, tuple(ipaddress.ip_network(cidr) for cidr in subnets))


@functools.lru_cache(1 << 16)  # directories are built anew with each member that comes or goes
def _reverse_name(address: str) -> str:
    return ipaddress.ip_address(address).reverse_pointer


def _addresses(found: Iterable[str]) -> dict[str, tuple[Value, ...]]:
    node: dict[str, tuple[Value, ...]] = {}
    for address in found:
        kind = "AAAA" if ":" in address else "A"
        node[kind] = (*node.get(kind, ()), Value(address))
    return node


def _values(record: DnsRecord, domain: str) -> tuple[Value, ...]:
    ttl = int(record.ttl_seconds) or TTL_SECONDS
    words = _WORDS_BEFORE_NAME.get(record.type)
    if words is None:
        return tuple(Value(text, ttl) for text in record.values)
    return tuple(Value(_with_whole_name(text, words, domain), ttl) for text in record.values)


def _with_whole_name(text: str, words: int, domain: str) -> str:
    *before, name = text.split(" ", words)
    whole = name.rstrip(".") if "." in name else f"{name}.{domain}"
    return " ".join((*before, f"{whole}." if before else whole))


def _add_parents(nodes: "dict[str, dict[str, tuple[Value, ...]]]", name: str, domain: str) -> None:
    """A name that only has others below it exists too: it has no values, and that is not the same as no name."""
    while name != domain and (name := name.partition(".")[2]) not in nodes:
        nodes[name] = {}


def closest(directories: Sequence[Directory], name: str) -> list[Directory]:
    """Those of the directories that the name belongs to; the longest domain wins, and several directories may have it."""
    covering = [directory for directory in directories if directory.covers(name)]
    longest = max((len(directory.domain) for directory in covering), default=0)
    return [directory for directory in covering if len(directory.domain) == longest]

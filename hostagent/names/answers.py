"""What is answered to a question, decided from the directories of the asker's networks. Pure.

Order: `localhost`; names below a domain of the asker's networks, of which we are the only authority; addresses of those
networks; their names without a domain. All else is somebody else's to answer: `Elsewhere`. A single word that no
member has is never passed on for its addresses: it was meant for here, and would only tell the outside what is sought.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hostagent.names.directory import TTL_SECONDS, Directory, Node, Value, closest

NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3

_LONGEST_CHAIN = 8  # of aliases; a longer one is a circle
_ADDRESS_TYPES = frozenset({"A", "AAAA", "ANY", "HTTPS", "SVCB"})
_LOCALHOST: Node = {"A": (Value("127.0.0.1"),), "AAAA": (Value("::1"),)}


@dataclass(frozen=True, slots=True)
class Question:
    """A name, lower-case and without the last dot, and a type such as "A"."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class ResourceRecord:
    """One line of an answer."""

    name: str
    type: str
    ttl: int
    value: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of our own. `authority` is the SOA of a negative one."""

    rcode: int = NOERROR
    answer: tuple[ResourceRecord, ...] = ()
    authority: tuple[ResourceRecord, ...] = ()
    is_authoritative: bool = True


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Not ours to answer: `question` has to be asked of others; `answer` goes before what they say."""

    question: Question
    answer: tuple[ResourceRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    node: Node | None  # None: there is no such name
    soa: ResourceRecord | None


def answer(question: Question, directories: Sequence[Directory], turn: int = 0) -> Reply | Elsewhere:
    """The answer.

    Args:
        directories: of the networks that the asker is on, in the order of its interfaces.
        turn: several values of a name are given in an order that this number rotates.
    """
    name = question.name
    lines: list[ResourceRecord] = []
    for _ in range(_LONGEST_CHAIN):
        found = _look_up(name, question.type, directories)
        if found is None:
            return Elsewhere(Question(name, question.type), tuple(lines))
        if found.node is None:
            return Reply(NXDOMAIN, tuple(lines), _negative(found))
        if "CNAME" in found.node and question.type not in ("CNAME", "ANY"):
            alias = found.node["CNAME"][0]
            lines.append(ResourceRecord(name, "CNAME", alias.ttl, alias.text))
            name = alias.text
            continue
        types = sorted(found.node) if question.type == "ANY" else [question.type]
        values = [
            ResourceRecord(name, kind, value.ttl, value.text)
            for kind in types
            for value in _rotated(found.node.get(kind, ()), turn)
        ]
        return Reply(NOERROR, (*lines, *values), () if values else _negative(found))
    return Reply(SERVFAIL)


def nobody_to_ask(question: Elsewhere) -> Reply:
    """For askers who have nobody beyond us. "No such name" and not a refusal: to musl's resolver every other word is as
    good as silence, and it would wait ten seconds for another."""
    return Reply(NXDOMAIN, question.answer, is_authoritative=False)


def _look_up(name: str, kind: str, directories: Sequence[Directory]) -> _Found | None:
    if name == "localhost" or name.endswith(".localhost"):
        return _Found(_LOCALHOST, None)
    if own := closest(directories, name):
        return _in_directories(name, own)
    if name.endswith((".in-addr.arpa", ".ip6.arpa")):
        return _backwards(name, directories)
    nodes = [node for directory in directories if (node := directory.bare(name)) is not None]
    if nodes:
        return _Found(_merged(nodes), None)
    if name and "." not in name and kind in _ADDRESS_TYPES:
        return _Found(None, None)
    return None


def _in_directories(name: str, directories: Sequence[Directory]) -> _Found:
    soa = _soa(directories[0].domain, directories)
    nodes = [directory.nodes[name] for directory in directories if name in directory.nodes]
    if not nodes:
        wild = [node for directory in directories if (node := directory.wildcard(name)) is not None]
        return _Found(_merged(wild) if wild else None, soa)
    node = _merged(nodes)
    if name == directories[0].domain:
        node = {**node, "SOA": (Value(soa.value, soa.ttl),)}
    return _Found(node, soa)


def _backwards(name: str, directories: Sequence[Directory]) -> _Found | None:
    names = tuple(dict.fromkeys(full for directory in directories for full in directory.pointers.get(name, ())))
    if names:
        return _Found({"PTR": tuple(Value(full) for full in names)}, None)
    address = _address_of(name)
    own = [directory for directory in directories if address is not None and directory.covers_address(address)]
    if not own or address is None:
        return None
    return _Found(None, replace(_soa(own[0].domain, own), name=_reverse_domain(name, own[0], address)))


def _address_of(name: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    """The address whose reverse name this is, if it is one of a whole address."""
    labels = name.split(".")[:-2][::-1]
    text = ".".join(labels)
    if name.endswith(".ip6.arpa"):
        digits = "".join(labels)
        text = ":".join(digits[i : i + 4] for i in range(0, len(digits), 4)) if len(labels) == len(digits) else ""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _reverse_domain(name: str, directory: Directory, address: "ipaddress.IPv4Address | ipaddress.IPv6Address") -> str:
    """The name that the reverse names of the subnet have in common."""
    subnet = next(s for s in directory.subnets if s.version == address.version and address in s)
    bits = 8 if address.version == 4 else 4
    host_labels = (address.max_prefixlen - subnet.prefixlen + bits - 1) // bits
    return name.split(".", host_labels)[-1]


def _merged(nodes: Sequence[Node]) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    merged: dict[str, tuple[Value, ...]] = {}
    for node in nodes:
        for kind, values in node.items():
            merged[kind] = tuple(dict.fromkeys((*merged.get(kind, ()), *values)))
    return merged


def _rotated(values: tuple[Value, ...], turn: int) -> tuple[Value, ...]:
    if len(values) < 2:
        return values
    start = turn % len(values)
    return values[start:] + values[:start]


def _negative(found: _Found) -> tuple[ResourceRecord, ...]:
    return (found.soa,) if found.soa is not None else ()


def _soa(domain: str, directories: Sequence[Directory]) -> ResourceRecord:
    serial = max(directory.serial for directory in directories) & 0xFFFFFFFF
    value = f"ns.{domain}. hostmaster.{domain}. {serial} 60 30 3600 {TTL_SECONDS}"
    return ResourceRecord(domain, "SOA", TTL_SECONDS, value)

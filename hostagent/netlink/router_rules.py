"""Packet rules of a router's namespace, as nftables text. Pure.

Table `inet moorage-router`, whose chains are written anew by every change, in one transaction:

- arriving: port forwards and static NAT, looked up in maps: 500 of them cost a connection what one does. They hold for
  clients on either side; `leaving` hides a client behind the router's own address only where the answer would go past
  the router, which is between neighbours.
- leaving: static NAT, then source NAT rules in order, then the router's own outside address. IPv6 goes as it is, unless a
  rule says otherwise.
- forward: answers; then `inward`, `outward` or `across`, whose rules are tried in order; then port forwards' own
  openings; then the default.
- input: what the router itself serves, and nothing else.

Counters are objects with the rule's id in their name, which a change leaves alone. Only the first packet of a
connection passes most rules, so the rule that let it through is remembered in the connection's mark (translation in
the low half, firewall in the high one), and `account` counts every packet by it, both ways. The numbers are kept in the
map `counted`, so that connections keep theirs over changes and restarts of the agent.
"""

import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from moorage.errors import InvalidSpec
from moorage.router_bundle import (
    FirewallBundle,
    FirewallDirection,
    PortForwardBundle,
    RouterBundle,
    RuleFigure,
    SourceNatBundle,
    TrafficProtocol,
    virtual_interface,
)

TABLE = "inet moorage-router"
PREPARE = f"add table {TABLE}\nadd map {TABLE} counted {{ type mark : counter; }}\n"
LOOK = f"list counters table {TABLE}\nlist map {TABLE} counted\n"
SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    # public addresses are answered for on the outside only, gateways on their leg only
    "ipv4/conf/all/arp_ignore": "1",
    "ipv4/conf/all/arp_announce": "2",
    # The stricter of `all` and the interface's own counts. An interface without an address drops everything under either, and a standby's
    # with the virtual MAC has none: it would not hear the active one.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv6/conf/all/accept_redirects": "0",
    # the middle of a connection that nobody let in is no beginning of one
    "netfilter/nf_conntrack_tcp_loose": "0",
}
INTERFACE_SYSCTLS = {
    "ipv4/conf/{}/send_redirects": "0",  # neighbours that meet by a public address must come back
    # answers may come by another way where there are two, but what no route leads back to is dropped
    "ipv4/conf/{}/rp_filter": "2",
}

_COUNTER = re.compile(r"counter r-(\S+) \{\s+packets (\d+) bytes (\d+)")
_NUMBER = re.compile(r'0x([0-9a-f]{8}) : "r-([^"]+)"')
_RULE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_INTERFACE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_PORTS = re.compile(r"\d{1,5}(-\d{1,5})?")
_OPENING = 0x8000  # in the low half of a mark: a port forward, which needs no firewall rule
_NUMBERS = 0x7FFF
_WIDE = 64  # ports; a longer range gets a rule of its own instead of an entry each
_CHAINS = {
    "arriving": "type nat hook prerouting priority -100; policy accept;",
    "leaving": "type nat hook postrouting priority 100; policy accept;",
    "input": "type filter hook input priority 0; policy drop;",
    "forward": "type filter hook forward priority 0; policy drop;",
    "account": "type filter hook postrouting priority 200; policy accept;",
    "inward": "",
    "outward": "",
    "across": "",
}
_DIRECTION_CHAINS = {
    FirewallDirection.IN: "inward",
    FirewallDirection.OUT: "outward",
    FirewallDirection.ACROSS: "across",
}
_ICMP = "{ echo-request, destination-unreachable, time-exceeded, parameter-problem }"
_ICMP6 = (
    "{ echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem, "
    "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-query, mld-listener-report, "
    "mld2-listener-report }"
)


@dataclass(frozen=True, slots=True)
class Installed:
    """What a table holds that a change must respect: number of each rule, and ids of those that have a counter."""

    numbers: Mapping[str, int]
    counters: frozenset[str]


def installed(looked: str) -> Installed:
    """What `LOOK` printed."""
    numbers: dict[str, int] = {}
    for mark, rule_id in _NUMBER.findall(looked):
        value = int(mark, 16)
        numbers[rule_id] = value >> 16 or value & ~_OPENING
    return Installed(numbers, frozenset(figure.rule_id for figure in figures(looked)))


def figures(looked: str) -> tuple[RuleFigure, ...]:
    """What each rule counted, out of what `LOOK` printed."""
    return tuple(RuleFigure(rule, int(packets), int(size)) for rule, packets, size in _COUNTER.findall(looked))


def table(bundle: RouterBundle, known: Installed) -> str:
    """The batch that makes the table what the bundle says.

    Raises: InvalidSpec: something in the bundle is no address, name, port or id.
    """
    try:
        return _Table(bundle, known).text()
    except ValueError as error:
        raise InvalidSpec.of("router", str(error), "ROUTER_BUNDLE_INVALID") from error


def rule_ids(bundle: RouterBundle) -> set[str]:
    """Ids of all rules of a router."""
    found = {rule.rule_id for rule in bundle.source_nats} | {rule.rule_id for rule in bundle.static_nats}
    return found | {rule.rule_id for rule in bundle.port_forwards} | {rule.rule_id for rule in bundle.firewall}


def numbered(ids: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """A number for each rule: the one that it has, or one that nobody has had for long."""
    wanted = sorted(set(ids))
    numbers = {rule_id: known[rule_id] for rule_id in wanted if rule_id in known}
    if len(wanted) > _NUMBERS:
        raise ValueError(f"a router has {_NUMBERS} rules at most, not {len(wanted)}")
    taken = set(known.values())
    candidate = max(taken, default=0)
    for rule_id in wanted:
        if rule_id in numbers:
            continue
        for _ in range(_NUMBERS):
            candidate = candidate % _NUMBERS + 1
            if candidate not in taken:
                break
        else:  # all are taken, some by rules that go with this very change
            candidate = min(set(range(1, _NUMBERS + 1)) - set(numbers.values()))
        taken.add(candidate)
        numbers[rule_id] = candidate
    return numbers


class _Table:
    def __init__(self, bundle: RouterBundle, known: Installed) -> None:
        self._bundle = bundle
        self._known = known
        self._ids = sorted(rule_ids(bundle))
        for rule_id in self._ids:
            _matching(_RULE_ID, rule_id, "id of a rule")
        self._numbers = numbered(self._ids, known.numbers)
        self._outside = _name(bundle.outside_interface) if bundle.outside_interface else ""
        self._from_outside = _set(self._arriving(bundle.outside_interface)) if bundle.outside_interface else ""
        self._legs = [_name(leg.interface) for leg in bundle.legs]
        self._inbound = [name for leg in bundle.legs for name in self._arriving(leg.interface)]
        self._rules: list[tuple[str, str]] = []

    def text(self) -> str:
        """The whole batch."""
        for version in (4, 6):
            self._dnat(version)
            self._snat(version)
        self._input()
        self._forward()
        for half in ("0x0000ffff", "0xffff0000"):
            self._rule("account", f"counter name ct mark and {half} map @counted")
        lines = [PREPARE.rstrip()]
        lines += [
            f"add chain {TABLE} {name} {{ {kind} }}" if kind else f"add chain {TABLE} {name}"
            for name, kind in _CHAINS.items()
        ]
        lines += [f"flush table {TABLE}", f"flush map {TABLE} counted"]
        lines += [f"delete counter {TABLE} r-{rule_id}" for rule_id in sorted(self._known.counters - set(self._ids))]
        lines += [f"add counter {TABLE} r-{rule_id}" for rule_id in self._ids if rule_id not in self._known.counters]
        if marks := self._marks():
            lines.append(f"add element {TABLE} counted {{ {', '.join(marks)} }}")
        lines += [f"add rule {TABLE} {chain} {rule}" for chain, rule in self._rules]
        return "\n".join(lines) + "\n"

    def _arriving(self, interface: str) -> list[str]:
        """The interfaces on which packets from this side come in: those to a pair's virtual MAC come in on one of their own."""
        names = [_name(interface)]
        pair = self._bundle.pair
        if pair is not None and (interface != self._bundle.outside_interface or pair.outside_virtual_id):
            names.append(_name(virtual_interface(interface)))
        return names

    def _rule(self, chain: str, rule: str) -> None:
        self._rules.append((chain, rule))

    # Counting -------------------------------------------------------------------------------------------------------

    def _marks(self) -> list[str]:
        bundle = self._bundle
        found = {self._low(rule.rule_id): rule.rule_id for rule in bundle.source_nats}
        found |= {self._low(rule.rule_id): rule.rule_id for rule in bundle.static_nats}
        found |= {self._opening(rule.rule_id): rule.rule_id for rule in bundle.port_forwards}
        found |= {self._numbers[rule.rule_id] << 16: rule.rule_id for rule in bundle.firewall if not rule.deny}
        return [f'{mark:#x} : "r-{rule_id}"' for mark, rule_id in found.items()]

    def _low(self, rule_id: str) -> int:
        return self._numbers[rule_id]

    def _opening(self, rule_id: str) -> int:
        return self._numbers[rule_id] | _OPENING

    # Translation ----------------------------------------------------------------------------------------------------

    def _dnat(self, version: int) -> None:
        ip = _ip(version)
        marks: dict[str, str] = {}
        targets: dict[str, str] = {}
        wide: list[str] = []
        for rule in self._bundle.port_forwards:
            if _version(rule.public_address) != version:
                continue
            public, target, mark = (
                str(_address(rule.public_address)),
                _same(rule.address, version),
                self._opening(rule.rule_id),
            )
            protocol, first, last = _protocol(rule.protocol), rule.first_port, rule.last_port
            _check_range(rule)
            where = f"{ip} daddr {public} {protocol} dport {first}-{last}"
            if rule.source_cidrs:
                sources = _networks(rule.source_cidrs, version)
                strangers = f" {ip} saddr != {_set(sources)}" if sources else ""
                self._rule("arriving", f"{where}{strangers} accept")
            if rule.target_port == first and last - first >= _WIDE:
                wide.append(f"{where} ct mark set {mark:#x} dnat {ip} to {target}")
                continue
            for port in range(first, last + 1):
                key = f"{public} . {protocol} . {port}"
                marks[key] = f"{key} : {mark:#x}"
                targets[key] = f"{key} : {target} . {port - first + rule.target_port}"
        if targets:
            key = f"{ip} daddr . meta l4proto . th dport"
            self._rule("arriving", f"ct mark set {key} map {_braced(marks.values())}")
            self._rule("arriving", f"dnat {ip} to {key} map {_braced(targets.values())}")
        for one in wide:
            self._rule("arriving", one)
        static = [one for one in self._bundle.static_nats if _version(one.public_address) == version]
        if static:
            leads = [
                (_address(one.public_address), _same(one.address, version), self._low(one.rule_id)) for one in static
            ]
            self._rule("arriving", f"ct mark set {ip} daddr map {_braced(f'{p} : {mark:#x}' for p, _t, mark in leads)}")
            self._rule("arriving", f"dnat {ip} to {ip} daddr map {_braced(f'{p} : {t}' for p, t, _mark in leads)}")

    def _snat(self, version: int) -> None:
        ip, bundle = _ip(version), self._bundle
        for leg in bundle.legs:
            if cidrs := _networks(leg.cidrs, version):
                seen_as_router = "" if leg.gateway_elsewhere else f"{ip} saddr {_set(cidrs)} "
                neighbours = f"{seen_as_router}{ip} daddr {_set(cidrs)}"
                self._rule("leaving", f"oifname {_name(leg.interface)} ct status dnat {neighbours} masquerade")
        if not self._outside:
            return
        out = f"oifname {self._outside}"
        sources = [one for one in bundle.source_nats if _version(one.public_address) == version]
        static = [one for one in bundle.static_nats if _version(one.public_address) == version]
        if static:
            pairs = [f"{_same(one.address, version)} : {_address(one.public_address)}" for one in static]
            self._rule("leaving", f"{out} snat {ip} to {ip} saddr map {_braced(pairs)}")
        if sources and _are_apart(sources, version):
            pairs = [f"{_network(one.source_cidr, version)} : {_address(one.public_address)}" for one in sources]
            self._rule("leaving", f"{out} snat {ip} to {ip} saddr map {_braced(pairs)}")
            marks = [f"{_network(one.source_cidr, version)} : {self._low(one.rule_id):#x}" for one in sources]
            self._rule("outward", f"ct mark set {ip} saddr map {_braced(marks)}")
        elif sources:  # the first that fits decides
            for one in sources:
                source = f"{ip} saddr {_network(one.source_cidr, version)}"
                self._rule("leaving", f"{out} {source} snat {ip} to {_address(one.public_address)}")
            for one in reversed(sources):
                source = f"{ip} saddr {_network(one.source_cidr, version)}"
                self._rule("outward", f"{source} ct mark set {self._low(one.rule_id):#x}")
        if static:
            marks = [f"{_same(one.address, version)} : {self._low(one.rule_id):#x}" for one in static]
            self._rule("outward", f"ct mark set {ip} saddr map {_braced(marks)}")
        own = next((_address(a) for a in bundle.outside_addresses if _version(a) == version), None)
        inside = [cidr for leg in bundle.legs for cidr in _networks(leg.cidrs, version)]
        if version == 4 and own is not None and inside:
            self._rule("leaving", f"{out} {ip} saddr {_set(inside)} snat {ip} to {own}")

    # What may pass --------------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        bundle, legs = self._bundle, self._legs
        self._rule("forward", "ct state invalid drop")
        self._rule("forward", "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu")
        self._rule("forward", "ct state established,related accept")
        for one in bundle.firewall:
            self._firewall(one)
        if self._outside and legs:
            for version in (4, 6):
                if cidrs := [cidr for leg in bundle.legs for cidr in _networks(leg.cidrs, version)]:
                    self._rule("forward", f"iifname {self._from_outside} {_ip(version)} saddr {_set(cidrs)} drop")
            self._rule("forward", f"iifname {self._from_outside} oifname {_set(legs)} jump inward")
            self._rule("forward", f"iifname {_set(self._inbound)} oifname {self._outside} jump outward")
            denied = [name for leg in bundle.legs if leg.deny_egress for name in self._arriving(leg.interface)]
            if denied:
                self._rule("outward", f"iifname {_set(denied)} drop")
            self._rule("outward", "accept")
        for leg in bundle.legs:
            arriving, leaving = self._arriving(leg.interface), _name(leg.interface)
            self._rule("forward", f"iifname {_set(arriving)} oifname {leaving} accept")
        if len(legs) > 1:
            self._rule("forward", f"iifname {_set(self._inbound)} oifname {_set(legs)} jump across")
        if bundle.port_forwards and legs:
            opening = f"ct status dnat ct mark and {_OPENING:#x} == {_OPENING:#x}"
            self._rule("forward", f"oifname {_set(legs)} {opening} accept")

    def _firewall(self, rule: FirewallBundle) -> None:
        chain = _DIRECTION_CHAINS.get(rule.direction)
        if chain is None:
            raise ValueError(f"rule {rule.rule_id} has no direction that this agent knows")
        if rule.deny:
            verdict = f"counter name r-{rule.rule_id} drop"
        else:
            verdict = f"ct mark set ct mark and 0xffff or {self._numbers[rule.rule_id] << 16:#x} accept"
        ways = ""
        if rule.from_interface:
            ways += f"iifname {_set(self._arriving(rule.from_interface))} "
        if rule.to_interface:
            ways += f"oifname {_name(rule.to_interface)} "
        for addresses in _families(rule):
            self._rule(chain, f"{ways}{addresses}{_traffic(rule)}{verdict}")

    def _input(self) -> None:
        bundle = self._bundle
        self._rule("input", 'iifname "lo" accept')
        self._rule("input", f"icmp type {_ICMP} accept")
        self._rule("input", f"icmpv6 type {_ICMP6} accept")
        self._rule("input", "ct state invalid drop")
        self._rule("input", "ct state established,related accept")
        serving = [name for leg in bundle.legs if leg.dhcp is not None for name in self._arriving(leg.interface)]
        if serving:
            self._rule("input", f"iifname {_set(serving)} udp sport 68 udp dport 67 accept")
            self._rule("input", f"iifname {_set(serving)} meta l4proto {{ tcp, udp }} th dport 53 accept")
        if bundle.pair is not None:
            # Nobody but a pair's members can send it there: see guard.py.
            heard = [
                *self._inbound,
                *(self._arriving(bundle.outside_interface) if bundle.pair.outside_virtual_id else []),
            ]
            self._rule("input", f"iifname {_set(heard)} meta l4proto 112 accept")
        for balancer in bundle.balancers:
            for listener in balancer.listeners:
                address = _address(listener.address)
                ip = _ip(address.version)
                # a gateway address is no address of the outside
                side = (
                    f"iifname != {self._from_outside} "
                    if self._outside and listener.interface != bundle.outside_interface
                    else ""
                )
                who = ""
                if listener.source_cidrs:
                    sources = _networks(listener.source_cidrs, address.version)
                    if not sources:
                        continue
                    who = f"{ip} saddr {_set(sources)} "
                self._rule("input", f"{side}{who}{ip} daddr {address} tcp dport {_port(listener.port)} accept")


# Pieces of text -----------------------------------------------------------------------------------------------------


def _families(rule: FirewallBundle) -> list[str]:
    """What a rule says of addresses: once for each family in which it can fit, or once for both."""
    if not rule.source_cidrs and not rule.destination_cidrs:
        return [""]
    found = []
    for version in (4, 6):
        text = ""
        for word, cidrs in (("saddr", rule.source_cidrs), ("daddr", rule.destination_cidrs)):
            networks = _networks(cidrs, version)
            if cidrs and not networks:
                break
            if networks:
                text += f"{_ip(version)} {word} {_set(networks)} "
        else:
            found.append(text)
    return found


def _traffic(rule: FirewallBundle) -> str:
    ports = _set(_matching(_PORTS, port, "port or range of ports") for port in rule.ports) if rule.ports else ""
    match rule.protocol:
        case TrafficProtocol.TCP | TrafficProtocol.UDP:
            word = rule.protocol.name.lower()
            return f"{word} dport {ports} " if ports else f"meta l4proto {word} "
        case TrafficProtocol.ICMP | TrafficProtocol.ICMPV6:
            word, name = ("icmp", "icmp") if rule.protocol is TrafficProtocol.ICMP else ("icmpv6", "ipv6-icmp")
            return f"meta l4proto {name} " if rule.icmp_type is None else f"{word} type {rule.icmp_type} "
        case _:
            return f"meta l4proto {{ tcp, udp }} th dport {ports} " if ports else ""


def _are_apart(sources: Sequence[SourceNatBundle], version: int) -> bool:
    """Whether no two of them speak of one address, so that their order does not matter."""
    found = sorted(_network(one.source_cidr, version) for one in sources)
    return all(not first.overlaps(second) for first, second in itertools.pairwise(found))


def _check_range(rule: PortForwardBundle) -> None:
    first, last = _port(rule.first_port), _port(rule.last_port)
    if first > last:
        raise ValueError(f"rule {rule.rule_id}: ports {first}-{last} are no range")
    _port(rule.target_port)
    _port(rule.target_port + last - first)


def _braced(words: Iterable[object]) -> str:
    return f"{{ {', '.join(str(word) for word in dict.fromkeys(words))} }}"


def _set(words: Iterable[object]) -> str:
    """What fits any of these; a set of one costs the kernel more than the one."""
    found = list(dict.fromkeys(words))
    return str(found[0]) if len(found) == 1 else _braced(found)


def _matching(pattern: "re.Pattern[str]", word: str, what: str) -> str:
    if not pattern.fullmatch(word):
        raise ValueError(f"{word!r} is no {what}")
    return word


def _name(interface: str) -> str:
    return f'"{_matching(_INTERFACE, interface, "name of an interface")}"'


def _port(port: int) -> int:
    if not 0 < port < 65536:
        raise ValueError(f"{port} is no port")
    return port


def _protocol(name: str) -> str:
    if name not in ("tcp", "udp"):
        raise ValueError(f"{name!r} is neither tcp nor udp")
    return name


@lru_cache(10_000)
def _parsed(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(cidr, strict=False)


@lru_cache(10_000)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def _same(text: str, version: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = _address(text)
    if address.version != version:
        raise ValueError(f"{text} is of another family than what leads to it")
    return address


def _version(text: str) -> int:
    return _address(text).version


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _network(text: str, version: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    network = _parsed(text)
    if network.version != version:
        raise ValueError(f"{text} is of another family than its address")
    return network


def _networks(cidrs: Iterable[str], version: int) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Those of one family, none of them inside another: nftables refuses intervals that overlap."""
    found = [_parsed(cidr) for cidr in cidrs]
    if len(found) == 1:
        return found if found[0].version == version else []
    if version == 4:
        return list(ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv4Network)))
    return list(ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv6Network)))

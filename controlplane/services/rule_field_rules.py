"""Field rules of a router's rules: kinds, CIDRs, ports and what goes with what; all that needs no stored object. Pure.

`normal_spec` gives CIDRs and ports one spelling, so that what is stored can be compared and handed to hosts as it is.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from controlplane.domain.routers import FirewallAction, FirewallRule, PortForward, RouterRuleSpec, SourceNat, StaticNat
from controlplane.networks.subnets import IpNetwork
from moorage.errors import FieldViolation
from moorage.router_bundle import FirewallDirection, TrafficProtocol

KINDS: tuple[str, ...] = tuple(field.name for field in fields(RouterRuleSpec))
LARGEST_ORDER = 65535
LARGEST_LIST = 1000  # CIDRs or ports of one rule
_LAST_PORT = 65535
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_WITH_PORTS = (TrafficProtocol.TCP, TrafficProtocol.UDP)
_ICMP = {TrafficProtocol.ICMP: 4, TrafficProtocol.ICMPV6: 6}


def kind_of(spec: RouterRuleSpec) -> str:
    """The field that is set, such as `port_forward`; empty unless it is exactly one."""
    found = [name for name in KINDS if getattr(spec, name) is not None]
    return found[0] if len(found) == 1 else ""


def check_spec(spec: RouterRuleSpec, field: str) -> list[FieldViolation]:
    """Every violation."""
    if not kind_of(spec):
        found = [name for name in KINDS if getattr(spec, name) is not None]
        if not found:
            return [FieldViolation(field, f"one of {', '.join(KINDS)} must be set", "KIND_MISSING")]
        text = f"{' and '.join(found)} are set; a rule does one thing, so make one of each"
        return [FieldViolation(field, text, "KIND_AMBIGUOUS")]
    if spec.source_nat is not None:
        return _source_nat(spec.source_nat, f"{field}.source_nat")
    if spec.static_nat is not None:
        return _static_nat(spec.static_nat, f"{field}.static_nat")
    if spec.port_forward is not None:
        return _port_forward(spec.port_forward, f"{field}.port_forward")
    assert spec.firewall is not None
    return _firewall(spec.firewall, f"{field}.firewall")


def normal_spec(spec: RouterRuleSpec) -> RouterRuleSpec:
    """One spelling of CIDRs, ports and defaults. The spec must be without violations."""
    if spec.source_nat is not None:
        return replace(spec, source_nat=replace(spec.source_nat, source_cidr=_cidr(spec.source_nat.source_cidr)))
    if spec.port_forward is not None:
        forward = spec.port_forward
        return replace(
            spec,
            port_forward=replace(
                forward,
                protocol=forward.protocol or "tcp",
                last_port=forward.last_port or forward.first_port,
                target_port=forward.target_port or forward.first_port,
                source_cidrs=tuple(map(_cidr, forward.source_cidrs)),
            ),
        )
    if spec.firewall is not None:
        rule = spec.firewall
        return replace(
            spec,
            firewall=replace(
                rule,
                action=FirewallAction.ALLOW if rule.action is FirewallAction.UNSPECIFIED else rule.action,
                protocol=TrafficProtocol.ANY if rule.protocol is TrafficProtocol.UNSPECIFIED else rule.protocol,
                ports=tuple(_ports(text) for text in rule.ports),
                source_cidrs=tuple(map(_cidr, rule.source_cidrs)),
                destination_cidrs=tuple(map(_cidr, rule.destination_cidrs)),
            ),
        )
    return spec


def parse_cidr(text: str) -> IpNetwork | str:
    """The network (a bare address is one of its own), or what is wrong with the text."""
    if "%" in text:
        return f"{text!r} names an interface; give the CIDR alone"
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is no CIDR such as 203.0.113.0/24"
    return f"{text!r} has host bits set; did you mean {network}?"


def parse_ports(text: str) -> tuple[int, int] | None:
    """First and last port of "80" or "8000-8010"; None for anything else."""
    match = _PORTS.fullmatch(text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last) if 1 <= first <= last <= _LAST_PORT else None


def _source_nat(rule: SourceNat, field: str) -> list[FieldViolation]:
    found = _required(rule.public_address, f"{field}.public_address")
    parsed = parse_cidr(rule.source_cidr)
    if isinstance(parsed, str):
        found.append(FieldViolation(f"{field}.source_cidr", parsed, "CIDR_INVALID"))
    return found


def _static_nat(rule: StaticNat, field: str) -> list[FieldViolation]:
    return _required(rule.public_address, f"{field}.public_address") + _required(rule.instance, f"{field}.instance")


def _port_forward(rule: PortForward, field: str) -> list[FieldViolation]:
    found = _required(rule.instance, f"{field}.instance")
    if rule.protocol not in ("", "tcp", "udp"):
        found.append(FieldViolation(f"{field}.protocol", f"must be tcp or udp, not {rule.protocol!r}", "PORT_INVALID"))
    last = rule.last_port or rule.first_port
    if not 1 <= rule.first_port <= _LAST_PORT:
        found.append(_port(f"{field}.first_port", "must be between 1 and 65535"))
    elif not rule.first_port <= last <= _LAST_PORT:
        found.append(_port(f"{field}.last_port", f"must be between first_port, {rule.first_port}, and 65535"))
    elif rule.target_port and not 1 <= rule.target_port <= _LAST_PORT - (last - rule.first_port):
        text = f"{rule.target_port} and the {last - rule.first_port} after it are not all between 1 and 65535"
        found.append(_port(f"{field}.target_port", text))
    return found + _cidrs(rule.source_cidrs, f"{field}.source_cidrs")[0]


def _firewall(rule: FirewallRule, field: str) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if rule.direction is FirewallDirection.UNSPECIFIED:
        found.append(FieldViolation(f"{field}.direction", "is required: in, out or across", "REQUIRED"))
    if not 0 <= rule.order <= LARGEST_ORDER:
        found.append(FieldViolation(f"{field}.order", f"must be between 0 and {LARGEST_ORDER}", "OUT_OF_RANGE"))
    found += _firewall_ports(rule, field)
    if rule.direction is not FirewallDirection.ACROSS:
        for name in ("from_network", "to_network"):
            if getattr(rule, name):
                text = "only goes with direction across; in and out say which way already"
                found.append(FieldViolation(f"{field}.{name}", text, "NOT_ALLOWED"))
    return found + _firewall_cidrs(rule, field)


def _firewall_ports(rule: FirewallRule, field: str) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if rule.ports and rule.protocol not in _WITH_PORTS:
        found.append(FieldViolation(f"{field}.ports", "only TCP and UDP have ports; say which", "NOT_ALLOWED"))
    if rule.icmp_type is not None and rule.protocol not in _ICMP:
        text = "only ICMP and ICMPV6 have types; say which"
        found.append(FieldViolation(f"{field}.icmp_type", text, "NOT_ALLOWED"))
    elif rule.icmp_type is not None and not 0 <= rule.icmp_type <= 255:
        found.append(FieldViolation(f"{field}.icmp_type", "must be between 0 and 255", "OUT_OF_RANGE"))
    if len(rule.ports) > LARGEST_LIST:
        return [*found, FieldViolation(f"{field}.ports", f"at most {LARGEST_LIST}; use ranges", "OUT_OF_RANGE")]
    ranges: list[tuple[int, int, int]] = []
    for index, text in enumerate(rule.ports):
        parsed = parse_ports(text)
        if parsed is None:
            found.append(_port(f"{field}.ports[{index}]", f"{text!r} is no port or range such as 80 or 8000-8010"))
        else:
            ranges.append((*parsed, index))
    for index, other in _overlapping(ranges):
        found.append(_port(f"{field}.ports[{index}]", f"{rule.ports[index]} overlaps {rule.ports[other]}"))
    return found


def _firewall_cidrs(rule: FirewallRule, field: str) -> list[FieldViolation]:
    problems, sources = _cidrs(rule.source_cidrs, f"{field}.source_cidrs")
    found, destinations = _cidrs(rule.destination_cidrs, f"{field}.destination_cidrs")
    found = problems + found
    families = [{network.version for network in side} for side in (sources, destinations) if side]
    if not found and len(families) == 2 and not families[0] & families[1]:
        text = "no packet goes from an IPv4 address to an IPv6 one, or back"
        found.append(FieldViolation(f"{field}.destination_cidrs", text, "CIDR_INVALID"))
    version = _ICMP.get(rule.protocol)
    for name, side in (("source_cidrs", sources), ("destination_cidrs", destinations)):
        if version is not None and any(network.version != version for network in side):
            text = f"{rule.protocol.name} is of IPv{version} only"
            found.append(FieldViolation(f"{field}.{name}", text, "CIDR_INVALID"))
    return found


def _cidrs(texts: Sequence[str], field: str) -> tuple[list[FieldViolation], list[IpNetwork]]:
    """What is wrong with a list of CIDRs, and those that are right. None may lie in another: one set holds them on the host."""
    if len(texts) > LARGEST_LIST:
        return [FieldViolation(field, f"at most {LARGEST_LIST}; use larger networks", "OUT_OF_RANGE")], []
    found: list[FieldViolation] = []
    networks: list[IpNetwork] = []
    ranges: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}
    for index, text in enumerate(texts):
        parsed = parse_cidr(text)
        if isinstance(parsed, str):
            found.append(FieldViolation(f"{field}[{index}]", parsed, "CIDR_INVALID"))
            continue
        networks.append(parsed)
        first = int(parsed.network_address)
        ranges[parsed.version].append((first, first + parsed.num_addresses - 1, index))
    for index, other in (*_overlapping(ranges[4]), *_overlapping(ranges[6])):
        text = f"{texts[index]} overlaps {texts[other]}; leave the smaller one out"
        found.append(FieldViolation(f"{field}[{index}]", text, "CIDR_INVALID"))
    return found, networks


def _overlapping(ranges: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Of ranges (first, last, index): pairs of indexes, the later one first, each range at most once as the later one."""
    found: list[tuple[int, int]] = []
    widest: tuple[int, int, int] | None = None
    for one in sorted(ranges):
        if widest is not None and one[0] <= widest[1]:
            found.append((max(one[2], widest[2]), min(one[2], widest[2])))
        if widest is None or one[1] > widest[1]:
            widest = one
    return sorted(found)


def _cidr(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _ports(text: str) -> str:
    parsed = parse_ports(text)
    assert parsed is not None
    first, last = parsed
    return str(first) if first == last else f"{first}-{last}"


def _required(value: str, field: str) -> list[FieldViolation]:
    return [] if value else [FieldViolation(field, "is required", "REQUIRED")]


def _port(field: str, problem: str) -> FieldViolation:
    return FieldViolation(field, problem, "PORT_INVALID")

"""What a user can ask of one interface besides its address: MTU, routes, policy rules, rate limits. Their rules. Pure."""

import ipaddress
from collections.abc import Iterator, Sequence

from controlplane.domain.instances import Nic, NicRoute, NicRule
from controlplane.domain.networks import Network, NetworkKind
from moorage.errors import FieldViolation

_MTU = range(576, 9001)
_LEAST_MTU_IPV6 = 1280
_RATE = range(8000, 10**11 + 1)
_RESERVED_TABLES = (253, 254, 255)  # default, main and local are the kernel's
_LAST_TABLE = 2**31 - 1
_PRIORITY = range(1, 32766)


def check(nics: Sequence[Nic], field: str) -> Iterator[FieldViolation]:
    """Everything that can be judged without the networks."""
    routed: dict[str, str] = {}
    priorities: dict[int, str] = {}
    for index, nic in enumerate(nics):
        where = f"{field}[{index}]"
        if nic.mtu and nic.mtu not in _MTU:
            yield FieldViolation(f"{where}.mtu", f"must be between {_MTU[0]} and {_MTU[-1]}", "OUT_OF_RANGE")
        for name in ("rate_in_bits", "rate_out_bits"):
            if getattr(nic, name) and getattr(nic, name) not in _RATE:
                yield FieldViolation(f"{where}.{name}", "must be between 8 kbit/s and 100 Gbit/s", "OUT_OF_RANGE")
        for number, route in enumerate(nic.routes):
            place = f"{where}.routes[{number}]"
            yield from _route(route, place)
            if ipaddress_of(route.destination) is not None and route.destination.endswith("/0"):
                yield FieldViolation(
                    f"{place}.destination",
                    "the default route is the network's; put another into a rule's table",
                    "ROUTE_INVALID",
                )
            elif route.destination in routed:
                yield FieldViolation(
                    f"{place}.destination",
                    f"{route.destination} is routed by {routed[route.destination]} too",
                    "ROUTE_INVALID",
                )
            routed[route.destination] = place
        for number, rule in enumerate(nic.rules):
            place = f"{where}.rules[{number}]"
            yield from _rule(rule, place)
            if rule.priority and rule.priority in priorities:
                yield FieldViolation(
                    f"{place}.priority", f"{priorities[rule.priority]} has {rule.priority} too", "RULE_INVALID"
                )
            priorities[rule.priority] = place


def check_on(nic: Nic, network: Network, field: str) -> Iterator[FieldViolation]:
    """What does not go with the network."""
    has_ipv6 = any(":" in subnet.cidr for subnet in network.spec.subnets)
    if has_ipv6 and 0 < nic.mtu < _LEAST_MTU_IPV6:
        yield FieldViolation(f"{field}.mtu", f"IPv6, which {network.name} has, needs 1280 at least", "OUT_OF_RANGE")
    if not network.spec.has_host_end and nic.rate_in_bits:
        yield FieldViolation(
            f"{field}.rate_in_bits", f"{network.name} has no host end to limit at; use a bridge", "NOT_ALLOWED"
        )
    if network.spec.kind is not NetworkKind.SHARED and nic.mtu > network.spec.mtu:
        yield FieldViolation(f"{field}.mtu", f"{network.name} carries {network.spec.mtu} at most", "OUT_OF_RANGE")


def ipaddress_of(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The subnet (an address is one of its own), or None when it is none."""
    try:
        return None if "%" in cidr else ipaddress.ip_network(cidr)
    except ValueError:
        return None


def _route(route: NicRoute, field: str) -> Iterator[FieldViolation]:
    destination, gateway = ipaddress_of(route.destination), ipaddress_of(route.gateway)
    if destination is None:
        yield FieldViolation(
            f"{field}.destination", f"{route.destination!r} is no subnet (host bits must be zero)", "ROUTE_INVALID"
        )
    if not route.gateway:
        return
    if gateway is None or "/" in route.gateway:
        yield FieldViolation(f"{field}.gateway", f"{route.gateway!r} is no address", "ADDRESS_INVALID")
    elif destination is not None and destination.version != gateway.version:
        yield FieldViolation(f"{field}.gateway", "is of another family than the destination", "ROUTE_INVALID")


def _rule(rule: NicRule, field: str) -> Iterator[FieldViolation]:
    ends = {name: getattr(rule, name) for name in ("source", "destination") if getattr(rule, name)}
    versions = set()
    for name, text in ends.items():
        found = ipaddress_of(text)
        if found is None:
            yield FieldViolation(f"{field}.{name}", f"{text!r} is neither address nor subnet", "RULE_INVALID")
        else:
            versions.add(found.version)
    if len(versions) > 1:
        yield FieldViolation(field, "source and destination are of different families", "RULE_INVALID")
    if not ends and not rule.fwmark:
        yield FieldViolation(field, "needs a source, a destination or a fwmark", "RULE_INVALID")
    if not 0 < rule.table <= _LAST_TABLE or rule.table in _RESERVED_TABLES:
        yield FieldViolation(f"{field}.table", "must be 1-252, or 256 and above", "OUT_OF_RANGE")
    if not 0 <= rule.fwmark < 1 << 32:
        yield FieldViolation(f"{field}.fwmark", "must have 32 bits at most", "OUT_OF_RANGE")
    if rule.priority and rule.priority not in _PRIORITY:
        yield FieldViolation(f"{field}.priority", "must be between 1 and 32765", "OUT_OF_RANGE")
    for number, route in enumerate(rule.routes):
        yield from _route(route, f"{field}.routes[{number}]")

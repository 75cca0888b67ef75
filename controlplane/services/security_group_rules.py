"""Field rules of security groups: everything that can be judged without looking at stored objects, all of it at once."""

import ipaddress
from collections.abc import Iterator

from controlplane.domain.instances import InstanceSpec
from controlplane.domain.security_groups import SecurityDirection, SecurityGroupSpec, SecurityRule
from moorage.errors import FieldViolation
from moorage.router_bundle import TrafficProtocol

LARGEST_RULES = 200
LARGEST_CIDRS = 100
LARGEST_GROUPS_OF_NIC = 16
_LARGEST_DESCRIPTION = 1024
_WITH_PORTS = (TrafficProtocol.TCP, TrafficProtocol.UDP)
_FAMILY = {TrafficProtocol.ICMP: 4, TrafficProtocol.ICMPV6: 6}
#: With these a process takes the rules of its own namespace away, or sends what they never see; and the host's end cannot be stateful,
#: for no kernel that we support tracks connections there.
_POWERS = frozenset({"ALL", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"})


def check_spec(spec: SecurityGroupSpec, field: str) -> list[FieldViolation]:
    """Every violation, in the order of the fields."""
    found: list[FieldViolation] = []
    if len(spec.description) > _LARGEST_DESCRIPTION:
        found.append(FieldViolation(f"{field}.description", "must be at most 1024 characters", "OUT_OF_RANGE"))
    if len(spec.rules) > LARGEST_RULES:
        found.append(FieldViolation(f"{field}.rules", f"must be at most {LARGEST_RULES}", "OUT_OF_RANGE"))
    seen: dict[SecurityRule, int] = {}
    for index, rule in enumerate(spec.rules):
        where = f"{field}.rules[{index}]"
        found += _check_rule(rule, where)
        if rule in seen:
            found.append(FieldViolation(where, f"is the same as rules[{seen[rule]}]; leave one out", "RULE_DUPLICATE"))
        seen.setdefault(rule, index)
    return found


def check_powers(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    """What makes the groups of an instance's interfaces worthless."""
    if not any(nic.security_groups for nic in spec.nics):
        return
    words = "could go round the security groups of its interfaces, which the host's end cannot enforce; leave one of them out"
    if spec.privileged:
        yield FieldViolation(f"{field}.privileged", f"a privileged instance {words}", "SECURITY_GROUP_UNENFORCEABLE")
    for index, capability in enumerate(spec.capabilities_add):
        name = capability.upper().removeprefix("CAP_")
        if name in _POWERS:
            yield FieldViolation(
                f"{field}.capabilities_add[{index}]", f"with {name} it {words}", "SECURITY_GROUP_UNENFORCEABLE"
            )


def check_groups_of_nics(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    """How many groups an interface names, and none twice."""
    for index, nic in enumerate(spec.nics):
        where = f"{field}.nics[{index}].security_groups"
        if len(nic.security_groups) > LARGEST_GROUPS_OF_NIC:
            yield FieldViolation(where, f"must be at most {LARGEST_GROUPS_OF_NIC}", "OUT_OF_RANGE")
        if len({name.rpartition("/")[2] for name in nic.security_groups}) < len(nic.security_groups):
            yield FieldViolation(where, "names a group twice", "INVALID")


def _check_rule(rule: SecurityRule, where: str) -> Iterator[FieldViolation]:
    if rule.direction is SecurityDirection.UNSPECIFIED:
        yield FieldViolation(f"{where}.direction", "must be IN or OUT", "REQUIRED")
    if rule.ports and rule.protocol not in _WITH_PORTS:
        yield FieldViolation(f"{where}.ports", "only TCP and UDP have ports", "NOT_ALLOWED")
    yield from _check_ports(rule.ports, f"{where}.ports")
    if rule.icmp_type is not None:
        if rule.protocol not in _FAMILY:
            yield FieldViolation(f"{where}.icmp_type", "only ICMP and ICMPV6 have types", "NOT_ALLOWED")
        elif not 0 <= rule.icmp_type <= 255:
            yield FieldViolation(f"{where}.icmp_type", "must be between 0 and 255", "OUT_OF_RANGE")
    if rule.cidrs and rule.group:
        yield FieldViolation(f"{where}.group", "cannot go with cidrs; write two rules", "NOT_ALLOWED")
    if len(rule.cidrs) > LARGEST_CIDRS:
        yield FieldViolation(f"{where}.cidrs", f"must be at most {LARGEST_CIDRS}", "OUT_OF_RANGE")
    for index, cidr in enumerate(rule.cidrs):
        problem = _cidr_problem(cidr, _FAMILY.get(rule.protocol))
        if problem:
            yield FieldViolation(f"{where}.cidrs[{index}]", problem, "CIDR_INVALID")


def _check_ports(ports: tuple[str, ...], where: str) -> Iterator[FieldViolation]:
    taken: list[tuple[int, int]] = []
    for index, word in enumerate(ports):
        first, dash, last = word.partition("-")
        is_range = _is_number(first) and (not dash or _is_number(last))
        low, high = (int(first), int(last or first)) if is_range else (0, 0)
        if not 1 <= low <= high <= 65535:
            yield FieldViolation(
                f"{where}[{index}]",
                f"{word!r} is no port or range between 1 and 65535, such as 80 or 8000-8010",
                "PORTS_INVALID",
            )
        elif any(low <= other_high and other_low <= high for other_low, other_high in taken):
            yield FieldViolation(f"{where}[{index}]", f"{word} overlaps another range of this rule", "PORTS_OVERLAP")
        else:
            taken.append((low, high))


def _is_number(word: str) -> bool:
    """As the hosts' packet filter reads it too: a leading zero would make it octal, and what it cannot read costs all rules."""
    return word.isascii() and word.isdecimal() and len(word) <= 5 and not word.startswith("0")


def _cidr_problem(cidr: str, family: int | None) -> str:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        return f"{cidr!r} is no subnet such as 10.1.0.0/24 or fd00:1::/64: {error}"
    if "%" in cidr or "/" not in cidr:
        return f"{cidr!r} has no prefix length; for one address write {network}"
    if family is not None and network.version != family:
        return f"{cidr} is of the other family than the protocol"
    return ""

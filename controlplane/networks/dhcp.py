"""What DHCP on a network must look like. Pure.

A bundle that the router's dnsmasq refuses would hold up every other change of that router, so what is wrong is found out here.
"""

import ipaddress
import re
from collections.abc import Iterator

from controlplane.domain.networks import DhcpHost, DhcpSpec, NetworkKind, NetworkSpec
from moorage.errors import FieldViolation
from moorage.router_bundle import DhcpOption

_LEASE_SECONDS = (60.0, 30 * 86400.0)
_OWN_OPTIONS = frozenset({1, 3, 6, 15, 26, *range(50, 60), 61, 82})  # the router's, and the protocol's
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_Addresses = tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]


def check_dhcp(spec: NetworkSpec, field: str) -> list[FieldViolation]:
    """Nothing, or everything that is wrong. Subnets of the network are looked at as far as they can be read."""
    dhcp = spec.dhcp
    if dhcp is None or dhcp == DhcpSpec():
        return []
    if spec.kind is NetworkKind.SHARED:
        return [FieldViolation(field, "a shared network has the DHCP of what else is on it", "NOT_ALLOWED")]
    found = list(_check_ranges(spec, dhcp, field))
    least, most = _LEASE_SECONDS
    if dhcp.lease_time_seconds and not least <= dhcp.lease_time_seconds <= most:
        found.append(FieldViolation(f"{field}.lease_time", "must be one minute to thirty days", "OUT_OF_RANGE"))
    for index, option in enumerate(dhcp.options):
        found += _check_option(option, f"{field}.options[{index}]")
    for index, host in enumerate(dhcp.hosts):
        found += _check_host(spec, host, f"{field}.hosts[{index}]")
    for name, reason in (("mac", "MAC_INVALID"), ("address", "ADDRESS_INVALID")):
        values = [getattr(host, name).lower() for host in dhcp.hosts]
        for index, value in enumerate(values):
            if value in values[:index]:
                found.append(FieldViolation(f"{field}.hosts[{index}].{name}", f"{value} is named twice", reason))
    return found


def _check_ranges(spec: NetworkSpec, dhcp: DhcpSpec, field: str) -> Iterator[FieldViolation]:
    taken: list[_Addresses] = []
    for index, text in enumerate(dhcp.ranges):
        where = f"{field}.ranges[{index}]"
        ends = _ends(text)
        subnet = next((s for s in spec.subnets if ends and _holds(s.cidr, *ends)), None)
        if ends is None or subnet is None:
            problem = f"{text!r} is no FIRST-LAST inside an IPv4 subnet that the network names"
            yield FieldViolation(where, problem, "RANGE_INVALID")
            continue
        automatic = [found for found in map(_ends, subnet.ranges) if found] or [_hosts(subnet.cidr)]
        if any(_overlap(ends, other) for other in automatic):
            problem = f"instances get addresses of {text} too: give the subnet ranges that leave them out"
            yield FieldViolation(where, problem, "RANGE_INVALID")
        gateway = subnet.gateway or str(_hosts(subnet.cidr)[0])
        if ends[0] <= ipaddress.IPv4Address(gateway) <= ends[1]:
            yield FieldViolation(where, f"{text} holds the gateway {gateway}", "RANGE_INVALID")
        if any(_overlap(ends, other) for other in taken):
            yield FieldViolation(where, f"{text} overlaps with one before it", "RANGE_INVALID")
        taken.append(ends)


def _check_option(option: DhcpOption, field: str) -> Iterator[FieldViolation]:
    if not 1 < option.code < 255 or option.code in _OWN_OPTIONS:
        yield FieldViolation(
            f"{field}.code",
            f"{option.code} is no option that can be set (1, 3, 6, 15, 26, 50-59, 61, 82)",
            "OUT_OF_RANGE",
        )
    if not _VALUE.fullmatch(option.value):
        yield FieldViolation(f"{field}.value", "must be 1-255 printable characters", "DHCP_VALUE_INVALID")


def _check_host(spec: NetworkSpec, host: DhcpHost, field: str) -> Iterator[FieldViolation]:
    if not _MAC.fullmatch(host.mac.lower()):
        yield FieldViolation(f"{field}.mac", f"{host.mac!r} is no unicast MAC address", "MAC_INVALID")
    # As it is: the router's agent takes no spaces beside it, and it is compared with the gateway and with other hosts'.
    ends = _ends(f"{host.address}-{host.address}") if host.address == host.address.strip() else None
    subnet = next((s for s in spec.subnets if ends and _holds(s.cidr, *ends)), None)
    if subnet is None or host.address == (subnet.gateway or str(_hosts(subnet.cidr)[0])):
        problem = f"{host.address!r} is no address for a host in an IPv4 subnet that the network names"
        yield FieldViolation(f"{field}.address", problem, "ADDRESS_INVALID")
    if host.hostname and not _HOSTNAME.fullmatch(host.hostname):
        yield FieldViolation(f"{field}.hostname", f"{host.hostname!r} is no host name", "HOSTNAME_INVALID")


def _ends(text: str) -> _Addresses | None:
    first, _, last = text.partition("-")
    try:
        ends = ipaddress.IPv4Address(first.strip()), ipaddress.IPv4Address(last.strip())
    except ValueError:
        return None
    return ends if ends[0] <= ends[1] else None


def _network(cidr: str) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(cidr)
    except ValueError:
        return None


def _holds(cidr: str, *addresses: ipaddress.IPv4Address) -> bool:
    network = _network(cidr)
    if network is None:
        return False
    edges = (network.network_address, network.broadcast_address)
    return all(address in network and address not in edges for address in addresses)


def _hosts(cidr: str) -> _Addresses:
    """First and last address that a member can have. `cidr` is one that `_holds` something."""
    network = ipaddress.IPv4Network(cidr)
    return network.network_address + 1, network.broadcast_address - 1


def _overlap(one: _Addresses, other: _Addresses) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]

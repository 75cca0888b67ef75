"""What a network's subnets must look like, and which ones are chosen when the user names none."""

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from controlplane.domain.networks import NetworkKind, NetworkSpec, Subnet
from controlplane.networks import attachments
from controlplane.networks.dhcp import check_dhcp
from controlplane.networks.domains import check_dns
from moorage.errors import Exhausted, FieldViolation

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

POOL = ipaddress.ip_network(
    "10.64.0.0/10"
)  # automatic subnets: a part of 10/8 that few routers and clouds use by default
POOL_PREFIX = 24
ISOLATED_MTU = 1450  # 1500 less outer IPv4, UDP, VXLAN and inner Ethernet headers
SHARED_MTU = 1500
_MTU_RANGE = range(1280, 9001)
_NOT_FOR_MEMBERS = tuple(
    ipaddress.ip_network(cidr)
    for cidr in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/96", "fe80::/10", "ff00::/8")
)


def check_spec(spec: NetworkSpec, field: str) -> list[FieldViolation]:
    """Nothing, or everything that is wrong with a network's spec."""
    found: list[FieldViolation] = []
    shared = spec.kind is NetworkKind.SHARED
    found += attachments.check(spec, field)
    if shared and not spec.subnets and not spec.dhcp_client:
        found.append(FieldViolation(f"{field}.subnets", "a shared network needs its subnets", "REQUIRED"))
    if shared and spec.egress:
        found.append(
            FieldViolation(f"{field}.egress", "a shared network reaches what its bridge reaches", "NOT_ALLOWED")
        )
    if spec.mtu and spec.mtu not in _MTU_RANGE:
        found.append(FieldViolation(f"{field}.mtu", "must be between 1280 and 9000", "OUT_OF_RANGE"))
    found += check_dns(spec.dns, f"{field}.dns")
    found += check_dhcp(spec, f"{field}.dhcp")
    families: set[int] = set()
    for index, subnet in enumerate(spec.subnets):
        where = f"{field}.subnets[{index}]"
        problems = _check_subnet(subnet, where)
        found += problems
        if not problems:
            version = ipaddress.ip_network(subnet.cidr).version
            if version in families:
                found.append(FieldViolation(f"{where}.cidr", f"a second IPv{version} subnet", "SUBNET_OVERLAPS"))
            families.add(version)
    return found


def _check_subnet(subnet: Subnet, where: str) -> list[FieldViolation]:
    try:
        network = ipaddress.ip_network(subnet.cidr)
    except ValueError as error:
        return [FieldViolation(f"{where}.cidr", f"{subnet.cidr!r} is no subnet: {error}", "SUBNET_INVALID")]
    found: list[FieldViolation] = []
    if "/" not in subnet.cidr or "%" in subnet.cidr or network.num_addresses < 4:
        found.append(
            FieldViolation(f"{where}.cidr", "must have room for two members: /30 or /126 at most", "SUBNET_INVALID")
        )
    if any(network.version == other.version and network.overlaps(other) for other in _NOT_FOR_MEMBERS):
        found.append(
            FieldViolation(
                f"{where}.cidr", "holds loopback, link-local, multicast or reserved addresses", "SUBNET_INVALID"
            )
        )
    if subnet.gateway:
        gateway = parse_address(subnet.gateway)
        if gateway is None or gateway not in network or _is_edge(gateway, network):
            found.append(
                FieldViolation(f"{where}.gateway", f"{subnet.gateway!r} is no address of {network}", "ADDRESS_INVALID")
            )
    for index, text in enumerate(subnet.ranges):
        if _range(text, network) is None:
            found.append(
                FieldViolation(
                    f"{where}.ranges[{index}]", f"{text!r} is no FIRST-LAST inside {network}", "RANGE_INVALID"
                )
            )
    return found


def parse_address(text: str) -> IpAddress | None:
    """The address, or None when it is none: neither a prefix length nor a zone (`%eth0`, behind which anything may stand) is."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_edge(address: IpAddress, network: IpNetwork) -> bool:
    """Network and (IPv4) broadcast address, which no member can have."""
    if address == network.network_address:
        return True
    return network.version == 4 and address == network.broadcast_address


def _range(text: str, network: IpNetwork) -> tuple[int, int] | None:
    first_text, _, last_text = text.partition("-")
    first, last = parse_address(first_text.strip()), parse_address(last_text.strip())
    if first is None or last is None or first not in network or last not in network or int(first) > int(last):
        return None
    return int(first), int(last)


def with_defaults(spec: NetworkSpec, network_uid: str, taken: Iterable[str]) -> NetworkSpec:
    """The spec with everything chosen that the user left open. `taken` are the CIDRs of the project's other networks.

    Raises:
        Exhausted: no automatic subnet is left.
    """
    kind = NetworkKind.ISOLATED if spec.kind is NetworkKind.UNSPECIFIED else spec.kind
    subnets: Sequence[Subnet] = spec.subnets
    if not subnets and not spec.dhcp_client:
        subnets = (Subnet(_free_subnet(taken)), Subnet(_local_subnet(network_uid)))
    if kind is NetworkKind.ISOLATED:
        subnets = [s if s.gateway else replace(s, gateway=first_address(s.cidr)) for s in subnets]
    subnets = [
        replace(s, cidr=str(ipaddress.ip_network(s.cidr)), gateway=s.gateway and canonical(s.gateway)) for s in subnets
    ]
    mtu = spec.mtu or (SHARED_MTU if kind is NetworkKind.SHARED else ISOLATED_MTU)
    return attachments.with_defaults(replace(spec, kind=kind, subnets=tuple(subnets), mtu=mtu))


def first_address(cidr: str) -> str:
    """The address after the network's own."""
    network = ipaddress.ip_network(cidr)
    return str(network.network_address + 1)


def _free_subnet(taken: Iterable[str]) -> str:
    others = [n for n in map(ipaddress.ip_network, taken) if n.version == 4]
    for candidate in POOL.subnets(new_prefix=POOL_PREFIX):
        if not any(candidate.overlaps(other) for other in others):
            return str(candidate)
    raise Exhausted(f"no automatic subnet is left in {POOL}; name one with --subnet", reason="SUBNETS_EXHAUSTED")


def _local_subnet(network_uid: str) -> str:
    """A /64 of the unique local addresses (RFC 4193), from a hash of the network's uid."""
    digest = hashlib.sha256(network_uid.encode()).digest()
    return str(ipaddress.IPv6Network((bytes([0xFD]) + digest[:7] + bytes(8), 64)))


def overlaps(one: Iterable[str], other: Iterable[str]) -> str | None:
    """A CIDR of `one` that overlaps one of `other`, if any does."""
    others = [ipaddress.ip_network(cidr) for cidr in other]
    for cidr in one:
        network = ipaddress.ip_network(cidr)
        if any(network.version == o.version and network.overlaps(o) for o in others):
            return cidr
    return None


def check_wanted(address: str, subnet: Subnet) -> str | None:
    """What is wrong with a wanted address, or None. It must lie in the subnet: the caller has seen to that."""
    network = ipaddress.ip_network(subnet.cidr)
    parsed = parse_address(address)
    assert parsed is not None
    if _is_edge(parsed, network):
        return "is the subnet's network or broadcast address"
    if subnet.gateway and parsed == ipaddress.ip_address(subnet.gateway):
        return "is the subnet's gateway"
    return None


def subnet_of(address: str, subnets: Sequence[Subnet]) -> Subnet | None:
    """The subnet that the address lies in."""
    parsed = parse_address(address)
    if parsed is None:
        return None
    for subnet in subnets:
        if parsed in ipaddress.ip_network(subnet.cidr):
            return subnet
    return None


def free_address(subnet: Subnet, is_taken: Callable[[str], bool], after: str = "") -> str:
    """The first free address after `after`, going round; recently released ones are thus not given again at once.

    Raises:
        Exhausted: none is left.
    """
    network = ipaddress.ip_network(subnet.cidr)
    gateway = ipaddress.ip_address(subnet.gateway) if subnet.gateway else None
    ranges = [r for r in (_range(text, network) for text in subnet.ranges) if r is not None]
    if not ranges:
        last = int(network.network_address) + network.num_addresses - 1
        ranges = [(int(network.network_address) + 1, last - 1 if network.version == 4 else last)]
    ranges.sort()
    factory = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
    start = int(ipaddress.ip_address(after)) if after else -1
    later = [(max(first, start + 1), last) for first, last in ranges if last > start]
    earlier = [(first, min(last, start)) for first, last in ranges if first <= start]
    for first, last in (*later, *earlier):
        for number in range(first, last + 1):
            address = factory(number)
            if address != gateway and not is_taken(str(address)):
                return str(address)
    raise Exhausted(
        f"no address is left in {subnet.cidr}; delete instances or make a bigger network",
        reason="ADDRESSES_EXHAUSTED",
        metadata={"subnet": subnet.cidr},
    )


def canonical(address: str) -> str:
    """One spelling for one address."""
    return str(ipaddress.ip_address(address))


def prefix_length(subnet: Subnet) -> int:
    """Of the subnet."""
    return ipaddress.ip_network(subnet.cidr).prefixlen

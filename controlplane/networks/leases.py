"""Addresses for the interfaces of one instance, chosen against what is taken. Pure: the caller writes the leases."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from controlplane.domain.instances import InstanceNic, Nic
from controlplane.domain.networks import Network, NetworkKind, Subnet
from controlplane.networks.macs import DERIVED_PREFIXES, derived_mac, normal_mac
from controlplane.networks.subnets import (
    canonical,
    check_wanted,
    free_address,
    overlaps,
    parse_address,
    prefix_length,
    subnet_of,
)
from moorage.errors import FieldViolation, InvalidSpec


@dataclass
class Cursors:
    """Where the last automatic address was found, for each subnet; lost with the process, which does no harm."""

    after: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """What is in use: `owner_of(network uid, address)` names the owner or None, `has_mac(network uid, mac)` tells."""

    owner_of: Callable[[str, str], str | None]
    has_mac: Callable[[str, str], bool]


def assign_nics(
    nics: tuple[Nic, ...],
    networks: Mapping[str, Network],
    taken: Taken,
    cursors: Cursors,
    where: str,
    keep: Mapping[str, InstanceNic] | None = None,
    behind: frozenset[str] = frozenset(),
) -> tuple[InstanceNic, ...]:
    """Every interface with its addresses.

    Args:
        networks: by name; every nic's network is among them.
        behind: uids of the networks that the instance is the router of: it may hold their gateway addresses, sends on what
            others sent, and has no default route there.
        where: path of the nics in the request, for errors.
        keep: interfaces of the instance that is replaced, by interface name: their addresses go on where they fit.
    Raises:
        InvalidSpec: every bad field at once.
        Exhausted: a subnet is full.
    """
    found: list[FieldViolation] = []
    result: list[InstanceNic] = []
    names: set[str] = set()
    chosen: set[tuple[str, str]] = set()
    gateway_families: set[int] = set()
    for index, nic in enumerate(nics):
        place = f"{where}[{index}]"
        network = networks[nic.network]
        interface = nic.interface or f"eth{index}"
        if interface in names or not _is_interface_name(interface):
            found.append(FieldViolation(f"{place}.interface", f"{interface!r} is taken or no valid name", "INVALID"))
        names.add(interface)
        for other in result:
            if overlaps(_cidrs(network), [s.cidr for s in networks[other.network].spec.subnets]):
                found.append(
                    FieldViolation(f"{place}.network", f"overlaps the subnet of {other.network}", "SUBNET_OVERLAPS")
                )
        old = (keep or {}).get(interface)
        addresses, problems = _addresses(nic, network, taken, cursors, chosen, place, old, network.uid in behind)
        found += problems
        mac = normal_mac(nic.mac) if nic.mac else None
        if nic.mac and mac is None:
            found.append(FieldViolation(f"{place}.mac", f"{nic.mac!r} is no unicast MAC address", "MAC_INVALID"))
        elif mac is not None and taken.has_mac(network.uid, mac) and not _has_it(old, network, mac):
            found.append(FieldViolation(f"{place}.mac", f"{mac} is taken", "MAC_TAKEN"))
        if problems or not addresses:
            continue
        derived = derived_mac(network.uid, next(iter(addresses.values())))
        if mac is not None and mac[:5] in DERIVED_PREFIXES and mac != derived:
            found.append(FieldViolation(f"{place}.mac", f"{mac[:5]}... is kept for addresses' own MACs", "MAC_TAKEN"))
        mac = mac or derived
        is_behind = network.uid in behind
        gateways = () if is_behind else _gateways(network, addresses, gateway_families)
        with_prefix = tuple(f"{address}/{prefix_length(s)}" for s, address in addresses.items())
        result.append(InstanceNic(network.uid, network.name, interface, mac, with_prefix, gateways, is_behind))
    if found:
        raise InvalidSpec(found)
    return tuple(result)


def _has_it(old: InstanceNic | None, network: Network, mac: str) -> bool:
    return old is not None and (old.network_uid, old.mac) == (network.uid, mac)


def _cidrs(network: Network) -> list[str]:
    return [subnet.cidr for subnet in network.spec.subnets]


def _is_interface_name(name: str) -> bool:
    return 0 < len(name) <= 15 and name.isascii() and name.replace("-", "").replace("_", "").isalnum() and name != "lo"


def _addresses(
    nic: Nic,
    network: Network,
    taken: Taken,
    cursors: Cursors,
    chosen: set[tuple[str, str]],
    place: str,
    old: InstanceNic | None,
    may_hold_gateway: bool,
) -> tuple[dict[Subnet, str], list[FieldViolation]]:
    found: list[FieldViolation] = []
    wanted: dict[Subnet, str] = {}
    own = {a.split("/")[0] for a in old.addresses} if old is not None and old.network_uid == network.uid else set()
    for index, text in enumerate(nic.addresses):
        where = f"{place}.addresses[{index}]"
        if parse_address(text) is None:
            found.append(FieldViolation(where, f"{text!r} is no address (give it without /prefix)", "ADDRESS_INVALID"))
            continue
        address = canonical(text)
        subnet = subnet_of(address, network.spec.subnets)
        if subnet is None:
            found.append(
                FieldViolation(where, f"{address} is outside {', '.join(_cidrs(network))}", "ADDRESS_OUTSIDE_SUBNET")
            )
            continue
        is_gateway = bool(subnet.gateway) and address == canonical(subnet.gateway)
        problem = None if may_hold_gateway and is_gateway else check_wanted(address, subnet)
        owner = taken.owner_of(network.uid, address)
        if problem is not None:
            found.append(FieldViolation(where, f"{address} {problem}", "ADDRESS_RESERVED"))
        elif subnet in wanted:
            found.append(FieldViolation(where, f"a second address of {subnet.cidr}", "INVALID"))
        elif (owner is not None and address not in own) or (network.uid, address) in chosen:
            found.append(FieldViolation(where, f"{address} is taken", "ADDRESS_TAKEN"))
        wanted[subnet] = address
    addresses: dict[Subnet, str] = {}
    if found:
        return addresses, found
    for subnet in network.spec.subnets:
        address = wanted.get(subnet, "") or _kept(own, subnet)
        if not address:
            key = f"{network.uid}/{subnet.cidr}"
            address = free_address(
                subnet,
                lambda a: taken.owner_of(network.uid, a) is not None or (network.uid, a) in chosen,
                cursors.after.get(key, ""),
            )
            cursors.after[key] = address
        chosen.add((network.uid, address))
        addresses[subnet] = address
    return addresses, found


def _kept(own: set[str], subnet: Subnet) -> str:
    return next((address for address in sorted(own) if subnet_of(address, (subnet,)) is not None), "")


def _gateways(network: Network, addresses: Mapping[Subnet, str], families: set[int]) -> tuple[str, ...]:
    """Default routes of this interface: the first interface that can have one of a family gets it."""
    found = []
    for subnet in addresses:
        version = 6 if ":" in subnet.cidr else 4
        # An isolated network without egress has a gateway too: published ports answer through it.
        if (
            subnet.gateway
            and version not in families
            and network.spec.kind in (NetworkKind.ISOLATED, NetworkKind.SHARED)
        ):
            families.add(version)
            found.append(subnet.gateway)
    return tuple(found)

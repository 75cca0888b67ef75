"""Addresses for the interfaces of one instance, chosen against what is taken. Pure: the caller writes the leases."""

import hashlib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from controlplane.domain.instances import InstanceNic, Nic
from controlplane.domain.networks import Network, NetworkKind, Subnet
from controlplane.networks import nic_options
from controlplane.networks.macs import DERIVED_PREFIXES, derived_mac, free_mac, normal_mac
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
    """What others than the instance use, as (network uid, address) and (network uid, MAC)."""

    has_address: Callable[[str, str], bool]
    has_mac: Callable[[str, str], bool]
    owner_uid: str = ""  # of the instance itself


def with_interfaces(wanted: Sequence[Nic], have: Sequence[InstanceNic]) -> tuple[Nic, ...]:
    """The nics, each with the name of its interface, for an instance that has some already.

    One without a name means the interface that the instance has on that network, else a new one with the first free name. So what is
    not meant to change keeps its name, wherever it stands in the list.
    """
    named = {nic.interface for nic in wanted if nic.interface}
    known = {nic.network: nic.interface for nic in have if nic.interface not in named}
    taken = named | set(known.values())
    spare = (name for number in range(len(wanted) + len(have)) if (name := f"eth{number}") not in taken)
    return tuple(
        nic if nic.interface else replace(nic, interface=known.pop(nic.network, "") or next(spare)) for nic in wanted
    )


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
        keep: interfaces of the instance that is changed, by interface name: their addresses and MACs go on where they fit.
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
            if other.network == network.name or overlaps(
                _cidrs(network), [s.cidr for s in networks[other.network].spec.subnets]
            ):
                found.append(
                    FieldViolation(f"{place}.network", f"overlaps the subnet of {other.network}", "SUBNET_OVERLAPS")
                )
        found += nic_options.check_on(nic, network, place)
        old = (keep or {}).get(interface)
        addresses, problems = _addresses(nic, network, taken, cursors, chosen, place, old, network.uid in behind)
        found += problems
        mac = normal_mac(nic.mac) if nic.mac else None
        if nic.mac and mac is None:
            found.append(FieldViolation(f"{place}.mac", f"{nic.mac!r} is no unicast MAC address", "MAC_INVALID"))
        elif mac is not None and taken.has_mac(network.uid, mac):
            found.append(FieldViolation(f"{place}.mac", f"{mac} is taken", "MAC_TAKEN"))
        if problems or not (addresses or network.spec.dhcp_client):
            continue
        # Without an address of ours the MAC is made from who has it.
        first = addresses[0][1] if addresses else _stand_in(taken.owner_uid, interface)
        kept = old.mac if old is not None and old.network_uid == network.uid else ""
        if mac is not None and mac[:5] in DERIVED_PREFIXES and mac not in (kept, derived_mac(network.uid, first)):
            found.append(FieldViolation(f"{place}.mac", f"{mac[:5]}... is kept for addresses' own MACs", "MAC_TAKEN"))
        if mac is None and kept[:5] in DERIVED_PREFIXES:
            mac = kept  # neighbours know it, and connections go on
        mac = mac or free_mac(network.uid, first, partial(taken.has_mac, network.uid))
        is_behind = network.uid in behind
        gateways = () if is_behind else _gateways(network, [subnet for subnet, _ in addresses], gateway_families)
        with_prefix = tuple(f"{address}/{prefix_length(subnet)}" for subnet, address in addresses)
        result.append(
            InstanceNic(
                network.uid,
                network.name,
                interface,
                mac,
                with_prefix,
                gateways,
                is_behind,
                mtu=nic.mtu,
                routes=nic.routes,
                rules=nic.rules,
                rate_in_bits=nic.rate_in_bits,
                rate_out_bits=nic.rate_out_bits,
                dhcp_client=network.spec.dhcp_client,
            )
        )
    if found:
        raise InvalidSpec(found)
    return tuple(result)


def _stand_in(owner_uid: str, interface: str) -> str:
    """Something that an address can be made of, and with it a MAC: the same for one interface of one instance always."""
    digest = hashlib.sha256(f"{owner_uid}/{interface}".encode()).digest()
    return str(ipaddress.IPv6Address(digest[:16]))


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
) -> tuple[list[tuple[Subnet, str]], list[FieldViolation]]:
    found: list[FieldViolation] = []
    wanted: dict[Subnet, list[str]] = {}
    own = [a.split("/")[0] for a in old.addresses] if old is not None and old.network_uid == network.uid else []
    if nic.addresses and network.spec.dhcp_client:
        found.append(FieldViolation(f"{place}.addresses", "come from the DHCP server outside", "NOT_ALLOWED"))
        return [], found
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
        if problem is not None:
            found.append(FieldViolation(where, f"{address} {problem}", "ADDRESS_RESERVED"))
        elif address in wanted.get(subnet, ()):
            found.append(FieldViolation(where, f"{address} is named twice", "INVALID"))
        elif taken.has_address(network.uid, address) or (network.uid, address) in chosen:
            found.append(FieldViolation(where, f"{address} is taken", "ADDRESS_TAKEN"))
        wanted.setdefault(subnet, []).append(address)
    addresses: list[tuple[Subnet, str]] = []
    if found:
        return addresses, found
    promised = _promised(network)
    for subnet in network.spec.subnets:
        several = wanted.get(subnet) or [a for a in own if subnet_of(a, (subnet,)) is not None]
        if not several:
            key = f"{network.uid}/{subnet.cidr}"
            address = free_address(
                subnet,
                lambda a: a in promised or taken.has_address(network.uid, a) or (network.uid, a) in chosen,
                cursors.after.get(key, ""),
            )
            cursors.after[key] = address
            several = [address]
        chosen.update((network.uid, address) for address in several)
        addresses += [(subnet, address) for address in several]
    return addresses, found


def _promised(network: Network) -> frozenset[str]:
    """Addresses that DHCP gives to machines that are no instances: only an instance that names one gets it."""
    dhcp = network.spec.dhcp
    return frozenset() if dhcp is None else frozenset(host.address for host in dhcp.hosts)


def _gateways(network: Network, subnets: Sequence[Subnet], families: set[int]) -> tuple[str, ...]:
    """Default routes of this interface: the first interface that can have one of a family gets it."""
    found = []
    for subnet in dict.fromkeys(subnets):
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

"""What keepalived runs with in a member of a redundant pair, as text. Pure.

One VRRP instance on each leg, moved together by a group: the router is active on all of its legs or on none. The gateways are on an
interface of their own with the virtual MAC (macvlan), which the agent does not touch, and there only while the member is active.
Advertisements go by multicast and with the virtual MAC: bridges and VXLAN links of all hosts learn from them where it is, so
nobody else has to be told.

The outside is one more such leg, for the sake of public addresses. It is there from the beginning, with an address that nobody asks for:
keepalived has no instance without one, and one that came with the first public address would upset the group.

A member that comes back does not take over from one that works (nopreempt). Where both are active, after a partition, the lower
priority yields with the first advertisement that it hears.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moorage.router_bundle import LegBundle, PairBundle, RouterBundle, virtual_interface
from moorage.vrrp import virtual_link_local, virtual_version

#: A silence of three of these, and of a part of one that is the longer the lower the priority, makes a standby active.
ADVERT_SECONDS = 0.25
#: The dummy address of RFC 7600, which is nobody's anywhere. It is never seen: the guard passes no ARP of it.
_NOBODYS = "192.0.0.8"
ROLE_SCRIPT = "/usr/local/lib/moorage-router/router-role"


def configuration(bundle: RouterBundle) -> str:
    """The text of keepalived.conf; empty for a router that is alone."""
    pair = bundle.pair
    legs = [leg for leg in bundle.legs if leg.addresses]
    if pair is None or not legs:
        return ""
    head = ["vrrp_version 3", "enable_script_security", "script_user root", "dynamic_interfaces"]
    blocks = ["# Written by moorage-hostagent.", _block("global_defs", head)]
    notify = f'notify "{ROLE_SCRIPT}" root'
    sides = [_leg(pair, leg) for leg in legs]
    if outside := _outside(bundle, pair):
        sides.append(outside)
    if len(sides) > 1:
        group = _block("group", [side.interface for side in sides])
        blocks.append(_block("vrrp_sync_group router", [group, notify]))
        blocks += [_instance(pair, side) for side in sides]
    else:
        blocks.append(_instance(pair, sides[0], notify))
    return "\n".join(blocks) + "\n"


@dataclass(frozen=True, slots=True)
class _Side:
    """One VRRP instance: `told` are in its advertisements, `quiet` come along. All move with it."""

    interface: str
    virtual_id: int
    told: Sequence[str]
    quiet: Sequence[str]


def _leg(pair: PairBundle, leg: LegBundle) -> _Side:
    version = virtual_version(leg.addresses)
    told = [a for a in leg.addresses if ipaddress.ip_address(a).version == version]
    return _Side(leg.interface, pair.virtual_id, told, [a for a in leg.addresses if a not in told])


def _outside(bundle: RouterBundle, pair: PairBundle) -> _Side | None:
    """None where nothing of it moves. Advertisements never change with the public addresses, of which there may be many."""
    if not (pair.outside_virtual_id and bundle.outside_interface and bundle.outside_addresses):
        return None
    versions = {ipaddress.ip_address(address).version for address in bundle.outside_addresses}
    # The interface takes IPv6 for as long as it has an address of it from the beginning.
    link_local = [virtual_link_local(pair.outside_virtual_id, bundle.outside_addresses)] if 6 in versions else []
    told, quiet = ([_NOBODYS], link_local) if 4 in versions else (link_local, [])
    return _Side(bundle.outside_interface, pair.outside_virtual_id, told, [*quiet, *pair.outside_addresses])


def _instance(pair: PairBundle, side: _Side, *more: str) -> str:
    lines = [
        "state BACKUP",
        f"interface {side.interface}",
        f"virtual_router_id {side.virtual_id}",
        f"priority {pair.priority}",
        "nopreempt",
        "version 3",
        f"advert_int {ADVERT_SECONDS}",
        f"use_vmac {virtual_interface(side.interface)}",
        *more,
        _block("virtual_ipaddress", _alone(side.told)),
    ]
    if side.quiet:
        # One instance is of one family; what is excluded from its advertisements moves with it all the same. Without `dev` it would be
        # on the member's own interface.
        place = f"dev {virtual_interface(side.interface)}"
        lines.append(_block("virtual_ipaddress_excluded", [f"{one} {place}" for one in _alone(side.quiet)]))
    return _block(f"vrrp_instance {side.interface}", lines)


def _alone(addresses: Iterable[str]) -> list[str]:
    """Without the subnet: the way to the leg stays the member's own interface."""
    return [f"{address}/{ipaddress.ip_address(address).max_prefixlen}" for address in addresses]


def _block(head: str, lines: Iterable[str]) -> str:
    body = "".join(f"    {row}\n" for line in lines for row in line.split("\n"))
    return f"{head} {{\n{body}}}"

"""What keepalived runs with in a member of a redundant pair, as text. Pure.

One VRRP instance on each leg, moved together by a group: the router is active on all of its legs or on none. The gateways are on an
interface of their own with the virtual MAC (macvlan), which the agent does not touch, and there only while the member is active.
Advertisements go by multicast and with the virtual MAC: bridges and VXLAN links of all hosts learn from them where it is, so
nobody else has to be told.

A member that comes back does not take over from one that works (nopreempt). Where both are active, after a partition, the lower
priority yields with the first advertisement that it hears.
"""

import ipaddress
from collections.abc import Iterable

from moorage.router_bundle import LegBundle, PairBundle, RouterBundle, virtual_interface
from moorage.vrrp import virtual_version

#: A silence of three of these, and of a part of one that is the longer the lower the priority, makes a standby active.
ADVERT_SECONDS = 0.25
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
    if len(legs) > 1:
        group = _block("group", [leg.interface for leg in legs])
        blocks.append(_block("vrrp_sync_group router", [group, notify]))
        blocks += [_instance(pair, leg) for leg in legs]
    else:
        blocks.append(_instance(pair, legs[0], notify))
    return "\n".join(blocks) + "\n"


def _instance(pair: PairBundle, leg: LegBundle, *more: str) -> str:
    by_version = {
        version: [a for a in leg.addresses if ipaddress.ip_address(a).version == version] for version in (4, 6)
    }
    version = virtual_version(leg.addresses)
    lines = [
        "state BACKUP",
        f"interface {leg.interface}",
        f"virtual_router_id {pair.virtual_id}",
        f"priority {pair.priority}",
        "nopreempt",
        "version 3",
        f"advert_int {ADVERT_SECONDS}",
        f"use_vmac {virtual_interface(leg.interface)}",
        *more,
        _block("virtual_ipaddress", _alone(by_version[version])),
    ]
    if version == 4 and by_version[6]:
        # One instance is of one family; what is excluded from its advertisements moves with it all the same. Without `dev` it would be
        # on the member's own interface.
        place = f"dev {virtual_interface(leg.interface)}"
        lines.append(_block("virtual_ipaddress_excluded", [f"{one} {place}" for one in _alone(by_version[6])]))
    return _block(f"vrrp_instance {leg.interface}", lines)


def _alone(addresses: Iterable[str]) -> list[str]:
    """Without the subnet: the way to the leg stays the member's own interface."""
    return [f"{address}/{ipaddress.ip_address(address).max_prefixlen}" for address in addresses]


def _block(head: str, lines: Iterable[str]) -> str:
    body = "".join(f"    {row}\n" for line in lines for row in line.split("\n"))
    return f"{head} {{\n{body}}}"

"""How a shared network is joined to what the hosts have: its rules, and what of it excludes another. Pure."""

import re
from collections.abc import Iterable
from dataclasses import replace

from controlplane.access.policy import Asked, HostAccess
from controlplane.domain.networks import MacvlanMode, NetworkKind, NetworkSpec, SharedAttachment
from moorage.errors import FieldViolation

_LINK = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,14}")
_ON_BRIDGE = (SharedAttachment.UNSPECIFIED, SharedAttachment.EXISTING_BRIDGE)
_FORGERY = (
    "the host has no end of these interfaces, so what an instance sends is not checked: "
    "one with NET_ADMIN or NET_RAW can speak as another"
)


def check(spec: NetworkSpec, field: str) -> list[FieldViolation]:
    """Nothing, or everything that is wrong with how a network is attached."""
    found: list[FieldViolation] = []
    given = {
        "bridge": bool(spec.bridge),
        "parent": bool(spec.parent),
        "attachment": spec.attachment not in _ON_BRIDGE,
        "macvlan_mode": spec.macvlan_mode is not MacvlanMode.UNSPECIFIED,
        "vlan_id": spec.vlan_id != 0,
        "dhcp_client": spec.dhcp_client,
    }
    if spec.kind is not NetworkKind.SHARED:
        return [
            FieldViolation(f"{field}.{name}", "only shared networks have one", "NOT_ALLOWED")
            for name, is_given in given.items()
            if is_given
        ]
    if spec.dhcp_client and spec.subnets:
        found.append(FieldViolation(f"{field}.subnets", "addresses come from the DHCP server outside", "NOT_ALLOWED"))
    if given["bridge"] and given["parent"]:
        found.append(FieldViolation(f"{field}.parent", "cannot go with a bridge; name one of them", "NOT_ALLOWED"))
    elif not given["bridge"] and not given["parent"]:
        found.append(FieldViolation(f"{field}.bridge", "a shared network needs the hosts' bridge, or NIC", "REQUIRED"))
    for name in ("bridge", "parent"):
        if given[name] and not _LINK.fullmatch(getattr(spec, name)):
            found.append(FieldViolation(f"{field}.{name}", "is no valid name of a Linux interface", "BRIDGE_INVALID"))
    if given["parent"] and not given["bridge"] and not given["attachment"]:
        found.append(
            FieldViolation(f"{field}.attachment", "say how: a bridge on it, macvlan, or the whole NIC", "REQUIRED")
        )
    if given["bridge"] and given["attachment"]:
        found.append(FieldViolation(f"{field}.attachment", "goes with a parent, not with a bridge", "NOT_ALLOWED"))
    if given["macvlan_mode"] and spec.attachment is not SharedAttachment.MACVLAN:
        found.append(FieldViolation(f"{field}.macvlan_mode", "goes with macvlan only", "NOT_ALLOWED"))
    if given["vlan_id"] and (spec.attachment is SharedAttachment.WHOLE_NIC or not given["parent"]):
        found.append(FieldViolation(f"{field}.vlan_id", "goes with a bridge or macvlan on a parent", "NOT_ALLOWED"))
    if not 0 <= spec.vlan_id <= 4094:
        found.append(FieldViolation(f"{field}.vlan_id", "must be between 1 and 4094", "OUT_OF_RANGE"))
    return found


def with_defaults(spec: NetworkSpec) -> NetworkSpec:
    """The spec with what the user left open."""
    if spec.kind is not NetworkKind.SHARED:
        return spec
    if spec.bridge:
        return replace(spec, attachment=SharedAttachment.EXISTING_BRIDGE)
    if spec.attachment is SharedAttachment.MACVLAN and spec.macvlan_mode is MacvlanMode.UNSPECIFIED:
        return replace(spec, macvlan_mode=MacvlanMode.BRIDGE)
    return spec


def segment(spec: NetworkSpec) -> tuple[str, str, int]:
    """What two networks must not share an address on."""
    return (spec.bridge, spec.parent, spec.vlan_id)


def clash(spec: NetworkSpec, other: NetworkSpec) -> str:
    """Why two networks cannot both stand on one NIC; empty when they can. Several macvlan ones of a mode can, and VLANs beside them."""
    if not spec.parent or spec.parent != other.parent:
        return ""
    if SharedAttachment.WHOLE_NIC in (spec.attachment, other.attachment):
        return f"stands on {spec.parent} too, and one of them takes the whole NIC"
    if spec.vlan_id != other.vlan_id:
        return ""
    both_macvlan = spec.attachment is other.attachment is SharedAttachment.MACVLAN
    if both_macvlan and not spec.is_exclusive and not other.is_exclusive:
        return ""
    return f"stands on {spec.parent} too, in a way that excludes another"


def host_access(specs: Iterable[NetworkSpec], field: str, *, by_field: bool = False) -> HostAccess:
    """What networks ask of the hosts, for a project's policy. `by_field`: below `field` are the fields of the spec itself."""
    shared = [spec for spec in specs if spec.kind is NetworkKind.SHARED]
    names = {name: sorted({getattr(spec, name) for spec in shared} - {""}) for name in ("bridge", "parent")}
    asked = {
        name: tuple(Asked(f"{field}.{name}" if by_field else field, value) for value in values)
        for name, values in names.items()
    }
    return HostAccess(bridges=asked["bridge"], nics=asked["parent"])


def not_enforced(spec: NetworkSpec) -> str:
    """What cannot be kept from a network's instances, in a sentence; empty: nothing."""
    return "" if spec.has_host_end else _FORGERY

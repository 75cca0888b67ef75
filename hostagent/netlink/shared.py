"""The host's side of a shared network: a bridge that is there, or what is made on a NIC of the host. Blocking; in a worker thread.

What is made, and what was there before, is written down first (`state.py`) and undone by `remove`: the bridge is taken away, the
NIC has its addresses and routes again, and is as up or down as it was. A network on a bridge that is there leaves nothing.
"""

import errno
from dataclasses import replace

from hostagent.domain import NetworkAssignment, NetworkKind, SharedAttachment
from hostagent.netlink import links, names, upper_links, whole_nic
from hostagent.netlink.links import LinkInfo
from hostagent.netlink.rtnl import Rtnl
from hostagent.netlink.site import Site
from hostagent.netlink.state import AttachmentRecord
from moorage.errors import NotFound, NotReady, NotSupported
from moorage.ids import NetworkId

_WITHOUT_HOST_END = (SharedAttachment.MACVLAN, SharedAttachment.WHOLE_NIC)


def has_host_end(network: NetworkAssignment) -> bool:
    """Whether an interface has a link of ours at the host's end; without one nothing there can check what an instance sends."""
    return network.kind is not NetworkKind.SHARED or network.attachment not in _WITHOUT_HOST_END


def ensure(site: Site, network: NetworkAssignment) -> None:
    """Make the host's side what the assignment says.

    Raises:
        NotFound: BRIDGE_NOT_FOUND, PARENT_NOT_FOUND.
        NotReady: PARENT_IN_USE, PARENT_IS_UNDERLAY, PARENT_BY_DHCP.
        NotSupported: VLAN_MISSING.
    """
    with Rtnl() as rtnl:
        if network.attachment is SharedAttachment.EXISTING_BRIDGE:
            find_bridge(rtnl, network)
            return
        record = site.state.attachment(network.network_id)
        if record is not None and record.instance_id:
            return  # the NIC is in the instance
        parent = find_parent(rtnl, network)
        if record is None:
            record = _describe(site, rtnl, network, parent)
            site.state.keep_attachment(record)
        if not parent.up:
            rtnl.run([links.link_set(index=parent.index, up=True)])
        lower = _ensure_vlan(site, rtnl, network, parent) if network.vlan_id else parent
        if network.attachment is SharedAttachment.BRIDGE:
            _ensure_bridge(site, rtnl, network, lower, record)


def find_bridge(rtnl: Rtnl, network: NetworkAssignment) -> LinkInfo:
    """The bridge that instances are plugged into. Raises NotFound."""
    is_ours = network.attachment is SharedAttachment.BRIDGE
    name = names.shared_bridge(network.network_id) if is_ours else network.bridge
    bridge = links.find_link(rtnl, name) if name else None
    if bridge is not None and bridge.kind == "bridge":
        return bridge
    if is_ours:
        raise NotFound(f"network {network.name} has no bridge on this host yet", reason="NETWORK_NOT_READY")
    raise NotFound(
        f"this host has no bridge {network.bridge!r} for the shared network {network.name}", reason="BRIDGE_NOT_FOUND"
    )


def find_parent(rtnl: Rtnl, network: NetworkAssignment) -> LinkInfo:
    """The host's NIC that a network stands on. Raises NotFound."""
    parent = links.find_link(rtnl, network.parent) if network.parent else None
    if parent is None:
        raise NotFound(
            f"this host has no NIC {network.parent!r} for the shared network {network.name}", reason="PARENT_NOT_FOUND"
        )
    return parent


def find_lower(rtnl: Rtnl, network: NetworkAssignment) -> LinkInfo:
    """What a macvlan stands on: the NIC, or its VLAN. Raises NotFound."""
    if not network.vlan_id:
        return find_parent(rtnl, network)
    found = links.find_link(rtnl, names.shared_vlan(network.network_id))
    if found is None:
        raise NotFound(f"network {network.name} has no VLAN on this host yet", reason="NETWORK_NOT_READY")
    return found


def _describe(site: Site, rtnl: Rtnl, network: NetworkAssignment, parent: LinkInfo) -> AttachmentRecord:
    """What there is before anything is changed, and whether it may be."""
    addresses = links.addresses_of(rtnl, parent.index)
    takes_it = network.attachment is SharedAttachment.WHOLE_NIC or (
        network.attachment is SharedAttachment.BRIDGE and not network.vlan_id
    )
    if takes_it:
        if str(site.underlay) in {address.split("/")[0] for address in addresses}:
            raise NotReady(
                f"{parent.name} carries the traffic between hosts ({site.underlay}); use another NIC, or macvlan",
                reason="PARENT_IS_UNDERLAY",
            )
        if parent.master:
            raise NotReady(f"{parent.name} is a port of another link already", reason="PARENT_IN_USE")
        if any("." in a for a in links.addresses_of(rtnl, parent.index, is_permanent=False)):
            raise NotReady(
                f"{parent.name} has an address that a DHCP client of the host looks after, which would not follow; "
                "make the bridge with the host's own tools and name it",
                reason="PARENT_BY_DHCP",
            )
    return AttachmentRecord(network.network_id, parent.name, parent.up, parent.mac, parent.mtu)


def _ensure_vlan(site: Site, rtnl: Rtnl, network: NetworkAssignment, parent: LinkInfo) -> LinkInfo:
    name = names.shared_vlan(network.network_id)
    found = links.find_link(rtnl, name)
    if found is None:
        try:
            rtnl.run([upper_links.vlan_add(name, lower=parent.index, vlan_id=network.vlan_id, alias=site.alias)])
        except OSError as error:
            words = f"VLAN {network.vlan_id} on {parent.name} for network {network.name}"
            if error.errno == errno.EOPNOTSUPP:
                raise NotSupported(
                    f"{words}: this host's kernel has no 802.1Q; load the module 8021q (CONFIG_VLAN_8021Q)",
                    reason="VLAN_MISSING",
                ) from error
            if error.errno == errno.EEXIST:
                raise NotReady(
                    f"{words}: the host has that VLAN; name its link instead", reason="PARENT_IN_USE"
                ) from error
            raise
        found = links.find_link(rtnl, name)
        assert found is not None
    if not found.up or found.alias != site.alias:
        rtnl.run([links.link_set(index=found.index, alias=site.alias, no_link_local=True, up=True)])
    return found


def _ensure_bridge(
    site: Site, rtnl: Rtnl, network: NetworkAssignment, lower: LinkInfo, record: AttachmentRecord
) -> None:
    """The bridge, with what the NIC had: the host goes on being reached under its addresses, now through the bridge."""
    name = names.shared_bridge(network.network_id)
    bridge = links.find_link(rtnl, name)
    if bridge is not None and lower.master == bridge.index and bridge.up:
        return
    found = links.addresses_of(rtnl, lower.index)
    routes = whole_nic.routes_of(rtnl, lower.index)
    record = replace(
        record,
        addresses=tuple(dict.fromkeys([*record.addresses, *sorted(found)])),
        routes=tuple(dict.fromkeys([*record.routes, *routes])),
    )
    site.state.keep_attachment(record)
    if bridge is None:
        rtnl.run([links.bridge_add(name, mac=lower.mac, mtu=lower.mtu)])
        bridge = links.find_link(rtnl, name)
        assert bridge is not None
    rtnl.run(
        [
            links.link_set(index=bridge.index, alias=site.alias, no_link_local=True),
            links.link_set(index=bridge.index, up=True),
            links.link_set(index=lower.index, master=bridge.index),
            *whole_nic.addresses_to(bridge.index, record),
            *(links.address_delete(lower.index, address) for address in sorted(found)),
            *whole_nic.routes_to(bridge.index, record),
        ]
    )


def remove(site: Site, network_id: NetworkId) -> None:
    """Undo all of it. Idempotent."""
    record = site.state.attachment(network_id)
    if record is None:
        return
    if record.instance_id:
        whole_nic.give_back(site, record)
    with Rtnl() as rtnl:
        had_bridge = links.find_link(rtnl, names.shared_bridge(network_id)) is not None
        rtnl.run([links.link_delete(names.shared_bridge(network_id)), links.link_delete(names.shared_vlan(network_id))])
        parent = links.find_link(rtnl, record.parent)
        if parent is not None:
            if had_bridge:
                rtnl.run([*whole_nic.addresses_to(parent.index, record), *whole_nic.routes_to(parent.index, record)])
            if not record.was_up:
                rtnl.run([upper_links.set_down(parent.index)])
    site.state.drop_attachment(network_id)

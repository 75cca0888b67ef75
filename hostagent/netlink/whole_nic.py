"""A NIC of the host that is moved into an instance as it is, and back. Blocking; in a worker thread.

The kernel gives a physical NIC back by itself when its namespace ends, but to the first namespace of the machine, under the name that it
had inside, and down; a virtual one ends with the namespace. So it is always taken back before.
"""

from dataclasses import replace

from hostagent.domain import NetworkAssignment, NicAssignment
from hostagent.netlink import links, upper_links
from hostagent.netlink.links import Route
from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.rtnl import Message, Rtnl
from hostagent.netlink.site import Site
from hostagent.netlink.state import AttachmentRecord
from moorage.errors import NotFound, NotReady
from moorage.ids import InstanceId


def held_by(site: Site, instance_id: InstanceId) -> list[AttachmentRecord]:
    """The NICs that were moved into an instance."""
    return [record for record in site.state.attachments() if record.instance_id == instance_id]


def take(site: Site, space: Namespace, instance_id: InstanceId, nic: NicAssignment, network: NetworkAssignment) -> None:
    """Have the network's NIC in the instance's namespace.

    Raises:
        NotFound: PARENT_NOT_FOUND; NETWORK_NOT_READY.
        NotReady: PARENT_IN_USE, another instance has it.
    """
    record = site.state.attachment(network.network_id)
    if record is None:
        raise NotFound(f"network {network.name} is not on this host yet", reason="NETWORK_NOT_READY")
    if record.instance_id not in ("", instance_id):
        raise NotReady(
            f"the NIC {record.parent} of network {network.name} is in instance {record.instance_id}",
            reason="PARENT_IN_USE",
        )
    mtu = nic.mtu or network.mtu
    link = links.find_link(space.rtnl, nic.name) if record.instance_id else None
    if link is None:
        _bring_in(site, space, record, instance_id, nic)
        link = links.find_link(space.rtnl, nic.name)
        assert link is not None
    if (link.mac, link.mtu) != (nic.mac.lower(), mtu):
        space.rtnl.run([links.link_set(index=link.index, mac=nic.mac, mtu=mtu)])


def _bring_in(
    site: Site, space: Namespace, record: AttachmentRecord, instance_id: InstanceId, nic: NicAssignment
) -> None:
    with Rtnl() as rtnl:
        parent = links.find_link(rtnl, record.parent)
        if parent is None:
            raise NotFound(f"this host has no NIC {record.parent!r}", reason="PARENT_NOT_FOUND")
        addresses = tuple(sorted(links.addresses_of(rtnl, parent.index)))
        routes = routes_of(rtnl, parent.index)
        site.state.keep_attachment(
            replace(record, instance_id=instance_id, interface=nic.name, addresses=addresses, routes=routes)
        )
        space.rtnl.run([links.link_delete(nic.name)])  # of another kind, from before a change
        rtnl.run([upper_links.move(parent.index, name=nic.name, ns_fd=space.fd)])


def routes_of(rtnl: Rtnl, index: int) -> tuple[tuple[str, str, int, int], ...]:
    """The routes through a link that somebody set, for its record."""
    found = sorted((one for one in links.list_routes(rtnl, with_static=True) if one.index == index), key=str)
    return tuple((route.destination, route.gateway or "", route.table, route.protocol) for route in found)


def addresses_to(index: int, record: AttachmentRecord) -> list[Message]:
    """Give a link the recorded addresses."""
    return [links.address_add(index, address) for address in record.addresses]


def routes_to(index: int, record: AttachmentRecord) -> list[Message]:
    """Lead the recorded routes through a link; on-link ones first, for others may need them."""
    ordered = sorted(record.routes, key=lambda route: bool(route[1]))
    return [links.route_add(Route(cidr, via or None, index, *rest)) for cidr, via, *rest in ordered]


def give_back(site: Site, record: AttachmentRecord) -> None:
    """Have the NIC in the host's namespace again, as it was. Idempotent."""
    path = site.instance_path(InstanceId(record.instance_id))
    if site.host.is_namespace(path):
        with Namespace.open(site.host, path) as space:
            link = links.find_link(space.rtnl, record.interface)
            if link is not None:
                space.rtnl.run([upper_links.move(link.index, name=record.parent, ns_fd=site.host.fd)])
    with Rtnl() as rtnl:
        parent = links.find_link(rtnl, record.parent)
        if parent is not None:
            rtnl.run([links.link_set(index=parent.index, mac=record.mac, mtu=record.mtu, up=record.was_up)])
            rtnl.run(addresses_to(parent.index, record))
            if record.was_up:
                rtnl.run(routes_to(parent.index, record))
    site.state.keep_attachment(replace(record, instance_id="", interface=""))

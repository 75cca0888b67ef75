"""One isolated network on this host: a namespace with a bridge and a VXLAN link. Blocking; runs in a worker thread.

Neither bridge nor VXLAN link has an address, and the namespace is apart from the host's: the host's packet filter
never sees a frame, and two networks with the same subnet do not meet. The VXLAN link's UDP socket is in the host's
namespace, on the underlay. `ensure` changes only what differs, and is the repair of anything half-made.
"""

import errno
import ipaddress
import time
from collections.abc import Mapping

from hostagent.domain import NetworkAssignment, Peer
from hostagent.netlink import announce, forwarding, guard, links, names, namespaces
from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.rtnl import Message, Rtnl
from hostagent.netlink.site import Site
from moorage.errors import InvalidSpec, NotReady, NotSupported
from moorage.ids import NetworkId

_SYSCTLS = {
    # no link of ours gets an address by itself
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv6/conf/default/addr_gen_mode": "1",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    # of this namespace only; the host's stays as found
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
    "bridge/bridge-nf-call-arptables": "0",
}


_DYING_SECONDS = (
    0.5  # a namespace that lost its binding is emptied by the kernel soon, and holds its identifier until then
)
_OUR_KINDS = ("vxlan", "veth", "bridge")


def check(network: NetworkAssignment) -> None:
    """Refuse what cannot be built. Raises InvalidSpec."""
    names.check_id("network_id", network.network_id)
    if not 0 < network.vni < 1 << 24:
        raise InvalidSpec.of("networks.vni", f"{network.vni} is no VXLAN network identifier")
    if not 576 <= network.mtu <= 65535:
        raise InvalidSpec.of("networks.mtu", f"{network.mtu} is not between 576 and 65535")
    for subnet in network.subnets:
        try:
            inside = not subnet.gateway or ipaddress.ip_address(subnet.gateway) in ipaddress.ip_network(subnet.cidr)
        except ValueError as error:
            raise InvalidSpec.of("networks.subnets", f"{error}") from error
        if not inside:
            raise InvalidSpec.of("networks.subnets", f"gateway {subnet.gateway} is not inside {subnet.cidr}")


def ensure(site: Site, network: NetworkAssignment) -> None:
    """Make namespace, bridge, VXLAN link and forwarding entries what the assignment says.

    Raises: InvalidSpec; NotReady: the VXLAN identifier or the UDP port is taken on this host.
    """
    check(network)
    path = site.network_path(network.network_id)
    fresh = not site.host.is_namespace(path)
    if fresh:
        site.contexts.drop(path.name)
    opened = namespaces.create(site.host, path, _SYSCTLS) if fresh else Namespace.open(site.host, path)
    with opened as space:
        have = {} if fresh else links.list_links(space.rtnl)
        index = _ensure_links(site, space, network, have)
        site.network_nft(space).run(
            guard.base(site.guard, names.gateway_mac(network.vni), names.vxlan(network.network_id))
        )
        _program(site, space, index, network, fresh=fresh or names.vxlan(network.network_id) not in have)


def _ensure_links(site: Site, space: Namespace, network: NetworkAssignment, have: dict[str, links.LinkInfo]) -> int:
    """Bridge and VXLAN link; the VXLAN link's index."""
    bridge_name, vxlan_name = names.bridge(network.network_id), names.vxlan(network.network_id)
    mac = names.gateway_mac(network.vni)
    bridge, vxlan = have.get(bridge_name), have.get(vxlan_name)
    first: list[Message] = []
    if bridge is not None and bridge.kind != "bridge":
        first.append(links.link_delete(bridge_name))
        bridge = None
    if vxlan is not None and not vxlan.is_vxlan(network.vni, site.underlay, site.vxlan_port):
        first.append(links.link_delete(vxlan_name))
        vxlan = None
    if bridge is None:
        first.append(links.bridge_add(bridge_name, mac=mac, mtu=network.mtu))
        first.append(links.link_set("lo", up=True))
        first.append(links.link_set(bridge_name, up=True))
    elif (bridge.mac, bridge.mtu, bridge.up) != (mac, network.mtu, True):
        first.append(links.link_set(bridge_name, mac=mac, mtu=network.mtu, up=True))
    space.rtnl.run(first)
    if vxlan is None:
        _add_vxlan(site, space, network, vxlan_name)
        vxlan = links.find_link(space.rtnl, vxlan_name)
    if bridge is None:
        bridge = links.find_link(space.rtnl, bridge_name)
    assert bridge is not None
    assert vxlan is not None
    if (vxlan.master, vxlan.mtu, vxlan.up) != (bridge.index, network.mtu, True):
        enslave = [links.link_set(index=vxlan.index, master=bridge.index, mtu=network.mtu)]
        enslave += [links.port_set(vxlan.index, learning=False), links.link_set(index=vxlan.index, up=True)]
        try:
            space.rtnl.run(enslave)
        except OSError as error:
            raise NotReady(f"VXLAN link of network {network.name}: {error.strerror}", reason="VXLAN_TAKEN") from error
        links.wait_ready(space.rtnl, bridge_name)
        vxlan = links.find_link(space.rtnl, vxlan_name)
        assert vxlan is not None
    _set_learning(site, space, vxlan, network)
    return vxlan.index


def _set_learning(site: Site, space: Namespace, vxlan: links.LinkInfo, network: NetworkAssignment) -> None:
    """The link and its bridge port learn while a virtual station is somewhere. Entries of ours stay as they are all the same."""
    is_learned = forwarding.learns(network.virtual_stations, network.peers, site.vxlan_port)
    if vxlan.is_learning_vxlan != is_learned:
        space.rtnl.run([links.vxlan_set(vxlan.index, learning=is_learned)])
    if vxlan.is_learning_port != bool(network.virtual_stations):
        space.rtnl.run([links.port_set(vxlan.index, learning=bool(network.virtual_stations))])


def _add_vxlan(site: Site, space: Namespace, network: NetworkAssignment, name: str) -> None:
    message = links.vxlan_add(
        name, vni=network.vni, local=site.underlay, port=site.vxlan_port, mtu=network.mtu, ns_fd=space.fd
    )
    deadline = time.monotonic() + _DYING_SECONDS
    with Rtnl() as host:  # in the host's namespace: that is where the UDP socket shall be
        while True:
            try:
                host.run([message])
                break
            except OSError as error:
                if error.errno == errno.EEXIST and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                words = f"VXLAN link of network {network.name}: {error.strerror}"
                if error.errno == errno.EOPNOTSUPP:
                    raise NotSupported(words, reason="VXLAN_MISSING") from error
                raise NotReady(words, reason="VXLAN_TAKEN") from error
    # it answers ND from its neighbour table, for which IPv6 must be on; it still gets no address
    space.sysctl({f"ipv6/conf/{name}/forwarding": "0", f"ipv6/conf/{name}/disable_ipv6": "0"})


def _program(site: Site, space: Namespace, index: int, network: NetworkAssignment, *, fresh: bool) -> None:
    have = forwarding.wanted(()) if fresh else read_table(site, space, index)
    want = forwarding.wanted(network.peers, network.virtual_stations)
    space.rtnl.run(forwarding.difference(index, have, want))
    if not fresh:
        _tell_members(space, names.bridge(network.network_id), forwarding.moved(have, want))


def read_table(site: Site, space: Namespace, index: int) -> forwarding.Table:
    """What the kernel has on a VXLAN link."""
    known = links.list_forwarding(space.rtnl, index, site.vxlan_port)
    return forwarding.Table(known, links.list_neighbours(space.rtnl, index))


def change_peers(site: Site, network_id: NetworkId, before: Mapping[str, Peer], after: Mapping[str, Peer]) -> None:
    """Program the difference between two sets of peers by MAC, without reading the kernel's tables.

    Raises: NotFound: the network is not on this host.
    """
    with site.open_network(network_id) as space:
        vxlan = links.find_link(space.rtnl, names.vxlan(network_id))
        if vxlan is None:
            raise NotReady(f"network {network_id} has no VXLAN link; it must be repaired first")
        space.rtnl.run(forwarding.change(vxlan.index, before, after))
        changed = {mac for mac, peer in after.items() if before.get(mac) != peer}
        have = forwarding.wanted(before[mac] for mac in changed & before.keys())
        want = forwarding.wanted(after[mac] for mac in changed)
        _tell_members(space, names.bridge(network_id), forwarding.moved(have, want))


def _tell_members(space: Namespace, bridge: str, moved: Mapping[str, str]) -> None:
    """Members here hear of an address that is another's now from their own host: a VXLAN link that answers ARP lets none through."""
    announce.announce_all(space, bridge, [(mac, address) for address, mac in moved.items()])


def remove(site: Site, network_id: NetworkId) -> None:
    """Take the network away with all that is in its namespace. Idempotent.

    The links go first: a namespace is emptied by the kernel some time after its end, and until then it
    would hold the VXLAN identifier.
    """
    path = site.network_path(network_id)
    if site.host.is_namespace(path):
        with Namespace.open(site.host, path) as space:
            ours = [one.index for one in links.list_links(space.rtnl).values() if one.kind in _OUR_KINDS]
            space.rtnl.run(links.delete_together(ours))
    with Rtnl() as host:
        host.run([links.link_delete(names.uplink_outer(network_id))])
    site.contexts.drop(path.name)
    namespaces.remove(path)

"""The way between a network's namespace and the host's: veth, transit addresses, anycast gateway. Blocking.

It exists only while the network has egress or a member with published ports. Then the bridge carries the gateway's
addresses, the same and with the same MAC on every host: a member always reaches the gateway on its
own host, and no gateway frame crosses hosts.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from hostagent.netlink import announce, guard, links, names, rules
from hostagent.netlink.links import Route
from hostagent.netlink.namespaces import Namespace, write_sysctls
from hostagent.netlink.rtnl import Message, Rtnl
from hostagent.netlink.rules import Binding
from hostagent.netlink.site import Site
from hostagent.netlink.state import NetworkRecord
from moorage.ids import NetworkId


def ensure(site: Site, record: NetworkRecord, bindings: Sequence[Binding]) -> None:
    """Uplink, gateway and rules of one network. Raises NotFound: the network is not on this host."""
    with site.open_network(record.network_id) as space:
        _ensure_pair(site, space, record)
        _ensure_gateway(space, record)
        site.network_nft(space).run(rules.network_table(record.network_id, bindings))


def change(site: Site, network_id: NetworkId, gone: Sequence[Binding], new: Sequence[Binding]) -> bool:
    """Change ports of a network whose uplink is there; whether that was possible without writing its table anew."""
    if any(not one.answers_here for one in [*gone, *new]) or not site.host.is_namespace(site.network_path(network_id)):
        return False
    with site.open_network(network_id) as space:
        delta = rules.network_elements("delete", gone) + rules.network_elements("add", new)
        return site.network_nft(space).accepts(delta)


def remove(site: Site, network_id: NetworkId) -> None:
    """Take uplink, gateway addresses and rules away. Idempotent."""
    with Rtnl() as host:
        host.run([links.link_delete(names.uplink_outer(network_id))])
    if not site.host.is_namespace(site.network_path(network_id)):
        return
    with site.open_network(network_id) as space:
        bridge = links.find_link(space.rtnl, names.bridge(network_id))
        if bridge is not None:
            have = links.list_addresses(space.rtnl).get(bridge.index, set())
            space.rtnl.run([links.address_delete(bridge.index, address) for address in sorted(have)])
            space.sysctl({f"ipv6/conf/{bridge.name}/disable_ipv6": "1"})
        site.network_nft(space).run("add table inet moorage\ndelete table inet moorage\n")


def _ensure_pair(site: Site, space: Namespace, record: NetworkRecord) -> None:
    """The veth and the transit addresses, with default routes inside."""
    outer_name, inner_name = names.uplink_outer(record.network_id), names.uplink_inner(record.network_id)
    transit = record.transit
    with Rtnl() as host:
        outer, inner = links.find_link(host, outer_name), links.find_link(space.rtnl, inner_name)
        if (outer is None) != (inner is None):
            host.run([links.link_delete(outer_name)])
            space.rtnl.run([links.link_delete(inner_name)])
            outer = inner = None
        if outer is None:
            add = links.veth_add(outer_name, index=0, mac="", mtu=record.mtu, peer=inner_name, peer_ns_fd=space.fd)
            host.run([add])
            outer, inner = links.find_link(host, outer_name), links.find_link(space.rtnl, inner_name)
        assert outer is not None
        assert inner is not None
        if not (outer.up and inner.up and outer.mtu == inner.mtu == record.mtu and outer.alias == site.alias):
            host.run([links.link_set(index=outer.index, mtu=record.mtu, alias=site.alias, no_link_local=True)])
            # answers to connections from 127.0.0.1 come back as such; rules.py keeps everything else off loopback
            write_sysctls(
                {
                    f"ipv4/conf/{outer_name}/route_localnet": "1",
                    f"ipv4/conf/{outer_name}/send_redirects": "0",
                    f"ipv6/conf/{outer_name}/disable_ipv6": "0",
                    f"ipv6/conf/{outer_name}/accept_ra": "0",
                }
            )
            space.sysctl({f"ipv6/conf/{inner_name}/disable_ipv6": "0"})
            host.run([links.link_set(index=outer.index, up=True)])
            space.rtnl.run([links.link_set(index=inner.index, mtu=record.mtu, up=True)])
            links.wait_ready(host, outer_name)
            links.wait_ready(space.rtnl, inner_name)
        outer_messages = _addresses(host, outer.index, [f"{transit.outer4}/31", f"{transit.outer6}/127"])
        inner_messages = _addresses(space.rtnl, inner.index, [f"{transit.inner4}/31", f"{transit.inner6}/127"])
        # forwarding asks for a neighbour from a link-local address only; the ends have none, and know each other anyway
        host.run([*outer_messages, links.neighbour_add(outer.index, transit.inner6, inner.mac)])
        space.rtnl.run([*inner_messages, links.neighbour_add(inner.index, transit.outer6, outer.mac)])
        space.rtnl.run(
            [
                links.route_add(Route("0.0.0.0/0", transit.outer4, inner.index)),
                links.route_add(Route("::/0", transit.outer6, inner.index)),
            ]
        )


def _ensure_gateway(space: Namespace, record: NetworkRecord) -> None:
    bridge = links.find_link(space.rtnl, names.bridge(record.network_id))
    if bridge is None:
        return
    wanted = [f"{gateway}/{ipaddress.ip_network(cidr).prefixlen}" for cidr, gateway in record.subnets if gateway]
    if any(ipaddress.ip_interface(address).version == 6 for address in wanted):
        # a forwarded packet's neighbour is asked for from a link-local address
        wanted.append(f"{guard.link_local(bridge.mac)}/64")
    space.sysctl({f"ipv6/conf/{bridge.name}/disable_ipv6": "0"})
    before = links.list_addresses(space.rtnl).get(bridge.index, set())
    space.rtnl.run(_addresses(space.rtnl, bridge.index, wanted))
    # members may know a router at these addresses; frames of the gateway's MAC end at the next host
    announce.announce(space, bridge.name, bridge.mac, [address for address in wanted if address not in before])


def _addresses(rtnl: Rtnl, index: int, wanted: Sequence[str]) -> list[Message]:
    """Messages that leave exactly these addresses on a link."""
    have = links.list_addresses(rtnl).get(index, set())
    exact = [str(ipaddress.ip_interface(address)) for address in wanted]
    gone = [links.address_delete(index, address) for address in sorted(have - set(exact))]
    return gone + [links.address_add(index, address) for address in exact if address not in have]


def enable_forwarding6() -> None:
    """Let the host forward IPv6, as uplinks need, without losing what it learned from router advertisements.

    A host that forwards ignores advertisements unless `accept_ra` is 2, so interfaces that listened are set to that
    first.
    """
    forwarding = Path("/proc/sys/net/ipv6/conf/all/forwarding")
    if not forwarding.exists() or forwarding.read_text().strip() == "1":
        return
    for folder in Path("/proc/sys/net/ipv6/conf").iterdir():
        accept = folder / "accept_ra"
        if accept.read_text().strip() == "1":
            accept.write_text("2")
    forwarding.write_text("1")

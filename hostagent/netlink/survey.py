"""What of ours is on this host, read from the kernel; and the removal of what no method of the fabric finds.
Blocking."""

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hostagent.netlink import links, names, namespaces
from hostagent.netlink.rtnl import Rtnl
from hostagent.netlink.site import OUR_MARK, Site
from moorage.ids import InstanceId, NetworkId


@dataclass(frozen=True, slots=True)
class FabricInventory:
    """What of ours is on this host. `strays`: links and files that carry our names but are no whole instance or
    network."""

    instances: frozenset[InstanceId]
    networks: frozenset[NetworkId]
    strays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Totals of one interface since it was made, as the instance sees the directions."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


def take(site: Site, busy: Collection[str]) -> FabricInventory:
    """The inventory. `busy` are files that somebody works on just now: half-made, they are no strays."""
    instances, networks, strays = set(), set(), []
    for path in sorted((site.run_dir / "netns").iterdir()):
        kind, _, name = path.name.partition("-")
        if kind not in ("i", "n") or not site.host.is_namespace(path):
            if path.name not in busy:
                strays.append(str(path))
        elif kind == "i":
            instances.add(InstanceId(name))
        else:
            networks.add(NetworkId(name))
    stood_on = {record.network_id for record in site.state.attachments()}
    networks |= stood_on
    known = [names.member_prefix(one) for one in instances] + [names.uplink_outer(one) for one in networks]
    known += [names.member_prefix(InstanceId(one[2:])) for one in busy if one.startswith("i-")]
    known += [names.uplink_outer(NetworkId(one[2:])) for one in busy if one.startswith("n-")]
    for one in stood_on | {NetworkId(one[2:]) for one in busy if one.startswith("n-")}:
        known += [names.shared_bridge(one), names.shared_vlan(one)]
    with Rtnl() as rtnl:
        for link in links.list_links(rtnl).values():
            if link.alias == site.alias and not link.name.startswith(tuple(known)):
                strays.append(link.name)
    return FabricInventory(frozenset(instances), frozenset(networks), tuple(strays))


def counters(site: Site, instance_id: InstanceId) -> Mapping[str, InterfaceCounters]:
    """Totals by interface name. Raises NotFound."""
    with namespaces.Namespace.open(site.host, site.instance_path(instance_id)) as space:
        found = links.list_links(space.rtnl)
    return {name: _totals(link.stats) for name, link in found.items() if name != "lo"}


def host_links(site: Site) -> tuple[str, ...]:
    """Links of the host that shared networks may stand on: not bridges, not what containers' interfaces end in, not ours; and those
    that are in an instance now.
    """
    with Rtnl() as rtnl:
        found = links.list_links(rtnl).values()
    here = {
        link.name
        for link in found
        if link.name != "lo"
        and link.kind != "bridge"
        and not (link.kind == "veth" and link.name.startswith("veth"))
        and not link.alias.startswith(OUR_MARK)
    }
    return tuple(sorted(here | {record.parent for record in site.state.attachments() if record.instance_id}))


def _totals(stats: bytes) -> InterfaceCounters:
    """The head of struct rtnl_link_stats64: packets, bytes, errors, dropped, each received and sent."""
    if len(stats) < 64:
        return InterfaceCounters()
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = struct.unpack_from(
        "=8Q", stats
    )
    return InterfaceCounters(rx_bytes, tx_bytes, rx_packets, tx_packets, rx_errors, tx_errors, rx_dropped, tx_dropped)


def remove_rest(site: Site) -> None:
    """Links with our mark, bindings of any name, anti-spoofing rules in the host's namespace, and the folder."""
    with Rtnl() as rtnl:
        ours = [link.index for link in links.list_links(rtnl).values() if link.alias == site.alias]
        if ours:
            rtnl.run(links.delete_together(ours))
    for path in sorted((site.run_dir / "netns").iterdir()):
        namespaces.remove(path)
    family = site.guard.value
    site.host_nft().run(f"add table {family} moorage\ndelete table {family} moorage\n")
    namespaces.release_folder(site.run_dir / "netns")

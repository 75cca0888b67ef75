"""What a VXLAN link must know of the members on other hosts, and the difference to what it knows. Pure.

Each peer gives a forwarding entry on the link (MAC -> underlay address and port), one on the link's bridge port (the
bridge learns nothing by itself), and a permanent neighbour entry per address, from which the link answers ARP and ND
locally. Broadcast is replicated to the hosts that have a member, and to no other.

A virtual station (the gateway that a redundant pair holds) gets neighbour entries only: its MAC and addresses are known, and where
it lives is learned from the frames that it sends all the time, so it moves without us.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostagent.domain import Peer, VirtualStation
from hostagent.netlink.links import (
    FLOOD_MAC,
    Forwarding,
    fdb_local_add,
    fdb_local_delete,
    fdb_remote_add,
    fdb_remote_delete,
    neighbour_add,
    neighbour_delete,
)
from hostagent.netlink.rtnl import Message


@dataclass(frozen=True, slots=True)
class Table:
    """Entries of one link."""

    forwarding: Forwarding
    neighbours: Mapping[str, str]  # address -> MAC


def wanted(peers: Iterable[Peer], stations: Iterable[VirtualStation] = ()) -> Table:
    """The table that these peers and virtual stations need."""
    remote: set[tuple[str, str, int]] = set()
    macs: set[str] = set()
    neighbours: dict[str, str] = {}
    for peer in peers:
        mac, host = peer.mac.lower(), str(ipaddress.ip_address(peer.host_address))
        remote |= {(mac, host, peer.host_port), (FLOOD_MAC, host, peer.host_port)}
        macs.add(mac)
        neighbours |= {str(ipaddress.ip_address(address)): mac for address in peer.addresses}
    for station in stations:
        neighbours |= {str(ipaddress.ip_address(address)): station.mac.lower() for address in station.addresses}
    return Table(Forwarding(frozenset(remote), frozenset(macs)), neighbours)


def moved(have: Table, want: Table) -> dict[str, str]:
    """Addresses that another MAC has from now on, and that MAC; those that nobody had elsewhere are among them."""
    return {address: mac for address, mac in want.neighbours.items() if have.neighbours.get(address) != mac}


def learns(stations: Iterable[VirtualStation], peers: Iterable[Peer], vxlan_port: int) -> bool:
    """Whether a VXLAN link shall learn where MACs live: only where a virtual station needs it.

    Not if a peer's VXLAN has another UDP port than this host's: the kernel takes it that what it learned has its own. Frames
    for the station then go to all hosts that have a member, which is slower and right.
    """
    return any(True for _ in stations) and all(peer.host_port == vxlan_port for peer in peers)


def difference(index: int, have: Table, want: Table) -> list[Message]:
    """Messages that make `have` into `want` on link `index`; a MAC that moved is replaced in place, without a gap."""
    messages: list[Message] = []
    wanted_macs = {mac for mac, _host, _port in want.forwarding.remote if mac != FLOOD_MAC}
    for mac, host, port in sorted(have.forwarding.remote - want.forwarding.remote):
        if mac not in wanted_macs:
            messages += fdb_remote_delete(index, mac, host, port)
    for mac in sorted(have.forwarding.on_bridge - want.forwarding.on_bridge):
        messages.append(fdb_local_delete(index, mac))
    for address in sorted(set(have.neighbours) - set(want.neighbours)):
        messages.append(neighbour_delete(index, address))
    for mac, host, port in sorted(want.forwarding.remote - have.forwarding.remote):
        messages += fdb_remote_add(index, mac, host, port)
    for mac in sorted(want.forwarding.on_bridge - have.forwarding.on_bridge):
        messages.append(fdb_local_add(index, mac))
    for address, mac in sorted(want.neighbours.items()):
        if have.neighbours.get(address) != mac:
            messages.append(neighbour_add(index, address, mac))
    return list(dict.fromkeys(messages))


def change(index: int, before: Mapping[str, Peer], after: Mapping[str, Peer]) -> list[Message]:
    """Messages for the peers (by MAC) that differ between two sets; those that do not cost next to nothing."""
    changed = {mac for mac in before.keys() | after.keys() if before.get(mac) != after.get(mac)}
    have = wanted(peer for mac, peer in before.items() if mac in changed)
    want = wanted(peer for mac, peer in after.items() if mac in changed)
    hosts = {(peer.host_address, peer.host_port) for mac, peer in after.items() if mac not in changed}
    kept = {(FLOOD_MAC, str(ipaddress.ip_address(host)), port) for host, port in hosts}
    have_remote, want_remote = have.forwarding.remote - kept, want.forwarding.remote - kept
    return difference(
        index,
        Table(Forwarding(have_remote, have.forwarding.on_bridge), have.neighbours),
        Table(Forwarding(want_remote, want.forwarding.on_bridge), want.neighbours),
    )

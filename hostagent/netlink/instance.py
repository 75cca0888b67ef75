"""One instance's namespace: its interfaces, addresses and routes, all there before any process is. Blocking; in a
worker thread.

A fresh namespace is filled with one batch of messages; an existing one is read and only what differs is changed, so a
second call costs three dumps and leaves connections alone. Each interface is a veth pair whose other end is a port of
the network's bridge, guarded by `guard.py` before the port is up.
"""

import errno
import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, NicFilter, SharedAttachment
from hostagent.netlink import (
    announce,
    filtering,
    guard,
    links,
    names,
    namespaces,
    removal,
    routing_rules,
    shaping,
    shared,
    upper_links,
    whole_nic,
)
from hostagent.netlink.links import Route
from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.nft import Nft
from hostagent.netlink.routing_rules import Rule
from hostagent.netlink.rtnl import Message, Rtnl
from hostagent.netlink.site import Site
from moorage.errors import FieldViolation, InvalidSpec, NotFound, NotReady, NotSupported
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import virtual_interface

_MAC = re.compile(r"[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}")  # an odd first byte is a group's
_FIRST_PRIORITY = 10000
_SYSCTLS = {
    "ipv4/ping_group_range": "0 2147483647",  # ping without NET_RAW
    "ipv4/ip_unprivileged_port_start": "0",  # as Docker does: port 80 without NET_BIND_SERVICE
    "ipv4/conf/all/promote_secondaries": "1",  # else the first address of a subnet takes all others with it when it goes
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
}
# of a namespace that is a member of a redundant pair
_PAIR_SYSCTLS = {
    "ipv4/conf/all/arp_announce": "2",  # ARP for a neighbour never tells the virtual address with the member's own MAC
    "ipv4/ip_nonlocal_bind": "1",  # a standby's programs listen on addresses that are not there yet
    "ipv6/ip_nonlocal_bind": "1",
}

# a namespace inherits the host's forwarding; a router begins when its rules are there
_ROUTER_SYSCTLS = {"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0"}


def check(
    nics: Sequence[NicAssignment], networks: Mapping[NetworkId, NetworkAssignment], instance_id: InstanceId
) -> None:
    """Refuse what cannot be plugged, naming every bad field. Raises InvalidSpec."""
    bad: list[FieldViolation] = []
    seen: dict[str, str] = {}
    for number, nic in enumerate(nics):
        where = f"nics[{number}]"
        if nic.network_id not in networks:
            bad.append(FieldViolation(f"{where}.network_id", f"network {nic.network_id} was not given"))
        host_end = names.member(instance_id, nic.name)
        if host_end in seen:
            bad.append(FieldViolation(f"{where}.name", f"{nic.name} collides with {seen[host_end]}"))
        seen[host_end] = nic.name
        if not _MAC.fullmatch(nic.mac):
            bad.append(FieldViolation(f"{where}.mac", f"{nic.mac!r} is not the MAC of one station"))
        bad += _unreadable(f"{where}.addresses", ipaddress.ip_interface, nic.addresses, "address with prefix length")
        routes = [*nic.routes, *(route for rule in nic.rules for route in rule.routes)]
        gateways = [*nic.gateways, *(route.gateway for route in routes if route.gateway)]
        bad += _unreadable(f"{where}.gateways", ipaddress.ip_address, gateways, "address")
        bad += _unreadable(f"{where}.routes", ipaddress.ip_network, [one.destination for one in routes], "subnet")
        ends = [end for rule in nic.rules for end in (rule.source, rule.destination) if end]
        bad += _unreadable(f"{where}.rules", ipaddress.ip_network, ends, "subnet")
    if bad:
        raise InvalidSpec(bad)


def _unreadable(field: str, read: Callable[[str], object], values: Sequence[str], what: str) -> list[FieldViolation]:
    bad = []
    for value in values:
        try:
            read(value)
        except ValueError:
            bad.append(FieldViolation(field, f"{value!r} is no {what}"))
    return bad


def ensure(
    site: Site,
    instance_id: InstanceId,
    nics: Sequence[NicAssignment],
    networks: Mapping[NetworkId, NetworkAssignment],
    plugged: Collection[NetworkId] | None,
    filters: Sequence[NicFilter] = (),
    known_filters: Sequence[NicFilter] | None = None,
) -> Path:
    """Make the instance's namespace what the assignment says; its path.

    `plugged` are the isolated networks that it may be on now; None: any. What filters an interface is in force before the
    interface is up, and until it is gone. `known_filters`: what filters the namespace now; None: that is not known.

    Raises: InvalidSpec; NotFound: a network is not on this host, or a shared network's bridge does not exist.
    """
    names.check_id("instance_id", instance_id)
    check(nics, networks, instance_id)
    _require_networks(site, [networks[nic.network_id] for nic in nics])
    path = site.instance_path(instance_id)
    fresh = not site.host.is_namespace(path)
    if fresh:
        site.contexts.drop(path.name)
    settings = _SYSCTLS | _ROUTER_SYSCTLS if any(nic.forwards for nic in nics) else _SYSCTLS
    opened = namespaces.create(site.host, path, settings) if fresh else Namespace.open(site.host, path)
    with opened as space:
        known_filters = () if fresh else known_filters
        leaving = filtering.of_interfaces_not_in(known_filters, {nic.name for nic in nics})
        filtering.ensure(site, space, known_filters, (*filters, *leaving))
        if not fresh:
            _give_back(site, instance_id, nics, networks)
        if any(nic.virtual is not None for nic in nics):
            space.sysctl(_PAIR_SYSCTLS)
        have = {} if fresh else links.list_links(space.rtnl)
        stale = _remove_extra(space, instance_id, have, nics)
        for number, nic in enumerate(nics):
            index = 2 + number if fresh else 0
            if _plug(site, space, instance_id, nic, networks[nic.network_id], have.get(nic.name), index):
                stale.add(names.member(instance_id, nic.name))
        if stale:
            removal.unplug(site, stale, _homes(instance_id, nics, networks), plugged)
        added = _configure(space, nics, fresh=fresh)
        for nic in nics:
            _await_ready(site, space, names.member(instance_id, nic.name), nic, networks[nic.network_id])
            announce.announce(space, nic.name, nic.mac, added[nic.name])
        if leaving:
            filtering.ensure(site, space, None, filters)
    return path


def _require_networks(site: Site, networks: Sequence[NetworkAssignment]) -> None:
    """Find out what is missing before anything is made."""
    for network in networks:
        if network.kind is NetworkKind.SHARED:
            _require_shared(site, network)
        elif not site.host.is_namespace(site.network_path(network.network_id)):
            raise NotFound(f"network {network.name} is not on this host yet", reason="NETWORK_NOT_READY")


def _require_shared(site: Site, network: NetworkAssignment) -> None:
    if network.parent and site.state.attachment(network.network_id) is None:
        raise NotFound(f"network {network.name} is not on this host yet", reason="NETWORK_NOT_READY")
    with Rtnl() as rtnl:
        if network.attachment is SharedAttachment.MACVLAN:
            shared.find_lower(rtnl, network)
        elif network.attachment is not SharedAttachment.WHOLE_NIC:
            shared.find_bridge(rtnl, network)


def _homes(
    instance_id: InstanceId, nics: Sequence[NicAssignment], networks: Mapping[NetworkId, NetworkAssignment]
) -> dict[str, NetworkId | None]:
    """Where the host end of each interface is: in the network's own namespace, or (None) in the host's."""
    homes: dict[str, NetworkId | None] = {}
    for nic in nics:
        network = networks[nic.network_id]
        if shared.has_host_end(network):
            is_shared = network.kind is NetworkKind.SHARED
            homes[names.member(instance_id, nic.name)] = None if is_shared else network.network_id
    return homes


def _give_back(
    site: Site,
    instance_id: InstanceId,
    nics: Sequence[NicAssignment],
    networks: Mapping[NetworkId, NetworkAssignment],
) -> None:
    """Let go of NICs of the host that are not wanted any more, or under another name."""
    whole = {(n.network_id, n.name) for n in nics if networks[n.network_id].attachment is SharedAttachment.WHOLE_NIC}
    for record in whole_nic.held_by(site, instance_id):
        if (record.network_id, record.interface) not in whole:
            whole_nic.give_back(site, record)


def _remove_extra(
    space: Namespace, instance_id: InstanceId, have: Mapping[str, links.LinkInfo], nics: Sequence[NicAssignment]
) -> set[str]:
    """Take away what is not wanted; the host ends, whose guards are left."""
    # What a redundant pair has is made by keepalived, and comes and goes without us.
    wanted = {nic.name for nic in nics} | {virtual_interface(nic.name) for nic in nics if nic.virtual is not None}
    extra = [name for name, link in have.items() if link.kind in removal.OUR_KINDS and name not in wanted]
    space.rtnl.run([links.link_delete(name) for name in extra])
    return {names.member(instance_id, name) for name in extra}


# One interface ------------------------------------------------------------------------------------------------------


def _plug(
    site: Site,
    space: Namespace,
    instance_id: InstanceId,
    nic: NicAssignment,
    network: NetworkAssignment,
    link: links.LinkInfo | None,
    index: int,
) -> bool:
    """The veth pair and its host end as a guarded port of the bridge. Returns whether one that was elsewhere made room for it."""
    host_end = names.member(instance_id, nic.name)
    if not shared.has_host_end(network):
        if network.attachment is SharedAttachment.WHOLE_NIC:
            whole_nic.take(site, space, instance_id, nic, network)
        else:
            _ensure_macvlan(space, nic, network, link, index)
        return link is not None and link.kind == "veth"
    if network.kind is NetworkKind.SHARED:
        with Rtnl() as rtnl:
            bridge = shared.find_bridge(rtnl, network)
            was_elsewhere = _ensure_pair(space, rtnl, site.host.fd, nic, network, link, index, host_end)
            site.host_nft().run(guard.base(site.guard))
            _ensure_port(site, rtnl, site.host_nft(), host_end, bridge.index, nic, network, site.alias)
        return was_elsewhere
    with site.open_network(network.network_id) as other:
        own = links.find_link(other.rtnl, names.bridge(network.network_id))
        if own is None:
            raise NotFound(f"network {network.name} has no bridge on this host", reason="NETWORK_NOT_READY")
        was_elsewhere = _ensure_pair(space, other.rtnl, other.fd, nic, network, link, index, host_end)
        _ensure_port(site, other.rtnl, site.network_nft(other), host_end, own.index, nic, network, "")
    return was_elsewhere


def _ensure_macvlan(
    space: Namespace, nic: NicAssignment, network: NetworkAssignment, link: links.LinkInfo | None, index: int
) -> None:
    """A macvlan link of the right mode on the right NIC; another is removed first.

    Raises: NotSupported: MACVLAN_MISSING; NotReady: PARENT_IN_USE, the NIC is taken for something that excludes it.
    """
    mtu, mode = nic.mtu or network.mtu, network.macvlan_mode
    with Rtnl() as rtnl:
        lower = shared.find_lower(rtnl, network)
        is_right = link is not None and link.kind == "macvlan" and link.lower == lower.index
        if link is not None and not (is_right and upper_links.is_macvlan(link.data, mode)):
            space.rtnl.run([links.link_delete(nic.name)])
            link = None
        if link is None:
            add = upper_links.macvlan_add(
                nic.name, lower=lower.index, mode=mode, mac=nic.mac, mtu=mtu, ns_fd=space.fd, index=index
            )
            try:
                rtnl.run([add])
            except OSError as error:
                words = f"macvlan on {lower.name} for network {network.name}: {error.strerror}"
                if error.errno == errno.EOPNOTSUPP:
                    raise NotSupported(f"{words}; load the module macvlan", reason="MACVLAN_MISSING") from error
                if error.errno in (errno.EBUSY, errno.EINVAL):
                    raise NotReady(words, reason="PARENT_IN_USE") from error
                raise
            link = links.find_link(space.rtnl, nic.name)
            assert link is not None
    if (link.mac, link.mtu) != (nic.mac.lower(), mtu):
        space.rtnl.run([links.link_set(index=link.index, mac=nic.mac, mtu=mtu)])


def _ensure_pair(
    space: Namespace,
    rtnl: Rtnl,
    ns_fd: int,
    nic: NicAssignment,
    network: NetworkAssignment,
    link: links.LinkInfo | None,
    index: int,
    host_end: str,
) -> bool:
    """A veth whose ends are where they belong; a half is removed first. Returns whether that half's other end was not here."""
    mtu = nic.mtu or network.mtu
    port = links.find_link(rtnl, host_end)
    whole = link is not None and link.kind == "veth" and port is not None and port.kind == "veth"
    if whole and link is not None:
        if (link.mac, link.mtu) != (nic.mac.lower(), mtu):
            space.rtnl.run([links.link_set(index=link.index, mac=nic.mac, mtu=mtu)])
        if link.mac != nic.mac.lower() and port is not None:
            rtnl.run([links.fdb_local_delete(port.index, link.mac)])
        return False
    if port is not None:
        rtnl.run([links.link_delete(host_end)])
    if link is not None:
        space.rtnl.run([links.link_delete(nic.name)])
    add = links.veth_add(nic.name, index=index, mac=nic.mac, mtu=mtu, peer=host_end, peer_ns_fd=ns_fd)
    try:
        space.rtnl.run([add])
    except OSError as error:
        if not index or error.errno not in (errno.EBUSY, errno.EEXIST):
            raise
        space.rtnl.run([links.veth_add(nic.name, index=0, mac=nic.mac, mtu=mtu, peer=host_end, peer_ns_fd=ns_fd)])
    return link is not None and port is None


def _ensure_port(
    site: Site,
    rtnl: Rtnl,
    nft: Nft,
    host_end: str,
    bridge_index: int,
    nic: NicAssignment,
    network: NetworkAssignment,
    alias: str,
) -> None:
    """Guard first, then the bridge, then up: no frame passes unguarded."""
    port = links.find_link(rtnl, host_end)
    assert port is not None
    bare = [a.split("/")[0] for a in nic.addresses]
    neighbours = [subnet.cidr for subnet in network.subnets] if nic.forwards else None
    mac, rate = nic.mac.lower(), nic.rate_out_bits
    nft.run(guard.port_rules(site.guard, host_end, mac, bare, rate, neighbours, nic.dhcp_client, nic.virtual))
    shaping.ensure(rtnl, port.index, nic.rate_in_bits)
    learning = links.port_set(port.index, learning=nic.virtual is not None)
    if (port.master, port.mtu, port.up, port.alias) == (bridge_index, network.mtu, True, alias):
        rtnl.run([links.fdb_local_add(port.index, nic.mac), learning])
        return
    rtnl.run(
        [
            links.link_set(index=port.index, mtu=network.mtu, alias=alias, no_link_local=True),
            links.link_set(index=port.index, master=bridge_index),
            learning,
            links.fdb_local_add(port.index, nic.mac),
            links.link_set(index=port.index, up=True),
        ]
    )


def _await_ready(site: Site, space: Namespace, host_end: str, nic: NicAssignment, network: NetworkAssignment) -> None:
    """Network before process: the first packet must pass. A shared bridge may take its time (STP): not waited for."""
    links.wait_ready(space.rtnl, nic.name)
    if not shared.has_host_end(network):
        return
    if network.kind is NetworkKind.SHARED:
        with Rtnl() as rtnl:
            links.wait_ready(rtnl, host_end)
        return
    with site.open_network(network.network_id) as other:
        links.wait_ready(other.rtnl, host_end, as_port=True)


# Addresses and routes -----------------------------------------------------------------------------------------------


def _configure(space: Namespace, nics: Sequence[NicAssignment], *, fresh: bool) -> dict[str, list[str]]:
    """Addresses, links up, routes: in this order, for a route needs its gateway in reach.

    New addresses come before old ones go: an interface that has none for a moment loses its routes, and its connections with them.

    Returns the new addresses by interface.
    """
    have_links = links.list_links(space.rtnl)
    have_addresses = {} if fresh else links.list_addresses(space.rtnl)
    have_routes = set() if fresh else links.list_routes(space.rtnl)
    messages: list[Message] = []
    if not have_links["lo"].up:
        messages.append(links.link_set("lo", up=True))
    wanted_routes: list[Route] = []
    gone: list[Message] = []
    added: dict[str, list[str]] = {}
    for nic in nics:
        link = have_links[nic.name]
        with_v6 = any(ipaddress.ip_interface(a).version == 6 for a in nic.addresses)
        wanted = {str(ipaddress.ip_interface(address)) for address in nic.addresses}
        have = {a for a in have_addresses.get(link.index, set()) if not a.startswith("fe80:")}
        gone += [links.address_delete(link.index, address) for address in sorted(have - wanted)]
        # in the order given: the first is the one that the kernel prefers as source
        ordered = [str(ipaddress.ip_interface(a)) for a in nic.addresses]
        added[nic.name] = [address for address in ordered if address not in have]
        fresh_ones = ordered if nic.lease_seconds else added[nic.name]  # a lease that was renewed is good for longer
        messages += [links.address_add(link.index, one, valid_seconds=nic.lease_seconds) for one in fresh_ones]
        if not link.up:
            messages.append(links.link_set(index=link.index, up=True, no_link_local=not with_v6))
        wanted_routes += _routes(nic, link.index)
    if gone:
        space.sysctl({"ipv4/conf/all/promote_secondaries": "1"})  # a namespace of an older agent may lack it
        space.rtnl.run([*messages, *gone])
        messages, have_routes = [], links.list_routes(space.rtnl)  # some went with the addresses
    messages += [links.route_delete(route) for route in sorted(have_routes - set(wanted_routes), key=str)]
    messages += [links.route_add(route) for route in wanted_routes if route not in have_routes]
    have_rules = set() if fresh else routing_rules.list_rules(space.rtnl)
    space.rtnl.run([*messages, *routing_rules.difference(have_rules, _rules(nics))])
    for nic in nics:
        if nic.rate_out_bits or not fresh:
            shaping.ensure(space.rtnl, have_links[nic.name].index, nic.rate_out_bits)
    return added


def _rules(nics: Sequence[NicAssignment]) -> list[Rule]:
    """Rules of all interfaces. One without addresses is one of each family; one without a priority comes where it is listed."""
    found: list[Rule] = []
    for number, rule in enumerate(rule for nic in nics for rule in nic.rules):
        source, destination = (str(ipaddress.ip_network(end)) if end else "" for end in (rule.source, rule.destination))
        versions = {ipaddress.ip_network(end).version for end in (source, destination) if end} or {4, 6}
        priority = rule.priority or _FIRST_PRIORITY + number
        found += [Rule(version, priority, rule.table, source, destination, rule.fwmark) for version in sorted(versions)]
    return found


def _routes(nic: NicAssignment, index: int) -> list[Route]:
    """Defaults and extra routes of one interface; a gateway outside its subnets gets a route on the link first."""
    found: list[Route] = []
    subnets = [ipaddress.ip_interface(address).network for address in nic.addresses]
    pairs = [("0.0.0.0/0" if ipaddress.ip_address(g).version == 4 else "::/0", g) for g in nic.gateways]
    main = [*pairs, *((route.destination, route.gateway) for route in nic.routes)]
    tables = [(rule.table, route.destination, route.gateway) for rule in nic.rules for route in rule.routes]
    for table, destination, gateway in [*((links.MAIN_TABLE, *one) for one in main), *tables]:
        target = str(ipaddress.ip_network(destination))
        if not gateway:
            found.append(Route(target, None, index, table))
            continue
        address = ipaddress.ip_address(gateway)
        if not any(address in subnet for subnet in subnets):
            found.append(Route(f"{address}/{address.max_prefixlen}", None, index))  # where next hops are looked up
        found.append(Route(target, str(address), index, table))
    return list(dict.fromkeys(found))

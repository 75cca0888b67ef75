"""A router's bundle, derived from its scene. Pure.

What leads nowhere (an instance that is gone, a leg that is not plugged yet) is left out, so that a rule whose target comes back works
again without being touched. What was admitted together never clashes here: that is checked where rules are admitted.
"""

import ipaddress
from collections.abc import Iterable
from typing import TypeVar

from controlplane.domain.instances import Instance, InstanceNic
from controlplane.domain.networks import Network
from controlplane.domain.readiness import refuses_traffic
from controlplane.domain.routers import (
    DefaultAction,
    FirewallAction,
    FirewallRule,
    PortForward,
    Router,
    RouterRule,
    SourceNat,
    StaticNat,
    groups_of_balancer,
)
from controlplane.routers.balancer_bundles import OutsideAndInside, Place, balancer_bundles
from controlplane.routers.scene import RouterScene
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import (
    DhcpBundle,
    DhcpReservation,
    FirewallBundle,
    LegBundle,
    PairBundle,
    PortForwardBundle,
    RouterBundle,
    SourceNatBundle,
    StaticNatBundle,
    TrafficProtocol,
)

T = TypeVar("T")

DRAIN_SECONDS = 60.0
DHCP_LEASE_SECONDS = 3600.0
VIRTUAL_ID = 1  # of VRRP: one is enough, because a network has at most one router
_PRIORITIES = (200, 100)  # of the members of a pair


def derive(scene: RouterScene, member: Instance, version: int) -> RouterBundle:
    """What the agent of one member is told."""
    by_network = {nic.network_uid: nic for nic in member.nics}
    outside = by_network.get(scene.router.outside_uid)
    interfaces = {
        network.name: by_network[network.uid].interface for network in scene.legs if network.uid in by_network
    }
    translations = _Translations(scene, _addresses(outside))
    rules = scene.rules
    return RouterBundle(
        instance_id=InstanceId(member.uid),
        version=version,
        outside_interface=outside.interface if outside is not None else "",
        outside_addresses=_addresses(outside),
        legs=tuple(
            _leg(scene, network, member, by_network[network.uid]) for network in scene.legs if network.uid in by_network
        ),
        source_nats=_all(map(translations.source_nat, rules)),
        static_nats=_all(map(translations.static_nat, rules)),
        port_forwards=_all(map(translations.port_forward, rules)),
        firewall=_firewall(rules, interfaces),
        balancers=balancer_bundles(scene.balancers, outside_and_inside(scene, member)),
        drain_time_seconds=scene.router.spec.drain_time_seconds or DRAIN_SECONDS,
        pair=_pair(scene, member),
    )


def target_address(scene: RouterScene, rule: RouterRule) -> str:
    """The address that a rule leads to, without prefix length; empty: it leads nowhere, now or ever."""
    spec = rule.spec
    target: StaticNat | PortForward | None = spec.static_nat or spec.port_forward
    if target is None:
        return ""
    outside = scene.public_addresses.get(target.public_address)
    version = 0 if outside is None else _version(outside.address)
    return scene.leg_address(target.instance, version)[1]


def outside_and_inside(scene: RouterScene, member: Instance) -> OutsideAndInside:
    """What names of balancers stand for in one member."""
    by_network = {nic.network_uid: nic for nic in member.nics}
    outside = by_network.get(scene.router.outside_uid)
    held = _addresses(outside)
    own = {_version(address): address for address in reversed(() if outside is None else _bare(outside.addresses))}
    legs = [(network, by_network[network.uid]) for network in scene.legs if network.uid in by_network]
    return OutsideAndInside(
        outside=None if outside is None else Place(outside.interface, tuple(own[v] for v in sorted(own))),
        public_addresses={name: p.address for name, p in scene.public_addresses.items() if p.address in held},
        inside={
            network.name: Place(nic.interface, tuple(s.gateway for s in network.spec.subnets if s.gateway))
            for network, nic in legs
        },
        instances={
            name: (instance.uid, address)
            for name, instance in scene.instances.items()
            if not refuses_traffic(instance) and (address := scene.leg_address(name)[1])
        },
        groups={
            name: tuple((i.uid, address) for i in scene.members_of(name) if (address := scene.leg_address(i.name)[1]))
            for balancer in scene.balancers
            for name in groups_of_balancer(balancer)
        },
    )


class _Translations:
    """Rules that give traffic other addresses."""

    def __init__(self, scene: RouterScene, outside_addresses: tuple[str, ...]) -> None:
        self._scene = scene
        self._outside = outside_addresses

    def source_nat(self, rule: RouterRule) -> SourceNatBundle | None:
        wanted: SourceNat | None = rule.spec.source_nat
        public = "" if wanted is None else self._public(wanted.public_address)
        return SourceNatBundle(rule.id, wanted.source_cidr, public) if wanted is not None and public else None

    def static_nat(self, rule: RouterRule) -> StaticNatBundle | None:
        wanted = rule.spec.static_nat
        public = "" if wanted is None else self._public(wanted.public_address)
        target = target_address(self._scene, rule)
        return StaticNatBundle(rule.id, public, target) if public and target else None

    def port_forward(self, rule: RouterRule) -> PortForwardBundle | None:
        wanted = rule.spec.port_forward
        if wanted is None or not (target := target_address(self._scene, rule)):
            return None
        if wanted.public_address:
            public = self._public(wanted.public_address)
        else:
            public = next((a for a in self._outside if _version(a) == _version(target)), "")
        if not public:
            return None
        return PortForwardBundle(
            rule_id=rule.id,
            public_address=public,
            protocol=wanted.protocol or "tcp",
            first_port=wanted.first_port,
            last_port=wanted.last_port or wanted.first_port,
            address=target,
            target_port=wanted.target_port or wanted.first_port,
            source_cidrs=wanted.source_cidrs,
        )

    def _public(self, name: str) -> str:
        """A public address that this member has on its outside interface already."""
        found = self._scene.public_addresses.get(name)
        return found.address if found is not None and found.address in self._outside else ""


def main_members(scene: RouterScene) -> tuple[Instance, ...]:
    """The containers that are the router: one, or a pair in order of name; not those that only take ports of their hosts."""
    return tuple(member for member in scene.members if member.id in main_ids(scene.router))


def main_ids(router: Router) -> tuple[str, ...]:
    """The last parts of their names."""
    return tuple(member_id(router, slot) for slot in (("1", "2") if router.spec.redundant else ("1",)))


def member_id(router: Router, slot: str) -> str:
    """The last part of a container's name."""
    return f"{router.id[: 55 - len(slot)]}-router-{slot}"


def _pair(scene: RouterScene, member: Instance) -> PairBundle | None:
    """What a member of a pair must know of the other; None while it is alone."""
    pair = main_members(scene)
    if not scene.router.spec.redundant or len(pair) < 2 or member not in pair or not scene.legs:
        return None
    other = pair[1] if member == pair[0] else pair[0]
    own, peer = (_on(one, scene.legs[0].uid) for one in (member, other))
    if own is None or peer is None:
        return None
    outside = _on(member, scene.router.outside_uid)
    return PairBundle(
        virtual_id=VIRTUAL_ID,
        priority=_PRIORITIES[pair.index(member)],
        own_address=_addresses(own)[0],
        peer_address=_addresses(peer)[0],
        outside_virtual_id=scene.router.outside_virtual_id,
        outside_addresses=() if outside is None else _bare(outside.lent_addresses),
    )


def _on(member: Instance, network_uid: str) -> InstanceNic | None:
    return next((nic for nic in member.nics if nic.network_uid == network_uid), None)


def _leg(scene: RouterScene, network: Network, member: Instance, nic: InstanceNic) -> LegBundle:
    holds_gateways = member.id in main_ids(scene.router)
    wanted = next((leg for leg in scene.router.spec.legs if leg.network == network.name), None)
    return LegBundle(
        network_id=NetworkId(network.uid),
        interface=nic.interface,
        cidrs=tuple(subnet.cidr for subnet in network.spec.subnets),
        addresses=tuple(subnet.gateway for subnet in network.spec.subnets if subnet.gateway)
        if holds_gateways
        else _addresses(nic),
        deny_egress=wanted is not None and wanted.egress is DefaultAction.DENY,
        dhcp=_dhcp(scene, network, member) if holds_gateways else None,
        gateway_elsewhere=not holds_gateways,
    )


def _dhcp(scene: RouterScene, network: Network, member: Instance) -> DhcpBundle | None:
    """Every instance has a reservation, so that one that asks gets what it has. Members of a pair give out a half of each range."""
    dhcp = network.spec.dhcp
    if dhcp is None or not dhcp.enabled:
        return None
    ranges = dhcp.ranges
    if scene.router.spec.redundant:
        ranges = _share(ranges, main_ids(scene.router).index(member.id))
    reservations = [
        DhcpReservation(nic.mac, tuple(a.partition("/")[0] for a in nic.addresses), instance.effective.hostname)
        for _name, instance in sorted(scene.instances.items())
        for nic in instance.nics
        if nic.network_uid == network.uid
    ]
    reservations += [DhcpReservation(host.mac.lower(), (host.address,), host.hostname) for host in dhcp.hosts]
    return DhcpBundle(
        ranges=ranges,
        lease_time_seconds=dhcp.lease_time_seconds or DHCP_LEASE_SECONDS,
        options=dhcp.options,
        reservations=tuple(reservations),
        domain=network.dns_domain,
        mtu=network.spec.mtu,
    )


def _share(ranges: tuple[str, ...], index: int) -> tuple[str, ...]:
    """The half of each range that one member of a pair gives out: they know nothing of each other's leases."""
    found = []
    for one in ranges:
        first, last = (ipaddress.ip_address(end.strip()) for end in one.split("-"))
        middle = first + (int(last) - int(first) + 1) // 2
        begin, end = (first, middle - 1) if index == 0 else (middle, last)
        if int(begin) <= int(end):
            found.append(f"{begin}-{end}")
    return tuple(found)


def _firewall(rules: tuple[RouterRule, ...], interfaces: dict[str, str]) -> tuple[FirewallBundle, ...]:
    """In the order in which they are tried: by order, then by name."""
    found: list[tuple[int, str, FirewallBundle]] = []
    for rule in rules:
        wanted: FirewallRule | None = rule.spec.firewall
        if wanted is None:
            continue
        named = [name for name in (wanted.from_network, wanted.to_network) if name]
        if any(name not in interfaces for name in named):
            continue
        bundle = FirewallBundle(
            rule_id=rule.id,
            direction=wanted.direction,
            deny=wanted.action is FirewallAction.DENY,
            protocol=TrafficProtocol.ANY if wanted.protocol is TrafficProtocol.UNSPECIFIED else wanted.protocol,
            ports=wanted.ports,
            icmp_type=wanted.icmp_type,
            source_cidrs=wanted.source_cidrs,
            destination_cidrs=wanted.destination_cidrs,
            from_interface=interfaces.get(wanted.from_network, ""),
            to_interface=interfaces.get(wanted.to_network, ""),
        )
        found.append((wanted.order, rule.id, bundle))
    return tuple(bundle for _order, _id, bundle in sorted(found, key=lambda item: item[:2]))


def _addresses(nic: InstanceNic | None) -> tuple[str, ...]:
    """Without prefix length: its own, then those that others lent it."""
    if nic is None:
        return ()
    return _bare((*nic.addresses, *nic.lent_addresses))


def _bare(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(address.partition("/")[0] for address in addresses)


def _all(found: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(one for one in found if one is not None)


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version

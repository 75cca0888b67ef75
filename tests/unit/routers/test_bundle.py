"""What a router is told, derived from its scene."""

from dataclasses import replace
from typing import Any

from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.networks import DhcpHost, DhcpSpec
from controlplane.domain.routers import DefaultAction, FirewallAction, PortForward, RouterLeg, SourceNat, StaticNat
from controlplane.routers.bundle import derive, target_address
from moorage.router_bundle import (
    DhcpBundle,
    FirewallDirection,
    PairBundle,
    PortForwardBundle,
    SourceNatBundle,
    StaticNatBundle,
    TrafficProtocol,
)
from tests.unit.routers import scenes as s

ONE = f"projects/{s.P}/publicAddresses/one"


def test_interfaces_and_addresses() -> None:
    bundle = derive(s.scene(), s.member(lent=("198.51.100.20/24",)), 7)
    assert (bundle.instance_id, bundle.version) == ("uid-edge-router-1", 7)
    assert (bundle.outside_interface, bundle.outside_addresses) == ("eth0", ("198.51.100.9", "198.51.100.20"))
    assert [(leg.interface, leg.cidrs, leg.addresses) for leg in bundle.legs] == [
        ("eth1", ("10.1.0.0/24", "fd00:1::/64"), ("10.1.0.1", "fd00:1::1")),
        ("eth2", ("10.2.0.0/24",), ("10.2.0.1",)),
    ]
    assert bundle.drain_time_seconds == 60.0
    assert derive(s.scene(router=s.router(drain_time_seconds=5.0)), s.member(), 1).drain_time_seconds == 5.0


def test_a_leg_that_lets_nothing_out() -> None:
    legs = (RouterLeg(s.BACK.name, DefaultAction.DENY), RouterLeg(s.FRONT.name, DefaultAction.ALLOW))
    bundle = derive(s.scene(router=replace(s.router(), spec=replace(s.router().spec, legs=legs))), s.member(), 1)
    assert [leg.deny_egress for leg in bundle.legs] == [True, False]


def test_translations() -> None:
    rules = (
        s.rule("f", PortForward("", "", 8080, 0, s.WEB.name, 80)),
        s.rule("g", PortForward(ONE, "udp", 1000, 1010, s.DB.name, 0, ("192.0.2.0/24",))),
        s.rule("n", SourceNat("10.1.0.0/25", ONE)),
        s.rule("t", StaticNat(ONE, s.WEB.name)),
    )
    bundle = derive(s.scene(*rules), s.member(lent=("198.51.100.20/24",)), 1)
    assert bundle.port_forwards == (
        PortForwardBundle("f", "198.51.100.9", "tcp", 8080, 8080, "10.1.0.5", 80),
        PortForwardBundle("g", "198.51.100.20", "udp", 1000, 1010, "10.2.0.6", 1000, ("192.0.2.0/24",)),
    )
    assert bundle.source_nats == (SourceNatBundle("n", "10.1.0.0/25", "198.51.100.20"),)
    assert bundle.static_nats == (StaticNatBundle("t", "198.51.100.20", "10.1.0.5"),)


def test_a_public_address_counts_once_it_is_plugged() -> None:
    rules = (s.rule("t", StaticNat(ONE, s.WEB.name)),)
    assert derive(s.scene(*rules), s.member(), 1).static_nats == ()


def test_what_leads_nowhere_is_left_out_and_comes_back() -> None:
    forward = s.rule("f", PortForward("", "", 8080, 0, s.WEB.name, 80))
    gone = s.scene(forward, instances={s.DB.name: s.DB})
    going = s.scene(forward, instances={s.WEB.name: replace(s.WEB, desired=DesiredState.DELETED)})
    for one in (gone, going):
        assert derive(one, s.member(), 1).port_forwards == ()
        assert target_address(one, forward) == ""
    assert len(derive(s.scene(forward), s.member(), 1).port_forwards) == 1


def test_the_families_of_both_ends_agree() -> None:
    six = s.public("six", "2001:db8::20")
    one = s.scene(s.rule("t", StaticNat(six.name, s.WEB.name)), public_addresses={six.name: six})
    assert target_address(one, one.rules[0]) == "fd00:1::5"
    no_six = s.scene(s.rule("t", StaticNat(six.name, s.DB.name)), public_addresses={six.name: six})
    assert target_address(no_six, no_six.rules[0]) == ""


def test_firewall_rules_are_in_the_order_in_which_they_are_tried() -> None:
    rules = (
        s.firewall("a", 20, protocol=TrafficProtocol.TCP, ports=("80",)),
        s.firewall("c", 10, action=FirewallAction.DENY, source_cidrs=("192.0.2.0/24",)),
        s.firewall("b", 10),
        s.firewall("x", 0, direction=FirewallDirection.ACROSS, from_network=s.BACK.name, to_network=s.FRONT.name),
    )
    found = derive(s.scene(*rules), s.member(), 1).firewall
    assert [f.rule_id for f in found] == ["x", "b", "c", "a"]
    assert (found[0].from_interface, found[0].to_interface) == ("eth1", "eth2")
    assert [f.deny for f in found] == [False, False, True, False]
    assert found[1].protocol is TrafficProtocol.ANY


def test_a_firewall_rule_of_a_leg_that_is_gone_is_left_out() -> None:
    rule = s.firewall("x", direction=FirewallDirection.ACROSS, from_network="projects/demo/networks/other")
    assert derive(s.scene(rule), s.member(), 1).firewall == ()


def test_dhcp_knows_every_member() -> None:
    wanted = DhcpSpec(
        True, ("10.1.0.200-10.1.0.220",), 0.0, (), (DhcpHost("02:AA:00:00:00:01", "10.1.0.90", "printer"),)
    )
    back = replace(s.BACK, spec=replace(s.BACK.spec, dhcp=wanted))
    bundle = derive(s.scene(legs=(back, s.FRONT)), s.member(), 1)
    dhcp = bundle.legs[0].dhcp
    assert dhcp is not None
    assert bundle.legs[1].dhcp is None
    assert (dhcp.ranges, dhcp.lease_time_seconds, dhcp.domain, dhcp.mtu) == (
        wanted.ranges,
        3600.0,
        "back.internal",
        1450,
    )
    assert [(r.mac, r.addresses, r.hostname) for r in dhcp.reservations] == [
        ("02:00:00:00:00:02", ("10.1.0.5", "fd00:1::5"), "web"),
        ("02:aa:00:00:00:01", ("10.1.0.90",), "printer"),
    ]


def test_a_pair_shares_the_gateways_and_knows_each_other() -> None:
    def at(slot: str, last: int) -> Instance:
        one = s.member(slot)
        outside, back, front = one.nics
        own = (replace(back, addresses=(f"10.1.0.{last}/24",)), replace(front, addresses=(f"10.2.0.{last}/24",)))
        return replace(one, nics=(outside, *own))

    one, two = at("1", 11), at("2", 12)
    router = s.router(redundant=True)
    first = derive(s.scene(router=router, members=(one, two)), one, 1)
    second = derive(s.scene(router=router, members=(one, two)), two, 1)
    assert first.legs[0].addresses == second.legs[0].addresses == ("10.1.0.1", "fd00:1::1")
    assert first.pair == PairBundle(1, 200, "10.1.0.11", "10.1.0.12")
    assert second.pair == PairBundle(1, 100, "10.1.0.12", "10.1.0.11")
    assert derive(s.scene(router=router, members=(one,)), one, 1).pair is None


def test_an_edge_member_is_nobodys_gateway() -> None:
    edge = s.member("e-h2")
    outside, back, front = edge.nics
    edge = replace(edge, nics=(outside, replace(back, addresses=("10.1.0.30/24",)), front))
    bundle = derive(s.scene(members=(s.member(), edge)), edge, 1)
    assert bundle.legs[0].addresses == ("10.1.0.30",)
    assert bundle.legs[0].gateway_elsewhere
    assert bundle.pair is None
    assert not derive(s.scene(members=(s.member(), edge)), s.member(), 1).legs[0].gateway_elsewhere


def dhcp_of(*ranges: str, **fields: Any) -> tuple[DhcpBundle | None, ...]:
    """What DHCP each member of a pair, and an edge member, is told of the first leg."""
    back = replace(s.BACK, spec=replace(s.BACK.spec, dhcp=DhcpSpec(True, ranges)))
    members = (s.member("1"), s.member("2"), s.member("e-h3"))
    scene = s.scene(legs=(back, s.FRONT), members=members, **fields)
    return tuple(derive(scene, member, 1).legs[0].dhcp for member in members)


def test_members_of_a_pair_give_out_halves() -> None:
    one, two, edge = dhcp_of("10.1.0.200-10.1.0.204", "10.1.0.210-10.1.0.210", router=s.router(redundant=True))
    assert one is not None
    assert two is not None
    assert one.ranges == ("10.1.0.200-10.1.0.201",)
    assert two.ranges == ("10.1.0.202-10.1.0.204", "10.1.0.210-10.1.0.210")
    assert edge is None


def test_an_edge_member_gives_out_nothing() -> None:
    one, _, edge = dhcp_of("10.1.0.200-10.1.0.204")
    assert one is not None
    assert one.ranges == ("10.1.0.200-10.1.0.204",)
    assert edge is None

"""Packet rules of a router, as text. That they do what they say is tried in tests/integration/netlink/test_router.py."""

from dataclasses import replace

import pytest

from hostagent.netlink import router_rules
from hostagent.netlink.router_rules import Installed, installed, numbered
from moorage.errors import InvalidSpec
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import (
    FirewallBundle,
    FirewallDirection,
    LegBundle,
    PairBundle,
    PortForwardBundle,
    RouterBundle,
    RuleFigure,
    SourceNatBundle,
    StaticNatBundle,
    TrafficProtocol,
)

NOTHING = Installed({}, frozenset())
BUNDLE = RouterBundle(
    InstanceId("r"),
    1,
    "eth0",
    ("192.0.2.1", "192.0.2.2"),
    (
        LegBundle(NetworkId("na"), "eth1", ("10.1.0.0/24",), ("10.1.0.1",)),
        LegBundle(NetworkId("nb"), "eth2", ("10.2.0.0/24",), ("10.2.0.1",)),
    ),
)
WEB = PortForwardBundle("web", "192.0.2.1", "tcp", 80, 81, "10.1.0.5", 8080)


def lines(bundle: RouterBundle, chain: str, known: Installed = NOTHING) -> list[str]:
    head = f"add rule inet moorage-router {chain} "
    return [one.removeprefix(head) for one in router_rules.table(bundle, known).splitlines() if one.startswith(head)]


def test_forwards_are_one_look_up() -> None:
    rules = lines(replace(BUNDLE, port_forwards=(WEB,)), "arriving")
    assert rules[-1] == (
        "dnat ip to ip daddr . meta l4proto . th dport map "
        "{ 192.0.2.1 . tcp . 80 : 10.1.0.5 . 8080, 192.0.2.1 . tcp . 81 : 10.1.0.5 . 8081 }"
    )
    assert len(rules) == 2


def test_who_answers_to_another_gateway_sees_the_router_as_the_sender() -> None:
    legs = (BUNDLE.legs[0], replace(BUNDLE.legs[1], gateway_elsewhere=True))
    rules = lines(replace(BUNDLE, port_forwards=(WEB,), legs=legs), "leaving")
    assert rules[:2] == [
        'oifname "eth1" ct status dnat ip saddr 10.1.0.0/24 ip daddr 10.1.0.0/24 masquerade',
        'oifname "eth2" ct status dnat ip daddr 10.2.0.0/24 masquerade',
    ]


def test_whoever_is_not_named_is_not_forwarded() -> None:
    rules = lines(replace(BUNDLE, port_forwards=(replace(WEB, source_cidrs=("198.51.100.0/24",)),)), "arriving")
    assert rules[0] == "ip daddr 192.0.2.1 tcp dport 80-81 ip saddr != 198.51.100.0/24 accept"
    rules = lines(replace(BUNDLE, port_forwards=(replace(WEB, source_cidrs=("2001:db8::/32",)),)), "arriving")
    assert rules[0] == "ip daddr 192.0.2.1 tcp dport 80-81 accept"


def test_sources_that_overlap_are_tried_in_order() -> None:
    overlapping = (SourceNatBundle("a", "10.1.0.5/32", "192.0.2.2"), SourceNatBundle("b", "10.1.0.0/24", "192.0.2.1"))
    rules = lines(replace(BUNDLE, source_nats=overlapping), "leaving")
    assert rules[2:4] == [
        'oifname "eth0" ip saddr 10.1.0.5/32 snat ip to 192.0.2.2',
        'oifname "eth0" ip saddr 10.1.0.0/24 snat ip to 192.0.2.1',
    ]
    assert rules[-1] == 'oifname "eth0" ip saddr { 10.1.0.0/24, 10.2.0.0/24 } snat ip to 192.0.2.1'


def test_a_firewall_rule_speaks_of_each_family_in_which_it_can_fit() -> None:
    rule = FirewallBundle(
        "r",
        FirewallDirection.IN,
        protocol=TrafficProtocol.TCP,
        ports=("22", "80-90"),
        source_cidrs=("198.51.100.0/24", "2001:db8::/32"),
    )
    assert lines(replace(BUNDLE, firewall=(rule,)), "inward") == [
        "ip saddr 198.51.100.0/24 tcp dport { 22, 80-90 } ct mark set ct mark and 0xffff or 0x10000 accept",
        "ip6 saddr 2001:db8::/32 tcp dport { 22, 80-90 } ct mark set ct mark and 0xffff or 0x10000 accept",
    ]
    mixed = replace(rule, destination_cidrs=("10.1.0.0/24",), deny=True, ports=())
    assert lines(replace(BUNDLE, firewall=(mixed,)), "inward") == [
        "ip saddr 198.51.100.0/24 ip daddr 10.1.0.0/24 meta l4proto tcp counter name r-r drop"
    ]


def test_a_member_of_a_pair_hears_vrrp_on_its_legs_only() -> None:
    pair = replace(BUNDLE, pair=PairBundle(7, 100, "10.1.0.2", "10.1.0.3"))
    heard = [one for one in lines(pair, "input") if "112" in one]
    assert heard == ['iifname { "eth1", "v-eth1", "eth2", "v-eth2" } meta l4proto 112 accept']
    assert not any("112" in one for one in lines(BUNDLE, "input"))


def test_what_goes_to_a_pairs_gateway_comes_in_on_an_interface_of_its_own() -> None:
    pair = replace(BUNDLE, pair=PairBundle(7, 100, "10.1.0.2", "10.1.0.3"))
    forward = lines(pair, "forward")
    assert 'iifname { "eth1", "v-eth1", "eth2", "v-eth2" } oifname "eth0" jump outward' in forward
    assert 'iifname { "eth1", "v-eth1" } oifname "eth1" accept' in forward
    assert not any("v-eth0" in one or ("oifname" in one and "v-" in one.split("oifname")[1]) for one in forward)


def test_what_goes_to_a_pairs_public_address_comes_in_on_an_interface_of_its_own() -> None:
    pair = replace(BUNDLE, pair=PairBundle(7, 100, "10.1.0.2", "10.1.0.3", 254, ("198.51.100.20",)))
    assert 'iifname { "eth0", "v-eth0" } oifname { "eth1", "eth2" } jump inward' in lines(pair, "forward")
    assert any('"v-eth0" } meta l4proto 112 accept' in one for one in lines(pair, "input"))


def test_without_an_outside_nothing_is_translated() -> None:
    inner = replace(BUNDLE, outside_interface="", outside_addresses=())
    assert not any("snat" in rule for rule in lines(inner, "leaving"))
    assert not any("inward" in rule for rule in lines(inner, "forward"))


def test_numbers_stay_and_are_not_used_again_soon() -> None:
    first = numbered(["a", "b", "c"], {})
    assert first == {"a": 1, "b": 2, "c": 3}
    assert numbered(["0", "b", "d"], first) == {"0": 4, "b": 2, "d": 5}
    assert numbered(["a", "b"], {"a": 0x7FFF}) == {"a": 0x7FFF, "b": 1}
    full = {f"r{n}": n for n in range(1, 0x8000)}
    assert numbered(["r2", "new"], full) == {"r2": 2, "new": 1}


def test_what_is_there_is_respected() -> None:
    looked = """table inet moorage-router {
\tcounter r-web {
\t\tpackets 3 bytes 180
\t}
\tcounter r-old.one {
\t\tpackets 0 bytes 0
\t}
\tmap counted {
\t\ttype mark : counter
\t\telements = { 0x00008002 : "r-web", 0x00050000 : "r-old.one" }
\t}
}"""
    found = installed(looked)
    assert found == Installed({"web": 2, "old.one": 5}, frozenset({"web", "old.one"}))
    assert router_rules.figures(looked)[0] == RuleFigure("web", 3, 180)
    text = router_rules.table(replace(BUNDLE, port_forwards=(WEB,)), found)
    assert "delete counter inet moorage-router r-old.one" in text
    assert "add counter" not in text
    assert '0x8002 : "r-web"' in text


@pytest.mark.parametrize(
    "bundle",
    [
        replace(BUNDLE, port_forwards=(replace(WEB, rule_id="a b"),)),
        replace(BUNDLE, port_forwards=(replace(WEB, last_port=79),)),
        replace(BUNDLE, port_forwards=(replace(WEB, target_port=65535),)),
        replace(BUNDLE, port_forwards=(replace(WEB, address="fd00::5"),)),
        replace(BUNDLE, port_forwards=(replace(WEB, protocol="sctp"),)),
        replace(BUNDLE, static_nats=(StaticNatBundle("s", "192.0.2.2", "ten"),)),
        replace(BUNDLE, outside_interface='eth0"; flush ruleset'),
        replace(BUNDLE, firewall=(FirewallBundle("r", FirewallDirection.UNSPECIFIED),)),
        replace(BUNDLE, firewall=(FirewallBundle("r", FirewallDirection.IN, ports=("80; accept",)),)),
    ],
)
def test_what_is_no_value_of_its_kind_is_refused(bundle: RouterBundle) -> None:
    with pytest.raises(InvalidSpec) as refused:
        router_rules.table(bundle, NOTHING)
    assert refused.value.reason == "ROUTER_BUNDLE_INVALID"

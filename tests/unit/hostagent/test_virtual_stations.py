"""What guards and forwarding tables make of the gateway of a redundant pair. That it works: tests/integration/netlink/test_pair.py."""

from hostagent.domain import Peer, VirtualStation
from hostagent.netlink import forwarding, guard
from hostagent.netlink.guard import Family

STATION = VirtualStation("00:00:5E:00:01:01", ("10.1.0.1", "fd00:1::1"))
PEER = Peer("02:00:00:00:00:05", ("10.1.0.5",), "192.0.2.2")


def rules_of(virtual: VirtualStation | None) -> list[str]:
    text = guard.port_rules(Family.BRIDGE, "mip", "02:00:00:00:00:0b", ("10.1.0.11", "fd00:1::b"), 0, virtual=virtual)
    head = "add rule bridge moorage mip "
    return [line.removeprefix(head) for line in text.splitlines() if line.startswith(head)]


def test_only_a_member_of_a_pair_speaks_vrrp_and_has_the_virtual_mac() -> None:
    plain = rules_of(None)
    assert plain[:3] == ["ether saddr != 02:00:00:00:00:0b drop", "ip protocol 112 drop", "meta l4proto 112 drop"]
    assert not [rule for rule in plain if "00:00:5e" in rule]
    assert plain[-1] == "drop"


def test_what_a_member_of_a_pair_may_be() -> None:
    rules = rules_of(STATION)
    frame = "ether saddr 00:00:5e:00:01:01"
    assert f"{frame} ip protocol 112 ip saddr {{ 10.1.0.11 }} ip daddr 224.0.0.18 accept" in rules
    assert f"{frame} arp saddr ether 00:00:5e:00:01:01 arp saddr ip {{ 10.1.0.1 }} accept" in rules
    assert f"{frame} ip protocol != 112 ip saddr {{ 10.1.0.1 }} accept" in rules
    # Its own MAC answers for the gateway in packets, but not in ARP.
    assert "ether type ip ip saddr { 10.1.0.11, 10.1.0.1 } accept" in rules
    own_arp = "ether type arp arp saddr ether 02:00:00:00:00:0b arp saddr ip { 0.0.0.0, 10.1.0.11 } accept"
    assert own_arp in rules
    # What else comes with the virtual MAC is dropped like any foreign one.
    assert max(i for i, rule in enumerate(rules) if frame in rule) < rules.index(
        "ether saddr != 02:00:00:00:00:0b drop"
    )


def test_a_station_has_neighbour_entries_and_no_place() -> None:
    table = forwarding.wanted([PEER], [STATION])
    assert table.neighbours == {
        "10.1.0.5": PEER.mac,
        "10.1.0.1": "00:00:5e:00:01:01",
        "fd00:1::1": "00:00:5e:00:01:01",
    }
    assert table.forwarding == forwarding.wanted([PEER]).forwarding


def test_links_learn_only_where_it_is_needed_and_right() -> None:
    other_port = Peer("02:00:00:00:00:06", ("10.1.0.6",), "192.0.2.3", host_port=14789)
    assert forwarding.learns([STATION], [PEER], 4789)
    assert not forwarding.learns([], [PEER], 4789)
    assert not forwarding.learns([STATION], [PEER, other_port], 4789)

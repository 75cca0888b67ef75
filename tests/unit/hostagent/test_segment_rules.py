"""The text of the filter before VXLAN segments."""

from hostagent.domain import Peer
from hostagent.netlink.segment_rules import Segment, difference, ends_of, whole
from moorage.ids import NetworkId

A, B = NetworkId("naaaaaaaaa"), NetworkId("nbbbbbbbbb")
TWO, THREE, SIX = ("192.0.2.2", 4789), ("192.0.2.3", 14789), ("fd00::2", 4789)


def test_nothing_to_do() -> None:
    known = {A: Segment(42, frozenset({TWO, SIX}))}
    assert difference(known, dict(known)) == ""
    assert difference({}, {}) == ""


def test_a_network_gets_its_chain_its_way_and_its_ends() -> None:
    text = difference({}, {A: Segment(42, frozenset({THREE, TWO, SIX}))})
    assert text.splitlines() == [
        "add chain inet moorage-segments n-naaaaaaaaa",
        "flush chain inet moorage-segments n-naaaaaaaaa",
        "add rule inet moorage-segments n-naaaaaaaaa ip saddr { 192.0.2.2, 192.0.2.3 } accept",
        "add rule inet moorage-segments n-naaaaaaaaa ip6 saddr { fd00::2 } accept",
        "add rule inet moorage-segments n-naaaaaaaaa drop",
        "flush chain inet moorage-segments segments",
        "add rule inet moorage-segments segments @th,96,24 vmap { 42 : jump n-naaaaaaaaa }",
        "add element inet moorage-segments ends4 { 192.0.2.2 . 4789 }",
        "add element inet moorage-segments ends4 { 192.0.2.3 . 14789 }",
        "add element inet moorage-segments ends6 { fd00::2 . 4789 }",
    ]


def test_only_what_differs_is_written() -> None:
    before = {A: Segment(42, frozenset({TWO})), B: Segment(43, frozenset({TWO}))}
    after = before | {B: Segment(43, frozenset({TWO, THREE}))}
    text = difference(before, after)
    assert "n-naaaaaaaaa" not in text
    assert "segments segments" not in text
    assert text.count("element") == 1
    moved = difference(before, before | {B: Segment(43, frozenset({("192.0.2.2", 5000)}))})
    assert moved.splitlines() == ["add element inet moorage-segments ends4 { 192.0.2.2 . 5000 }"]


def test_an_end_stays_while_another_network_needs_it() -> None:
    before = {A: Segment(42, frozenset({TWO})), B: Segment(43, frozenset({TWO}))}
    assert "element" not in difference(before, {A: before[A]})
    last = difference({A: before[A]}, {})
    assert last.splitlines() == [
        "flush chain inet moorage-segments segments",
        "delete chain inet moorage-segments n-naaaaaaaaa",
        "delete element inet moorage-segments ends4 { 192.0.2.2 . 4789 }",
    ]


def test_a_network_without_peers_takes_nothing() -> None:
    text = difference({}, {A: Segment(42)})
    assert "add rule inet moorage-segments n-naaaaaaaaa drop" in text
    assert "accept" not in text


def test_an_identifier_that_is_given_again_is_the_newer_networks() -> None:
    text = difference({A: Segment(42)}, {A: Segment(42), B: Segment(42)})
    assert "vmap { 42 : jump n-nbbbbbbbbb }" in text
    assert "vmap { 42 : jump n-naaaaaaaaa }" in difference({A: Segment(42), B: Segment(42)}, {A: Segment(42)})


def test_the_whole_table_names_the_port_and_everything() -> None:
    text = whole(14789, {A: Segment(42, frozenset({TWO}))})
    assert text.startswith("add table inet moorage-segments\ndelete table inet moorage-segments\n")
    assert "input udp dport 14789 jump segments" in text
    assert text.endswith(difference({}, {A: Segment(42, frozenset({TWO}))}))


def test_the_ends_of_peers() -> None:
    peers = [
        Peer(f"02:00:00:00:00:0{n}", (), host, port) for n, (host, port) in enumerate([TWO, TWO, ("fd00:0::2", 1)])
    ]
    assert ends_of(peers) == {TWO, ("fd00::2", 1)}

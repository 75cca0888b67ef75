"""A router's rules against real packets: what they should let through passes, what they should stop is stopped."""

import socket
import time
from dataclasses import replace

import pytest

from moorage.errors import Internal
from moorage.router_bundle import (
    BalancerBundle,
    BalancerMode,
    DhcpBundle,
    FirewallBundle,
    FirewallDirection,
    ListenerBundle,
    PortForwardBundle,
    SourceNatBundle,
    StaticNatBundle,
    TrafficProtocol,
)
from tests.integration.netlink import router_bed
from tests.integration.netlink.bed import Bed, arp, ethernet, ipv4_udp
from tests.integration.netlink.router_bed import CLIENT, CLIENT6, OWN, PUBLIC, PUBLIC2, RouterBed

pytestmark = pytest.mark.root
SOON = 0.5
IN, OUT, ACROSS = FirewallDirection.IN, FirewallDirection.OUT, FirewallDirection.ACROSS


@pytest.fixture
async def plugged(bed: Bed) -> RouterBed:
    return await router_bed.make(bed)


async def test_without_rules_instances_get_out_and_nobody_gets_in(plugged: RouterBed) -> None:
    ask = plugged.bed.ask
    assert ask(plugged.a5, CLIENT, 80) == f"client {OWN}"
    assert ask(plugged.a5, CLIENT, 53, udp=True) == f"client {OWN}"
    assert ask(plugged.b5, CLIENT6, 80) == "client fd00:2::5"  # IPv6 as it is
    assert plugged.bed.pings(plugged.a5, CLIENT)
    assert plugged.bed.pings(plugged.a5, CLIENT6)
    assert ask(plugged.client, "fd00:1::5", 80, patience=SOON) == "silence"
    assert ask(plugged.client, "fd00:1::5", 53, udp=True, patience=SOON) == "silence"
    assert not plugged.bed.pings(plugged.client, "fd00:1::5")
    assert ask(plugged.a5, "10.2.0.5", 80, patience=SOON) == "silence"
    assert ask(plugged.a5, "fd00:2::5", 80, patience=SOON) == "silence"
    # the router itself: its programs are not reachable unless they serve
    for address in (OWN, PUBLIC, "fd77::100"):
        assert ask(plugged.client, address, 80, patience=SOON) == "silence"
        assert plugged.bed.pings(plugged.client, address)
    assert ask(plugged.a5, "10.1.0.1", 80, patience=SOON) == "silence"
    assert plugged.bed.pings(plugged.a5, "10.1.0.1")


async def test_port_forwards_lead_inside_from_both_sides(plugged: RouterBed) -> None:
    await plugged.apply(
        port_forwards=(
            PortForwardBundle("web", PUBLIC, "tcp", 8080, 8080, "10.1.0.5", 80),
            PortForwardBundle("dns", PUBLIC, "udp", 5353, 5353, "10.2.0.5", 53),
            PortForwardBundle("few", PUBLIC2, "tcp", 9000, 9000, "10.1.0.5", 80, (f"{CLIENT}/32",)),
            PortForwardBundle("none", PUBLIC2, "tcp", 9001, 9001, "10.1.0.5", 80, ("203.0.113.0/24",)),
            PortForwardBundle("six", "fd77::101", "tcp", 8080, 8080, "fd00:1::6", 80),
        )
    )
    ask = plugged.bed.ask
    assert ask(plugged.client, PUBLIC, 8080) == f"a5 {CLIENT}"
    assert ask(plugged.client, PUBLIC, 5353, udp=True) == f"b5 {CLIENT}"
    assert ask(plugged.client, PUBLIC2, 9000) == f"a5 {CLIENT}"
    assert ask(plugged.client, PUBLIC2, 9001, patience=SOON) == "silence"
    assert ask(plugged.client, "fd77::101", 8080) == f"a6 {CLIENT6}"
    assert ask(plugged.client, PUBLIC, 8081, patience=SOON) == "silence"
    # neighbours by the public address: the answer must not go past the router
    assert ask(plugged.a6, PUBLIC, 8080) == "a5 10.1.0.1"
    assert ask(plugged.a5, PUBLIC, 8080) == "a5 10.1.0.1"
    # from another network the client's address is kept
    assert ask(plugged.b5, PUBLIC, 8080) == "a5 10.2.0.5"
    assert ask(plugged.b5, PUBLIC2, 9000, patience=SOON) == "silence"
    counted = await plugged.counted()
    assert counted["web"] > 20
    assert counted["dns"] == 2
    assert counted["none"] == 0


async def test_ranges_of_ports_keep_their_order(plugged: RouterBed) -> None:
    for port in (7000, 7001, 7002, 9100):
        plugged.bed.serve(plugged.a5, port, greeting=f"p{port}")
    await plugged.apply(
        port_forwards=(
            PortForwardBundle("shifted", PUBLIC, "tcp", 8000, 8002, "10.1.0.5", 7000),
            PortForwardBundle("wide", PUBLIC, "tcp", 9000, 9999, "10.1.0.5", 9000),
        )
    )
    for offset in (0, 1, 2):
        assert plugged.bed.ask(plugged.client, PUBLIC, 8000 + offset) == f"p{7000 + offset} {CLIENT}"
    assert plugged.bed.ask(plugged.client, PUBLIC, 9100) == f"p9100 {CLIENT}"
    assert plugged.bed.ask(plugged.client, PUBLIC, 8003, patience=SOON) == "silence"
    assert (await plugged.counted())["wide"] > 5


async def test_static_nat_is_one_to_one_both_ways_and_shut_until_a_rule_opens_it(plugged: RouterBed) -> None:
    static = (StaticNatBundle("s5", PUBLIC, "10.1.0.5"), StaticNatBundle("s6", "fd77::101", "fd00:1::6"))
    await plugged.apply(static_nats=static)
    ask, pings = plugged.bed.ask, plugged.bed.pings
    assert ask(plugged.a5, CLIENT, 80) == f"client {PUBLIC}"
    assert ask(plugged.a6, CLIENT, 80) == f"client {OWN}"
    assert ask(plugged.a6, CLIENT6, 80) == "client fd77::101"
    assert ask(plugged.client, PUBLIC, 80, patience=SOON) == "silence"
    assert not pings(plugged.client, PUBLIC)
    assert (await plugged.counted())["s5"] > 5
    open_rules = (
        FirewallBundle("web", IN, protocol=TrafficProtocol.TCP, ports=("80",), destination_cidrs=("10.1.0.5/32",)),
        FirewallBundle("ping", IN, protocol=TrafficProtocol.ICMP, icmp_type=8),
    )
    await plugged.apply(static_nats=static, firewall=open_rules)
    assert ask(plugged.client, PUBLIC, 80) == f"a5 {CLIENT}"
    assert pings(plugged.client, PUBLIC)
    assert ask(plugged.client, PUBLIC, 53, udp=True, patience=SOON) == "silence"
    # neighbours reach it by its public address, and so does it itself
    assert ask(plugged.a6, PUBLIC, 80) == "a5 10.1.0.1"
    assert ask(plugged.a5, PUBLIC, 80) == "a5 10.1.0.1"
    assert ask(plugged.b5, PUBLIC, 80, patience=SOON) == "silence"  # that is across, which nothing allows


async def test_source_nat_rules_are_tried_in_order(plugged: RouterBed) -> None:
    ask = plugged.bed.ask
    apart = (SourceNatBundle("n5", "10.1.0.0/29", PUBLIC), SourceNatBundle("nb", "10.2.0.0/24", PUBLIC2))
    await plugged.apply(source_nats=apart)
    assert ask(plugged.a5, CLIENT, 80) == f"client {PUBLIC}"
    assert ask(plugged.b5, CLIENT, 80) == f"client {PUBLIC2}"
    overlapping = (SourceNatBundle("n5", "10.1.0.5/32", PUBLIC2), SourceNatBundle("na", "10.1.0.0/24", PUBLIC))
    await plugged.apply(source_nats=overlapping)
    assert ask(plugged.a5, CLIENT, 80) == f"client {PUBLIC2}"
    assert ask(plugged.a6, CLIENT, 53, udp=True) == f"client {PUBLIC}"
    assert ask(plugged.b5, CLIENT, 80) == f"client {OWN}"
    counted = await plugged.counted()
    assert counted["n5"] > counted["na"] == 2


async def test_firewall_rules_inward(plugged: RouterBed) -> None:
    ask, pings = plugged.bed.ask, plugged.bed.pings
    await plugged.apply(
        firewall=(
            FirewallBundle("no", IN, deny=True, protocol=TrafficProtocol.TCP, destination_cidrs=("fd00:1::6",)),
            FirewallBundle("tcp", IN, protocol=TrafficProtocol.TCP, ports=("22", "79-81"), source_cidrs=("fd77::/64",)),
            FirewallBundle(
                "udp", IN, protocol=TrafficProtocol.UDP, ports=("53",), destination_cidrs=("fd00:1::5/128",)
            ),
            FirewallBundle("echo", IN, protocol=TrafficProtocol.ICMPV6, icmp_type=128),
        )
    )
    assert ask(plugged.client, "fd00:1::5", 80) == f"a5 {CLIENT6}"
    assert ask(plugged.client, "fd00:2::5", 80) == f"b5 {CLIENT6}"
    assert ask(plugged.client, "fd00:1::6", 80, patience=SOON) == "silence"
    assert ask(plugged.client, "fd00:1::5", 53, udp=True) == f"a5 {CLIENT6}"
    assert ask(plugged.client, "fd00:1::6", 53, udp=True, patience=SOON) == "silence"
    assert pings(plugged.client, "fd00:2::5")
    counted = await plugged.counted()
    assert counted["no"] >= 1
    assert counted["tcp"] > 10
    assert (counted["udp"], counted["echo"]) == (2, 2)


async def test_firewall_rules_outward_and_the_default_of_a_leg(plugged: RouterBed) -> None:
    ask, pings = plugged.bed.ask, plugged.bed.pings
    first, second = router_bed.bundle().legs
    shut = (replace(first, deny_egress=True), second)
    web = FirewallBundle("web", OUT, protocol=TrafficProtocol.TCP, ports=("80",), source_cidrs=("10.1.0.5/32",))
    names = FirewallBundle("dns", OUT, deny=True, protocol=TrafficProtocol.UDP, ports=("53",))
    await plugged.apply(legs=shut, firewall=(web, names))
    assert ask(plugged.a5, CLIENT, 80) == f"client {OWN}"
    assert ask(plugged.a6, CLIENT, 80, patience=SOON) == "silence"
    assert ask(plugged.a5, CLIENT6, 80, patience=SOON) == "silence"
    assert not pings(plugged.a5, CLIENT)
    assert ask(plugged.b5, CLIENT, 80) == f"client {OWN}"
    assert ask(plugged.b5, CLIENT, 53, udp=True, patience=SOON) == "silence"
    assert (await plugged.counted())["dns"] == 1


async def test_firewall_rules_across(plugged: RouterBed) -> None:
    ask, pings = plugged.bed.ask, plugged.bed.pings
    await plugged.apply(
        firewall=(
            FirewallBundle("no", ACROSS, deny=True, source_cidrs=("10.1.0.6/32",), from_interface="eth1"),
            FirewallBundle("web", ACROSS, protocol=TrafficProtocol.TCP, from_interface="eth1", to_interface="eth2"),
            FirewallBundle("all", ACROSS, source_cidrs=("fd00:2::/64",)),
        )
    )
    assert ask(plugged.a5, "10.2.0.5", 80) == "b5 10.1.0.5"
    assert ask(plugged.a5, "fd00:2::5", 80) == "b5 fd00:1::5"
    assert ask(plugged.a5, "10.2.0.5", 53, udp=True, patience=SOON) == "silence"
    assert ask(plugged.a6, "10.2.0.5", 80, patience=SOON) == "silence"
    assert ask(plugged.b5, "10.1.0.5", 80, patience=SOON) == "silence"
    assert ask(plugged.b5, "fd00:1::5", 53, udp=True) == "a5 fd00:2::5"
    assert pings(plugged.b5, "fd00:1::6")
    assert not pings(plugged.a6, "fd00:2::5")


async def test_the_router_serves_its_listeners_and_names_and_nothing_else(plugged: RouterBed) -> None:
    ask = plugged.bed.ask
    first, second = router_bed.bundle().legs
    listeners = (
        ListenerBundle(PUBLIC, 80, interface="eth0"),
        ListenerBundle(PUBLIC2, 80, source_cidrs=("203.0.113.0/24", "10.2.0.0/24"), interface="eth0"),
        ListenerBundle("10.1.0.1", 80, interface="eth1"),
    )
    await plugged.apply(
        legs=(replace(first, dhcp=DhcpBundle()), second),
        balancers=(BalancerBundle("b", BalancerMode.TCP, listeners),),
    )
    assert ask(plugged.client, PUBLIC, 80) == f"router {CLIENT}"
    assert ask(plugged.a5, PUBLIC, 80) == "router 10.1.0.5"
    assert ask(plugged.client, PUBLIC2, 80, patience=SOON) == "silence"
    assert ask(plugged.b5, PUBLIC2, 80) == "router 10.2.0.5"
    assert ask(plugged.a5, "10.1.0.1", 80) == "router 10.1.0.5"
    plugged.bed.run(plugged.client, f"ip route add 10.1.0.0/24 via {OWN}")
    assert ask(plugged.client, "10.1.0.1", 80, patience=SOON) == "silence"
    assert ask(plugged.a5, "10.1.0.1", 53, udp=True) == "router 10.1.0.5"
    assert ask(plugged.b5, "10.2.0.1", 53, udp=True, patience=SOON) == "silence"
    assert ask(plugged.client, PUBLIC, 53, udp=True, patience=SOON) == "silence"


async def test_a_change_keeps_counters_and_connections_and_ends_those_of_a_forward_that_goes(
    plugged: RouterBed,
) -> None:
    stays = PortForwardBundle("stays", PUBLIC, "tcp", 8080, 8080, "10.1.0.5", 80)
    goes = PortForwardBundle("goes", PUBLIC, "udp", 5353, 5353, "10.1.0.5", 53)
    moves = PortForwardBundle("moves", PUBLIC, "udp", 5354, 5354, "10.1.0.5", 53)
    await plugged.apply(port_forwards=(stays, goes, moves))
    connection = plugged.bed.socket(plugged.client, socket.AF_INET, socket.SOCK_STREAM)
    connection.connect((PUBLIC, 8080))
    going, moving = [plugged.bed.socket(plugged.client, socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for one, port in ((going, 5353), (moving, 5354)):
        one.connect((PUBLIC, port))
        one.send(b"hello")
        assert one.recv(100) == f"a5 {CLIENT}".encode()
    before = await plugged.counted()
    assert before["stays"] >= 3
    more = FirewallBundle("more", OUT, deny=True, protocol=TrafficProtocol.TCP, ports=("25",))
    after = replace(moves, address="10.1.0.6")
    for version in range(3):  # again and again, as agents do that begin anew
        fabric = plugged.host.fabric if version < 2 else plugged.host.new_fabric()
        if version == 2:
            await plugged.host.start(fabric)
        await fabric.apply_router(replace(router_bed.bundle(version), port_forwards=(stays, after), firewall=(more,)))
    await fabric.close()
    counted = await plugged.counted()
    assert counted["stays"] == before["stays"]
    assert counted["moves"] == before["moves"]
    assert set(counted) == {"stays", "moves", "more"}
    connection.send(b"hello")
    assert connection.recv(100) == f"a5 {CLIENT}".encode()
    assert (await plugged.counted())["stays"] > before["stays"]
    moving.send(b"hello")
    assert moving.recv(100) == f"a6 {CLIENT}".encode()
    going.settimeout(SOON)
    going.send(b"hello")
    with pytest.raises(TimeoutError):
        going.recv(100)


async def test_a_connection_through_a_forward_that_goes_is_cut(plugged: RouterBed) -> None:
    await plugged.apply(port_forwards=(PortForwardBundle("goes", OWN, "tcp", 8080, 8080, "10.1.0.5", 80),))
    connection = plugged.bed.socket(plugged.client, socket.AF_INET, socket.SOCK_STREAM)
    connection.connect((OWN, 8080))
    await plugged.apply()
    connection.settimeout(SOON)
    connection.send(b"hello")
    with pytest.raises(TimeoutError):
        connection.recv(100)


async def test_what_nftables_refuses_changes_nothing(plugged: RouterBed) -> None:
    good = PortForwardBundle("web", PUBLIC, "tcp", 8080, 8080, "10.1.0.5", 80)
    await plugged.apply(port_forwards=(good,))
    ports = FirewallBundle("bad", IN, protocol=TrafficProtocol.TCP, ports=("90-80",))
    with pytest.raises(Internal, match="Range"):
        await plugged.apply(port_forwards=(), firewall=(ports,))
    assert plugged.bed.ask(plugged.client, PUBLIC, 8080) == f"a5 {CLIENT}"


async def test_500_rules_are_one_transaction(plugged: RouterBed, capsys: pytest.CaptureFixture[str]) -> None:
    forwards = tuple(
        PortForwardBundle(f"f{n}", PUBLIC, "tcp" if n % 2 else "udp", 10000 + n, 10000 + n, "10.1.0.5", 80)
        for n in range(250)
    )
    firewall = tuple(
        FirewallBundle(
            f"w{n}", IN, protocol=TrafficProtocol.TCP, ports=(str(1000 + n),), source_cidrs=(f"10.9.{n}.0/24",)
        )
        for n in range(250)
    )
    await plugged.apply(port_forwards=forwards, firewall=firewall)
    began = time.monotonic()
    await plugged.apply(port_forwards=forwards[1:], firewall=firewall)
    with capsys.disabled():
        print(f"\n500 rules replaced in {(time.monotonic() - began) * 1000:.0f} ms")
    assert plugged.bed.ask(plugged.client, PUBLIC, 10249) == f"a5 {CLIENT}"


async def test_the_container_cannot_play_a_neighbour(plugged: RouterBed) -> None:
    """What a router sends on has any source but those of the network that it goes to."""
    seen = plugged.bed.sniff(plugged.a5, "eth0")
    leg, target = "02:00:00:00:99:02", router_bed.member(router_bed.A, 5).mac
    for source in ("10.1.0.6", "169.254.128.1", "127.0.0.1"):
        plugged.bed.send_frame(
            plugged.router, "eth1", ethernet(target, leg, 0x0800, ipv4_udp(source, "10.1.0.5", b"forged"))
        )
    forged = arp(2, leg, "10.1.0.6", target, "10.1.0.5")
    plugged.bed.send_frame(plugged.router, "eth1", ethernet(target, leg, 0x0806, forged))
    other_mac = ethernet(target, "02:00:00:00:99:77", 0x0800, ipv4_udp("10.1.0.1", "10.1.0.5", b"forged"))
    plugged.bed.send_frame(plugged.router, "eth1", other_mac)
    for source in ("192.0.2.7", "10.1.0.1"):
        frame = ethernet(target, leg, 0x0800, ipv4_udp(source, "10.1.0.5", f"sent on {source}".encode()))
        plugged.bed.send_frame(plugged.router, "eth1", frame)
    frames = seen.wait_for(lambda frame: b"sent on 10.1.0.1" in frame)
    assert any(b"sent on 192.0.2.7" in frame for frame in frames)
    assert not any(b"forged" in frame or forged in frame for frame in frames)

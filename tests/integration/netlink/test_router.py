"""A router's rules against real packets: what they should let through passes, what they should stop is stopped."""

import pytest

from hostagent.router_bundle import (
    FirewallDirection,
    PortForwardBundle,
)
from tests.integration.netlink import router_bed
from tests.integration.netlink.bed import Bed
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

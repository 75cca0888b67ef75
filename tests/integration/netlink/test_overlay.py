"""Networks over several hosts: who reaches whom, and what is seen on the underlay."""

import dataclasses
import os

import pytest

from hostagent.domain import Peer
from hostagent.netlink.fabric import LinuxFabric
from hostagent.netlink.names import gateway_mac
from moorage.errors import NotFound
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import Bed, Host, ethernet, ipv4_udp, mac, net, nic, peer, plug

pytestmark = pytest.mark.root
NET = "naaaaaaaaa"
ONE, TWO, THREE = "iaaaaaaaaa", "ibbbbbbbbb", "iccccccccc"


def _inner(frame: bytes) -> bytes | None:
    """The frame inside a VXLAN packet over IPv4."""
    is_udp = frame[12:14] == b"\x08\x00" and frame[23] == 17
    return frame[50:] if is_udp and frame[36:38] == (4789).to_bytes(2, "big") else None


async def test_members_of_two_hosts_reach_each_other_and_no_arp_crosses(bed: Bed, host: Host, other: Host) -> None:
    sniffer = bed.sniff(bed.switch.path, "p1")
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(peer(6, other),)),))
    two = await plug(other, TWO, nic(NET, 6), networks=(net(NET, peers=(peer(5, host),)),))
    assert bed.pings(one, "10.1.0.6")
    assert bed.pings(one, "fd00:1::6")
    assert bed.pings(two, "10.1.0.5")
    assert not bed.pings(one, "10.1.0.99")
    crossed = [inner for inner in map(_inner, sniffer.frames()) if inner is not None]
    assert len(crossed) >= 6
    assert [inner for inner in crossed if inner[12:14] == b"\x08\x06"] == []
    solicitations = [inner for inner in crossed if inner[12:14] == b"\x86\xdd" and inner[20] == 58 and inner[54] == 135]
    assert solicitations == []


async def test_peers_come_move_and_go(bed: Bed, host: Host, other: Host) -> None:
    third = await bed.host(3)
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    await plug(other, TWO, nic(NET, 6), networks=(net(NET, peers=(peer(5, host),)),))
    await plug(third, THREE, nic(NET, 6), networks=(net(NET, peers=(peer(5, host),)),))
    assert not bed.pings(one, "10.1.0.6")
    network_id = NetworkId(NET)
    await host.fabric.update_peers(network_id, [peer(6, other)], [])
    bed.run(one, "ip neigh flush dev eth0")  # its next question would come a second after the last
    assert bed.pings(one, "10.1.0.6")
    bed.serve(other.instance(TWO), 80, greeting="second host")
    bed.serve(third.instance(THREE), 80, greeting="third host")
    assert bed.ask(one, "10.1.0.6", 80).startswith("second")
    await host.fabric.update_peers(network_id, [peer(6, third)], [])  # the same member, elsewhere
    assert bed.ask(one, "10.1.0.6", 80).startswith("third")
    forwarding = bed.run(host.network(NET), f"bridge fdb show dev mv{NET}")
    assert other.address not in forwarding
    await host.fabric.update_peers(network_id, [], [mac(6)])
    assert not bed.pings(one, "10.1.0.6")
    assert third.address not in bed.run(host.network(NET), f"bridge fdb show dev mv{NET}")
    with pytest.raises(NotFound):
        await host.fabric.update_peers(NetworkId("nzzzzzzzzz"), [], [])


async def test_ensure_network_replaces_the_set_of_peers(bed: Bed, host: Host, other: Host) -> None:
    extra = Peer("02:00:00:00:00:09", ("10.1.0.9", "fd00:1::9"), "192.168.77.9", host_port=14789)
    await host.fabric.ensure_network(net(NET, peers=(peer(6, other), extra)))
    await host.fabric.ensure_network(net(NET, peers=(peer(6, other), extra)))
    forwarding = bed.run(host.network(NET), f"bridge fdb show dev mv{NET}").splitlines()
    assert any("192.168.77.9 port 14789" in line and line.startswith(extra.mac) for line in forwarding)
    assert len([line for line in forwarding if line.startswith("00:00:00:00:00:00")]) == 2
    restarted = host.new_fabric()
    await host.start(restarted)
    try:
        await restarted.ensure_network(net(NET, peers=(peer(6, other),)))
    finally:
        await restarted.close()
    left = bed.run(host.network(NET), f"bridge fdb show dev mv{NET}")
    assert extra.mac not in left
    assert "192.168.77.9" not in left
    assert "10.1.0.9" not in bed.run(host.network(NET), f"ip neigh show dev mv{NET}")
    assert mac(6) in left


async def test_broadcast_goes_to_member_hosts_only(bed: Bed, host: Host, other: Host) -> None:
    third = await bed.host(3)
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(peer(6, other),)),))
    two = await plug(other, TWO, nic(NET, 6), networks=(net(NET, peers=(peer(5, host),)),))
    at_two, at_third = bed.sniff(two, "eth0"), bed.sniff(bed.switch.path, "p3")
    frame = ethernet("ff:ff:ff:ff:ff:ff", mac(5), 0x0800, ipv4_udp("10.1.0.5", "255.255.255.255", b"to all"))
    bed.send_frame(one, "eth0", frame)
    at_two.wait_for(lambda seen: seen == frame)
    assert [inner for inner in map(_inner, at_third.frames()) if inner == frame] == []
    assert third.address


async def test_nobody_speaks_as_the_gateway_from_another_host(bed: Bed, host: Host, other: Host) -> None:
    """Not even a host whose own guard was broken: these frames start on its VXLAN link."""
    await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(peer(6, other),)),))
    two = await plug(other, TWO, nic(NET, 6), networks=(net(NET, peers=(peer(5, host),)),))
    sniffer = bed.sniff(two, "eth0")
    forged = ethernet(mac(6), gateway_mac(42), 0x0800, ipv4_udp("10.1.0.1", "10.1.0.6", b"forged gateway"))
    honest = ethernet(mac(6), mac(5), 0x0800, ipv4_udp("10.1.0.5", "10.1.0.6", b"honest"))
    for frame in (forged, honest):
        bed.send_frame(host.network(NET), f"mv{NET}", frame)
    assert forged not in sniffer.wait_for(lambda frame: frame == honest)


async def test_identifiers_are_free_at_once_and_change_in_place(bed: Bed, host: Host) -> None:
    for number in range(3):
        network = net(f"n{number:09}", vni=42)
        await host.fabric.ensure_network(network)
        await host.fabric.remove_network(network.network_id)
    changed = dataclasses.replace(net(NET, vni=42), mtu=1300)
    await host.fabric.ensure_network(net(NET, vni=41))
    await host.fabric.ensure_network(changed)  # VNI and MTU changed in place
    assert "mtu 1300" in bed.run(host.network(NET), f"ip link show mb{NET}")
    assert "id 42 " in bed.run(host.network(NET), f"ip -d link show mv{NET}")


async def test_hosts_behind_a_router_with_ports_of_their_own(bed: Bed, host: Host, other: Host) -> None:
    """The second host is on another subnet of the underlay, and listens on another port."""
    router, far = bed.add_leg("router", 100), "192.168.78.2"
    bed.run(router.path, "sysctl -qw net.ipv4.ip_forward=1")
    bed.run(other.path, "ip link del up0")
    bed.run(other.path, f"ip link add up0 type veth peer name far0 netns /proc/{os.getpid()}/fd/{router.fd}")
    bed.run(router.path, "ip addr add 192.168.78.1/24 dev far0")
    bed.run(router.path, "ip link set far0 up")
    bed.run(other.path, f"ip addr add {far}/24 dev up0")
    bed.run(other.path, "ip link set up0 up")
    bed.run(other.path, "ip route add default via 192.168.78.1")
    bed.run(host.path, "ip route add 192.168.78.0/24 via 192.168.77.100")
    fabric = LinuxFabric(run_dir=other.run_dir, underlay_address=far, vxlan_port=14789)
    await other.start(fabric)
    try:
        beyond = dataclasses.replace(peer(6, other), host_address=far, host_port=14789)
        one = await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(beyond,)),))
        network = net(NET, peers=(peer(5, host),))
        await fabric.ensure_network(network)
        two = await fabric.ensure_instance(InstanceId(TWO), [nic(NET, 6)], {network.network_id: network})
        assert bed.pings(one, "10.1.0.6")
        assert bed.pings(two, "fd00:1::5")
        at_two = bed.sniff(two, "eth0")
        frame = ethernet("ff:ff:ff:ff:ff:ff", mac(5), 0x0800, ipv4_udp("10.1.0.5", "255.255.255.255", b"to all"))
        bed.send_frame(one, "eth0", frame)
        at_two.wait_for(lambda seen: seen == frame)
    finally:
        await fabric.close()


async def test_underlay_of_ipv6(bed: Bed, host: Host, other: Host) -> None:
    fabrics = [LinuxFabric(run_dir=one.run_dir, underlay_address=one.address6) for one in (host, other)]
    members = [(host, ONE, 5, 6, other), (other, TWO, 6, 5, host)]
    try:
        for fabric, (here, instance_id, number, far, there) in zip(fabrics, members, strict=True):
            await here.start(fabric)
            peers = (dataclasses.replace(peer(far, there), host_address=there.address6),)
            network = net(NET, peers=peers)
            await fabric.ensure_network(network)
            await fabric.ensure_instance(InstanceId(instance_id), [nic(NET, number)], {network.network_id: network})
        assert bed.pings(host.instance(ONE), "10.1.0.6")
        assert bed.pings(other.instance(TWO), "fd00:1::5")
    finally:
        for fabric in fabrics:
            await fabric.close()

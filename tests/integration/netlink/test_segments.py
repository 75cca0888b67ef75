"""Who may send into a host's VXLAN segments: forged packets over the underlay, from real sockets."""

import dataclasses
import os
import socket
import struct
from pathlib import Path

import pytest

from hostagent.netlink.fabric import LinuxFabric
from moorage.errors import NotReady
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import Bed, Host, ethernet, ipv4_udp, mac, net, nic, peer, plug

pytestmark = pytest.mark.root
NET, LOCAL = "naaaaaaaaa", "nbbbbbbbbb"
ONE, TWO, THREE = "iaaaaaaaaa", "ibbbbbbbbb", "iccccccccc"
TABLE = "inet moorage-segments"


def frame_for(number: int, words: bytes) -> bytes:
    """A datagram of a member to `nic(number)`."""
    return ethernet(mac(number), mac(6), 0x0800, ipv4_udp("10.1.0.6", f"10.1.0.{number}", words))


def inject(bed: Bed, path: Path, address: str, frame: bytes, *, vni: int = 42, port: int = 4789) -> None:
    """Send a frame inside VXLAN as any process can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sender = bed.socket(path, family, socket.SOCK_DGRAM)
    sender.sendto(struct.pack(">II", 0x08 << 24, vni << 8) + frame, (address, port))


def passes(bed: Bed, source: Path, host: Host, instance: Path, *, number: int = 5, vni: int = 42) -> bool:
    """Whether a frame sent from `source` arrives at an instance; a neighbour on its bridge tells the end of waiting."""
    sniffer = bed.sniff(instance, "eth0")
    forged = frame_for(number, b"from " + str(source).encode())
    inject(bed, source, host.address, forged, vni=vni)
    last = frame_for(number, b"the last one")
    bed.send_frame(host.network(NET if vni == 42 else LOCAL), f"mb{NET if vni == 42 else LOCAL}", last)
    return forged in sniffer.wait_for(lambda frame: frame == last)


async def test_only_hosts_of_the_network_speak_into_it(bed: Bed, host: Host, other: Host) -> None:
    """A stranger does not, nor a host that is a member of another network only."""
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(peer(6, other),)),))
    alone = await plug(host, THREE, nic(LOCAL, 7), networks=(net(LOCAL, vni=43),))
    third = bed.add_leg("third", 3)
    assert passes(bed, other.path, host, one)
    assert not passes(bed, bed.outside.path, host, one)
    assert not passes(bed, third.path, host, one)
    assert not passes(bed, other.path, host, alone, number=7, vni=43)


async def test_hosts_come_and_go_with_their_members(bed: Bed, host: Host, other: Host) -> None:
    third = await bed.host(3)
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    network = NetworkId(NET)
    assert not passes(bed, other.path, host, one)
    await host.fabric.update_peers(network, [peer(6, other), peer(8, other), peer(7, third)], [])
    assert passes(bed, other.path, host, one)
    assert passes(bed, third.path, host, one)
    await host.fabric.update_peers(network, [], [mac(6), mac(7)])
    assert passes(bed, other.path, host, one)  # its other member
    assert not passes(bed, third.path, host, one)
    await host.fabric.remove_network(network)
    assert "n-" not in bed.run(host.path, f"nft list table {TABLE}")


async def test_the_rules_outlast_whoever_removes_them_and_the_agent(bed: Bed, host: Host, other: Host) -> None:
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(peer(6, other),)),))
    before = bed.run(host.path, f"nft list table {TABLE}")
    bed.run(host.path, "nft flush ruleset")
    assert passes(bed, bed.outside.path, host, one)
    await host.fabric.reassert()
    assert bed.run(host.path, f"nft list table {TABLE}") == before
    assert not passes(bed, bed.outside.path, host, one)
    await host.fabric.close()
    assert not passes(bed, bed.outside.path, host, one)
    bed.run(host.path, f"nft delete table {TABLE}")
    restarted = host.new_fabric()
    await host.start(restarted)  # nothing was told to it yet
    try:
        assert bed.run(host.path, f"nft list table {TABLE}") == before
        assert passes(bed, other.path, host, one)
        bed.run(host.path, f"nft delete table {TABLE}")
        await restarted.ensure_network(net(NET))  # a change that finds the table as nobody of us left it
        assert not passes(bed, other.path, host, one)
        await restarted.destroy_all()
    finally:
        await restarted.close()
    assert "moorage" not in bed.run(host.path, "nft list tables")


async def test_other_users_of_vxlan_are_left_alone(bed: Bed, host: Host, other: Host) -> None:
    """On a port of their own with our identifier, and on our port with one of their own, as a Swarm may be."""
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    stranger = bed.outside.path
    for name, vni, port in (("their1", 42, 14789), ("their2", 7, 4789)):
        for number, (path, far) in enumerate(((host.path, "192.168.77.200"), (stranger, host.address)), start=1):
            bed.run(path, f"ip link add {name} type vxlan id {vni} remote {far} dstport {port} dev up0")
            bed.run(path, f"ip addr add 172.29.{vni}.{number}/24 dev {name}")
            bed.run(path, f"ip link set {name} up")
        assert bed.pings(stranger, f"172.29.{vni}.1")


async def test_an_identifier_that_somebody_else_has_is_left_to_him(bed: Bed, host: Host) -> None:
    bed.run(host.path, "ip link add their1 type vxlan id 42 remote 192.168.77.200 dstport 4789 dev up0")
    bed.run(host.path, "ip link set their1 up")
    with pytest.raises(NotReady, match="VXLAN link"):
        await host.fabric.ensure_network(net(NET))
    assert "n-" not in bed.run(host.path, f"nft list table {TABLE}")


async def test_nobody_behind_a_host_speaks_as_that_host(bed: Bed, host: Host, other: Host) -> None:
    """Neither an instance with egress nor a container of the user's, which leave with the host's own address."""
    egress = net(LOCAL, vni=43, egress=True)
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(peer(6, other),)),))
    out = await plug(host, THREE, nic(LOCAL, 7), networks=(egress,))
    two = await plug(other, TWO, nic(NET, 6), networks=(net(NET, peers=(peer(5, host),)),))
    bed.run(host.path, "nft add table ip theirs")
    bed.run(host.path, "nft add chain ip theirs post { type nat hook postrouting priority 100; }")
    bed.run(host.path, "nft add rule ip theirs post ip saddr 172.29.1.0/24 masquerade")
    container = bed.add_leg("container", 50)
    bed.run(container.path, "ip link del up0")
    bed.run(host.path, f"ip link add their0 type veth peer name eth0 netns /proc/{os.getpid()}/fd/{container.fd}")
    bed.run(host.path, "ip addr add 172.29.1.1/24 dev their0")
    bed.run(host.path, "ip link set their0 up")
    for command in ("addr add 172.29.1.2/24 dev eth0", "link set eth0 up", "route add default via 172.29.1.1"):
        bed.run(container.path, f"ip {command}")
    bed.serve(other.path, 5000, greeting="beyond", udp=True)
    sniffer = bed.sniff(two, "eth0")
    for source in (out, container.path):
        assert bed.ask(source, other.address, 5000, udp=True) == f"beyond {host.address}"
        inject(bed, source, other.address, frame_for(6, b"forged"))
    assert bed.pings(one, "10.1.0.6")  # what the host itself sends
    assert not [frame for frame in sniffer.frames() if b"forged" in frame]


async def test_an_underlay_of_ipv6_is_filtered_too(bed: Bed, host: Host, other: Host) -> None:
    fabric = LinuxFabric(run_dir=host.run_dir, underlay_address=host.address6, vxlan_port=14789)
    await host.start(fabric)
    try:
        there = dataclasses.replace(peer(6, other), host_address=other.address6)
        network = net(NET, peers=(there,))
        await fabric.ensure_network(network)
        one = await fabric.ensure_instance(InstanceId(ONE), [nic(NET, 5)], {network.network_id: network})
        sniffer = bed.sniff(one, "eth0")
        inject(bed, bed.outside.path, host.address6, frame_for(5, b"forged"), port=14789)
        inject(bed, other.path, host.address6, frame_for(5, b"honest"), port=14789)
        frames = sniffer.wait_for(lambda frame: b"honest" in frame)
        assert not [frame for frame in frames if b"forged" in frame]
    finally:
        await fabric.close()

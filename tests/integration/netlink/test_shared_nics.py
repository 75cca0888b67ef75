"""Shared networks on a NIC of the host: bridge, macvlan, VLAN, the whole NIC; and the NIC as it was, once they are gone."""

import os
import re
from dataclasses import replace
from typing import Any

import pytest

from hostagent.domain import MacvlanMode, NetworkAssignment, NetworkKind, NicAssignment, SharedAttachment, Subnet
from hostagent.netlink.namespaces import Namespace
from moorage.errors import NotFound, NotReady, NotSupported
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import Bed, Host, net, nic, plug

pytestmark = pytest.mark.root
LAN, NET = "ncccccccc2", "naaaaaaaaa"
ONE, TWO = "iaaaaaaaaa", "ibbbbbbbbb"


class Wire:
    """A NIC `nic0` of the host, a switch that it is plugged into, and a neighbour 10.3.0.1 there."""

    def __init__(self, bed: Bed, host: Host) -> None:
        self.bed, self.host = bed, host
        bed.run(bed.switch.path, "ip link add br1 type bridge mcast_snooping 0")
        bed.run(bed.switch.path, "ip link set dev br1 up")
        self.neighbour = bed.space("neighbour")
        for space, name in ((host.space, "nic0"), (self.neighbour, "lan0")):
            target = f"/proc/{os.getpid()}/fd/{bed.switch.fd}"
            bed.run(space.path, f"ip link add name {name} type veth peer name w-{name} netns {target}")
            bed.run(bed.switch.path, f"ip link set dev w-{name} master br1 up")
        bed.run(self.neighbour.path, "ip addr add 10.3.0.1/24 dev lan0")
        bed.run(self.neighbour.path, "ip link set dev lan0 up")

    def state(self) -> list[str]:
        """What the host has of its NIC, and of ours."""
        commands = "ip -o -d link", "ip -o addr", "ip route", "ip -6 route"
        lines = [line for command in commands for line in self.bed.run(self.host.path, command).splitlines()]
        lines = [line.split(" numtxqueues")[0].partition(":")[2] or line for line in lines if "nic0" in line]
        return sorted(
            re.sub(r" qdisc \w+", "", line) for line in lines
        )  # which it gets when it is up for the first time


@pytest.fixture
def wire(bed: Bed, host: Host) -> Wire:
    return Wire(bed, host)


def lan(attachment: SharedAttachment, **fields: Any) -> NetworkAssignment:
    """A shared network 10.3.0.0/24 on nic0."""
    values = {"parent": "nic0", "attachment": attachment, **fields}
    return NetworkAssignment(NetworkId(LAN), "lan", NetworkKind.SHARED, (Subnet("10.3.0.0/24"),), 1500, **values)


def on(number: int, name: str = "eth0") -> NicAssignment:
    """An interface on it."""
    return NicAssignment(NetworkId(LAN), name, f"02:00:00:00:03:{number:02x}", (f"10.3.0.{number}/24",))


async def new_agent(bed: Bed, host: Host) -> None:
    """The agent's fabric ends and another begins."""
    await host.fabric.close()
    await host.start()


async def test_a_bridge_on_a_nic_with_addresses(bed: Bed, host: Host, wire: Wire) -> None:
    bed.run(host.path, "ip link set dev nic0 up")
    bed.run(host.path, "ip addr add 10.3.0.50/24 dev nic0")
    bed.run(host.path, "ip addr add fd03::50/64 dev nic0 nodad")
    bed.run(host.path, "ip route add 10.33.0.0/16 via 10.3.0.1 dev nic0 proto static")
    before = wire.state()
    network = lan(SharedAttachment.BRIDGE)
    for _ in range(2):
        for number, instance_id in ((5, ONE), (6, TWO)):
            await plug(host, instance_id, on(number), networks=(network,))
            assert bed.pings(host.instance(instance_id), "10.3.0.1")
            assert bed.pings(host.instance(instance_id), "10.3.0.50"), (
                "the host is a neighbour, as on any bridge of its own"
            )
        assert bed.pings(host.instance(ONE), "10.3.0.6")
        assert bed.pings(host.path, "10.3.0.1")
        assert f"10.33.0.0/16 via 10.3.0.1 dev ms{LAN}" in bed.run(host.path, "ip route")
        assert (await host.fabric.inventory()).strays == ()
        assert (await host.fabric.inventory()).networks == {LAN}
        # a forger on the bridge
        bed.run(host.instance(ONE), "ip addr add 10.3.0.66/24 dev eth0")
        assert "1 received" not in bed.run(host.instance(ONE), "ping -c1 -W1 -I 10.3.0.66 10.3.0.1", check=False)
        await new_agent(bed, host)
        await plug(host, ONE, on(5), networks=(network,))
        for instance_id in (ONE, TWO):
            await host.fabric.remove_instance(InstanceId(instance_id))
        for _ in range(2):
            await host.fabric.remove_network(NetworkId(LAN))
        assert wire.state() == before
        assert bed.pings(host.path, "10.3.0.1")
    assert (await host.fabric.inventory()).networks == frozenset()


async def test_a_bridge_on_a_bare_nic_has_no_address(bed: Bed, host: Host, wire: Wire) -> None:
    before = wire.state()
    network = lan(SharedAttachment.BRIDGE)
    one = await plug(host, ONE, on(5), networks=(network,))
    assert bed.pings(one, "10.3.0.1")
    assert "inet" not in bed.run(host.path, f"ip addr show ms{LAN}")
    # somebody took the NIC out of it, then the bridge away
    for damage in ("ip link set dev nic0 nomaster", f"ip link del ms{LAN}"):
        bed.run(host.path, damage)
        await plug(host, ONE, on(5), networks=(network,))
        assert bed.pings(one, "10.3.0.1")
    await host.fabric.destroy_all()
    assert wire.state() == before, "down again"


async def test_what_a_bridge_does_not_take(bed: Bed, host: Host, wire: Wire) -> None:
    with pytest.raises(NotFound) as missing:
        await host.fabric.ensure_network(replace(lan(SharedAttachment.BRIDGE), parent="nic9"))
    assert missing.value.reason == "PARENT_NOT_FOUND"
    for attachment in (SharedAttachment.BRIDGE, SharedAttachment.WHOLE_NIC):
        with pytest.raises(NotReady) as underlay:
            await host.fabric.ensure_network(replace(lan(attachment), parent="up0"))
        assert underlay.value.reason == "PARENT_IS_UNDERLAY"
    bed.run(host.path, "ip link set dev nic0 up")
    bed.run(host.path, "ip addr add 10.3.0.50/24 dev nic0 valid_lft 1000 preferred_lft 1000")
    with pytest.raises(NotReady) as dynamic:
        await host.fabric.ensure_network(lan(SharedAttachment.BRIDGE))
    assert dynamic.value.reason == "PARENT_BY_DHCP"
    bed.run(host.path, "ip addr flush dev nic0")
    bed.run(host.path, "ip link add theirs type bridge")
    bed.run(host.path, "ip link set dev nic0 master theirs")
    with pytest.raises(NotReady) as taken:
        await host.fabric.ensure_network(lan(SharedAttachment.BRIDGE))
    assert taken.value.reason == "PARENT_IN_USE"
    assert (await host.fabric.inventory()).networks == frozenset()


@pytest.mark.parametrize("mode", MacvlanMode)
async def test_macvlan(bed: Bed, host: Host, wire: Wire, mode: MacvlanMode) -> None:
    before = wire.state()
    network = lan(SharedAttachment.MACVLAN, macvlan_mode=mode)
    one = await plug(host, ONE, on(5), networks=(network,))
    assert f"mode {mode.value}" in bed.run(one, "ip -d link show eth0")
    assert "02:00:00:00:03:05" in bed.run(one, "ip link show eth0")
    assert bed.pings(one, "10.3.0.1")
    if mode is MacvlanMode.PASSTHRU:
        with pytest.raises(NotReady) as taken:
            await plug(host, TWO, on(6), networks=(network,))
        assert taken.value.reason == "PARENT_IN_USE"
    else:
        await plug(host, TWO, on(6), networks=(network,))
        assert bed.pings(one, "10.3.0.6") is (mode is MacvlanMode.BRIDGE), "the switch sends nothing back"
    await new_agent(bed, host)
    index = bed.run(one, "ip -o link show eth0").partition(":")[0]
    await plug(host, ONE, replace(on(5), mtu=1400), networks=(network,))
    assert "mtu 1400" in bed.run(one, "ip link show eth0")
    assert bed.run(one, "ip -o link show eth0").startswith(f"{index}:"), "the same link"
    assert set(await host.fabric.counters(InstanceId(ONE))) == {"eth0"}
    for instance_id in (ONE, TWO):
        await host.fabric.remove_instance(InstanceId(instance_id))
    await host.fabric.remove_network(NetworkId(LAN))
    assert wire.state() == before


async def test_macvlan_comes_and_goes_beside_others(bed: Bed, host: Host, wire: Wire) -> None:
    network = lan(SharedAttachment.MACVLAN)
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET), network))
    await plug(host, ONE, nic(NET, 5), on(5, "eth1"), networks=(net(NET), network))
    assert bed.pings(one, "10.3.0.1")
    await plug(host, ONE, on(5, "eth1"), networks=(net(NET), network))
    assert "eth0" not in bed.run(one, "ip -o link")
    await plug(host, ONE, nic(NET, 5), networks=(net(NET), network))
    assert "eth1" not in bed.run(one, "ip -o link")
    # from one kind to the other under one name, there and back
    await plug(host, ONE, on(5), networks=(net(NET), network))
    assert bed.pings(one, "10.3.0.1")
    assert ONE not in bed.run(host.network(NET), "nft list ruleset")
    await plug(host, ONE, nic(NET, 5), networks=(net(NET), network))
    assert not bed.pings(one, "10.3.0.1")


async def test_a_whole_nic(bed: Bed, host: Host, wire: Wire) -> None:
    bed.run(host.path, "ip link set dev nic0 up")
    bed.run(host.path, "ip addr add 10.3.0.50/24 dev nic0")
    bed.run(host.path, "ip route add 10.33.0.0/16 via 10.3.0.1 dev nic0")
    before = wire.state()
    network = lan(SharedAttachment.WHOLE_NIC)
    for way in ("instance", "nic", "agent", "everything"):
        one = await plug(host, ONE, nic(NET, 5), on(5, "lan0"), networks=(net(NET), network))
        assert bed.pings(one, "10.3.0.1")
        assert "02:00:00:00:03:05" in bed.run(one, "ip link show lan0")
        assert "nic0" in await host.fabric.host_links(), "it can be given to an instance, when this one is gone"
        assert "nic0:" not in bed.run(host.path, "ip link")
        with pytest.raises(NotReady) as taken:
            await plug(host, TWO, on(6), networks=(network,))
        assert taken.value.reason == "PARENT_IN_USE"
        await host.fabric.remove_instance(InstanceId(TWO))
        if way == "agent":
            await new_agent(bed, host)
            await plug(host, ONE, nic(NET, 5), on(5, "lan0"), networks=(net(NET), network))
            assert bed.pings(one, "10.3.0.1")
            await plug(host, ONE, nic(NET, 5), on(7, "lan1"), networks=(net(NET), network))
            assert "lan0" not in bed.run(one, "ip link")
            assert bed.pings(one, "10.3.0.1")
        if way == "nic":
            await plug(host, ONE, nic(NET, 5), networks=(net(NET), network))
            assert "lan0" not in bed.run(one, "ip link")
        elif way == "everything":
            await host.fabric.destroy_all()
        else:
            await host.fabric.remove_instance(InstanceId(ONE))
        assert wire.state() == before
        assert bed.pings(host.path, "10.3.0.1")
    await host.start()
    assert (await host.fabric.inventory()).networks == frozenset()


async def test_a_vlan_is_asked_of_the_kernel(bed: Bed, host: Host, wire: Wire) -> None:
    before = wire.state()
    network = lan(SharedAttachment.MACVLAN, vlan_id=7)
    if _has_vlans(bed, host.space):
        far = wire.neighbour.path
        bed.run(far, "ip link add link lan0 name lan0.7 type vlan id 7")
        bed.run(far, "ip addr add 10.3.0.9/24 dev lan0.7")
        bed.run(far, "ip link set dev lan0.7 up")
        for attachment in (SharedAttachment.MACVLAN, SharedAttachment.BRIDGE):
            one = await plug(host, ONE, on(5), networks=(replace(network, attachment=attachment),))
            bed.run(far, "ip neigh flush all")
            assert bed.pings(one, "10.3.0.9")
            await host.fabric.remove_instance(InstanceId(ONE))
            await host.fabric.remove_network(NetworkId(LAN))
    else:
        with pytest.raises(NotSupported, match="8021q") as lacks:
            await host.fabric.ensure_network(network)
        assert lacks.value.reason == "VLAN_MISSING"
        await host.fabric.remove_network(NetworkId(LAN))
    assert wire.state() == before


def _has_vlans(bed: Bed, space: Namespace) -> bool:
    bed.run(space.path, "ip link add link lo name probe type vlan id 9", check=False)
    found = "probe" in bed.run(space.path, "ip link")
    bed.run(space.path, "ip link del probe", check=False)
    return found


async def test_links_that_can_be_named(bed: Bed, host: Host, wire: Wire) -> None:
    bed.run(host.path, "ip link add theirs type bridge")
    bed.run(host.path, "ip link add veth12ab type veth peer name other0")
    await plug(host, ONE, on(5), networks=(lan(SharedAttachment.BRIDGE),))
    assert await host.fabric.host_links() == ("nic0", "other0", "up0")

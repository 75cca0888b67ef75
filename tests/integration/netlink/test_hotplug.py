"""Interfaces and addresses that come and go under a process: what stays keeps its connections, what goes leaves nothing."""

import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, PublishedPort, Subnet
from hostagent.netlink.guard import Family
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import Bed, Host, mac, net, nic, plug

pytestmark = pytest.mark.root
NET, BACK, LAN = "naaaaaaaaa", "nbbbbbbbbb", "nccccccccc"
ONE, TWO = "iaaaaaaaaa", "ibbbbbbbbb"


def back() -> NetworkAssignment:
    """A second network, 10.2.0.0/24."""
    return NetworkAssignment(
        NetworkId(BACK), BACK, NetworkKind.ISOLATED, (Subnet("10.2.0.0/24", "10.2.0.1"),), 1450, vni=43
    )


def lan() -> NetworkAssignment:
    """A shared network on lan0."""
    return NetworkAssignment(NetworkId(LAN), LAN, NetworkKind.SHARED, (Subnet("10.3.0.0/24"),), 1500, bridge="lan0")


def more(network_id: str, number: int, *, name: str = "eth1") -> NicAssignment:
    """An interface on the second network, or the third."""
    third = {BACK: 2, LAN: 3}[network_id]
    return NicAssignment(
        NetworkId(network_id), name, f"02:00:00:00:{third:02}:{number:02x}", (f"10.{third}.0.{number}/24",)
    )


class Talk:
    """A TCP connection that lives on."""

    def __init__(self, bed: Bed, client: Path, server: Path, address: str, port: int) -> None:
        listener = bed.socket(server, socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((address, port))
        listener.listen()
        self._client = bed.socket(client, socket.AF_INET, socket.SOCK_STREAM)
        self._client.connect((address, port))
        self._server, _ = listener.accept()
        bed.keep(self._server)
        self._server.settimeout(5)

    def works(self) -> bool:
        """Whether both directions still get through."""
        with contextlib.suppress(OSError):
            self._client.send(b"to")
            self._server.send(b"fro")
            return (self._server.recv(9), self._client.recv(9)) == (b"to", b"fro")
        return False


async def test_attach_and_detach_leave_connections_alone(bed: Bed, host: Host) -> None:
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    two = await plug(host, TWO, nic(NET, 6), more(BACK, 6), networks=(net(NET), back()))
    talk = Talk(bed, one, two, "10.1.0.6", 80)
    for _ in range(2):
        await plug(host, ONE, nic(NET, 5), more(BACK, 5), networks=(net(NET), back()))
        assert bed.pings(one, "10.2.0.6")
        assert talk.works()
        await plug(host, ONE, nic(NET, 5), networks=(net(NET), back()))
        assert "eth1" not in bed.run(one, "ip link")
        assert ONE not in bed.run(host.network(BACK), "ip link") + bed.run(host.network(BACK), "nft list ruleset")
        assert talk.works()
    # the other way round: the first goes, and the default route with it
    await plug(host, TWO, more(BACK, 6), networks=(back(),))
    assert "default" not in bed.run(two, "ip route")
    assert bed.run(two, "ip -o addr show scope global").split()[1] == "eth1"


@pytest.mark.parametrize("family", Family)
async def test_addresses_come_and_go(bed: Bed, family: Family) -> None:
    host = await bed.host(1, guard_family=family)
    several = replace(nic(NET, 5), addresses=("10.1.0.5/24", "10.1.0.15/24", "10.1.0.25/24", "fd00:1::5/64"))
    one = await plug(host, ONE, several, networks=(net(NET),))
    two = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    kept = Talk(bed, two, one, "10.1.0.25", 80)
    lost = Talk(bed, two, one, "10.1.0.5", 80)
    assert all(bed.pings(two, f"10.1.0.{number}") for number in (5, 15, 25))
    # the first, from which the others hang, and one of the middle go; one comes
    await plug(host, ONE, replace(several, addresses=("10.1.0.25/24", "10.1.0.35/24")), networks=(net(NET),))
    found = bed.run(one, "ip -o -4 addr show eth0")
    assert all((f"10.1.0.{number}/24" in found) is (number in (25, 35)) for number in (5, 15, 25, 35))
    assert "default via 10.1.0.1 dev eth0" in bed.run(one, "ip route")
    assert kept.works()
    assert not lost.works()
    assert bed.pings(two, "10.1.0.35")
    assert not bed.pings(two, "10.1.0.15")
    # all at once
    await plug(host, ONE, replace(several, addresses=("10.1.0.45/24",)), networks=(net(NET),))
    assert "default via 10.1.0.1 dev eth0" in bed.run(one, "ip route")
    assert bed.pings(two, "10.1.0.45")


async def test_an_address_is_its_next_owners(bed: Bed, host: Host) -> None:
    """Also for neighbours that spoke to the one before."""
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    two = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    assert bed.pings(two, "10.1.0.5")
    await plug(host, ONE, replace(nic(NET, 7), mac=mac(5)), networks=(net(NET),))
    await plug(host, "iddddddddd", replace(nic(NET, 5), mac=mac(8)), networks=(net(NET),))
    bed.serve(host.instance("iddddddddd"), 80, greeting="new")
    assert bed.ask(two, "10.1.0.7", 81, patience=1) == "refused"
    assert bed.ask(two, "10.1.0.5", 80) == "new 10.1.0.6"


async def test_an_interface_moves_to_another_network(bed: Bed, host: Host) -> None:
    bed.run(host.path, "ip link add lan0 type bridge")
    bed.run(host.path, "ip addr add 10.3.0.1/24 dev lan0")
    bed.run(host.path, "ip link set dev lan0 up")
    networks = (net(NET), back(), lan())
    one = await plug(host, ONE, nic(NET, 5), more(BACK, 5), networks=networks)
    place = {NET: host.network(NET), BACK: host.network(BACK), LAN: host.path}
    for target in (LAN, BACK, LAN):
        if target == BACK:  # by an agent that knows nothing of what was before
            await host.fabric.close()
            host.fabric = host.new_fabric()
            bed._fabrics.append(host.fabric)
            await host.start()
        await plug(host, ONE, nic(NET, 5), more(target, 5), networks=networks)
        for network_id in (BACK, LAN):
            seen = bed.run(place[network_id], "ip link") + bed.run(place[network_id], "nft list ruleset")
            assert (f"mi{ONE}e1" in seen) is (network_id == target)
        assert bed.pings(one, "10.3.0.1") is (target == LAN)
    assert (await host.fabric.inventory()).strays == ()


async def test_a_mac_changes(bed: Bed, host: Host) -> None:
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    await plug(host, ONE, replace(nic(NET, 5), mac=mac(9)), networks=(net(NET),))
    assert bed.pings(one, "10.1.0.6")
    assert mac(5) not in bed.run(host.network(NET), "bridge fdb")


async def test_published_ports_follow(bed: Bed, host: Host) -> None:
    one = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    bed.serve(one, 80, greeting="here")
    ports = [PublishedPort(8080, 80)]
    await host.fabric.publish_ports(InstanceId(ONE), ports, [nic(NET, 5)])
    assert bed.ask(bed.outside.path, host.address, 8080) == "here 192.168.77.200"
    await plug(host, ONE, nic(NET, 9), networks=(net(NET),))
    await host.fabric.publish_ports(InstanceId(ONE), ports, [nic(NET, 9)])
    assert bed.ask(bed.outside.path, host.address, 8080) == "here 192.168.77.200"
    await plug(host, ONE, more(BACK, 5), networks=(back(),))
    await host.fabric.publish_ports(InstanceId(ONE), ports, [more(BACK, 5)])
    assert bed.ask(bed.outside.path, host.address, 8080).startswith("here ")

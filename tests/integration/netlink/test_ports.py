"""Published ports and egress: who reaches what, as whom, and what stays shut."""

import socket

import pytest

from hostagent.domain import NetworkAssignment, NetworkKind, PublishedPort
from moorage.errors import Exhausted, InvalidSpec, NotFound, NotSupported
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import Bed, Host, net, nic, plug

pytestmark = pytest.mark.root
NET, OTHER_NET = "naaaaaaaaa", "nbbbbbbbbb"
ONE, TWO, THREE = InstanceId("iaaaaaaaaa"), InstanceId("ibbbbbbbbb"), InstanceId("iccccccccc")
OUTSIDER, OUTSIDER6 = "192.168.77.200", "fd77::200"


async def _web(bed: Bed, host: Host, *, egress: bool = False, gateway: bool = True) -> None:
    """Instance ONE answers on port 80, published as 8080."""
    path = await plug(host, ONE, nic(NET, 5, gateway=gateway), networks=(net(NET, egress=egress),))
    bed.serve(path, 80, greeting="one")
    bed.serve(path, 53, greeting="one", udp=True)
    ports = [PublishedPort(8080, 80), PublishedPort(5353, 53, "udp")]
    await host.fabric.publish_ports(ONE, ports, [nic(NET, 5, gateway=gateway)])


async def test_from_outside_with_the_clients_address(bed: Bed, host: Host) -> None:
    await _web(bed, host)
    assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"
    assert bed.ask(bed.outside.path, host.address6, 8080) == f"one {OUTSIDER6}"
    assert bed.ask(bed.outside.path, host.address, 5353, udp=True) == f"one {OUTSIDER}"
    assert bed.ask(bed.outside.path, host.address, 8081) == "refused"


async def test_from_the_host_itself(bed: Bed, host: Host) -> None:
    await _web(bed, host)
    for address in ("127.0.0.1", "127.0.0.2", host.address, host.address6):
        assert bed.ask(host.path, address, 8080).startswith("one "), address
    assert bed.ask(host.path, host.address, 8080) == f"one {host.address}"
    assert bed.ask(host.path, "127.0.0.1", 5353, udp=True).startswith("one ")
    # packets from ::1 cannot leave the loopback interface: refused at once, not silence
    assert bed.ask(host.path, "::1", 8080) == "refused"


async def test_from_members_and_other_networks(bed: Bed, host: Host) -> None:
    await _web(bed, host)
    same = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    elsewhere = await plug(host, THREE, nic(OTHER_NET, 5), networks=(net(OTHER_NET, vni=43, egress=True),))
    for path in (host.instance(ONE), same, elsewhere):
        assert bed.ask(path, host.address, 8080).startswith("one "), path
        assert bed.ask(path, host.address6, 8080).startswith("one "), path


async def test_equal_subnets_publish_side_by_side(bed: Bed, host: Host) -> None:
    await _web(bed, host)
    twin = await plug(host, TWO, nic(OTHER_NET, 5), networks=(net(OTHER_NET, vni=43),))
    bed.serve(twin, 80, greeting="twin")
    await host.fabric.publish_ports(TWO, [PublishedPort(8081, 80)], [nic(OTHER_NET, 5)])
    assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"
    assert bed.ask(bed.outside.path, host.address, 8081) == f"twin {OUTSIDER}"


async def test_member_without_a_default_route(bed: Bed, host: Host) -> None:
    await _web(bed, host, gateway=False)
    assert bed.ask(bed.outside.path, host.address, 8080) == "one 10.1.0.1"
    assert bed.ask(bed.outside.path, host.address6, 8080) == "one fd00:1::1"


async def test_client_inside_the_networks_own_subnet(bed: Bed, host: Host) -> None:
    await _web(bed, host)
    bed.run(bed.outside.path, "ip addr add 10.1.0.77/32 dev up0")
    bed.run(bed.outside.path, "ip route add 192.168.77.1/32 dev up0 src 10.1.0.77")
    bed.run(host.path, "ip route add 10.1.0.77/32 dev up0")
    assert bed.ask(bed.outside.path, host.address, 8080).startswith("one 169.254.128.")


async def test_one_address_of_the_host(bed: Bed, host: Host) -> None:
    bed.run(host.path, "ip addr add 192.168.77.101/24 dev up0")
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    bed.serve(path, 80, greeting="one")
    two = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    bed.serve(two, 80, greeting="two")
    await host.fabric.publish_ports(ONE, [PublishedPort(8080, 80, host_address="192.168.77.101")], [nic(NET, 5)])
    await host.fabric.publish_ports(TWO, [PublishedPort(8080, 80, host_address=host.address)], [nic(NET, 6)])
    assert bed.ask(bed.outside.path, "192.168.77.101", 8080) == f"one {OUTSIDER}"
    assert bed.ask(bed.outside.path, host.address, 8080) == f"two {OUTSIDER}"
    assert bed.ask(host.path, "127.0.0.1", 8080) == "refused"
    with pytest.raises(InvalidSpec, match="not an address of this host"):
        await host.fabric.publish_ports(ONE, [PublishedPort(8080, 80, host_address="192.168.77.250")], [nic(NET, 5)])


async def test_port_taken_by_a_process_or_an_instance(bed: Bed, host: Host) -> None:
    await _web(bed, host)
    await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    with pytest.raises(Exhausted) as refused:
        await host.fabric.publish_ports(TWO, [PublishedPort(9000, 80), PublishedPort(8080, 80)], [nic(NET, 6)])
    assert refused.value.reason == "HOST_PORT_TAKEN"
    squatter = bed.socket(host.path, socket.AF_INET, socket.SOCK_STREAM)
    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    squatter.bind(("127.0.0.1", 9000))  # nothing of the refused call holds it
    squatter.listen()
    with pytest.raises(Exhausted):
        await host.fabric.publish_ports(TWO, [PublishedPort(9000, 80)], [nic(NET, 6)])
    late = bed.socket(host.path, socket.AF_INET, socket.SOCK_STREAM)
    late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with pytest.raises(OSError, match="in use"):
        late.bind(("0.0.0.0", 8080))


async def test_set_is_replaced_and_removed(bed: Bed, host: Host) -> None:
    await _web(bed, host)
    await host.fabric.publish_ports(ONE, [PublishedPort(8090, 80)], [nic(NET, 5)])
    assert bed.ask(bed.outside.path, host.address, 8080) == "refused"
    assert bed.ask(bed.outside.path, host.address, 8090).startswith("one")
    await host.fabric.publish_ports(ONE, (), ())
    assert bed.ask(bed.outside.path, host.address, 8090) == "refused"
    assert "mu" not in bed.run(host.path, "ip -o link")
    assert "10.1.0.1" not in bed.run(host.network(NET), "ip addr")


async def test_refused_ports(host: Host) -> None:
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    with pytest.raises(InvalidSpec) as bad:
        await host.fabric.publish_ports(ONE, [PublishedPort(0, 80), PublishedPort(80, 80, "sctp")], [nic(NET, 5)])
    assert len(bad.value.violations) == 2
    with pytest.raises(NotSupported):
        await host.fabric.publish_ports(ONE, [PublishedPort(80, 80)], [])


async def test_egress_is_masqueraded_and_only_where_asked(bed: Bed, host: Host) -> None:
    bed.serve(bed.outside.path, 7000, greeting="outside")
    out = await plug(host, ONE, nic(NET, 5), networks=(net(NET, egress=True),))
    shut = await plug(host, TWO, nic(OTHER_NET, 5), networks=(net(OTHER_NET, vni=43),))
    assert bed.ask(out, OUTSIDER, 7000) == f"outside {host.address}"
    assert bed.ask(out, OUTSIDER6, 7000) == f"outside {host.address6}"
    assert bed.ask(shut, OUTSIDER, 7000, patience=0.3) != f"outside {host.address}"
    # a published port opens no way out
    await host.fabric.publish_ports(TWO, [PublishedPort(8080, 80)], [nic(OTHER_NET, 5)])
    assert bed.ask(shut, OUTSIDER, 7000, patience=0.3) == "silence"
    # taken back
    await host.fabric.ensure_network(net(NET, egress=False))
    assert bed.ask(out, OUTSIDER, 7000, patience=0.3) != f"outside {host.address}"


async def test_the_host_and_other_networks_stay_shut(bed: Bed, host: Host) -> None:
    bed.serve(host.path, 7001, greeting="host")
    out = await plug(host, ONE, nic(NET, 5), networks=(net(NET, egress=True),))
    other = await plug(host, TWO, nic(OTHER_NET, 6), networks=(net(OTHER_NET, vni=43, egress=True),))
    bed.serve(other, 7002, greeting="other")
    assert bed.ask(out, host.address, 7001, patience=0.3) == "silence"
    assert bed.ask(out, "169.254.128.0", 7001, patience=0.3) == "silence"
    assert bed.ask(out, "169.254.128.3", 7002, patience=0.3) == "silence"
    assert bed.ask(bed.outside.path, "10.1.0.5", 80, patience=0.3) != "host"


async def test_restarted_agent_goes_on(bed: Bed, host: Host) -> None:
    await _web(bed, host, egress=True)
    await host.fabric.close()
    assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"
    restarted = host.new_fabric()
    await host.start(restarted)
    try:
        assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"
        with pytest.raises(Exhausted):
            await restarted.publish_ports(TWO, [PublishedPort(8080, 80)], [nic(NET, 5)])
        await restarted.ensure_network(net(NET, egress=True))
        await restarted.remove_instance(ONE)
        assert bed.ask(bed.outside.path, host.address, 8080) == "refused"
    finally:
        await restarted.close()


async def test_publishing_that_failed_half_way_is_finished_by_the_next_call(bed: Bed, host: Host) -> None:
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    bed.run(host.path, f"umount {host.network(NET)}")
    for _ in range(2):
        with pytest.raises(NotFound):
            await host.fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [nic(NET, 5)])
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    bed.run(host.path, "nft flush ruleset")
    await host.fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [nic(NET, 5)])
    bed.serve(path, 80, greeting="one")
    assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"


async def test_state_of_vanished_namespaces_is_dropped(bed: Bed, host: Host) -> None:
    """As after a reboot with the folder on a disk: files, but no namespaces."""
    await _web(bed, host)
    await host.fabric.close()
    for path in (host.instance(ONE), host.network(NET)):
        bed.run(host.path, f"umount {path}")
    restarted = host.new_fabric()
    await host.start(restarted)
    try:
        await restarted.ensure_network(net(NET))
        await restarted.ensure_instance(TWO, [nic(NET, 6)], {NetworkId(NET): net(NET)})
        await restarted.publish_ports(TWO, [PublishedPort(8080, 80)], [nic(NET, 6)])
        bed.serve(host.instance(TWO), 80, greeting="two")
        assert bed.ask(bed.outside.path, host.address, 8080) == f"two {OUTSIDER}"
    finally:
        await restarted.close()


@pytest.mark.parametrize("damage", ["nft flush ruleset", "nft delete table inet moorage", "ip link del mu{net}"])
async def test_host_side_is_repaired(bed: Bed, host: Host, damage: str) -> None:
    await _web(bed, host)
    bed.run(host.path, damage.format(net=NET))
    await host.fabric.reassert()
    await host.fabric.ensure_network(net(NET))
    assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"
    bed.run(host.path, "nft flush ruleset")
    await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    await host.fabric.publish_ports(TWO, [PublishedPort(8081, 80)], [nic(NET, 6)])
    assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"


async def test_passes_dockers_forward_drop(bed: Bed, host: Host) -> None:
    """What dockerd leaves: policy DROP, its hook chain, and bridge filtering on."""
    for program in ("iptables", "ip6tables"):
        bed.run(host.path, f"{program} -N DOCKER-USER")
        bed.run(host.path, f"{program} -A DOCKER-USER -j RETURN")
        bed.run(host.path, f"{program} -A FORWARD -j DOCKER-USER")
        bed.run(host.path, f"{program} -P FORWARD DROP")
    bed.run(host.path, "sysctl -w net.bridge.bridge-nf-call-iptables=1")
    bed.run(host.path, "sysctl -w net.ipv4.conf.all.rp_filter=1")
    await host.fabric.reassert()
    await host.fabric.reassert()
    assert len(bed.run(host.path, "iptables -S DOCKER-USER").splitlines()) == 2 + 4
    assert len(bed.run(host.path, "ip6tables -S DOCKER-USER").splitlines()) == 2 + 4
    await _web(bed, host)
    assert bed.ask(bed.outside.path, host.address, 8080) == f"one {OUTSIDER}"
    assert bed.ask(bed.outside.path, host.address6, 8080) == f"one {OUTSIDER6}"
    assert bed.ask(host.path, "127.0.0.1", 8080).startswith("one")
    assert bed.ask(host.instance(ONE), host.address, 8080).startswith("one")
    assert bed.run(host.path, "sysctl -n net.bridge.bridge-nf-call-iptables").strip() == "1"
    bed.run(host.path, "ip link add lan0 type bridge")
    bed.run(host.path, "ip link set dev lan0 up")
    lan = NetworkAssignment(NetworkId(OTHER_NET), "lan", NetworkKind.SHARED, (), 1500, bridge="lan0")
    for instance_id, number in ((TWO, 6), (THREE, 7)):
        await plug(host, instance_id, nic(OTHER_NET, number, gateway=False), networks=(lan,))
    assert bed.pings(host.instance(TWO), "10.1.0.7")
    assert bed.pings(host.instance(TWO), "fd00:1::7")
    await host.fabric.destroy_all()
    assert "mu+" not in bed.run(host.path, "iptables -S DOCKER-USER")


async def test_udp_client_that_goes_on_finds_the_new_server(bed: Bed, host: Host) -> None:
    """From the same source port: before anything is published, then with one server, then with another."""
    first = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    second = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    bed.serve(first, 53, greeting="first", udp=True)
    bed.serve(second, 53, greeting="second", udp=True)
    client = bed.socket(bed.outside.path, socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OUTSIDER, 5000))
    client.sendto(b"hello", (host.address, 5353))  # nobody is there yet, but the host keeps the conversation in mind
    await host.fabric.publish_ports(ONE, [PublishedPort(5353, 53, "udp")], [nic(NET, 5)])
    client.sendto(b"hello", (host.address, 5353))
    assert client.recv(100).decode().startswith("first")
    await host.fabric.publish_ports(ONE, (), ())
    await host.fabric.publish_ports(TWO, [PublishedPort(5353, 53, "udp")], [nic(NET, 6)])
    client.sendto(b"hello", (host.address, 5353))
    assert client.recv(100).decode().startswith("second")

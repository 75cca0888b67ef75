"""Questions asked inside an instance's namespace reach the agent, and nobody else does."""

import socket

import dns.message
import pytest

from hostagent.netlink.fabric import NameSockets
from moorage.errors import NotFound
from moorage.ids import InstanceId
from tests.integration.netlink.bed import Bed, Host, net, nic, plug

pytestmark = pytest.mark.root
NET = "naaaaaaaaa"
ONE, TWO = InstanceId("iaaaaaaaaa"), InstanceId("ibbbbbbbbb")
QUERY = dns.message.make_query("web.back.internal.", "A").to_wire()


def close(sockets: NameSockets) -> None:
    sockets.datagrams.close()
    sockets.streams.close()
    sockets.metadata.close()


def echo_once(sockets: NameSockets) -> None:
    """Say back what is asked, on the datagram socket."""
    sockets.datagrams.settimeout(5)
    data, sender = sockets.datagrams.recvfrom(4096)
    sockets.datagrams.sendto(b"echo " + data, sender)


async def test_both_ways_over_udp_and_tcp(bed: Bed, host: Host) -> None:
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    sockets = await host.fabric.open_name_sockets(ONE)
    # The low descriptors are left to libnftables.
    assert min(one.fileno() for one in (sockets.datagrams, sockets.streams, sockets.metadata)) >= 1024
    asking = bed.socket(path, socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(("127.0.0.11", 53))
    asking.send(QUERY)
    echo_once(sockets)
    assert asking.recv(4096) == b"echo " + QUERY, "a connected socket takes answers from the port that it asked only"
    stream = bed.socket(path, socket.AF_INET, socket.SOCK_STREAM)
    stream.connect(("127.0.0.11", 53))
    sockets.streams.settimeout(5)
    accepted, _ = sockets.streams.accept()
    with accepted:
        stream.send(QUERY)
        assert accepted.recv(4096) == QUERY
        accepted.send(b"echo")
        assert stream.recv(4096) == b"echo"
    close(sockets)


async def test_the_metadata_address_leads_here_and_nowhere_else(bed: Bed, host: Host) -> None:
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET, egress=True),))
    sockets = await host.fabric.open_name_sockets(ONE)
    sockets.metadata.settimeout(5)
    bed.serve(path, 80, greeting="mine")
    for _ in range(2):
        client = bed.socket(path, socket.AF_INET, socket.SOCK_STREAM)
        client.connect(("169.254.169.254", 80))
        accepted, _sender = sockets.metadata.accept()
        with accepted:
            client.send(b"GET / HTTP/1.0")
            assert accepted.recv(100) == b"GET / HTTP/1.0"
        # Plugging again leaves the way as it is.
        await plug(host, ONE, nic(NET, 5), networks=(net(NET, egress=True),))
    assert bed.ask(path, "10.1.0.5", 80) == "mine 10.1.0.5"
    assert bed.ask(path, "169.254.169.254", 81) == "refused"
    assert "169.254" not in bed.run(path, "ip -o addr")
    close(sockets)
    assert bed.ask(path, "169.254.169.254", 80) == "refused"


async def test_servers_of_the_instances_own_have_port_53_too(bed: Bed, host: Host) -> None:
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    two = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    sockets = await host.fabric.open_name_sockets(ONE)
    bed.serve(path, 53, greeting="mine", udp=True)
    bed.serve(path, 53, greeting="mine")
    assert bed.ask(two, "10.1.0.5", 53, udp=True) == "mine 10.1.0.6"
    assert bed.ask(two, "10.1.0.5", 53) == "mine 10.1.0.6"
    assert bed.ask(path, "10.1.0.5", 53, udp=True) == "mine 10.1.0.5"
    asking = bed.socket(path, socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(("127.0.0.11", 53))
    asking.send(QUERY)
    echo_once(sockets)
    assert asking.recv(4096).startswith(b"echo")
    close(sockets)


async def test_others_do_not_reach_it(bed: Bed, host: Host) -> None:
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    two = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    sockets = await host.fabric.open_name_sockets(ONE)
    bed.run(two, "ip route add 127.0.0.11/32 via 10.1.0.5 dev eth0 table 77", check=False)
    for port in (sockets.datagrams.getsockname()[1], 53):
        assert bed.ask(two, "10.1.0.5", port, udp=True, patience=0.3) in ("refused", "silence")
    for port in (sockets.streams.getsockname()[1], 53):
        assert bed.ask(two, "10.1.0.5", port, patience=0.3) == "refused"
    close(sockets)


async def test_no_connection_is_tracked_for_it(bed: Bed, host: Host) -> None:
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    close(await host.fabric.open_name_sockets(ONE))
    rules = bed.run(path, "nft list ruleset")
    assert "dport set" in rules
    assert "nat" not in rules.split()
    assert "ct" not in rules.split()


async def test_it_goes_with_stateful_rules_of_others(bed: Bed, host: Host) -> None:
    """As security groups are: whatever direction is first, both are one connection from and to port 53."""
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    sockets = await host.fabric.open_name_sockets(ONE)
    rules = host.run_dir / "rules"
    rules.write_text(
        "table inet strict {\n chain out { type filter hook output priority 0; policy drop;\n"
        " ct state established accept\n udp dport 53 accept\n }\n"
        " chain in { type filter hook input priority 0; policy drop;\n ct state established accept\n iif lo accept\n }\n}\n"
    )
    bed.run(path, f"nft -f {rules}")
    asking = bed.socket(path, socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(("127.0.0.11", 53))
    asking.send(QUERY)
    echo_once(sockets)
    assert asking.recv(4096).startswith(b"echo")
    close(sockets)


async def test_where_its_ports_are_taken_others_serve(bed: Bed, host: Host) -> None:
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    first = await host.fabric.open_name_sockets(ONE)
    port = first.datagrams.getsockname()[1]
    close(first)
    bed.serve(path, port, udp=True)
    bed.serve(path, port)
    sockets = await host.fabric.open_name_sockets(ONE)
    assert port not in (sockets.datagrams.getsockname()[1], sockets.streams.getsockname()[1])
    asking = bed.socket(path, socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(("127.0.0.11", 53))
    asking.send(QUERY)
    echo_once(sockets)
    assert asking.recv(4096).startswith(b"echo")
    close(sockets)


async def test_an_instance_without_a_network_is_answered_too(bed: Bed, host: Host) -> None:
    path = await host.fabric.ensure_instance(ONE, (), {})
    sockets = await host.fabric.open_name_sockets(ONE)
    asking = bed.socket(path, socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(("127.0.0.11", 53))
    asking.send(QUERY)
    echo_once(sockets)
    assert asking.recv(4096).startswith(b"echo")
    close(sockets)


async def test_sockets_inside_reach_what_the_instance_reaches(bed: Bed, host: Host) -> None:
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    two = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    bed.serve(two, 53, greeting="theirs", udp=True)
    with await host.fabric.open_socket_inside(ONE, socket.AF_INET, socket.SOCK_DGRAM) as inside:
        inside.settimeout(5)
        inside.sendto(b"x", ("10.1.0.6", 53))
        assert inside.recv(100) == b"theirs 10.1.0.5"
    with pytest.raises(NotFound):
        await host.fabric.open_socket_inside(InstanceId("iccccccccc"), socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(NotFound):
        await host.fabric.open_name_sockets(InstanceId("iccccccccc"))

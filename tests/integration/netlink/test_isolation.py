"""What an instance can reach that it should not: every address of its host and of other networks, in every way.

Four networks with one subnet on one host: shut, shut with a published port, and two with egress.
"""

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from hostagent.domain import PublishedPort
from hostagent.netlink.guard import link_local
from moorage.ids import InstanceId
from tests.integration.netlink.bed import Bed, Host, ethernet, ipv4_udp, mac, net, nic, plug

pytestmark = pytest.mark.root
SERVICE, PUBLISHED = 7001, 8080
_PATIENCE_SECONDS = 0.7


@dataclass(frozen=True)
class Member:
    """The one instance of a network."""

    network: str
    instance: InstanceId
    number: int
    path: Path
    egress: bool

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"10.1.0.{self.number}", f"fd00:1::{self.number:x}", f"{link_local(mac(self.number))}%eth0")


async def _members(bed: Bed, host: Host) -> dict[str, Member]:
    """By name: `shut`, `published`, `open` and `open2`; each answers on SERVICE."""
    made = {}
    for number, (name, egress) in enumerate(
        (("shut", False), ("published", False), ("open", True), ("open2", True)), start=5
    ):
        network_id, instance_id = f"n{name:a>9}"[:10], InstanceId(f"i{name:a>9}"[:10])
        network = net(network_id, vni=40 + number, egress=egress)
        path = await plug(host, instance_id, nic(network_id, number), networks=(network,))
        bed.serve(path, SERVICE, greeting=name)
        made[name] = Member(network_id, instance_id, number, path, egress)
    one = made["published"]
    await host.fabric.publish_ports(one.instance, [PublishedPort(PUBLISHED, SERVICE)], [nic(one.network, one.number)])
    return made


def _furnish(bed: Bed, host: Host) -> list[str]:
    """Interfaces as hosts have them, a service on all; every address of the host as an instance would name it."""
    path = host.path
    for name, addresses in {
        "docker0": ("172.17.0.1/16", "fd17::1/64"),
        "lan0": ("10.9.0.1/24", "169.254.7.1/16"),
    }.items():
        bed.run(path, f"ip link add {name} type bridge")
        for address in addresses:
            bed.run(path, f"ip addr add {address} dev {name}" + (" nodad" if ":" in address else ""))
        bed.run(path, f"ip link set {name} up")
    bed.run(path, "ip addr add 10.255.0.1/32 dev lo")
    bed.serve(path, SERVICE, greeting="host")
    bed.serve(path, SERVICE, greeting="host", udp=True)
    found = [line.split()[3].split("/")[0] for line in bed.run(path, "ip -o addr show").splitlines()]
    return [f"{a}%eth0" if a.startswith("fe80") else a for a in found]


def _answering(bed: Bed, path: Path, targets: Iterable[str], port: int = SERVICE) -> set[str]:
    """Which of `protocol address` answer: TCP, UDP and echo requests to all targets at once."""
    waiting: dict[socket.socket, str] = {}
    for target in targets:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        where = socket.getaddrinfo(target.partition("%")[0], port, family, socket.SOCK_DGRAM)[0][4]
        if "%" in target:
            where = (target.partition("%")[0], port, 0, int(bed.run(path, "ip -o link show eth0").split(":")[0]))
        is4 = family == socket.AF_INET
        icmp = socket.IPPROTO_ICMP if is4 else socket.IPPROTO_ICMPV6
        for name, kind, protocol in (
            ("tcp", socket.SOCK_STREAM, 0),
            ("udp", socket.SOCK_DGRAM, 0),
            ("echo", socket.SOCK_RAW, icmp),
        ):
            client = bed.socket(path, family, kind, protocol)
            client.setblocking(False)
            try:
                client.connect(where)
            except BlockingIOError:
                pass
            except OSError:
                continue  # no route
            waiting[client] = f"{name} {target}"
            if name != "tcp":
                payload = struct.pack(">BBHHH", 8 if is4 else 128, 0, 0xF7FF, 0, 0) if name == "echo" else b"hello"
                with contextlib.suppress(OSError):
                    client.send(payload)
    return _answers_of(waiting)


def _answers_of(waiting: dict[socket.socket, str]) -> set[str]:
    """Those of the sockets' names to which an answer comes in time; closes all."""
    found: set[str] = set()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for client, what in waiting.items():
            stack.enter_context(client)
            selector.register(client, selectors.EVENT_WRITE if what.startswith("tcp") else selectors.EVENT_READ, what)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, events in selector.select(left):
                client = cast(socket.socket, key.fileobj)
                if _has_answer(client, key.data):
                    found.add(key.data)
                elif events != selectors.EVENT_WRITE:
                    continue  # something else for this socket: an answer to another's echo
                selector.unregister(client)
    return found


def _has_answer(client: socket.socket, what: str) -> bool:
    try:
        if what.startswith("tcp"):
            client.send(b"hello")
            return True
        data = client.recv(2000)
        start = (data[0] & 0x0F) * 4 if data[0] >> 4 == 4 and what.startswith("echo") else 0
        return not what.startswith("echo") or data[start] in (0, 129)
    except OSError:
        return False


async def test_no_service_of_the_host_answers_an_instance(bed: Bed, host: Host, other: Host) -> None:
    """On no address of any interface, over no protocol; what lies beyond does where there is egress."""
    members = await _members(bed, host)
    own = _furnish(bed, host)
    bed.serve(other.path, SERVICE, greeting="other host")
    assert {"192.168.77.1", "fd77::1", "172.17.0.1", "169.254.7.1", "127.0.0.1", "::1", "169.254.128.2"} <= set(own)
    reachable = _answering(bed, bed.outside.path, [host.address, host.address6])  # so silence says something
    assert reachable == {f"{how} {where}" for how in ("tcp", "udp", "echo") for where in (host.address, host.address6)}
    others = [
        one for one in own if not one.startswith("127.") and one != "::1"
    ]  # an instance has a loopback of its own
    for name, member in members.items():
        assert not _answering(bed, member.path, others), name
        beyond = _answering(bed, member.path, [other.address, other.address6])
        expected = {f"{how} {a}" for how in ("tcp", "echo") for a in (other.address, other.address6)}
        assert beyond == (expected if member.egress else set()), name


async def test_networks_with_one_subnet_do_not_reach_each_other(bed: Bed, host: Host) -> None:
    """By address, link-local address, multicast, broadcast, and by the ways between network and host."""
    members = await _members(bed, host)
    transit = [f"169.254.128.{n}" for n in range(8)] + [f"fd6d:6f6f:7261:6765::{n}" for n in range(8)]
    for name, member in members.items():
        others = [one for other in members.values() if other is not member for one in other.addresses]
        sniffers = {who: bed.sniff(other.path, "eth0") for who, other in members.items() if other is not member}
        found = _answering(bed, member.path, [*others, *transit])
        # the gateway and the network's own end of its uplink may answer pings: they are the network's, not the host's
        assert not {one for one in found if not one.startswith("echo ")}, name
        assert not {one for one in found if one.split()[1] in others}, name
        assert len(found) <= 2, (name, found)
        for target in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "33:33:00:00:00:01"):
            words = f"from {name}".encode()
            packet = ipv4_udp(f"10.1.0.{member.number}", "224.0.0.251", words)
            bed.send_frame(member.path, "eth0", ethernet(target, mac(member.number), 0x0800, packet))
        for who, sniffer in sniffers.items():
            end = ethernet(mac(members[who].number), mac(99), 0x0800, ipv4_udp("10.1.0.1", "10.1.0.2", b"the end"))
            bed.send_frame(host.network(members[who].network), f"mb{members[who].network}", end)
            frames = sniffer.wait_for(lambda frame: b"the end" in frame)
            assert not [f for f in frames if f"from {name}".encode() in f or f[6:12] == _raw(mac(member.number))], who


def _raw(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


async def test_published_ports_answer_neighbours_and_those_with_egress(bed: Bed, host: Host) -> None:
    """A network without egress has no way out, not even to a published port of another network."""
    members = await _members(bed, host)
    second = await plug(
        host,
        InstanceId("izzzzzzzzz"),
        nic(members["shut"].network, 20),
        networks=(net(members["shut"].network, vni=45),),
    )
    bed.serve(second, 80, greeting="second")
    await host.fabric.publish_ports(
        InstanceId("izzzzzzzzz"), [PublishedPort(8081, 80)], [nic(members["shut"].network, 20)]
    )
    answers = {
        name: (
            bed.ask(member.path, host.address, PUBLISHED, patience=0.5),
            bed.ask(member.path, host.address6, PUBLISHED, patience=0.5),
        )
        for name, member in members.items()
    }
    for name in ("published", "open", "open2"):
        assert all(one.startswith("published ") for one in answers[name]), answers
    assert answers["shut"] == ("silence", "silence")


async def test_a_metadata_service_beyond_the_host_is_not_for_instances(bed: Bed, host: Host) -> None:
    bed.run(bed.outside.path, "ip addr add 169.254.169.254/32 dev up0")
    bed.run(host.path, "ip route add 169.254.169.254/32 dev up0")
    bed.serve(bed.outside.path, SERVICE, greeting="secrets of the host")
    members = await _members(bed, host)
    assert bed.ask(host.path, "169.254.169.254", SERVICE).startswith("secrets")
    for member in members.values():
        assert not _answering(bed, member.path, ["169.254.169.254"])

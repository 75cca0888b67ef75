"""Security groups on the kernel: what comes through, what does not, and that nobody gets round them. Real packets between namespaces."""

import contextlib
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.domain import GroupMembers, NicFilter, RuleProtocol, SecurityDirection, SecurityGroup, SecurityRule
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import Bed, Host, arp, ethernet, ipv4_udp, mac, net, nic, plug

pytestmark = pytest.mark.root
NET = "naaaaaaaaa"
WEB, ONE, TWO = "iaaaaaaaaa", "ibbbbbbbbb", "iccccccccc"  # 10.1.0.5, .6 and .7
IN, OUT = SecurityDirection.IN, SecurityDirection.OUT
TCP, UDP, ICMP, ICMPV6 = RuleProtocol.TCP, RuleProtocol.UDP, RuleProtocol.ICMP, RuleProtocol.ICMPV6
BLINK = 0.4  # seconds after which an answer that must not come has not come


def filtered(*rules: SecurityRule, members: tuple[str, ...] = (), deny_out: bool = False) -> NicFilter:
    """eth0 of the web server under one group; rules may name the group `gfriends`."""
    group = SecurityGroup("gweb", "web", rules, deny_out)
    friends = GroupMembers("gfriends", NetworkId(NET), tuple(sorted(members)))
    return NicFilter("eth0", NetworkId(NET), ("10.1.0.5", "fd00:1::5"), (group,), (friends,))


class Scene:
    """A filtered server and two others beside it on one host."""

    def __init__(self, bed: Bed, host: Host) -> None:
        self.bed, self.host = bed, host
        self.web, self.one, self.two = (host.instance(one) for one in (WEB, ONE, TWO))

    async def begin(self, *filters: NicFilter) -> "Scene":
        network = net(NET)
        await self.host.fabric.ensure_network(network)
        by_id = {network.network_id: network}
        await self.host.fabric.ensure_instance(InstanceId(WEB), [nic(NET, 5)], by_id, filters)
        await self.host.fabric.ensure_instance(InstanceId(ONE), [nic(NET, 6)], by_id)
        await self.host.fabric.ensure_instance(InstanceId(TWO), [nic(NET, 7)], by_id)
        return self

    async def filter(self, *filters: NicFilter) -> None:
        await self.host.fabric.filter_instance(InstanceId(WEB), filters)

    def reaches(self, source: Path, target: str, port: int, *, udp: bool = False, well: bool = True) -> bool:
        """Whether a server answers. `well`: what is expected, which is how long to wait."""
        return self.bed.ask(source, target, port, udp=udp, patience=5.0 if well else BLINK).startswith("web")

    def rules(self, path: Path | None = None) -> str:
        return self.bed.run(path or self.web, "nft list ruleset")


@pytest.fixture
async def scene(bed: Bed, host: Host) -> Scene:
    return Scene(bed, host)


async def test_nothing_comes_in_that_no_rule_allows(scene: Scene) -> None:
    await scene.begin(filtered())
    scene.bed.serve(scene.web, 80, greeting="web")
    scene.bed.serve(scene.web, 53, greeting="web", udp=True)
    scene.bed.serve(scene.one, 80, greeting="web")
    for address in ("10.1.0.5", "fd00:1::5"):
        assert not scene.reaches(scene.one, address, 80, well=False)
        assert not scene.reaches(scene.one, address, 53, udp=True, well=False)
        assert not scene.bed.pings(scene.one, address)
    for address in ("10.1.0.6", "fd00:1::6"):
        assert scene.reaches(scene.web, address, 80), "what leaves is free, and its answers come"
        assert scene.bed.pings(scene.web, address)
    for address in ("127.0.0.1", "::1", "10.1.0.5"):
        assert scene.reaches(scene.web, address, 80), "it reaches itself"


@pytest.mark.parametrize("version", [4, 6])
async def test_each_protocol_in(scene: Scene, version: int) -> None:
    address, cidr = ("10.1.0.5", "10.1.0.6/32") if version == 4 else ("fd00:1::5", "fd00:1::6/128")
    ping = SecurityRule(IN, ICMP, icmp_type=8) if version == 4 else SecurityRule(IN, ICMPV6, icmp_type=128)
    await scene.begin(
        filtered(
            SecurityRule(IN, TCP, ("80", "8000-8010"), cidrs=(cidr,)),
            SecurityRule(IN, UDP, ("53",), cidrs=(cidr,)),
            replace(ping, cidrs=(cidr,)),
        )
    )
    for port in (80, 81, 8005):
        scene.bed.serve(scene.web, port, greeting="web")
    for port in (53, 54):
        scene.bed.serve(scene.web, port, greeting="web", udp=True)
    assert scene.reaches(scene.one, address, 80)
    assert scene.reaches(scene.one, address, 8005)
    assert not scene.reaches(scene.one, address, 81, well=False)
    assert scene.reaches(scene.one, address, 53, udp=True)
    assert not scene.reaches(scene.one, address, 54, udp=True, well=False)
    assert scene.bed.pings(scene.one, address)
    assert not scene.reaches(scene.two, address, 80, well=False)
    assert not scene.reaches(scene.two, address, 53, udp=True, well=False)
    assert not scene.bed.pings(scene.two, address)


@pytest.mark.parametrize("version", [4, 6])
async def test_each_protocol_out(scene: Scene, version: int) -> None:
    one, two = ("10.1.0.6", "10.1.0.7") if version == 4 else ("fd00:1::6", "fd00:1::7")
    cidr = f"{one}/{32 if version == 4 else 128}"
    await scene.begin(
        filtered(
            SecurityRule(IN),
            SecurityRule(OUT, TCP, ("80",), cidrs=(cidr,)),
            SecurityRule(OUT, UDP, ("53",), cidrs=(cidr,)),
            SecurityRule(OUT, ICMP if version == 4 else ICMPV6, cidrs=(cidr,)),
        )
    )
    for place in (scene.web, scene.one, scene.two):
        scene.bed.serve(place, 80, greeting="web")
        scene.bed.serve(place, 53, greeting="web", udp=True)
    scene.bed.serve(scene.one, 81, greeting="web")
    assert scene.reaches(scene.web, one, 80)
    assert scene.reaches(scene.web, one, 53, udp=True)
    assert scene.bed.pings(scene.web, one)
    assert not scene.reaches(scene.web, one, 81, well=False)
    assert not scene.reaches(scene.web, two, 80, well=False)
    assert not scene.reaches(scene.web, two, 53, udp=True, well=False)
    assert not scene.bed.pings(scene.web, two)
    own = "10.1.0.5" if version == 4 else "fd00:1::5"
    assert scene.reaches(scene.two, own, 80), "answers leave, whoever asked"
    await scene.filter(filtered(SecurityRule(IN), deny_out=True))
    assert not scene.reaches(scene.web, one, 80, well=False)
    assert scene.reaches(scene.two, own, 80)


async def test_an_open_connection_is_cut_when_its_rule_goes(scene: Scene) -> None:
    rule = SecurityRule(IN, TCP, ("80",))
    await scene.begin(filtered(rule))
    listener = scene.bed.socket(scene.web, socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("10.1.0.5", 80))
    listener.listen()
    client = scene.bed.socket(scene.one, socket.AF_INET, socket.SOCK_STREAM)
    client.connect(("10.1.0.5", 80))
    server, _ = listener.accept()
    with server:
        server.settimeout(BLINK)
        client.send(b"before")
        assert server.recv(100) == b"before"
        await scene.filter(filtered())
        client.send(b"after")
        with pytest.raises(TimeoutError):
            server.recv(100)
        await scene.filter(filtered(rule))
        server.settimeout(10)
        assert server.recv(100) == b"after", "it was only held"


async def test_members_come_and_go(scene: Scene) -> None:
    rule = SecurityRule(IN, TCP, ("80",), group="gfriends")
    await scene.begin(filtered(rule))
    scene.bed.serve(scene.web, 80, greeting="web")
    assert not scene.reaches(scene.one, "10.1.0.5", 80, well=False)
    await scene.filter(filtered(rule, members=("10.1.0.6", "fd00:1::6")))
    assert scene.reaches(scene.one, "10.1.0.5", 80)
    assert scene.reaches(scene.one, "fd00:1::5", 80)
    assert not scene.reaches(scene.two, "10.1.0.5", 80, well=False)
    await scene.filter(filtered(rule, members=("10.1.0.7",)))
    assert not scene.reaches(scene.one, "10.1.0.5", 80, well=False)
    assert scene.reaches(scene.two, "10.1.0.5", 80)
    await scene.filter(filtered(rule))
    assert not scene.reaches(scene.two, "10.1.0.5", 80, well=False)
    await scene.filter()
    assert scene.reaches(scene.two, "10.1.0.5", 80), "no group, no filter"
    assert "inet moorage" not in scene.rules()


async def test_what_somebody_flushed_comes_back(scene: Scene) -> None:
    """Root of the host can; instances cannot, which the test of the whole fleet shows."""
    rule = SecurityRule(IN, TCP, ("80",), group="gfriends")
    await scene.begin(filtered(rule, members=("10.1.0.6",)))
    scene.bed.serve(scene.web, 80, greeting="web")
    before = scene.rules()
    scene.bed.run(scene.web, "nft flush ruleset")
    assert scene.reaches(scene.two, "10.1.0.5", 80)
    await scene.host.fabric.reassert()
    assert scene.rules() == before
    assert not scene.reaches(scene.two, "10.1.0.5", 80, well=False)
    scene.bed.run(scene.web, "nft delete table inet moorage")
    await scene.filter(filtered(rule, members=("10.1.0.6", "10.1.0.7")))
    assert scene.reaches(scene.two, "10.1.0.5", 80)
    scene.bed.run(scene.web, "nft add rule inet moorage in-eth0 drop")
    await scene.host.fabric.reassert()
    await scene.filter(filtered(rule, members=("10.1.0.6",)))
    assert scene.rules() == before


async def test_another_agent_takes_over_without_a_gap(scene: Scene) -> None:
    """The rules stay while no agent runs; the next one replaces what it finds, also by nothing."""
    rule = SecurityRule(OUT, TCP, ("80",), group="gfriends")
    await scene.begin(filtered(rule, members=("10.1.0.6",)))
    before = scene.rules()
    networks = {NetworkId(NET): net(NET)}
    restarted = scene.host.new_fabric()
    await scene.host.start(restarted)
    try:
        assert scene.rules() == before
        await restarted.ensure_network(net(NET))
        await restarted.ensure_instance(
            InstanceId(WEB), [nic(NET, 5)], networks, [filtered(rule, members=("10.1.0.6",))]
        )
        assert scene.rules() == before
        await restarted.ensure_instance(InstanceId(WEB), [nic(NET, 5)], networks, [filtered(SecurityRule(IN))])
        assert "out-eth0" not in scene.rules()
        assert "gfriends" not in scene.rules().replace(f"m4-gfriends-{NET}", "").replace(f"m6-gfriends-{NET}", "")
    finally:
        await restarted.close()
    third = scene.host.new_fabric()
    await scene.host.start(third)
    try:
        await third.ensure_network(net(NET))
        await third.ensure_instance(InstanceId(WEB), [nic(NET, 5)], networks)
        assert "inet moorage" not in scene.rules()
    finally:
        await third.close()


async def test_no_address_is_reached_through_another_interface(scene: Scene) -> None:
    """Linux answers for all its addresses on each interface: a neighbour on the unfiltered one must not come in by it."""
    other = replace(net("nbbbbbbbbb", vni=43), subnets=())
    eth1 = replace(nic("nbbbbbbbbb", 40, name="eth1", gateway=False), addresses=("10.2.0.40/24",))
    far = replace(nic("nbbbbbbbbb", 41, gateway=False), addresses=("10.2.0.41/24",))
    web = await plug(scene.host, WEB, nic(NET, 5), eth1, networks=(net(NET), other))
    by_id = {NetworkId(NET): net(NET), NetworkId("nbbbbbbbbb"): other}
    await scene.host.fabric.ensure_instance(InstanceId(ONE), [far], by_id)
    scene.bed.run(scene.one, "ip route add 10.1.0.0/24 via 10.2.0.40")
    receiver = scene.bed.socket(web, socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("10.1.0.5", 9))
    sender = scene.bed.socket(scene.one, socket.AF_INET, socket.SOCK_DGRAM)
    sender.sendto(b"around", ("10.1.0.5", 9))
    assert receiver.recv(100) == b"around", "without groups it is like that"
    await scene.filter(filtered())
    sender.sendto(b"around", ("10.1.0.5", 9))
    receiver.settimeout(BLINK)
    with pytest.raises(TimeoutError):
        receiver.recv(100)
    scene.bed.serve(web, 80, greeting="web")
    assert scene.reaches(scene.one, "10.2.0.40", 80)


async def test_a_sender_that_forges_gets_nowhere(scene: Scene) -> None:
    """From an AF_PACKET socket, which no rule of the sender's own namespace sees: other MACs, other addresses, other ARP."""
    rule = SecurityRule(IN, UDP, ("9",), group="gfriends")
    await scene.begin(filtered(rule, members=("10.1.0.7", "fd00:1::7")))
    receiver = scene.bed.socket(scene.web, socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("10.1.0.5", 9))
    sniffer = scene.bed.sniff(scene.web, "eth0")
    forged = {
        "own address, not a friend's": ethernet(mac(5), mac(6), 0x0800, ipv4_udp("10.1.0.6", "10.1.0.5", b"self")),
        "a friend's address": ethernet(mac(5), mac(6), 0x0800, ipv4_udp("10.1.0.7", "10.1.0.5", b"address")),
        "a friend's address and MAC": ethernet(mac(5), mac(7), 0x0800, ipv4_udp("10.1.0.7", "10.1.0.5", b"both")),
        "ARP for a friend": ethernet(mac(5), mac(6), 0x0806, arp(2, mac(6), "10.1.0.7", mac(5), "10.1.0.5")),
        "ARP as a friend": ethernet(mac(5), mac(7), 0x0806, arp(2, mac(7), "10.1.0.7", mac(5), "10.1.0.5")),
    }
    for frame in forged.values():
        scene.bed.send_frame(scene.one, "eth0", frame)
    honest = ethernet(mac(5), mac(7), 0x0800, ipv4_udp("10.1.0.7", "10.1.0.5", b"honest"))
    scene.bed.send_frame(scene.two, "eth0", honest)
    assert receiver.recv(100) == b"honest"
    with contextlib.suppress(BlockingIOError):
        receiver.setblocking(False)
        pytest.fail(f"came too: {receiver.recv(100)!r}")
    came = sniffer.wait_for(lambda frame: frame == honest)
    assert {name for name, frame in forged.items() if frame in came} == {"own address, not a friend's"}


async def test_rules_are_there_before_the_interface_is_up(scene: Scene) -> None:
    """A neighbour that never stops sending has nothing come through while the interface is made, again and again."""
    await scene.begin(filtered())
    sender = scene.bed.socket(scene.one, socket.AF_INET, socket.SOCK_DGRAM)
    sender.setblocking(False)
    ending = threading.Event()

    def send() -> None:
        while not ending.is_set():
            with contextlib.suppress(OSError):  # while nobody has the address
                sender.sendto(b"too early", ("10.1.0.5", 9))

    def came() -> int:
        """Datagrams that came as far as to be without a receiver."""
        found = scene.bed.run(scene.web, "cat /proc/self/net/snmp").splitlines()
        names, numbers = (line.split() for line in found if line.startswith("Udp:"))
        return int(numbers[names.index("NoPorts")])

    thread = threading.Thread(target=send, name="never stops sending")
    thread.start()
    try:
        for _ in range(10):
            await scene.host.fabric.remove_instance(InstanceId(WEB))
            await scene.host.fabric.ensure_instance(
                InstanceId(WEB), [nic(NET, 5)], {NetworkId(NET): net(NET)}, [filtered()]
            )
            assert not scene.bed.pings(scene.one, "10.1.0.5")
            assert came() == 0
        await scene.filter()
        deadline = time.monotonic() + 10
        while not came():
            assert time.monotonic() < deadline, "nothing is sent, so the test shows nothing"
    finally:
        ending.set()
        thread.join()


async def test_the_agents_own_listeners_answer_whatever_the_rules(scene: Scene) -> None:
    await scene.begin(filtered(deny_out=True))
    scene.bed.run(scene.web, "ip addr add 169.254.169.254/32 dev lo")
    scene.bed.run(scene.web, "nft add table ip moorage-names")
    scene.bed.run(scene.web, "nft add chain ip moorage-names output { type nat hook output priority -100 ; }")
    scene.bed.run(
        scene.web, "nft add rule ip moorage-names output ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5353"
    )
    resolver = scene.bed.socket(scene.web, socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind(("127.0.0.11", 5353))
    client = scene.bed.socket(scene.web, socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(("127.0.0.11", 53))
    client.send(b"who is web")
    question, asker = resolver.recvfrom(100)
    resolver.sendto(question + b"?", asker)
    assert client.recv(100) == b"who is web?"
    scene.bed.serve(scene.web, 80, greeting="web")
    assert scene.reaches(scene.web, "169.254.169.254", 80)

"""A redundant pair on two hosts with a client on a third, and real keepalived: nobody but them says where the gateway is.

The fabrics are told once what is where and then left alone, as with a control plane and agents that are gone.
"""

import ipaddress
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cli.router_image.recipe import context_folder
from hostagent.domain import NetworkAssignment, NicAssignment, VirtualStation
from hostagent.router import keepalived
from hostagent.router.roles import read_role
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import LegBundle, PairBundle, RouterBundle, RouterRole
from moorage.vrrp import virtual_mac
from tests.integration.netlink.bed import Bed, Host, arp, ethernet, ipv4_udp, mac, net, nic, peer, plug

NET = "pairnet"
GATEWAYS = ("10.1.0.1", "fd00:1::1")
FAILOVER_SECONDS = 2.0
WAIT_SECONDS = 20.0
PRIORITIES = {1: 200, 2: 100}


def until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> float:
    """Wait for a condition, or fail; how long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, what
        time.sleep(0.02)
    return time.monotonic() - begun


class Member:
    """One router of the pair: number 1 or 2, with 10.1.0.11 or 10.1.0.12."""

    def __init__(self, host: Host, number: int, folder: Path) -> None:
        self.host = host
        self.number = number
        self.folder = folder
        self.instance = f"router{number}"
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "keepalived").mkdir(parents=True)
        other = 3 - number
        self.pair = PairBundle(1, PRIORITIES[number], f"10.1.0.1{number}", f"10.1.0.1{other}")
        self.leg = LegBundle(NetworkId(NET), "eth0", ("10.1.0.0/24", "fd00:1::/64"), GATEWAYS)
        self.bundle = RouterBundle(InstanceId(self.instance), 1, legs=(self.leg,), pair=self.pair)

    @property
    def station(self) -> VirtualStation:
        return VirtualStation(virtual_mac(self.pair.virtual_id, GATEWAYS), GATEWAYS)

    @property
    def path(self) -> Path:
        return self.host.instance(self.instance)

    def nic(self) -> NicAssignment:
        return replace(nic(NET, 10 + self.number, gateway=False), virtual=self.station)

    def start(self) -> None:
        """keepalived as the entrypoint starts it, in the router's namespace."""
        text = keepalived.configuration(self.bundle)
        script = context_folder() / "router-role"
        config = self.folder / "keepalived/keepalived.conf"
        config.write_text(text.replace(keepalived.ROLE_SCRIPT, f"{self.folder}/router-role"))
        shutil.copy(script, self.folder / "router-role")
        (self.folder / "router-role").chmod(0o755)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("nsenter", f"--net={self.path}", "keepalived", "--vrrp", "--dont-fork", "--log-console"),
                    f"--use-file={config}",
                    f"--pid={self.folder}/keepalived/keepalived.pid",
                    f"--vrrp_pid={self.folder}/keepalived/vrrp.pid",
                ],
                env={**os.environ, "MOORAGE_ROUTER_DIR": str(self.folder)},
                stdout=log,
                stderr=log,
            )

    def end(self, number: int = signal.SIGTERM) -> None:
        """End keepalived, and wait for it. A SIGKILL takes its child as well, as the end of a container does."""
        if self.process is None:
            return
        pids = [self.folder / f"keepalived/{name}.pid" for name in ("keepalived", "vrrp")]
        child = int(pids[1].read_text())
        self.process.send_signal(number)
        self.process.wait(WAIT_SECONDS)
        if number == signal.SIGKILL:
            os.kill(child, signal.SIGKILL)
            for pid in pids:
                pid.unlink()  # the entrypoint does that
        self.process = None

    def role(self) -> RouterRole:
        """What its notify script wrote."""
        return read_role(self.bundle, lambda _: self.folder)

    def holds(self, bed: Bed) -> bool:
        """Whether the gateway's address is on it."""
        return f"inet {GATEWAYS[0]}/32" in bed.run(self.path, "ip addr show")

    def cut(self, *, up: bool) -> None:
        """The cable of its host."""
        self.host.bed.run(self.host.bed.switch.path, f"ip link set dev p{self.number} {'up' if up else 'down'}")


class Pair:
    """Both members, the client's host, and what is in between."""

    def __init__(self, bed: Bed, one: Member, two: Member, client: Host) -> None:
        self.bed = bed
        self.one = one
        self.two = two
        self.client_host = client

    def reaches(self, address: str, *, near: bool = False) -> bool:
        """Whether one echo request is answered quickly: of the client on the third host, or of the one beside the second member."""
        path = self.two.host.instance("near") if near else self.client_host.instance("far")
        argv = ["nsenter", f"--net={path}", "ping", "-c", "1", "-W", "0.2", address]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def is_whole(self) -> bool:
        """Whether both clients reach both gateways."""
        return all(self.reaches(gateway, near=near) for gateway in GATEWAYS for near in (False, True))

    def active(self) -> list[int]:
        """Numbers of members that hold the gateway."""
        return [member.number for member in (self.one, self.two) if member.holds(self.bed)]

    def settle(self, number: int) -> None:
        """Wait until this one, and no other, is active and says so."""

        def done() -> bool:
            roles = {member.number: member.role() for member in (self.one, self.two)}
            wanted = RouterRole.ACTIVE, RouterRole.STANDBY
            return self.active() == [number] and (roles[number], roles[3 - number]) == wanted

        until(done, f"member {number} is not the only active one")


@pytest.fixture
def keepalived_here() -> None:
    if shutil.which("keepalived") is None:
        if "netns" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
            pytest.fail("a redundant pair needs keepalived; run `make setup`")
        pytest.skip("a redundant pair needs keepalived")


@pytest.fixture
async def pair(bed: Bed, keepalived_here: None, tmp_path: Path) -> AsyncIterator[Pair]:
    hosts = {number: await bed.host(number) for number in (1, 2, 3)}
    members = {number: Member(hosts[number], number, tmp_path / f"m{number}") for number in (1, 2)}
    on = {11: 1, 12: 2, 30: 3, 31: 2}

    def network(at: int) -> NetworkAssignment:
        peers = tuple(peer(number, hosts[host]) for number, host in on.items() if host != at)
        return replace(net(NET, peers=peers), virtual_stations=(members[1].station,))

    for number, member in members.items():
        await plug(hosts[number], member.instance, member.nic(), networks=(network(number),))
    await plug(hosts[3], "far", nic(NET, 30), networks=(network(3),))
    await plug(hosts[2], "near", nic(NET, 31), networks=(network(2),))
    made = Pair(bed, members[1], members[2], hosts[3])
    try:
        members[1].start()
        until(lambda: members[1].role() is RouterRole.ACTIVE, "the first member does not become active")
        members[2].start()
        made.settle(1)
        yield made
    finally:
        for member in members.values():
            member.end(signal.SIGKILL)


async def test_the_gateway_moves_when_the_active_ones_host_is_gone(pair: Pair) -> None:
    until(pair.is_whole, "the gateways are not there")
    pair.one.cut(up=False)
    until(pair.is_whole, "the gateways are not back", FAILOVER_SECONDS)
    assert pair.two.holds(pair.bed)


async def test_after_a_partition_the_higher_priority_stays(pair: Pair) -> None:
    pair.one.cut(up=False)
    until(lambda: pair.active() == [1, 2], "a member that hears nothing does not become active")
    until(  # keepalived takes the address first and runs its script after that
        lambda: pair.one.role() is pair.two.role() is RouterRole.ACTIVE, "the control plane does not see a split"
    )
    pair.one.cut(up=True)
    pair.settle(1)
    until(pair.is_whole, "the gateways are not reached after the partition", FAILOVER_SECONDS)


async def test_an_active_one_that_ends_hands_over_at_once(pair: Pair) -> None:
    pair.one.end()
    until(pair.is_whole, "the gateways are not back", FAILOVER_SECONDS)
    assert pair.active() == [2]
    pair.one.start()
    until(lambda: pair.one.role() is RouterRole.STANDBY, "the first member does not come back")
    pair.settle(2)  # it does not take over from one that works
    assert pair.is_whole()


async def test_a_killed_one_that_comes_back_has_given_up_the_gateway(pair: Pair) -> None:
    pair.one.end(signal.SIGKILL)
    until(lambda: pair.two.role() is RouterRole.ACTIVE, "the second member does not take over", FAILOVER_SECONDS)
    pair.one.start()
    pair.settle(2)
    until(pair.is_whole, "the gateways are not reached", FAILOVER_SECONDS)


async def test_nobody_else_speaks_as_a_router(pair: Pair) -> None:
    """A member of the network forges what would make it the gateway; the standby may not do so either while it is one."""
    virtual = pair.one.station.mac
    vrrp = bytes.fromhex("3101ff010019") + bytes(2) + bytes([10, 1, 0, 1])
    head = bytes.fromhex("450000200000000" + "0ff700000")
    own6, group6 = (ipaddress.ip_address(one).packed for one in ("fd00:1::1f", "ff02::12"))
    padding = bytes([112, 0, 1, 4, 0, 0, 0, 0])  # destination options of nothing, and VRRP behind them
    head6 = bytes.fromhex("60000000") + (len(padding) + len(vrrp)).to_bytes(2) + bytes([60, 255])
    attempts = {
        "advertisement behind options": (mac(31), 0x86DD, head6 + own6 + group6 + padding + vrrp),
        "advertisement": (mac(31), 0x0800, head + bytes([10, 1, 0, 31]) + bytes([224, 0, 0, 18]) + vrrp),
        "virtual MAC": (virtual, 0x0800, ipv4_udp("10.1.0.31", "10.1.0.30", b"x")),
        "gateway's address": (mac(31), 0x0800, ipv4_udp("10.1.0.1", "10.1.0.30", b"x")),
        "ARP": (virtual, 0x0806, arp(1, virtual, "10.1.0.1", "00:00:00:00:00:00", "10.1.0.30")),
    }
    seen = pair.bed.sniff(pair.client_host.instance("far"), "eth0")
    near = pair.two.host.instance("near")
    for source, kind, payload in attempts.values():
        pair.bed.send_frame(near, "eth0", ethernet("ff:ff:ff:ff:ff:ff", source, kind, payload))
    standby = ethernet("ff:ff:ff:ff:ff:ff", virtual, 0x0800, ipv4_udp("10.1.0.12", "10.1.0.30", b"standby"))
    pair.bed.send_frame(pair.two.path, "eth0", standby)
    pair.bed.send_frame(near, "eth0", ethernet(mac(30), mac(31), 0x0800, ipv4_udp("10.1.0.31", "10.1.0.30", b"last")))
    frames = seen.wait_for(lambda frame: frame.endswith(b"last"))
    forged = [payload for _, _, payload in attempts.values()]
    assert not [frame for frame in frames if frame.endswith(b"standby") or any(one in frame for one in forged)]
    assert pair.active() == [1]
    assert pair.is_whole()


async def test_a_repair_leaves_alone_what_was_learned(pair: Pair) -> None:
    until(pair.is_whole, "the gateways are not there")
    before = pair.bed.run(pair.client_host.network(NET), "bridge fdb")
    assert f"{pair.one.station.mac} dev mv{NET} dst 192.168.77.1" in before
    peers = (peer(11, pair.one.host), peer(12, pair.two.host), peer(31, pair.two.host))
    wanted = replace(net(NET, peers=peers), virtual_stations=(pair.one.station,))
    await pair.client_host.fabric.ensure_network(wanted)
    here = (peer(12, pair.two.host), peer(30, pair.client_host), peer(31, pair.two.host))
    network = replace(net(NET, peers=here), virtual_stations=(pair.one.station,))
    await pair.one.host.fabric.ensure_network(network)
    by_id = {network.network_id: network}
    await pair.one.host.fabric.ensure_instance(InstanceId(pair.one.instance), [pair.one.nic()], by_id)
    assert pair.active() == [1]
    after = pair.bed.run(pair.client_host.network(NET), "bridge fdb")
    assert f"{pair.one.station.mac} dev mv{NET} dst 192.168.77.1" in after
    assert pair.is_whole()

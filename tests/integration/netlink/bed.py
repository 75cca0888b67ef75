"""Namespaces that play hosts, on an underlay of their own, each with a real fabric; nothing of it touches the
machine's network.

Sockets are opened inside the namespaces by this process (a socket stays where it was made), so that servers, clients,
forgers and sniffers need no other process. Everything lies in one folder; one that a killed test left is emptied by
the next `Bed`.
"""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, Peer, Subnet
from hostagent.netlink import namespaces
from hostagent.netlink.fabric import LinuxFabric
from hostagent.netlink.guard import Family
from moorage.ids import InstanceId, NetworkId

PREFIX = "mt-net-"
PATIENCE_SECONDS = 5.0
MTU = 1450


def require_namespaces() -> None:
    """Skip the calling test, naming what is missing; a failure instead when MOORAGE_REQUIRE contains `netns`."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    lacks += [name for name in ("ip", "nsenter", "nft", "ping") if shutil.which(name) is None]
    if not lacks:
        return
    message = f"tests of the host's network need: {', '.join(lacks)}"
    if "netns" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def _reap() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            pid, started = (folder / "owner").read_text().split()
            if _start_time(int(pid)) != started:
                _empty(folder)


def _empty(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


class Host:
    """One host: a namespace with one leg on the underlay, and a fabric."""

    def __init__(self, bed: "Bed", number: int, guard_family: Family | None) -> None:
        self.bed = bed
        self.address = f"192.168.77.{number}"
        self.address6 = f"fd77::{number}"
        self.space = bed.add_leg(f"host{number}", number)
        self.run_dir = bed.folder / f"run{number}"
        self.run_dir.mkdir()
        self.guard_family = guard_family
        self.fabric = self.new_fabric()

    def new_fabric(self) -> LinuxFabric:
        """Another agent's fabric over the same folder."""
        return LinuxFabric(run_dir=self.run_dir, underlay_address=self.address, guard_family=self.guard_family)

    async def start(self, fabric: LinuxFabric | None = None) -> None:
        """Start the fabric as if this process ran on the host: it captures the namespace of the calling thread."""
        with self.space.entered():
            await (fabric or self.fabric).start()

    def instance(self, instance_id: str) -> Path:
        """The namespace of an instance."""
        return self.run_dir / "netns" / f"i-{instance_id}"

    def network(self, network_id: str) -> Path:
        """The namespace of a network."""
        return self.run_dir / "netns" / f"n-{network_id}"

    @property
    def path(self) -> Path:
        """The namespace of the host."""
        return self.space.path


class Bed:
    """The underlay: a bridge in a namespace of its own, hosts and one outsider on it."""

    def __init__(self) -> None:
        _reap()
        self.root = namespaces.HostNamespace.capture()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        (self.folder / "owner").write_text(f"{os.getpid()} {_start_time(os.getpid())}")
        self._spaces: list[namespaces.Namespace] = []
        self._fabrics: list[LinuxFabric] = []
        self._servers: list[tuple[threading.Thread, socket.socket]] = []
        self._sockets: list[socket.socket] = []
        self.switch = self.space("switch")
        self.run(self.switch.path, "ip link add br0 type bridge mcast_snooping 0")
        self.run(self.switch.path, "ip link set dev br0 up")
        self.outside = self.add_leg("outside", 200)

    def space(self, name: str) -> namespaces.Namespace:
        """A namespace of its own, closed with the bed."""
        off = {"bridge/bridge-nf-call-iptables": "0", "ipv6/conf/default/accept_dad": "0"}
        space = namespaces.create(self.root, self.folder / name, off)
        self._spaces.append(space)
        self.run(space.path, "ip link set dev lo up")
        return space

    def add_leg(self, name: str, number: int) -> namespaces.Namespace:
        """A namespace with an address on the underlay."""
        space = self.space(name)
        port = f"p{number}"
        target = f"/proc/{os.getpid()}/fd/{self.switch.fd}"
        self.run(space.path, f"ip link add name up0 type veth peer name {port} netns {target}")
        self.run(space.path, f"ip addr add 192.168.77.{number}/24 dev up0")
        self.run(space.path, f"ip addr add fd77::{number}/64 dev up0 nodad")
        self.run(space.path, "ip link set dev up0 up")
        self.run(self.switch.path, f"ip link set dev {port} master br0")
        self.run(self.switch.path, f"ip link set dev {port} up")
        return space

    async def host(self, number: int, *, guard_family: Family | None = None) -> Host:
        """A host with a started fabric."""
        host = Host(self, number, guard_family)
        self._fabrics.append(host.fabric)
        await host.start()
        return host

    async def close(self) -> None:
        """End everything. What the fabric left would show as a mount under its folder; `_empty` takes it all."""
        for fabric in self._fabrics:
            await fabric.close()
        for thread, listener in self._servers:
            listener.close()
            thread.join()
        for one in self._sockets:
            one.close()
        for space in self._spaces:
            space.close()
        _empty(self.folder)
        os.close(self.root.fd)

    # In namespaces

    def run(self, path: Path, command: str, *, check: bool = True) -> str:
        """Run a command in a namespace; its output."""
        argv = ["nsenter", f"--net={path}", *command.split()]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def pings(self, path: Path, address: str) -> bool:
        """Whether the first echo request is answered within a second."""
        argv = ["nsenter", f"--net={path}", "ping", "-c", "1", "-W", "1", address]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def keep(self, one: socket.socket) -> None:
        """Close this socket with the bed too."""
        self._sockets.append(one)

    def socket(self, path: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives in a namespace; closed with the bed."""
        fd = os.open(path, os.O_RDONLY)
        try:
            with namespaces.entered(self.root, fd):
                made = socket.socket(family, kind, protocol)
        finally:
            os.close(fd)
        made.settimeout(PATIENCE_SECONDS)
        self._sockets.append(made)
        return made

    def serve(self, path: Path, port: int, *, greeting: str = "", udp: bool = False) -> None:
        """Answer everyone with `greeting` and the address that they come from, v4 and v6."""
        listener = self.socket(path, socket.AF_INET6, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.settimeout(0.1)
        if not udp:
            listener.listen(16)
        thread = threading.Thread(target=_answer, args=(listener, greeting, udp), name=f"serve-{port}")
        thread.start()
        self._servers.append((thread, listener))

    def ask(self, path: Path, address: str, port: int, *, udp: bool = False, patience: float = PATIENCE_SECONDS) -> str:
        """What a server says; `refused` or `silence` if it does not."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        client = self.socket(path, family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        client.settimeout(patience)
        try:
            client.connect((address, port))
            client.send(b"hello")
            return client.recv(1000).decode()
        except TimeoutError:
            return "silence"
        except OSError as error:
            return "refused" if isinstance(error, ConnectionRefusedError) else f"error {error.errno}"
        finally:
            client.close()

    def sniff(self, path: Path, link: str) -> "Sniffer":
        """Everything that passes a link, from now on."""
        raw = self.socket(path, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind((link, 3))
        return Sniffer(raw)

    def send_frame(self, path: Path, link: str, frame: bytes) -> None:
        """Send a forged frame."""
        raw = self.socket(path, socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind((link, 0))
        raw.send(frame)


def _answer(listener: socket.socket, greeting: str, udp: bool) -> None:
    while True:
        try:
            if udp:
                _data, peer = listener.recvfrom(1000)
                listener.sendto(_say(greeting, peer[0]), peer)
                continue
            connection, peer = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(1.0)
            connection.recv(1000)
            connection.send(_say(greeting, peer[0]))


def _say(greeting: str, address: str) -> bytes:
    return f"{greeting} {address.removeprefix('::ffff:')}".strip().encode()


class Sniffer:
    """Frames that passed a link."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw

    def frames(self) -> list[bytes]:
        """What has come until now."""
        found = []
        self._raw.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._raw.recv(65535))
        return found

    def wait_for(self, matches: Callable[[bytes], bool]) -> list[bytes]:
        """All frames up to one that matches; fails after some seconds."""
        found: list[bytes] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self._raw.settimeout(max(0.01, deadline - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                found.append(self._raw.recv(65535))
                if matches(found[-1]):
                    return found
        pytest.fail("the frame that ends the capture did not come")


# Values --------------------------------------------------------------------------------------------------------------


def net(
    network_id: str, *, vni: int = 42, gateway: bool = True, egress: bool = False, peers: tuple[Peer, ...] = ()
) -> NetworkAssignment:
    """An isolated network 10.1.0.0/24 with fd00:1::/64."""
    subnets = (
        Subnet("10.1.0.0/24", "10.1.0.1" if gateway else ""),
        Subnet("fd00:1::/64", "fd00:1::1" if gateway else ""),
    )
    return NetworkAssignment(
        NetworkId(network_id), network_id, NetworkKind.ISOLATED, subnets, MTU, vni=vni, egress=egress, peers=peers
    )


def nic(network_id: str, number: int, *, name: str = "eth0", gateway: bool = True) -> NicAssignment:
    """An interface with 10.1.0.<number> and fd00:1::<number>."""
    return NicAssignment(
        network_id=NetworkId(network_id),
        name=name,
        mac=mac(number),
        addresses=(f"10.1.0.{number}/24", f"fd00:1::{number:x}/64"),
        gateways=("10.1.0.1", "fd00:1::1") if gateway else (),
    )


def mac(number: int) -> str:
    """The MAC of `nic(number)`."""
    return f"02:00:00:00:00:{number:02x}"


def peer(number: int, host: Host) -> Peer:
    """`nic(number)` as another host sees it."""
    return Peer(mac(number), (f"10.1.0.{number}", f"fd00:1::{number:x}"), host.address)


async def plug(host: Host, instance_id: str, *nics: NicAssignment, networks: tuple[NetworkAssignment, ...]) -> Path:
    """Networks and one instance."""
    for network in networks:
        await host.fabric.ensure_network(network)
    by_id = {network.network_id: network for network in networks}
    return await host.fabric.ensure_instance(InstanceId(instance_id), nics, by_id)


def ipv4_udp(source: str, target: str, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram to port 9."""
    udp = struct.pack(">HHHH", 9, 9, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack(">H", checksum) + head[12:] + udp


def ethernet(target: str, source: str, kind: int, payload: bytes) -> bytes:
    """A frame."""
    return (
        bytes.fromhex(target.replace(":", ""))
        + bytes.fromhex(source.replace(":", ""))
        + struct.pack(">H", kind)
        + payload
    )


def arp(operation: int, sender_mac: str, sender: str, target_mac: str, target: str) -> bytes:
    """An ARP packet: operation 1 asks, 2 answers."""
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    hardware = [bytes.fromhex(m.replace(":", "")) for m in (sender_mac, target_mac)]
    return head + hardware[0] + socket.inet_aton(sender) + hardware[1] + socket.inet_aton(target)

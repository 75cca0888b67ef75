"""Addresses by a real DHCP server outside (dnsmasq) for instances on a bridge, by macvlan and with a whole NIC: given, renewed, kept over
a restart of the agent, lost, and given back."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from hostagent.dhcp_client.clients import DhcpClients
from hostagent.dhcp_client.lease import with_leases
from hostagent.domain import NetworkAssignment, NicAssignment, SharedAttachment
from moorage.clock import SystemClock
from moorage.ids import InstanceId, NetworkId
from moorage.tasks import TaskOwner
from tests.integration.netlink.bed import Bed, Host
from tests.integration.netlink.test_shared_nics import LAN, ONE, Wire, lan
from tests.support.plane import until as eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (shutil.which("dnsmasq") and shutil.which("busybox")), reason="needs dnsmasq and busybox"),
]
INSTANCE = InstanceId(ONE)
MAC = "02:00:00:00:03:05"


class Server:
    """dnsmasq on the neighbour's end, giving 10.3.0.100 to 10.3.0.110 for two minutes, its least."""

    def __init__(self, bed: Bed, wire: Wire) -> None:
        self.leases = bed.folder / "leases"
        self._argv = [
            "nsenter",
            f"--net={wire.neighbour.path}",
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
        ]
        self._argv += ["--port=0", "--interface=lan0", "--dhcp-range=10.3.0.100,10.3.0.110,2m", "--no-ping"]
        self._argv += [
            f"--dhcp-leasefile={self.leases}",
            "--dhcp-option=3,10.3.0.1",
            "--user=root",
            f"--pid-file={bed.folder}/dns.pid",
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def given(self) -> dict[str, str]:
        """MAC to address of what is leased now."""
        lines = self.leases.read_text().splitlines() if self.leases.exists() else []
        return {line.split()[1]: line.split()[2] for line in lines}


class AgentPart:
    """The clients, and what the agent does at each change."""

    def __init__(self, host: Host, folder: Path, network: NetworkAssignment) -> None:
        self.host, self.network = host, network
        self.nic = NicAssignment(NetworkId(LAN), "eth0", MAC, (), dhcp_client=True)
        self.tasks = TaskOwner("dhcp test")
        self.changes = 0
        self.clients = DhcpClients(folder, tasks=self.tasks, clock=SystemClock(), on_change=self._changed)
        self._lock = asyncio.Lock()

    def _changed(self, _instance_id: InstanceId) -> None:
        self.tasks.spawn(self.plug(), name="plug")

    async def plug(self) -> Path:
        async with self._lock:
            await self.host.fabric.ensure_network(self.network)
            now = SystemClock().now().timestamp()
            nics = with_leases([self.nic], self.clients.leases(INSTANCE), now)
            path = await self.host.fabric.ensure_instance(INSTANCE, nics, {NetworkId(LAN): self.network})
            self.changes += 1
            return path

    async def begin(self) -> Path:
        path = await self.plug()
        self.clients.follow(INSTANCE, path, {"eth0": "one"})
        return path


@pytest.fixture
def wire(bed: Bed, host: Host) -> Wire:
    return Wire(bed, host)


@pytest.fixture
def server(bed: Bed, wire: Wire) -> Iterator[Server]:
    made = Server(bed, wire)
    made.start()
    yield made
    made.stop()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""

    async def look() -> object:
        return condition()

    await eventually(look, what=what, within_seconds=20.0)


def clients_running(path: Path) -> list[int]:
    """Processes of udhcpc in a namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_there = entry.name.isdecimal() and (entry / "ns/net").stat().st_ino == path.stat().st_ino
            if is_there and b"udhcpc" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.fixture
async def part(host: Host, tmp_path: Path) -> AsyncIterator[AgentPart]:
    made = AgentPart(host, tmp_path / "dhcp", lan(SharedAttachment.MACVLAN))
    yield made
    await made.tasks.close()


@pytest.mark.parametrize("attachment", [SharedAttachment.BRIDGE, SharedAttachment.MACVLAN, SharedAttachment.WHOLE_NIC])
async def test_given_and_given_back(
    bed: Bed, host: Host, wire: Wire, server: Server, part: AgentPart, attachment: SharedAttachment
) -> None:
    part.network = lan(attachment)
    before = wire.state()
    one = await part.begin()
    assert part.clients.wait_seconds(INSTANCE) > 0
    await until(lambda: "10.3.0.1" in bed.run(one, "ip route show default"), "default route")
    assert part.clients.wait_seconds(INSTANCE) == 0
    (lease,) = part.clients.leases(INSTANCE).values()
    assert server.given() == {MAC: lease.address.partition("/")[0]}
    assert lease.address in bed.run(one, "ip -o addr show eth0")
    assert "valid_lft forever" not in bed.run(one, "ip -4 addr show eth0")
    assert bed.pings(one, "10.3.0.1")
    # what is given back is free there, the client is gone, and so is the address
    await part.clients.release(INSTANCE)
    await until(lambda: server.given() == {}, "the server's word that it has the address again")
    assert clients_running(one) == []
    assert part.clients.leases(INSTANCE) == {}
    await part.plug()
    assert "10.3.0." not in bed.run(one, "ip -o addr show eth0")
    await host.fabric.remove_instance(INSTANCE)
    await host.fabric.remove_network(NetworkId(LAN))
    assert wire.state() == before


async def test_renewed_and_lost(bed: Bed, wire: Wire, server: Server, part: AgentPart) -> None:
    one = await part.begin()
    await until(lambda: part.clients.leases(INSTANCE), "lease")
    first = part.clients.leases(INSTANCE)["eth0"]
    (process,) = clients_running(one)
    os.kill(process, signal.SIGUSR1)  # renew now
    await until(lambda: part.clients.leases(INSTANCE)["eth0"].expires > first.expires, "renewal")
    assert part.clients.leases(INSTANCE)["eth0"].address == first.address
    os.kill(process, signal.SIGUSR2)  # as if it had run out
    await until(lambda: not part.clients.leases(INSTANCE), "end of the lease")
    await until(lambda: first.address not in bed.run(one, "ip -o addr show eth0"), "end of the address")


async def test_a_client_that_dies_is_started_again_and_asks_for_the_same(
    bed: Bed, wire: Wire, server: Server, part: AgentPart
) -> None:
    one = await part.begin()
    await until(lambda: part.clients.leases(INSTANCE), "lease")
    first = part.clients.leases(INSTANCE)["eth0"]
    (process,) = clients_running(one)
    os.kill(process, signal.SIGKILL)
    await until(lambda: part.clients.leases(INSTANCE)["eth0"].expires > first.expires, "the next client's lease")
    assert part.clients.leases(INSTANCE)["eth0"].address == first.address
    assert first.address in bed.run(one, "ip -o addr show eth0"), "and it was never away"


async def test_a_new_agent_takes_nothing_away(
    bed: Bed, host: Host, wire: Wire, server: Server, part: AgentPart, tmp_path: Path
) -> None:
    one = await part.begin()
    await until(lambda: "10.3.0.1" in bed.run(one, "ip route show default"), "default route")
    first = part.clients.leases(INSTANCE)["eth0"]
    await part.tasks.close()
    assert clients_running(one) == []
    server.stop()
    after = AgentPart(host, tmp_path / "dhcp", part.network)
    try:
        assert after.clients.leases(INSTANCE) == {"eth0": first}
        await after.begin()
        assert after.clients.wait_seconds(INSTANCE) == 0, "it has its address, though the server is away"
        assert first.address in bed.run(one, "ip -o addr show eth0")
        server.start()
        await until(lambda: after.clients.leases(INSTANCE)["eth0"].expires > first.expires, "renewal")
        assert after.clients.leases(INSTANCE)["eth0"].address == first.address
        assert bed.pings(one, "10.3.0.1")
    finally:
        await after.tasks.close()


async def test_nobody_answers(bed: Bed, wire: Wire, part: AgentPart) -> None:
    one = await part.begin()
    assert 0 < part.clients.wait_seconds(INSTANCE) <= 10
    await until(lambda: clients_running(one), "client")
    await part.clients.release(INSTANCE)
    assert part.clients.wait_seconds(INSTANCE) == 0
    assert clients_running(one) == []

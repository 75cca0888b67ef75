"""DHCP of a router: real dnsmasq under the image's first process, told by the agent's part, asked by busybox's udhcpc."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hostagent.router.dnsmasq import DhcpApplier
from moorage.errors import Unavailable
from moorage.router_bundle import DhcpBundle, DhcpOption, DhcpReservation, RouterBundle
from tests.integration.netlink import router_bed
from tests.integration.netlink.bed import Bed, require_namespaces
from tests.integration.router.router_process import RouterProcess, require_programs

pytestmark = pytest.mark.root
MAC5, MAC6 = router_bed.member(router_bed.A, 5).mac, router_bed.member(router_bed.A, 6).mac
DHCP = DhcpBundle(
    ranges=("10.1.0.100-10.1.0.120",),
    lease_time_seconds=600,
    options=(DhcpOption(42, "192.0.2.42"),),
    reservations=(DhcpReservation(MAC5, ("10.1.0.5", "fd00:1::5"), "five"),),
    domain="a.internal",
    mtu=1450,
)
PATIENCE_SECONDS = 20.0


@dataclass
class Site:
    """A plugged router, its process, and what tells it."""

    plugged: router_bed.RouterBed
    process: RouterProcess
    applier: DhcpApplier
    scratch: Path

    def bundle(self, dhcp: DhcpBundle | None) -> RouterBundle:
        first, second = router_bed.bundle().legs
        return replace(router_bed.bundle(), legs=(replace(first, dhcp=dhcp), second))

    def starts(self) -> int:
        """How often dnsmasq was started."""
        lines = (self.process.folder / "status/dnsmasq").read_text().splitlines()
        return int(dict(line.split("=", 1) for line in lines)["starts"])

    async def apply(self, dhcp: DhcpBundle | None) -> str | None:
        """Rules and DHCP, tried again while the container starts."""
        bundle = self.bundle(dhcp)
        await self.plugged.host.fabric.apply_router(bundle)
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                return await self.applier.apply(bundle)
            except Unavailable:
                assert asyncio.get_running_loop().time() < deadline, "the router takes no requests"
                await asyncio.sleep(0.05)

    async def ask(self, path: Path, *more: str) -> dict[str, str]:
        """What a DHCP client is told; empty: nothing. Its interface is left as it is."""
        script = self.scratch / "told"
        script.write_text("#!/bin/sh\n[ $1 = bound ] || [ $1 = renew ] || exit 0\nset >&2\n")
        script.chmod(0o755)
        argv = ["nsenter", f"--net={path}", "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "8", "-T", "1"]
        argv += ["-s", str(script), "-O", "ntpsrv", "-O", "mtu", "-O", "domain", *more]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=60)
        pairs = (line.partition("=") for line in done.stderr.splitlines())
        return {name: value.strip("'") for name, equals, value in pairs if equals} if done.returncode == 0 else {}

    async def resolves(self, path: Path, name: str) -> str:
        """An A record that the router's dnsmasq answers."""
        question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
        question += b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0\x00\x01\x00\x01"
        client = self.plugged.bed.socket(path, socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("10.1.0.1", 53))
        client.send(question)
        answer = await asyncio.to_thread(client.recv, 1000)
        return socket.inet_ntoa(answer[-4:]) if answer[7] else ""


@pytest.fixture
async def site(bed: Bed, tmp_path: Path) -> AsyncIterator[Site]:
    require_namespaces()
    require_programs()
    plugged = await router_bed.make(bed, serving=False)
    folder = tmp_path / "router"
    folder.mkdir()
    tmp_path.chmod(0o755)
    process = RouterProcess(plugged.router, folder)
    yield Site(plugged, process, DhcpApplier(lambda _instance: folder), tmp_path)
    process.kill()


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    require_namespaces()
    made = Bed()
    try:
        yield made
    finally:
        await made.close()


async def test_addresses_options_and_names(site: Site) -> None:
    site.process.start()
    assert await site.apply(DHCP) is None
    told = await site.ask(site.plugged.a5)
    assert told["ip"] == "10.1.0.5"
    assert (told["router"], told["dns"], told["subnet"]) == ("10.1.0.1", "10.1.0.1", "255.255.255.0")
    assert (told["ntpsrv"], told["mtu"], told["domain"]) == ("192.0.2.42", "1450", "a.internal")
    assert told["lease"] == "600"
    assert told["hostname"] == "five"
    assert (await site.ask(site.plugged.a6))["ip"].startswith("10.1.0.1")
    assert await site.ask(site.plugged.b5, "-t", "1") == {}
    assert await site.resolves(site.plugged.a6, "five.a.internal") == "10.1.0.5"


async def test_reservations_options_and_names_change_without_a_restart_and_ranges_keep_leases(site: Site) -> None:
    site.process.start()
    assert await site.apply(replace(DHCP, reservations=())) is None
    leased = (await site.ask(site.plugged.a6))["ip"]
    assert leased.startswith("10.1.0.1")
    changed = replace(
        DHCP,
        options=(DhcpOption(42, "192.0.2.43"),),
        reservations=(DhcpReservation(MAC5, ("10.1.0.55",), "moved"),),
    )
    assert await site.apply(changed) is None
    assert site.starts() == 1
    told = await site.ask(site.plugged.a5)
    assert (told["ip"], told["ntpsrv"]) == ("10.1.0.55", "192.0.2.43")
    assert await site.resolves(site.plugged.a5, "moved.a.internal") == "10.1.0.55"
    wider = replace(changed, ranges=("10.1.0.90-10.1.0.140",))
    assert await site.apply(wider) is None
    assert site.starts() == 2
    assert (await site.ask(site.plugged.a6))["ip"] == leased
    # nothing changes: nothing is told, not by another agent either
    assert await DhcpApplier(lambda _instance: site.process.folder).apply(site.bundle(wider)) is None
    assert site.starts() == 2
    # a container that begins anew knows what was leased
    site.process.kill()
    site.process.start()
    assert await site.apply(replace(wider, mtu=1400)) is None
    assert (await site.ask(site.plugged.a6))["ip"] == leased
    assert await site.apply(None) is None
    assert not (site.process.folder / "dnsmasq/dnsmasq.conf").exists()


async def test_what_dnsmasq_refuses_is_told_in_its_words_and_the_last_good_one_goes_on(site: Site) -> None:
    site.process.start()
    assert await site.apply(DHCP) is None
    refused = await site.apply(replace(DHCP, options=(DhcpOption(42, "not an address"),)))
    assert refused is not None
    assert "bad IP address" in refused
    assert (await site.ask(site.plugged.a5))["ntpsrv"] == "192.0.2.42"


async def test_what_shows_only_when_it_runs_is_taken_back(site: Site) -> None:
    site.process.start()
    squatter = site.plugged.bed.socket(site.plugged.router, socket.AF_INET, socket.SOCK_DGRAM)
    squatter.bind(("10.1.0.1", 53))
    refused = await site.apply(DHCP)
    assert refused is not None
    assert "in use" in refused
    assert not (site.process.folder / "dnsmasq/dnsmasq.conf").exists()
    squatter.close()
    assert await site.apply(DHCP) is None
    assert (await site.ask(site.plugged.a5))["ip"] == "10.1.0.5"

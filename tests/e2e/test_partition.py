"""A host that is cut off: what must not run twice is silent there before another one begins elsewhere with the same claim, whatever has
become of its agent.

Every owner says the time, by a clock that all hosts of the box share, as long as it runs, and its engine keeps that. So the test knows
to a tenth of a second when each side lived.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from cli.dev import processes
from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import Internal
from moorage.v1 import groups_pb2, hosts_pb2, volumes_pb2
from moorage.v1 import instances_pb2 as pb
from tests.e2e.conftest import moor
from tests.support import onhost
from tests.support.groups import Groups
from tests.support.plane import RUNNING, Plane, until

#: It pays no heed to a polite end, and so has to be killed.
OWNER = "trap '' TERM; while :; do cut -d' ' -f1 /proc/uptime; usleep 50000; done"
LEASE_SECONDS = 10.0
PATIENCE_SECONDS = 60.0  # on a machine that is busy with other things; alone it takes some 13
CLAIMS = {
    "alone": pb.CLAIM_INSTANCE,
    "named": pb.CLAIM_NAME,
    "housed": pb.CLAIM_ADDRESS,
    "fixed": pb.CLAIM_ADDRESS,
    "stocked": pb.CLAIM_VOLUME,
}
FIXED = "10.77.0.99"


@pytest.fixture
async def whole(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet; whatever is missing of it after the test is started again."""
    yield fleet
    await fleet.heal("h3")
    await fleet.up()


@pytest.fixture
async def groups(plane: Plane, whole: Fleet) -> AsyncIterator[Groups]:
    """One group for each kind of claim, with its only member on h3."""
    made = Groups(plane)
    await plane.network("lan", "10.77.0.0/24")
    volume = volumes_pb2.Volume(spec=volumes_pb2.VolumeSpec(on_host_loss=volumes_pb2.HOST_LOSS_POLICY_REPLACE))
    await plane.client.volumes.CreateVolume(
        volumes_pb2.CreateVolumeRequest(parent=plane.project, volume_id="stock", volume=volume)
    )
    specs = {name: plane.spec(OWNER, networks=["lan"]) for name in CLAIMS}
    specs["alone"].exclusive = True
    specs["fixed"] = plane.spec(OWNER, networks=[f"lan={FIXED}"])
    specs["stocked"].volumes.add(volume="stock", target="/data")
    slots = {
        "named": groups_pb2.SlotPolicy(sticky_name=True),
        "housed": groups_pb2.SlotPolicy(sticky_address=True),
    }
    for host in ("h1", "h2"):
        moor(whole, "host", "cordon", host)
    try:
        for name, spec in specs.items():
            await made.create(name, 1, spec, slots=slots.get(name))
    finally:
        for host in ("h1", "h2"):
            moor(whole, "host", "uncordon", host)
    yield made
    await made.remove_all()
    moor(whole, "volume", "rm", "stock")


@dataclass(frozen=True, slots=True)
class Owner:
    """A member with its container."""

    member: pb.Instance
    host: Host
    container: onhost.Container
    start: int | None  # of its process, in ticks: a number that is used again is another process

    async def beats(self) -> list[float]:
        """When it lived, in seconds since the machine's start."""
        said = (await self.host.docker("logs", self.container.id)).split()
        return [float(word) for word in said]

    async def is_reached(self) -> bool:
        """Whether anything would answer to its address there."""
        space = f"{onhost.RUN_DIR}/netns/i-{self.member.uid}"
        try:
            return "eth0" in await self.host.run(["nsenter", f"--net={space}", "ip", "-o", "link", "show", "up"])
        except Internal:
            return False

    @property
    def is_alive(self) -> bool:
        """Whether its process is there."""
        return processes.start_time(self.container.pid) == self.start

    @property
    def addresses(self) -> list[str]:
        return [address for nic in self.member.status.nics for address in nic.addresses]


async def owner_of(groups: Groups, name: str, hosts: list[Host], *, but: str = "") -> Owner | None:
    """The running member of a group that is not the one of that uid."""
    for member in await groups.members(name):
        host = next((host for host in hosts if f"hosts/{host.name}" == member.status.host), None)
        if host is None or member.uid == but or member.status.state != RUNNING:
            continue
        for container in await onhost.containers(host):
            if container.instance == member.uid and container.is_running:
                return Owner(member, host, container, processes.start_time(container.pid))
    return None


def agent_pid(fleet: Fleet, host: str) -> int:
    """The process of a host's agent."""
    return int((fleet.config.records / f"{host}-agent").read_text().split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["alive", "killed", "stopped", "killed with its engine"])
async def test_never_two_owners(plane: Plane, groups: Groups, whole: Fleet, hosts: list[Host], agent: str) -> None:
    before = {name: owner for name in CLAIMS if (owner := await owner_of(groups, name, hosts))}
    assert before.keys() == CLAIMS.keys()
    for name, claim in CLAIMS.items():
        assert list(before[name].member.status.claims) == [claim]
        assert before[name].member.status.lease.seconds == LEASE_SECONDS
    pid = agent_pid(whole, "h3")
    await whole.cut("h3")
    cut = time.clock_gettime(time.CLOCK_BOOTTIME)
    if agent.startswith("killed"):
        await whole.kill("h3", "agent" if agent == "killed" else "all")
    elif agent == "stopped":
        os.kill(pid, signal.SIGSTOP)

    after: dict[str, Owner] = {}

    async def are_succeeded() -> bool:
        for name in CLAIMS.keys() - after.keys():
            found = await owner_of(groups, name, hosts[:2], but=before[name].member.uid)
            if found is not None:
                assert not before[name].is_alive, f"{name}: two processes"
                assert not await before[name].is_reached(), f"{name}: two that answer to one address"
                after[name] = found
        return after.keys() == CLAIMS.keys()

    await until(are_succeeded, what="a successor of each", within_seconds=PATIENCE_SECONDS)
    print(f"claims were taken over {time.clock_gettime(time.CLOCK_BOOTTIME) - cut:.1f} s after the cut")
    for name in CLAIMS if agent != "killed with its engine" else ():  # nobody keeps then what an owner says
        last, first = (await before[name].beats())[-1], (await after[name].beats())[0]
        print(f"{name}: silent {last - cut:.2f} s after the cut, another from {first - cut:.2f} s on")
        assert last < first, f"{name}: two owners"
        assert last < cut + LEASE_SECONDS
    assert after["named"].member.name == before["named"].member.name
    for name in ("housed", "fixed"):
        assert after[name].addresses == before[name].addresses
    if agent == "stopped":
        assert processes.start_time(pid) is None, "the watchdog ends an agent that could go on late"

    # It comes back: what was replaced goes, and its successors are left alone.
    await whole.heal("h3")
    if agent != "alive":
        await whole.start("h3")
    await plane.link(3, hosts_pb2.HOST_LINK_STATE_UP)

    async def is_cleared() -> bool:
        return not await onhost.containers(hosts[2])

    await until(is_cleared, what="h3 to remove what was replaced", within_seconds=PATIENCE_SECONDS)
    old = {owner.member.uid for owner in before.values()}

    async def is_forgotten() -> bool:
        return not old & {instance.uid for instance in (await plane.instances()).values()}

    await until(is_forgotten, what="the end of their records")
    found = await asyncio.gather(*(owner_of(groups, name, hosts) for name in CLAIMS))
    assert {one.container.id for one in found if one} == {one.container.id for one in after.values()}

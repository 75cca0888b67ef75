"""A redundant pair: the active member's host is cut off with the control plane stopped, until new connections pass by the other."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from benchmarks.network_bed import Endpoint, NetworkBed
from benchmarks.network_case import OURS, Measure, Target
from benchmarks.network_router_bed import ROUTER_NAME, outside_network, program, register_router_image, router
from benchmarks.network_servers import SERVER_PORT, servers
from cli.dev.programs import CONTROLPLANE
from moorage.errors import DeadlineExceeded, Unavailable
from moorage.v1 import routers_pb2

_WAIT_SECONDS = 60.0

#: Says when connections are taken for the first time, and when they are again after they were not.
_WATCH = """
import socket, sys, time
def passes():
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.05).close()
        return True
    except OSError:
        return False
for _ in range(2):
    while not passes():
        time.sleep(0.005)
    print(time.monotonic(), flush=True)
    while passes():
        time.sleep(0.005)
"""


@dataclass(frozen=True, slots=True)
class PairFailover:
    """From the cut until a connection from behind the pair to the outside is taken again."""

    name: str = field(default="pair_failover_s", init=False)
    unit: str = field(default="s", init=False)
    target: Target = field(default=Target(2, is_least=False), init=False)

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        """The pair on two hosts, a client behind it and a server outside on the third."""
        await register_router_image(bed.fleet)
        async with (
            bed.network("router-back", "10.125.0.0/24") as back,
            outside_network(bed) as outside,
            router(bed, back, outside, redundant=True) as made,
        ):
            taken = {member.host.removeprefix("hosts/") for member in made.status.members}
            free = next(host.name for host in bed.fleet.hosts() if host.name not in taken)
            async with (
                bed.instances([back], {"behind": free}) as behind,
                bed.instances([outside], {"world": free}) as world,
                servers(world.values()),
            ):
                yield {OURS: lambda: _failover(bed, behind["behind"], world["world"])}


async def _failover(bed: NetworkBed, source: Endpoint, target: Endpoint) -> float:
    active = await _active_host(bed)
    argv = source.command(sys.executable, "-c", _WATCH, target.address, str(SERVER_PORT))
    async with program(argv) as watching:
        assert watching.stdout is not None
        await watching.stdout.readline()
        await bed.fleet.kill(CONTROLPLANE)
        try:
            begin = time.monotonic()
            await bed.fleet.cut(active)
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    seconds = float(await watching.stdout.readline()) - begin
            finally:
                await bed.fleet.heal(active)
        finally:
            await bed.fleet.start(CONTROLPLANE)
    await _active_host(bed)
    return seconds


async def _active_host(bed: NetworkBed) -> str:
    """The host of the active member, once the other one waits."""
    wanted = [routers_pb2.ROUTER_ROLE_ACTIVE, routers_pb2.ROUTER_ROLE_STANDBY]
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(Unavailable):  # the control plane was only just started
            found = await bed.client.routers.GetRouter(routers_pb2.GetRouterRequest(name=ROUTER_NAME))
            roles = {member.role: member.host.removeprefix("hosts/") for member in found.status.members}
            if sorted(roles) == wanted:
                return roles[routers_pb2.ROUTER_ROLE_ACTIVE]
        await asyncio.sleep(0.05)
    raise DeadlineExceeded("the pair does not settle")

"""A router with instances behind it and one outside, and the programs that ask it from there.

The asking programs are Python run in an instance's network namespace: each is told on its standard input what to do and answers with one
line. Times are of the machine's monotonic clock, which all processes share.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.network_bed import PROJECT, Endpoint, NetworkBed
from cli.dev.fleet import Fleet
from moorage.errors import Internal, NotFound
from moorage.ids import new_id
from moorage.v1 import balancers_pb2, common_pb2, instances_pb2, networks_pb2, router_rules_pb2, routers_pb2

ROUTER = "bench"
ROUTER_NAME = f"{PROJECT}/routers/{ROUTER}"
_BALANCER_NAME = f"{ROUTER_NAME}/balancers/all"
_WAIT_SECONDS = 60.0

#: Waits until each (address, port) of a line takes a connection; says when the last did. A packet that is dropped is not waited for.
_REACH = """
import asyncio, json, sys, time
async def one(address, port):
    while True:
        try:
            async with asyncio.timeout(0.02):
                reader, writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):
            await asyncio.sleep(0.001)
            continue
        writer.close()
        return
async def main():
    for line in sys.stdin:
        targets = json.loads(line)
        await asyncio.gather(*(one(*target) for target in targets))
        print(time.monotonic(), flush=True)
asyncio.run(main())
"""

#: Asks by HTTP, each time on a new connection, until its input ends; says how many were answered, and how many were not.
_LOAD = """
import asyncio, json, sys
async def ask(address, port):
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(b"GET / HTTP/1.1\\r\\nHost: bench\\r\\nConnection: close\\r\\n\\r\\n")
        return (await reader.read()).startswith(b"HTTP/1.1 200")
    finally:
        writer.close()
async def client(address, port, counts, ending):
    while not ending.is_set():
        try:
            async with asyncio.timeout(5):
                good = await ask(address, port)
        except (OSError, TimeoutError):
            good = False
        counts[good] += 1
async def main():
    address, port, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    counts, ending = {True: 0, False: 0}, asyncio.Event()
    tasks = [asyncio.create_task(client(address, port, counts, ending)) for _ in range(clients)]
    print("begun", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    ending.set()
    await asyncio.gather(*tasks)
    print(json.dumps({"answered": counts[True], "failed": counts[False]}), flush=True)
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class RouterBed:
    """What stands. Rules are made and removed by those who measure."""

    bed: NetworkBed
    back_network: str
    outside_network: str
    address: str  # of the router, outside
    outside: Endpoint
    inside: Mapping[str, Endpoint]  # by id of the instance

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, bed: NetworkBed, count: int) -> AsyncIterator["RouterBed"]:
        """A router on h1, `count` instances behind it on h2 and h3, and one outside on h3."""
        await register_router_image(bed.fleet)
        members = {f"behind-{n}": ("h2", "h3")[n % 2] for n in range(count)}
        async with contextlib.AsyncExitStack() as stack:
            back = await stack.enter_async_context(bed.network("router-back", "10.125.0.0/24"))
            outside = await stack.enter_async_context(outside_network(bed))
            inside = await stack.enter_async_context(bed.instances([back], members))
            world = await stack.enter_async_context(bed.instances([outside], {"world": "h3"}))
            made = await stack.enter_async_context(router(bed, back, outside))
            yield cls(bed, back, outside, made.status.outside_addresses[0], world["world"], inside)

    async def forward(self, ports: Sequence[int], instance: str, target_port: int) -> None:
        """Ask for port forwards, all or none, each named after its port."""
        requests = [
            router_rules_pb2.CreateRouterRuleRequest(
                rule_id=f"p{port}",
                rule=router_rules_pb2.RouterRule(
                    spec=router_rules_pb2.RouterRuleSpec(
                        port_forward=router_rules_pb2.PortForward(
                            first_port=port, instance=instance, target_port=target_port
                        )
                    )
                ),
            )
            for port in ports
        ]
        if len(requests) == 1:
            requests[0].parent = ROUTER_NAME
            await self.bed.client.router_rules.CreateRouterRule(requests[0])
            return
        await self.bed.client.router_rules.BatchCreateRouterRules(
            router_rules_pb2.BatchCreateRouterRulesRequest(parent=ROUTER_NAME, requests=requests, request_id=new_id())
        )

    async def forget(self, ports: Sequence[int]) -> None:
        """Remove port forwards again, and wait until they are out of force."""
        names = [f"{ROUTER_NAME}/rules/p{port}" for port in ports]
        await self.bed.client.router_rules.BatchDeleteRouterRules(
            router_rules_pb2.BatchDeleteRouterRulesRequest(parent=ROUTER_NAME, names=names)
        )
        await self.settled()

    @contextlib.asynccontextmanager
    async def balancer(self, port: int, target_port: int) -> AsyncIterator[None]:
        """All instances behind one listener, by HTTP, in force inside the block."""
        await self.bed.client.balancers.CreateBalancer(
            balancers_pb2.CreateBalancerRequest(
                parent=ROUTER_NAME, balancer_id="all", balancer=self._balancer(port, target_port, 100)
            )
        )
        try:
            await self.settled()
            yield
        finally:
            await self.bed.client.balancers.DeleteBalancer(balancers_pb2.DeleteBalancerRequest(name=_BALANCER_NAME))
            await self.settled()

    async def reweigh(self, port: int, target_port: int, number: int) -> None:
        """Give the first of the balancer's back ends another weight, or let it drain."""
        wanted = self._balancer(port, target_port, 50 + number)
        wanted.name = _BALANCER_NAME
        wanted.spec.pools[0].backends[0].drain = number % 8 == 0
        await self.bed.client.balancers.UpdateBalancer(balancers_pb2.UpdateBalancerRequest(balancer=wanted))

    def _balancer(self, port: int, target_port: int, weight: int) -> balancers_pb2.Balancer:
        spec = balancers_pb2.BalancerSpec(mode=balancers_pb2.BALANCER_MODE_HTTP)
        spec.listeners.add(port=port)
        backends = [balancers_pb2.Backend(instance=name, port=target_port, weight=100) for name in self.inside]
        backends[0].weight = weight
        spec.pools.add(id="all", backends=backends)
        return balancers_pb2.Balancer(spec=spec)

    async def settled(self) -> None:
        """Wait until all that was asked for is in force."""
        await self.bed.client.wait_router(ROUTER_NAME, _WAIT_SECONDS)

    async def member(self) -> instances_pb2.Instance:
        """The router's container as it is now."""
        router = await self.bed.client.routers.GetRouter(routers_pb2.GetRouterRequest(name=ROUTER_NAME))
        request = instances_pb2.GetInstanceRequest(name=router.status.members[0].instance)
        return await self.bed.client.instances.GetInstance(request)


class Reach:
    """Says when ports take connections; made by `opened`."""

    def __init__(self, program: asyncio.subprocess.Process) -> None:
        self._program = program

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, source: Endpoint) -> AsyncIterator["Reach"]:
        """It runs in the network of `source` inside the block."""
        async with program(source.command(sys.executable, "-c", _REACH)) as running:
            yield cls(running)

    async def reached_at(self, *targets: tuple[str, int]) -> float:
        """When all of them have taken a connection, in seconds of the monotonic clock."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(targets).encode() + b"\n")
        async with asyncio.timeout(_WAIT_SECONDS):
            return float(await self._program.stdout.readline())


@dataclass
class Load:
    """What the asking came to; filled when its block ends."""

    answered: int = 0
    failed: int = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, source: Endpoint, address: str, port: int, *, clients: int) -> AsyncIterator["Load"]:
        """Clients ask inside the block, as fast as they can."""
        load = cls()
        argv = source.command(sys.executable, "-c", _LOAD, address, str(port), str(clients))
        async with program(argv) as running:
            assert running.stdout is not None
            assert running.stdin is not None
            await running.stdout.readline()
            yield load
            running.stdin.close()
            async with asyncio.timeout(_WAIT_SECONDS):
                found = json.loads(await running.stdout.readline())
            load.answered, load.failed = found["answered"], found["failed"]


@contextlib.asynccontextmanager
async def program(argv: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program with pipes to its standard input and output, ended with the block."""
    running = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def register_router_image(fleet: Fleet) -> None:
    """Make the template of routers, as an operator does. Raises Internal."""
    access = fleet.access()
    environment = {
        "MOORAGE_ADDRESS": access.address,
        "MOORAGE_API_KEY": access.api_key,
        "MOORAGE_CA_FILE": str(access.ca_file),
    }
    register = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from cli.main import main; main()",
        "router-image",
        "register",
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, words = await register.communicate()
    if register.returncode:
        raise Internal(f"the image of routers could not be registered: {words.decode().strip()}")


@contextlib.asynccontextmanager
async def outside_network(bed: NetworkBed) -> AsyncIterator[str]:
    """A network with egress; its name."""
    name = f"{PROJECT}/networks/router-outside"
    spec = networks_pb2.NetworkSpec(subnets=[networks_pb2.Subnet(cidr="10.126.0.0/24")], egress=True)
    await bed.client.networks.CreateNetwork(
        networks_pb2.CreateNetworkRequest(
            parent=PROJECT, network_id="router-outside", network=networks_pb2.Network(spec=spec)
        )
    )
    try:
        yield name
    finally:
        await bed.client.networks.DeleteNetwork(networks_pb2.DeleteNetworkRequest(name=name))


@contextlib.asynccontextmanager
async def router(
    bed: NetworkBed,
    back: str,
    outside: str,
    *,
    redundant: bool = False,
    ingress_ports: Sequence[common_pb2.PublishedPort] = (),
) -> AsyncIterator[routers_pb2.Router]:
    """A router, active inside the block: on h1, or a pair where the scheduler wants it."""
    spec = routers_pb2.RouterSpec(
        legs=[routers_pb2.RouterLeg(network=back)],
        outside_network=outside,
        redundant=redundant,
        ingress_ports=ingress_ports,
    )
    if not redundant:
        spec.placement.host = "hosts/h1"
    await bed.client.routers.CreateRouter(
        routers_pb2.CreateRouterRequest(
            parent=PROJECT, router_id=ROUTER, router=routers_pb2.Router(spec=spec), request_id=new_id()
        )
    )
    try:
        yield await bed.client.wait_router(ROUTER_NAME, _WAIT_SECONDS)
    finally:
        await bed.client.routers.DeleteRouter(routers_pb2.DeleteRouterRequest(name=ROUTER_NAME, force=True))
        await _gone(bed)


async def _gone(bed: NetworkBed) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    with contextlib.suppress(NotFound):
        while time.monotonic() < deadline:
            await bed.client.routers.GetRouter(routers_pb2.GetRouterRequest(name=ROUTER_NAME))
            await asyncio.sleep(0.05)
        raise Internal(f"{ROUTER_NAME} is still there")

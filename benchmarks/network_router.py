"""A router's changes: from the call to the effect, measured by a client outside that tries all the time."""

import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.network_bed import NetworkBed
from benchmarks.network_case import OURS, Measure, Target
from benchmarks.network_router_bed import Load, Reach, RouterBed, program
from benchmarks.network_servers import SERVER_PORT, servers
from moorage.errors import Internal

_MANY = 500
_BEHIND = 30  # instances behind a router that restarts
_LOADED_CHANGES = 100

#: Says when a server first answers, and when it answers again after it did not.
_WATCH = """
import socket, sys, time
def answers():
    try:
        with socket.create_connection((sys.argv[1], 80), 0.2) as one:
            one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return one.recv(12)[9:] == b"200"
    except OSError:
        return False
while not answers():
    time.sleep(0.005)
print("answers", flush=True)
while answers():
    time.sleep(0.001)
while not answers():
    time.sleep(0.001)
print(time.monotonic(), flush=True)
"""


@dataclass(frozen=True, slots=True)
class OneRule:
    """A port forward, from the call until a connection to the port is taken."""

    name: str = field(default="one_rule_ms", init=False)
    unit: str = field(default="ms", init=False)
    target: Target = field(default=Target(150, is_least=False), init=False)

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        """A router with a server behind it."""
        async with (
            RouterBed.opened(bed, 1) as router,
            servers(router.inside.values()),
            Reach.opened(router.outside) as reach,
        ):
            ports = itertools.count(20_000)

            async def measure() -> float:
                port = next(ports)
                begin = time.monotonic()
                await router.forward([port], next(iter(router.inside)), SERVER_PORT)
                end = await reach.reached_at((router.address, port))
                await router.forget([port])
                return (end - begin) * 1000

            yield {OURS: measure}


@dataclass(frozen=True, slots=True)
class ManyRules:
    """Port forwards in one call, until connections to the first, the middle and the last port are taken."""

    name: str = field(default="rules_500_s", init=False)
    unit: str = field(default="s", init=False)
    target: Target = field(default=Target(2, is_least=False), init=False)

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        """A router with a server behind it."""
        async with (
            RouterBed.opened(bed, 1) as router,
            servers(router.inside.values()),
            Reach.opened(router.outside) as reach,
        ):
            starts = _starts()

            async def measure() -> float:
                ports = range(first := next(starts), first + _MANY)
                begin = time.monotonic()
                await router.forward(ports, next(iter(router.inside)), SERVER_PORT)
                tried = (ports[0], ports[_MANY // 2], ports[-1])
                end = await reach.reached_at(*((router.address, port) for port in tried))
                await router.forget(ports)
                return end - begin

            yield {OURS: measure}


@dataclass(frozen=True, slots=True)
class Restart:
    """The router's container is killed: until its balancer answers again, with 30 instances behind it."""

    name: str = field(default="router_restart_s", init=False)
    unit: str = field(default="s", init=False)
    target: Target = field(default=Target(3, is_least=False), init=False)

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        """A router with a balancer for all of them."""
        async with RouterBed.opened(bed, _BEHIND) as router, servers(router.inside.values()):
            async with router.balancer(80, SERVER_PORT):
                yield {OURS: lambda: _restart(router)}


async def _restart(router: RouterBed) -> float:
    """Seconds from the kill until an answer; the program sees it gone first."""
    container = (await router.member()).status.container_id
    async with program(router.outside.command(sys.executable, "-c", _WATCH, router.address)) as watching:
        assert watching.stdout is not None
        await watching.stdout.readline()
        begin = time.monotonic()
        await router.bed.engines["h1"].call("POST", f"/containers/{container}/kill")
        return float(await watching.stdout.readline()) - begin


@dataclass(frozen=True, slots=True)
class FailedRequests:
    """Requests that a balancer does not answer while rules and back ends of its router change a hundred times."""

    name: str = field(default="failed_requests", init=False)
    unit: str = field(default="requests", init=False)
    target: Target = field(default=Target(0, is_least=False), init=False)

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        """A router with a balancer of four."""
        async with RouterBed.opened(bed, 4) as router, servers(router.inside.values()):
            async with router.balancer(80, SERVER_PORT):
                yield {OURS: lambda: _failed(router)}


async def _failed(router: RouterBed) -> float:
    first = next(iter(router.inside))
    async with Load.running(router.outside, router.address, 80, clients=8) as load:
        for number in range(_LOADED_CHANGES):
            if number % 4 == 0:
                await router.reweigh(80, SERVER_PORT, number)
            else:
                await router.forward([30_000 + number], first, SERVER_PORT)
        await router.settled()
    await router.forget([30_000 + number for number in range(_LOADED_CHANGES) if number % 4])
    if not load.answered:
        raise Internal("the balancer answered nothing at all")
    return float(load.failed)


def _starts() -> Iterator[int]:
    return itertools.count(20_000, _MANY)

"""Requests a second through a router's balancer to four servers, against the same HAProxy configured and run by hand."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from benchmarks.network_bed import Endpoint, NetworkBed
from benchmarks.network_case import OURS, Measure, Target
from benchmarks.network_router_bed import RouterBed
from benchmarks.network_servers import SERVER_PORT, balancer_by_hand, servers
from moorage.errors import Internal

_CONNECTIONS = 32
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_ERRORS = re.compile(r"(Non-2xx or 3xx responses|Socket errors): .*")


@dataclass(frozen=True, slots=True)
class Balancer:
    """The other HAProxy runs in an instance beside the router, on the same host and the same two networks."""

    seconds: int
    name: str = field(default="balancer_vs_haproxy", init=False)
    unit: str = field(default="requests/s", init=False)
    target: Target = field(default=Target(0.95, is_least=True), init=False)

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        """Both with the same four servers."""
        async with (
            RouterBed.opened(bed, 4) as router,
            bed.instances([router.outside_network, router.back_network], {"by-hand": "h1"}) as beside,
            servers(router.inside.values()),
            balancer_by_hand(beside["by-hand"], 80, router.inside.values()),
            router.balancer(80, SERVER_PORT),
        ):
            yield {
                OURS: lambda: self._rate(router.outside, f"http://{router.address}/"),
                "haproxy": lambda: self._rate(router.outside, f"http://{beside['by-hand'].address}/"),
            }

    async def _rate(self, source: Endpoint, url: str) -> float:
        argv = source.command("wrk", "-t", "2", "-c", str(_CONNECTIONS), "-d", f"{self.seconds}s", url)
        running = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        words = (await running.communicate())[0].decode()
        found, errors = _RATE.search(words), _ERRORS.search(words)
        if found is None or errors is not None:
            raise Internal(f"wrk on {url}: {errors[0] if errors else words.strip()}")
        return float(found[1])

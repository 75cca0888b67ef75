"""One TCP stream between two instances: on one host against Docker's bridge, across hosts against Swarm's overlay."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from benchmarks.network_bed import OVERLAY, NetworkBed, stream_gigabits
from benchmarks.network_case import OURS, Measure, Target


@dataclass(frozen=True, slots=True)
class Stream:
    """A case.

    Args:
        network: Docker's.
        hosts: of the one that sends and the one that receives.
    """

    name: str
    network: str
    other: str
    hosts: tuple[str, str]
    target: Target
    seconds: int
    unit: str = field(default="Gbit/s", init=False)

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        """A pair on each side."""
        where = dict(zip(("sends", "receives"), self.hosts, strict=True))
        async with (
            bed.network("streams", "10.124.0.0/24") as network,
            bed.instances([network], where) as ours,
            bed.containers(self.network, where) as theirs,
        ):
            yield {
                OURS: lambda: stream_gigabits(ours["sends"], ours["receives"], seconds=self.seconds),
                self.other: lambda: stream_gigabits(theirs["sends"], theirs["receives"], seconds=self.seconds),
            }


def same_host(seconds: int) -> Stream:
    """Two instances on one host."""
    return Stream("same_host_vs_docker0", "bridge", "docker0", ("h1", "h1"), Target(0.95, is_least=True), seconds)


def cross_host(seconds: int) -> Stream:
    """Two instances on two hosts."""
    return Stream("cross_host_vs_swarm", OVERLAY, "swarm", ("h1", "h2"), Target(1.05, is_least=True), seconds)

"""Whether a removal is complete: containers, network namespaces and links of every host, before and after.

Both sides keep their namespaces as files in a folder: the one of each container, and that of the network on the host.
What counts: no file there, no link in the host's namespace or in those that stay, and no container, that was not
there before. Cheap questions come first, so that asking often costs the engines nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.docker_api import DockerApi, gather_all
from benchmarks.probes import links
from cli.dev.host import Host
from moorage.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Kept:
    """What a host has while nothing is deployed."""

    namespaces: frozenset[str]
    links: frozenset[tuple[str, str]]
    containers: frozenset[str]


class HostTraces:
    """What deployments leave on one host.

    Args:
        folder: of the namespaces' files, as the host sees it.
    """

    def __init__(self, host: Host, engine: DockerApi, folder: str) -> None:
        self._engine = engine
        self._folder = Path(f"/proc/{host.holder_pid}/root{folder}")
        self._own = Path(f"/proc/{host.holder_pid}/ns/net")
        self._kept = Kept(frozenset(), frozenset(), frozenset())

    async def remember(self) -> None:
        """What is there now stays."""
        self._kept = Kept(self._namespaces(), frozenset(), await self._containers())
        self._kept = Kept(self._kept.namespaces, self._links(), self._kept.containers)

    def has_links(self) -> bool:
        """Whether a namespace or a link is there that was not."""
        return bool(self._namespaces() - self._kept.namespaces) or bool(self._links() - self._kept.links)

    async def has_containers(self) -> bool:
        """Whether a container is there that was not."""
        return bool(await self._containers() - self._kept.containers)

    def _namespaces(self) -> frozenset[str]:
        """Files with a namespace bound to them: Docker removes the bare files only once a minute, which is no matter."""
        own = self._own.stat().st_dev
        return frozenset(entry.name for entry in self._folder.iterdir() if _device(entry) == own)

    def _links(self) -> frozenset[tuple[str, str]]:
        return links([self._own, *(self._folder / name for name in sorted(self._kept.namespaces))])

    async def _containers(self) -> frozenset[str]:
        return frozenset(str(found["Id"]) for found in await self._engine.containers())


def _device(path: Path) -> int | None:
    try:
        return path.stat().st_dev
    except FileNotFoundError:  # it went meanwhile
        return None


async def until_gone(hosts: Sequence[HostTraces], *, interval_seconds: float, timeout_seconds: float) -> None:
    """Wait until no host has anything more than it remembers.

    Raises:
        DeadlineExceeded: something stays.
    """

    async def no_links() -> bool:
        return not any(host.has_links() for host in hosts)

    async def no_containers() -> bool:
        return not any(await gather_all(*(host.has_containers() for host in hosts)))

    deadline = time.perf_counter() + timeout_seconds
    await until(no_links, "links and namespaces", interval_seconds, deadline)
    await until(no_containers, "containers", interval_seconds, deadline)


async def until(condition: Callable[[], Awaitable[bool]], what: str, interval_seconds: float, deadline: float) -> None:
    """Ask until the answer is yes.

    Args:
        what: is not gone, for the error.
        deadline: by time.perf_counter().
    Raises:
        DeadlineExceeded: it never was.
    """
    while not await condition():
        if time.perf_counter() > deadline:
            raise DeadlineExceeded(f"{what} of a removed deployment are still there")
        await asyncio.sleep(interval_seconds)

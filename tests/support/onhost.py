"""What really is on a host of the box, by its engine, kernel and namespaces: the other side of what the API says."""

import asyncio
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cli.dev.host import Host

RUN_DIR = "/run/moorage"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ours, as its engine describes it."""

    id: str
    instance: str  # uid
    is_running: bool
    started_at: str
    pid: int
    restarts: int


async def containers(host: Host) -> list[Container]:
    """All containers of ours on a host, running or not."""
    ids = (await host.docker("ps", "-aq", "--no-trunc", "--filter", "label=moorage.instance")).split()
    if not ids:
        return []
    # One that is gone meanwhile makes the client fail, after it has told of the others.
    raw: list[dict[str, Any]] = json.loads(await host.docker("inspect", *ids, check=False) or "[]")
    return [
        Container(
            id=one["Id"],
            instance=one["Config"]["Labels"]["moorage.instance"],
            is_running=one["State"]["Running"],
            started_at=one["State"]["StartedAt"],
            pid=one["State"]["Pid"],
            restarts=one["RestartCount"],
        )
        for one in raw
    ]


async def all_containers(hosts: Iterable[Host]) -> list[Container]:
    """All containers of ours on these hosts."""
    found = await asyncio.gather(*(containers(host) for host in hosts))
    return [container for some in found for container in some]


async def namespaces(host: Host) -> dict[str, list[str]]:
    """By instance uid: the addresses in its namespace on a host, without loopback, link-local and prefix length."""
    # One process for all namespaces: entering each by a process of its own takes seconds for 50.
    script = (
        f"for path in {RUN_DIR}/netns/i-*; do [ -e $path ] || continue; echo =${{path##*/i-}}; "
        "nsenter --net=$path ip -o address show scope global; done"
    )
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (await host.run(["sh", "-c", script])).splitlines():
        if line.startswith("="):
            current = found.setdefault(line[1:], [])
        else:
            words = line.split()
            current.append(str(ipaddress.ip_interface(words[3]).ip))
    return found


async def all_namespaces(hosts: Iterable[Host]) -> dict[str, list[str]]:
    """The same for several hosts; an instance is on one of them only."""
    merged: dict[str, list[str]] = {}
    for some in await asyncio.gather(*(namespaces(host) for host in hosts)):
        assert not merged.keys() & some.keys(), "an instance has a namespace on two hosts"
        merged |= some
    return merged


async def inside(host: Host, instance_uid: str, *argv: str, check: bool = True) -> str:
    """Run a program of the host in the network of an instance."""
    return await host.run(["nsenter", f"--net={RUN_DIR}/netns/i-{instance_uid}", *argv], check=check)


async def fetch(host: Host, url: str, *, check: bool = True) -> str:
    """What an HTTP server says to a client on a host."""
    return await host.run(["curl", "--silent", "--show-error", "--globoff", "--max-time", "5", url], check=check)

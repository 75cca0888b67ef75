"""The two ways in which a host is lost here, the same for every side."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from benchmarks.docker_api import DockerApi
from cli.dev.fleet import Fleet

VICTIM = "h3"


@dataclass(frozen=True, slots=True)
class Loss:
    """Of the last host. `strike`, measure, `undo`.

    Attributes:
        is_cut: its cable is pulled; else engine, containerd, agent where there is one, and all containers are killed.
    """

    fleet: Fleet
    is_cut: bool
    host: str = VICTIM

    async def strike(self, engine: DockerApi) -> float:
        """When it happened, by time.perf_counter(): before the first kill, or before the cable is pulled."""
        if self.is_cut:
            started = time.perf_counter()
            await self.fleet.cut(self.host)
            return started
        status = await self.fleet.status()
        programs = next(host.pids for host in status.hosts if host.name == self.host)
        containers = [
            (await engine.inspect(c["Id"]))["State"]["Pid"] for c in await engine.containers(status="running")
        ]
        victims = [pid for pid in (*programs.values(), *containers) if pid]
        started = time.perf_counter()
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return started

    async def undo(self) -> None:
        """The host is whole again."""
        if self.is_cut:
            await self.fleet.heal(self.host)
        else:
            await self.fleet.start(self.host)

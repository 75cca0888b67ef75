"""`docker run -d` on the default bridge of one engine, in two ways: create and start by the engine's API, which is the
fastest there is and what Moorage is compared with, and Docker's own client, which is what a person types."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.deploy_swarm import container_spec
from benchmarks.docker_api import DockerApi
from benchmarks.probes import Pinger
from benchmarks.workload import COMMAND, ONE, STOP_SIGNAL
from cli.dev.host import Host

_TIMEOUT_SECONDS = 60.0
_VANTAGE = "host"


class DockerRun:
    """Containers on one engine, pinged from its host.

    Args:
        host: a worker of the Swarm's fleet: it has the image, and no agent of ours.
    """

    def __init__(self, host: Host, engine: DockerApi, image: str, pinger: Pinger) -> None:
        self._host = host
        self._engine = engine
        self._image = image
        self._pinger = pinger

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, host: Host, engine: DockerApi, image: str) -> AsyncIterator["DockerRun"]:
        """Ready to be measured."""
        async with Pinger({_VANTAGE: Path(f"/proc/{host.holder_pid}/ns/net")}) as pinger:
            yield cls(host, engine, image, pinger)

    async def by_api(self, *, interval_seconds: float) -> float:
        """Seconds from the call until the container answers its host."""
        self._pinger.begin(interval_seconds=interval_seconds)
        started = time.perf_counter()
        container = (await self._engine.call("POST", "/containers/create", container_spec(self._image, ONE)))["Id"]
        await self._engine.call("POST", f"/containers/{container}/start")
        return await self._until_answered(container, started)

    async def by_client(self, *, interval_seconds: float) -> float:
        """The same with the command line."""
        self._pinger.begin(interval_seconds=interval_seconds)
        started = time.perf_counter()
        limits = (
            f"--cpus={ONE.cpu_millis / 1000}",
            f"--memory={ONE.memory_bytes}",
            f"--stop-signal={STOP_SIGNAL}",
            f"--stop-timeout={ONE.grace_seconds}",
        )
        container = (await self._host.docker("run", "-d", *limits, self._image, *COMMAND)).strip()
        return await self._until_answered(container, started)

    async def _until_answered(self, container: str, started: float) -> float:
        networks = (await self._engine.inspect(container))["NetworkSettings"]["Networks"]
        self._pinger.add(networks["bridge"]["IPAddress"], _VANTAGE)
        answered = await self._pinger.until_answered(1, timeout_seconds=_TIMEOUT_SECONDS)
        await self._engine.call("DELETE", f"/containers/{container}", query={"force": "1"})
        return answered - started

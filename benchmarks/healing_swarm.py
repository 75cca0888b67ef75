"""Docker Swarm's side of healing: a service on three engines, of which a worker is lost."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.deploy_swarm import container_spec, form_swarm, load_everywhere, make_overlay
from benchmarks.docker_api import DockerApi
from benchmarks.healing_loss import Loss
from benchmarks.leftovers import until
from benchmarks.probes import Pinger
from benchmarks.workload import COMMAND, RESIDENT, STOP_SIGNAL, Limits
from cli.dev.fleet import Fleet
from moorage.errors import DeadlineExceeded

_NETWORK = "bench"
_TIMEOUT_SECONDS = 180.0
_POLL_SECONDS = 0.05


class SwarmHealing:
    """Made by `opened`."""

    name = "swarm"

    def __init__(self, fleet: Fleet, engines: dict[str, DockerApi], image: str) -> None:
        self.fleet = fleet
        self._engines = engines
        self._manager = next(iter(engines.values()))
        self._image = image
        self._nodes: dict[str, str] = {}  # host names by id
        self._pinger: Pinger | None = None
        self._service = ""
        self._number = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, fleet: Fleet, image: Path) -> AsyncIterator["SwarmHealing"]:
        """Ready to be measured: image on every engine, a swarm, the network, and a resident container on the nodes that stay."""
        async with contextlib.AsyncExitStack() as stack:
            engines = {
                host.name: await stack.enter_async_context(DockerApi(host.docker_socket)) for host in fleet.hosts()
            }
            loaded = await load_everywhere(list(engines.values()), await asyncio.to_thread(image.read_bytes))
            side = cls(fleet, engines, loaded)
            side._nodes = await form_swarm(fleet, engines)
            await make_overlay(side._manager, _NETWORK)
            await side._make_residents(stack)
            yield side

    async def heal(self, loss: Loss, count: int, limits: Limits) -> float:
        """As `MoorageHealing.heal`, by the manager's word.

        Raises:
            DeadlineExceeded: it does not heal.
        """
        await self._create(count, limits)
        try:
            assert self._pinger is not None, "opened() was not entered"
            before = {task["ID"]: self._nodes[task["NodeID"]] for task in await self._running()}
            lost = sum(host == loss.host for host in before.values())
            self._pinger.begin(interval_seconds=0.02)
            started = await loss.strike(self._engines[loss.host])
            while True:
                elsewhere = [t for t in await self._running() if self._nodes[t["NodeID"]] != loss.host]
                for task in elsewhere:
                    if task["ID"] not in before:
                        self._ping(task)
                run = time.perf_counter()
                if len(elsewhere) >= count:
                    break
                if run > started + _TIMEOUT_SECONDS:
                    raise DeadlineExceeded(f"Swarm has {len(elsewhere)} of {count} tasks elsewhere")
                await asyncio.sleep(_POLL_SECONDS)
            answered = await self._pinger.until_answered(lost, timeout_seconds=_TIMEOUT_SECONDS)
            await loss.undo()
            return max(run, answered) - started
        finally:
            await self._delete()

    async def _make_residents(self, stack: contextlib.AsyncExitStack) -> None:
        vantages = {}
        for name in sorted(self._engines)[:2]:
            engine = self._engines[name]
            body = {
                **container_spec(self._image, RESIDENT),
                "NetworkingConfig": {"EndpointsConfig": {_NETWORK: {}}},
            }
            body["HostConfig"]["NetworkMode"] = _NETWORK
            made = await engine.call("POST", "/containers/create", body, query={"name": f"resident-{name}"})
            await engine.call("POST", f"/containers/{made['Id']}/start")
            vantages[name] = Path(f"/proc/{(await engine.inspect(made['Id']))['State']['Pid']}/ns/net")
        self._pinger = await stack.enter_async_context(Pinger(vantages))

    async def _create(self, count: int, limits: Limits) -> None:
        await self._until_ready()
        self._number += 1
        resources = {"NanoCPUs": limits.cpu_millis * 1_000_000, "MemoryBytes": limits.memory_bytes}
        spec = {
            "Name": f"h{self._number}",
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self._image,
                    "Command": list(COMMAND),
                    "StopSignal": STOP_SIGNAL,
                    "StopGracePeriod": limits.grace_seconds * 1_000_000_000,
                },
                "Resources": {"Limits": resources, "Reservations": resources},
                "Networks": [{"Target": _NETWORK}],
            },
            "Mode": {"Replicated": {"Replicas": count}},
        }
        self._service = (await self._manager.call("POST", "/services/create", spec))["ID"]

        async def all_run() -> bool:
            return len(await self._running()) == count

        await until(all_run, "tasks", 0.2, time.perf_counter() + _TIMEOUT_SECONDS)

    async def _delete(self) -> None:
        await self._manager.call("DELETE", f"/services/{self._service}")
        await self._until_ready()

        async def are_gone() -> bool:
            label = f"com.docker.swarm.service.id={self._service}"
            found = [await engine.containers(label=label) for engine in self._engines.values()]
            return not any(found)

        await until(are_gone, "tasks", 0.2, time.perf_counter() + _TIMEOUT_SECONDS)

    async def _until_ready(self) -> None:
        async def ready() -> bool:
            nodes = await self._manager.call("GET", "/nodes")
            return all(node["Status"]["State"] == "ready" for node in nodes)

        await until(ready, "nodes that are not ready", 0.2, time.perf_counter() + _TIMEOUT_SECONDS)

    async def _running(self) -> list[dict[str, Any]]:
        """Tasks that shall run and do, by the manager's word."""
        query = {"filters": json.dumps({"service": [self._service], "desired-state": ["running"]})}
        found: list[dict[str, Any]] = await self._manager.call("GET", "/tasks", query=query)
        return [task for task in found if task["Status"]["State"] == "running"]

    def _ping(self, task: dict[str, Any]) -> None:
        first, second = sorted(self._engines)[:2]
        vantage = second if self._nodes[task["NodeID"]] == first else first
        addresses = [a for one in task.get("NetworksAttachments") or () for a in one["Addresses"]]
        assert self._pinger is not None
        for address in addresses:
            self._pinger.add(address.split("/")[0], vantage)

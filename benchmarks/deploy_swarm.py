"""Docker Swarm's side: a service by the engine's API on three engines, on an attachable overlay network.

Done as is best for Swarm: the image is named by its id, so that no engine asks a registry; tasks are asked for rarely while they
start. The service has a virtual address, as Swarm makes it unless told otherwise; `dnsrr` leaves out this balancer, which Moorage has
not either.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.docker_api import DockerApi, gather_all
from benchmarks.leftovers import HostTraces, until, until_gone
from benchmarks.probes import Pinger
from benchmarks.workload import COMMAND, IMAGE, RESIDENT, STOP_SIGNAL, Limits
from cli.dev.fleet import Fleet
from moorage.errors import DeadlineExceeded, NotReady

_PORT = 2377
_TIMEOUT_SECONDS = 120.0
_NETWORK = "bench"


class SwarmSide:
    """Creates and removes; made by `opened`."""

    name = "swarm"

    def __init__(self, fleet: Fleet, engines: dict[str, DockerApi], *, endpoint_mode: str) -> None:
        self._fleet = fleet
        self._engines = engines
        self._manager = next(iter(engines.values()))
        self._endpoint_mode = endpoint_mode
        self._nodes: dict[str, str] = {}
        self._traces: list[HostTraces] = []
        self._pinger: Pinger | None = None
        self._service = ""
        self._number = 0
        self._endpoints: dict[str, frozenset[str]] = {}
        self.image = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, fleet: Fleet, image: Path, *, endpoint_mode: str = "vip") -> AsyncIterator["SwarmSide"]:
        """Ready to be measured: image on every engine, a swarm, the network, and a resident container on each node."""
        async with contextlib.AsyncExitStack() as stack:
            engines = {
                host.name: await stack.enter_async_context(DockerApi(host.docker_socket)) for host in fleet.hosts()
            }
            side = cls(fleet, engines, endpoint_mode=endpoint_mode)
            side.image = await load_everywhere(list(engines.values()), await asyncio.to_thread(image.read_bytes))
            await side._form()
            await side._make_residents(stack)
            yield side

    @property
    def engines(self) -> dict[str, DockerApi]:
        """By host."""
        return self._engines

    async def create(self, count: int, limits: Limits, *, interval_seconds: float) -> float:
        """Seconds from the call until all run, by the manager's word, and all have answered from another host."""
        assert self._pinger is not None, "opened() was not entered"
        self._number += 1
        pinger, pause = self._pinger, 0.01 if count == 1 else 0.1
        pinger.begin(interval_seconds=interval_seconds)
        spec = self._spec(f"b{self._number}", count, limits)
        started = time.perf_counter()
        self._service = (await self._manager.call("POST", "/services/create", spec))["ID"]
        deadline = started + _TIMEOUT_SECONDS
        pinged: set[str] = set()
        while len(pinged) < count:
            for task in await self._tasks():
                for address in _addresses(task):
                    if task.get("NodeID"):
                        pinger.add(address, self._next_host(task["NodeID"]))
                        pinged.add(address)
            _check(deadline, f"{count - len(pinged)} tasks without address or node")
            await asyncio.sleep(pause)
        answered = await pinger.until_answered(count, timeout_seconds=_TIMEOUT_SECONDS)
        while True:
            states = [task["Status"]["State"] for task in await self._tasks()]
            run = time.perf_counter()
            if states.count("running") == count:
                return max(run, answered) - started
            if bad := [task["Status"].get("Err") for task in await self._tasks() if _has_failed(task)]:
                raise NotReady(f"a task failed: {bad[0]}")
            _check(deadline, f"tasks in states {sorted(set(states))}")
            await asyncio.sleep(pause)

    async def remove(self) -> float:
        """Seconds from the call until containers, namespaces, links and endpoints are gone on every engine."""
        started = time.perf_counter()
        await self._manager.call("DELETE", f"/services/{self._service}")
        await until_gone(self._traces, interval_seconds=0.05, timeout_seconds=_TIMEOUT_SECONDS)
        await until(self._has_no_endpoints, "endpoints", 0.05, started + _TIMEOUT_SECONDS)
        return time.perf_counter() - started

    # -- preparation --------------------------------------------------------------------------------------------------

    async def _form(self) -> None:
        self._nodes = await form_swarm(self._fleet, self._engines)
        await make_overlay(self._manager, _NETWORK)

    async def _make_residents(self, stack: contextlib.AsyncExitStack) -> None:
        vantages = {}
        for name, engine in self._engines.items():
            body = {
                **container_spec(self.image, RESIDENT),
                "NetworkingConfig": {"EndpointsConfig": {_NETWORK: {}}},
            }
            body["HostConfig"]["NetworkMode"] = _NETWORK
            made = await engine.call("POST", "/containers/create", body, query={"name": f"resident-{name}"})
            await engine.call("POST", f"/containers/{made['Id']}/start")
            pid = (await engine.inspect(made["Id"]))["State"]["Pid"]
            vantages[name] = Path(f"/proc/{pid}/ns/net")
        self._pinger = await stack.enter_async_context(Pinger(vantages))
        for host in self._fleet.hosts():
            traces = HostTraces(host, self._engines[host.name], "/run/docker/netns")
            await traces.remember()
            self._traces.append(traces)
            self._endpoints[host.name] = await self._endpoints_of(host.name)

    # -- parts of a measurement ---------------------------------------------------------------------------------------

    def _spec(self, name: str, count: int, limits: Limits) -> dict[str, Any]:
        resources = {"NanoCPUs": limits.cpu_millis * 1_000_000, "MemoryBytes": limits.memory_bytes}
        return {
            "Name": name,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self.image,
                    "Command": list(COMMAND),
                    "StopSignal": STOP_SIGNAL,
                    "StopGracePeriod": limits.grace_seconds * 1_000_000_000,
                },
                "Resources": {"Limits": resources, "Reservations": resources},
                "Networks": [{"Target": _NETWORK}],
            },
            "Mode": {"Replicated": {"Replicas": count}},
            "EndpointSpec": {"Mode": self._endpoint_mode},
        }

    async def _tasks(self) -> list[dict[str, Any]]:
        query = {"filters": json.dumps({"service": [self._service]})}
        found: list[dict[str, Any]] = await self._manager.call("GET", "/tasks", query=query)
        return found

    def _next_host(self, node: str) -> str:
        hosts = sorted(self._engines)
        return hosts[(hosts.index(self._nodes[node]) + 1) % len(hosts)]

    async def _endpoints_of(self, host: str) -> frozenset[str]:
        found = await self._engines[host].call("GET", f"/networks/{_NETWORK}")
        return frozenset(found["Containers"] or {})

    async def _has_no_endpoints(self) -> bool:
        found = await gather_all(*(self._endpoints_of(host) for host in self._engines))
        return all(now <= self._endpoints[host] for host, now in zip(self._engines, found, strict=True))


async def form_swarm(fleet: Fleet, engines: dict[str, DockerApi]) -> dict[str, str]:
    """One manager, the other hosts its workers; host names by node id."""
    hosts = {host.name: host.address for host in fleet.hosts()}
    first, *others = hosts
    manager = engines[first]
    listen = {"ListenAddr": f"0.0.0.0:{_PORT}"}
    await manager.call("POST", "/swarm/init", {**listen, "AdvertiseAddr": hosts[first]})
    token = (await manager.call("GET", "/swarm"))["JoinTokens"]["Worker"]
    for name in others:
        body = {
            **listen,
            "AdvertiseAddr": hosts[name],
            "RemoteAddrs": [f"{hosts[first]}:{_PORT}"],
            "JoinToken": token,
        }
        await engines[name].call("POST", "/swarm/join", body)

    async def ready() -> bool:
        nodes = await manager.call("GET", "/nodes")
        return [node["Status"]["State"] for node in nodes] == ["ready"] * len(hosts)

    await until(ready, "nodes that are not ready", 0.1, time.perf_counter() + _TIMEOUT_SECONDS)
    return {(await engine.call("GET", "/info"))["Swarm"]["NodeID"]: name for name, engine in engines.items()}


async def make_overlay(manager: DockerApi, name: str) -> None:
    """An attachable overlay network."""
    network = {
        "Name": name,
        "Driver": "overlay",
        "Attachable": True,
        "CheckDuplicate": True,
        "IPAM": {"Config": [{"Subnet": "10.123.0.0/24"}]},
    }
    await manager.call("POST", "/networks/create", network)


def container_spec(image: str, limits: Limits) -> dict[str, Any]:
    """Body of a container's creation."""
    return {
        "Image": image,
        "Cmd": list(COMMAND),
        "StopSignal": STOP_SIGNAL,
        "StopTimeout": limits.grace_seconds,
        "HostConfig": {"NanoCpus": limits.cpu_millis * 1_000_000, "Memory": limits.memory_bytes},
    }


async def load_everywhere(engines: list[DockerApi], rootfs: bytes) -> str:
    """Import the root file system on the first engine and load what comes out on the others: one id everywhere."""
    query = {"fromSrc": "-", "repo": IMAGE, "tag": "latest"}
    await engines[0].call("POST", "/images/create", raw=rootfs, query=query)
    saved: bytes = await engines[0].call("GET", f"/images/{IMAGE}:latest/get")
    for engine in engines[1:]:
        await engine.call("POST", "/images/load", raw=saved)
    return str((await engines[0].call("GET", f"/images/{IMAGE}:latest/json"))["Id"])


def _addresses(task: dict[str, Any]) -> list[str]:
    return [address.split("/")[0] for one in task.get("NetworksAttachments") or () for address in one["Addresses"]]


def _has_failed(task: dict[str, Any]) -> bool:
    return task["Status"]["State"] in ("failed", "rejected", "orphaned")


def _check(deadline: float, problem: str) -> None:
    if time.perf_counter() > deadline:
        raise DeadlineExceeded(f"Swarm is not there after {_TIMEOUT_SECONDS:.0f} s: {problem}")

"""Docker Swarm's side of rollouts: a service, and what lets clients in to it.

That is Swarm's own ingress where the kernel has the IP Virtual Server that it is made of. Where it has not, Swarm has no balancer at all;
then it is an HAProxy beside the service, on its network, that asks Swarm's DNS for the tasks, as people do
who want one that knows requests.
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.docker_api import DockerApi
from benchmarks.leftovers import until
from benchmarks.network_bed import OVERLAY, Endpoint, NetworkBed
from benchmarks.network_servers import haproxy
from benchmarks.rollout_work import COMMAND, MEMBERS, PATHS, PORT, SERVER_PORT, TOGETHER, VARIABLE
from benchmarks.workload import COMMAND as STAY
from benchmarks.workload import STOP_SIGNAL
from benchmarks.wrk import Asked, asking
from moorage.errors import Internal, NotFound

_SERVICE = "web"
_WAIT_SECONDS = 180.0
_POLL_SECONDS = 0.2
_SECOND = 1_000_000_000

#: Tasks come and go by DNS: looked up each second, and left out a second after they are there no more. A connection that is not taken is
#: tried elsewhere.
_HAPROXY = """global
    maxconn 4000
resolvers swarm
    nameserver swarm 127.0.0.11:53
    accepted_payload_size 8192
    timeout resolve 1s
    timeout retry 1s
    hold valid 1s
    hold nx 1s
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    retries 3
    option redispatch 1
frontend web
    bind 0.0.0.0:{port}
    default_backend tasks
backend tasks
    balance roundrobin
    server-template task 20 tasks.{service}:{server_port} check resolvers swarm init-addr none
"""


def has_ipvs() -> bool:
    """Whether the kernel has the IP Virtual Server. Docker asks for its module when it makes a swarm."""
    return Path("/proc/net/ip_vs").exists()


class SwarmRollout:
    """Made by `opened`."""

    name = "swarm"

    def __init__(self, bed: NetworkBed) -> None:
        self._bed = bed
        self._hosts = bed.swarm.hosts()
        self._manager = bed.swarm_engines[self._hosts[0].name]
        self.balancer = "ingress" if has_ipvs() else "haproxy"
        self._nodes: dict[str, str] = {}  # ids by host name

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, bed: NetworkBed) -> AsyncIterator["SwarmRollout"]:
        """All tasks run, clients of h1 are led to them, and are on h3."""
        side = cls(bed)
        for host, engine in bed.swarm_engines.items():
            side._nodes[host] = (await engine.call("GET", "/info"))["Swarm"]["NodeID"]
        async with side._service():
            if side.balancer == "ingress":
                yield side
                return
            async with side._edge() as edge:
                text = _HAPROXY.format(port=PORT, service=_SERVICE, server_port=SERVER_PORT)
                async with haproxy(edge, text, PORT, listens_on="0.0.0.0"):
                    yield side

    def asking(self) -> contextlib.AbstractAsyncContextManager[Asked]:
        """Clients ask inside the block."""
        return asking(self._hosts[-1].command, f"http://{self._hosts[0].address}:{PORT}", PATHS)

    async def update(self, number: int) -> None:
        """As `Side.update`."""
        before = await self._look()
        begun = before.get("UpdateStatus", {}).get("StartedAt")
        query = {"version": str(before["Version"]["Index"])}
        await self._manager.call("POST", f"/services/{_SERVICE}/update", self._spec(number), query=query)

        async def is_done() -> bool:
            status = (await self._look()).get("UpdateStatus", {})
            if status.get("StartedAt") in (None, begun):
                return False
            if status["State"] not in ("updating", "completed"):
                raise Internal(f"Swarm's update is {status['State']}: {status.get('Message', '')}")
            return bool(status["State"] == "completed")

        await until(is_done, "members of the version before", _POLL_SECONDS, time.perf_counter() + _WAIT_SECONDS)

    async def drain(self, host: str) -> None:
        """As `Side.drain`."""
        await self._set_availability(host, "drain")

        async def is_empty() -> bool:
            tasks = await self._running()
            return len(tasks) == MEMBERS and all(task["NodeID"] != self._nodes[host] for task in tasks)

        await until(is_empty, f"tasks on {host}", _POLL_SECONDS, time.perf_counter() + _WAIT_SECONDS)
        await self._set_availability(host, "active")

    async def _set_availability(self, host: str, availability: str) -> None:
        node = await self._manager.call("GET", f"/nodes/{self._nodes[host]}")
        body = {**node["Spec"], "Availability": availability}
        query = {"version": str(node["Version"]["Index"])}
        await self._manager.call("POST", f"/nodes/{self._nodes[host]}/update", body, query=query)

    async def _look(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._manager.call("GET", f"/services/{_SERVICE}")
        return found

    async def _running(self) -> list[dict[str, Any]]:
        query = {"filters": json.dumps({"service": [_SERVICE], "desired-state": ["running"]})}
        found: list[dict[str, Any]] = await self._manager.call("GET", "/tasks", query=query)
        return [task for task in found if task["Status"]["State"] == "running"]

    def _spec(self, number: int) -> dict[str, Any]:
        """Tasks are ready by a check in the container, which is what Swarm has."""
        check = ["CMD", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{SERVER_PORT}/"]
        ports = [{"Protocol": "tcp", "TargetPort": SERVER_PORT, "PublishedPort": PORT, "PublishMode": "ingress"}]
        return {
            "Name": _SERVICE,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self._bed.image,
                    "Command": list(COMMAND),
                    "Env": [f"{VARIABLE}={number}"],
                    "StopSignal": STOP_SIGNAL,
                    "Healthcheck": {"Test": check, "Interval": _SECOND, "Timeout": 3 * _SECOND, "Retries": 3},
                },
                "Networks": [{"Target": OVERLAY}],
            },
            "Mode": {"Replicated": {"Replicas": MEMBERS}},
            "UpdateConfig": {"Parallelism": TOGETHER, "Order": "start-first", "Monitor": _SECOND},
            "EndpointSpec": {"Mode": "vip", "Ports": ports if self.balancer == "ingress" else []},
        }

    @contextlib.asynccontextmanager
    async def _service(self) -> AsyncIterator[None]:
        await self._manager.call("POST", "/services/create", self._spec(0))
        try:

            async def all_run() -> bool:
                return len(await self._running()) == MEMBERS

            await until(all_run, "tasks that do not run", _POLL_SECONDS, time.perf_counter() + _WAIT_SECONDS)
            yield
        finally:
            await self._manager.call("DELETE", f"/services/{_SERVICE}")

    @contextlib.asynccontextmanager
    async def _edge(self) -> AsyncIterator[Endpoint]:
        """A container of the first host on the service's network, with the port that clients use."""
        engine: DockerApi = self._bed.swarm_engines[self._hosts[0].name]
        body = {
            "Image": self._bed.image,
            "Cmd": list(STAY),
            "ExposedPorts": {f"{PORT}/tcp": {}},
            "HostConfig": {
                "NetworkMode": OVERLAY,
                "PortBindings": {f"{PORT}/tcp": [{"HostPort": str(PORT)}]},
            },
            "NetworkingConfig": {"EndpointsConfig": {OVERLAY: {}}},
        }
        container = (await engine.call("POST", "/containers/create", body, query={"name": "edge"}))["Id"]
        try:
            await engine.call("POST", f"/containers/{container}/start")
            about = await engine.inspect(container)
            address = about["NetworkSettings"]["Networks"][OVERLAY]["IPAddress"]
            yield Endpoint(int(about["State"]["Pid"]), address)
        finally:
            with contextlib.suppress(NotFound):
                await engine.call("DELETE", f"/containers/{container}", query={"force": "1"})

"""Where networks are measured: both fleets up, one image everywhere, and instances and containers on demand.

Measuring programs are the machine's own (iperf3, wrk), run in the network namespace of an instance or container: what
is measured is the way of the packets, the same on both sides, and no image has to carry them.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.deploy_moorage import register_template
from benchmarks.deploy_swarm import form_swarm, load_everywhere, make_overlay
from benchmarks.docker_api import DockerApi
from benchmarks.workload import COMMAND, IMAGE, STOP_SIGNAL
from cli.dev.fleet import Fleet
from moorage.client import Client
from moorage.errors import DeadlineExceeded, Internal, NotFound
from moorage.ids import new_id
from moorage.v1 import instances_pb2, networks_pb2

PROJECT = "projects/default"
OVERLAY = "bench"
_TIMEOUT_SECONDS = 60.0
_STREAM_PORT = 5201
#: Joins the control groups of a process ($0), of version 1 and 2, and becomes another program.
_JOIN = """
while IFS=: read -r _ controllers path; do
    for folder in "/sys/fs/cgroup/${controllers#name=}$path" "/sys/fs/cgroup/unified$path"; do
        [ -w "$folder/cgroup.procs" ] && echo $$ >"$folder/cgroup.procs" 2>/dev/null && break
    done
done <"/proc/$0/cgroup"
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something to measure from or to."""

    pid: int  # of its container's process
    address: str

    def command(self, *argv: str) -> list[str]:
        """The command that runs another one in its network."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv]

    def contained_command(self, *argv: str) -> list[str]:
        """The same, with the container's share of the processors too: what runs outside has another on a busy machine."""
        return ["sh", "-c", _JOIN, str(self.pid), *self.command(*argv)]


class NetworkBed:
    """Both fleets; made by `opened`."""

    def __init__(
        self,
        fleet: Fleet,
        swarm: Fleet,
        client: Client,
        engines: Mapping[str, DockerApi],
        swarm_engines: Mapping[str, DockerApi],
        image: str,
    ) -> None:
        self.fleet = fleet
        self.swarm = swarm
        self.client = client
        self.engines = engines
        self.swarm_engines = swarm_engines
        self.image = image  # on Swarm's engines

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, fleet: Fleet, swarm: Fleet, image: Path) -> AsyncIterator["NetworkBed"]:
        """Template, image and Swarm are there inside the block.

        Args:
            image: the root file system, a tar.
        """
        access = fleet.access()
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                Client.connect(access.address, api_key=access.api_key, ca_file=access.ca_file)
            )
            engines, swarm_engines = [
                {host.name: await stack.enter_async_context(DockerApi(host.docker_socket)) for host in one.hosts()}
                for one in (fleet, swarm)
            ]
            await register_template(client, image)
            loaded = await load_everywhere(list(swarm_engines.values()), await asyncio.to_thread(image.read_bytes))
            await form_swarm(swarm, swarm_engines)
            await make_overlay(next(iter(swarm_engines.values())), OVERLAY)
            yield cls(fleet, swarm, client, engines, swarm_engines, loaded)

    # -- ours ---------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def network(self, network_id: str, cidr: str) -> AsyncIterator[str]:
        """An isolated network; its name."""
        name = f"{PROJECT}/networks/{network_id}"
        spec = networks_pb2.NetworkSpec(subnets=[networks_pb2.Subnet(cidr=cidr)])
        await self.client.networks.CreateNetwork(
            networks_pb2.CreateNetworkRequest(
                parent=PROJECT, network_id=network_id, network=networks_pb2.Network(spec=spec)
            )
        )
        try:
            yield name
        finally:
            await self.client.networks.DeleteNetwork(networks_pb2.DeleteNetworkRequest(name=name))

    @contextlib.asynccontextmanager
    async def instances(self, networks: Sequence[str], hosts: Mapping[str, str]) -> AsyncIterator[dict[str, Endpoint]]:
        """Instances on these networks, without limits, by id; their endpoints have the first network's address.

        Args:
            hosts: where each is, by its id.
        """
        requests = []
        for instance_id, host in hosts.items():
            spec = instances_pb2.InstanceSpec(
                template=f"{PROJECT}/templates/{IMAGE}",
                command=COMMAND,
                stop_signal=STOP_SIGNAL,
                nics=[instances_pb2.Nic(network=network) for network in networks],
            )
            spec.placement.host = f"hosts/{host}"
            requests.append(
                instances_pb2.CreateInstanceRequest(
                    instance_id=instance_id, instance=instances_pb2.Instance(spec=spec), request_id=new_id()
                )
            )
        batch = instances_pb2.BatchCreateInstancesRequest(parent=PROJECT, requests=requests, request_id=new_id())
        names = [f"{PROJECT}/instances/{instance_id}" for instance_id in hosts]
        await self.client.instances.BatchCreateInstances(batch)
        try:
            running = await self.client.wait_instances(names, {instances_pb2.INSTANCE_STATE_RUNNING}, _TIMEOUT_SECONDS)
            yield {name.rpartition("/")[2]: await self._endpoint(instance) for name, instance in running.items()}
        finally:
            await self.client.instances.BatchDeleteInstances(
                instances_pb2.BatchDeleteInstancesRequest(parent=PROJECT, names=names, force=True)
            )
            await self.client.wait_instances(names, {instances_pb2.INSTANCE_STATE_DELETED}, _TIMEOUT_SECONDS)

    async def _endpoint(self, instance: instances_pb2.Instance) -> Endpoint:
        engine = self.engines[instance.status.host.rpartition("/")[2]]
        pid = _pid(await engine.inspect(instance.status.container_id))
        return Endpoint(pid, instance.status.nics[0].addresses[0].partition("/")[0])

    # -- theirs -------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def containers(self, network: str, hosts: Mapping[str, str]) -> AsyncIterator[dict[str, Endpoint]]:
        """Containers on a network of Docker's (`bridge`, or the overlay), without limits; `hosts` as above."""
        made: dict[str, tuple[DockerApi, str]] = {}
        try:
            for name, host in hosts.items():
                engine = self.swarm_engines[host]
                body = {
                    "Image": self.image,
                    "Cmd": list(COMMAND),
                    "HostConfig": {"NetworkMode": network},
                    "NetworkingConfig": {"EndpointsConfig": {network: {}}},
                }
                container = (await engine.call("POST", "/containers/create", body, query={"name": name}))["Id"]
                made[name] = (engine, container)
                await engine.call("POST", f"/containers/{container}/start")
            found = {}
            for name, (engine, container) in made.items():
                about = await engine.inspect(container)
                address = about["NetworkSettings"]["Networks"][network]["IPAddress"]
                found[name] = Endpoint(_pid(about), address)
            yield found
        finally:
            for engine, container in made.values():
                with contextlib.suppress(NotFound):
                    await engine.call("DELETE", f"/containers/{container}", query={"force": "1"})


def _pid(about: Mapping[str, Any]) -> int:
    return int(about["State"]["Pid"])


async def stream_gigabits(source: Endpoint, target: Endpoint, *, seconds: int) -> float:
    """What one TCP stream of iperf3 carries from one to the other, in Gbit/s as received.

    Raises:
        Internal: iperf3 failed. DeadlineExceeded: it does not end.
    """
    listen = target.command("iperf3", "-s", "-1", "--forceflush", "-p", str(_STREAM_PORT), "-B", target.address)
    server = await asyncio.create_subprocess_exec(*listen, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while b"listening" not in (line := await server.stdout.readline()):
                if not line:
                    raise Internal("iperf3 does not listen; is its port in use?")
            ask = ("iperf3", "-J", "-c", target.address, "-p", str(_STREAM_PORT), "-t", str(seconds))
            found = json.loads(await _output(source.command(*ask)))
            if "error" in found:
                raise Internal(f"iperf3: {found['error']}")
            await server.communicate()
    except TimeoutError:
        raise DeadlineExceeded(f"iperf3 to {target.address} did not end in {_TIMEOUT_SECONDS:.0f} s") from None
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
    return float(found["end"]["sum_received"]["bits_per_second"]) / 1e9


async def _output(argv: Sequence[str]) -> bytes:
    program = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        return (await program.communicate())[0]
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()

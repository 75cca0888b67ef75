"""Moorage's side: instances by its API on three hosts, on one isolated network.

The watch that tells what became of them is opened before the call, as a user interface has it open all the time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from benchmarks.docker_api import DockerApi
from benchmarks.leftovers import HostTraces, until, until_gone
from benchmarks.probes import Pinger
from benchmarks.workload import COMMAND, IMAGE, RESIDENT, STOP_SIGNAL, Limits
from cli.dev.fleet import Fleet
from moorage.client import Client
from moorage.errors import NotReady
from moorage.ids import new_id
from moorage.v1 import common_pb2, instances_pb2, networks_pb2, templates_pb2, watch_pb2

_PROJECT = "projects/default"
_NETWORK = f"{_PROJECT}/networks/bench"
_RUNNING = instances_pb2.INSTANCE_STATE_RUNNING
_TIMEOUT_SECONDS = 120.0
_CHUNK_BYTES = 512 * 1024


class MoorageSide:
    """Creates and removes; `set_up` first."""

    name = "moorage"

    def __init__(self, fleet: Fleet, client: Client, engines: dict[str, DockerApi]) -> None:
        self._fleet = fleet
        self._client = client
        self._engines = engines
        self._traces: list[HostTraces] = []
        self._pinger: Pinger | None = None
        self._number = 0
        self._names: list[str] = []
        self._addresses: set[str] = set()
        self.residents: dict[str, str] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, fleet: Fleet, image: Path) -> AsyncIterator["MoorageSide"]:
        """Ready to be measured: template, network, and a resident instance on each host.

        Args:
            image: the root file system, a tar.
        """
        access = fleet.access()
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                Client.connect(access.address, api_key=access.api_key, ca_file=access.ca_file)
            )
            engines = {
                host.name: await stack.enter_async_context(DockerApi(host.docker_socket)) for host in fleet.hosts()
            }
            side = cls(fleet, client, engines)
            await side._register(image)
            await side._make_residents(stack)
            yield side

    async def create(self, count: int, limits: Limits, *, interval_seconds: float) -> float:
        """Seconds from the call until all run, by the control plane's word, and all have answered from another host."""
        pinger, running, failed = self._required_pinger, set[str](), list[str]()
        self._number += 1
        self._names = [f"{_PROJECT}/instances/b{self._number}-{index}" for index in range(count)]
        wanted, all_run = frozenset(self._names), asyncio.Event()

        def on_change(change: watch_pb2.Change) -> None:
            instance = change.instance
            if instance.name not in wanted:
                return
            self._ping(instance)
            if instance.status.state == instances_pb2.INSTANCE_STATE_FAILED:
                failed.append(f"{instance.name} failed: {instance.status.message}")
                all_run.set()
            if instance.status.state == _RUNNING and instance.name not in running:
                running.add(instance.name)
                if len(running) == count:
                    all_run.set()

        requests = [self._request(name.rpartition("/")[2], limits) for name in self._names]
        pinger.begin(interval_seconds=interval_seconds)
        async with watching(self._client, on_change):
            started = time.perf_counter()
            if count == 1:
                made = [await self._client.instances.CreateInstance(requests[0])]
            else:
                batch = instances_pb2.BatchCreateInstancesRequest(
                    parent=_PROJECT, requests=requests, request_id=new_id()
                )
                made = list((await self._client.instances.BatchCreateInstances(batch)).instances)
            self._addresses = {a.split("/")[0] for one in made for nic in one.status.nics for a in nic.addresses}
            for instance in made:
                self._ping(instance)
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await all_run.wait()
            if failed:
                raise NotReady(failed[0])
            run = time.perf_counter()
            answered = await pinger.until_answered(count, timeout_seconds=_TIMEOUT_SECONDS)
            return max(run, answered) - started

    async def remove(self) -> float:
        """Seconds from the call until containers, namespaces and links are gone and the addresses can be given again."""
        gone, wanted, all_gone = set[str](), frozenset(self._names), asyncio.Event()

        def on_change(change: watch_pb2.Change) -> None:
            if change.type == watch_pb2.CHANGE_TYPE_DELETED and change.instance.name in wanted:
                gone.add(change.instance.name)
                if gone == wanted:
                    all_gone.set()

        async with watching(self._client, on_change):
            started = time.perf_counter()
            if len(wanted) == 1:
                await self._client.instances.DeleteInstance(instances_pb2.DeleteInstanceRequest(name=self._names[0]))
            else:
                await self._client.instances.BatchDeleteInstances(
                    instances_pb2.BatchDeleteInstancesRequest(parent=_PROJECT, names=self._names)
                )
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await all_gone.wait()
            await until(self._addresses_are_free, "addresses", 0.02, started + _TIMEOUT_SECONDS)
            await until_gone(self._traces, interval_seconds=0.02, timeout_seconds=_TIMEOUT_SECONDS)
            return time.perf_counter() - started

    # -- preparation --------------------------------------------------------------------------------------------------

    async def _register(self, image: Path) -> None:
        await register_template(self._client, image)
        network = networks_pb2.Network(
            spec=networks_pb2.NetworkSpec(subnets=[networks_pb2.Subnet(cidr="10.123.0.0/24")])
        )
        await self._client.networks.CreateNetwork(
            networks_pb2.CreateNetworkRequest(parent=_PROJECT, network_id="bench", network=network)
        )

    async def _make_residents(self, stack: contextlib.AsyncExitStack) -> None:
        """One instance a host that stays; its start also brings the image and the network to the host."""
        names = {host: f"{_PROJECT}/instances/resident-{host}" for host in self._engines}
        for host in names:
            request = self._request(f"resident-{host}", RESIDENT)
            request.instance.spec.placement.host = f"hosts/{host}"
            await self._client.instances.CreateInstance(request)
        running = await self._client.wait_instances(list(names.values()), {_RUNNING}, _TIMEOUT_SECONDS)
        vantages = {}
        for host, name in names.items():
            container = self.residents[host] = running[name].status.container_id
            pid = (await self._engines[host].inspect(container))["State"]["Pid"]
            vantages[host] = Path(f"/proc/{pid}/ns/net")
        self._pinger = await stack.enter_async_context(Pinger(vantages))
        for machine in self._fleet.hosts():
            traces = HostTraces(machine, self._engines[machine.name], "/run/moorage/netns")
            await traces.remember()
            self._traces.append(traces)

    # -- parts of a measurement ---------------------------------------------------------------------------------------

    @property
    def _required_pinger(self) -> Pinger:
        assert self._pinger is not None, "opened() was not entered"
        return self._pinger

    def _request(self, instance_id: str, limits: Limits) -> instances_pb2.CreateInstanceRequest:
        spec = instances_pb2.InstanceSpec(
            template=f"{_PROJECT}/templates/{IMAGE}",
            command=COMMAND,
            resources=common_pb2.Resources(cpu_millis=limits.cpu_millis, memory_bytes=limits.memory_bytes),
            stop_signal=STOP_SIGNAL,
            nics=[instances_pb2.Nic(network=_NETWORK)],
        )
        spec.stop_grace.seconds = limits.grace_seconds
        return instances_pb2.CreateInstanceRequest(
            parent=_PROJECT,
            instance_id=instance_id,
            instance=instances_pb2.Instance(spec=spec),
            request_id=new_id(),
        )

    def _ping(self, instance: instances_pb2.Instance) -> None:
        """From the next host than the instance's, as soon as address and host are known."""
        host = instance.status.host.rpartition("/")[2]
        if host:
            hosts = sorted(self._engines)
            vantage = hosts[(hosts.index(host) + 1) % len(hosts)]
            self._required_pinger.add(instance.status.nics[0].addresses[0].split("/")[0], vantage)

    async def _addresses_are_free(self) -> bool:
        request = networks_pb2.ListAddressesRequest(parent=_NETWORK, page_size=1000)
        listed = {lease.address for lease in (await self._client.networks.ListAddresses(request)).addresses}
        return not listed & self._addresses


@contextlib.asynccontextmanager
async def watching(client: Client, on_change: Callable[[watch_pb2.Change], None]) -> AsyncIterator[None]:
    """Follow what becomes of the project's instances inside the block."""
    request = watch_pb2.WatchRequest(
        kinds=["instances"], parent=_PROJECT, from_revision=await client.revision(_PROJECT)
    )

    async def follow() -> None:
        async for response in client.watch.Watch(request):
            if response.HasField("change"):
                on_change(response.change)

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        try:
            yield
        finally:
            following.cancel()


async def register_template(client: Client, image: Path) -> None:
    """Make a root file system's tar the template `IMAGE` of the default project."""
    template = templates_pb2.Template(source=templates_pb2.TemplateSource(tar=templates_pb2.TarSource()))
    create = templates_pb2.CreateTemplateRequest(
        parent=_PROJECT, template_id=IMAGE, template=template, request_id=new_id()
    )
    content = await asyncio.to_thread(image.read_bytes)

    async def messages() -> AsyncIterator[templates_pb2.UploadTemplateRequest]:
        yield templates_pb2.UploadTemplateRequest(create=create)
        for start in range(0, len(content), _CHUNK_BYTES):
            yield templates_pb2.UploadTemplateRequest(chunk=content[start : start + _CHUNK_BYTES])

    operation = await client.templates.UploadTemplate(messages())
    await client.wait_operation(operation.name, timeout_seconds=_TIMEOUT_SECONDS)

"""Moorage's side of healing: a group on three hosts, of which one is lost."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.deploy_moorage import register_template, watching
from benchmarks.docker_api import DockerApi
from benchmarks.healing_loss import Loss
from benchmarks.leftovers import until
from benchmarks.probes import Pinger
from benchmarks.workload import COMMAND, IMAGE, RESIDENT, STOP_SIGNAL, Limits
from cli.dev.fleet import Fleet
from moorage.client import Client, paginate
from moorage.errors import NotFound
from moorage.ids import new_id
from moorage.v1 import common_pb2, groups_pb2, hosts_pb2, instances_pb2, networks_pb2, watch_pb2

_PROJECT = "projects/default"
_NETWORK = f"{_PROJECT}/networks/bench"
_RUNNING = instances_pb2.INSTANCE_STATE_RUNNING
_TIMEOUT_SECONDS = 120.0


class MoorageHealing:
    """Made by `opened`."""

    name = "moorage"

    def __init__(self, fleet: Fleet, client: Client, engines: dict[str, DockerApi]) -> None:
        self.fleet = fleet
        self._client = client
        self._engines = engines
        self._pinger: Pinger | None = None
        self._number = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, fleet: Fleet, image: Path) -> AsyncIterator["MoorageHealing"]:
        """Ready to be measured: template, network, and a resident instance on the hosts that stay."""
        access = fleet.access()
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                Client.connect(access.address, api_key=access.api_key, ca_file=access.ca_file)
            )
            engines = {
                host.name: await stack.enter_async_context(DockerApi(host.docker_socket)) for host in fleet.hosts()
            }
            side = cls(fleet, client, engines)
            await register_template(client, image)
            spec = networks_pb2.NetworkSpec(subnets=[networks_pb2.Subnet(cidr="10.123.0.0/24")])
            await client.networks.CreateNetwork(
                networks_pb2.CreateNetworkRequest(
                    parent=_PROJECT, network_id="bench", network=networks_pb2.Network(spec=spec)
                )
            )
            await side._make_residents(stack)
            yield side

    async def heal(self, loss: Loss, count: int, limits: Limits, *, is_exclusive: bool = False) -> float:
        """Seconds from the loss of a host until all members run elsewhere, by the control plane's word, and all new ones answer. A
        group of its own for each measurement: it is spread anew. The host is back in the end, with nothing on it twice.

        Raises:
            DeadlineExceeded: it does not heal.
        """
        await self._create(count, limits, is_exclusive=is_exclusive)
        try:
            before = {instance.uid for instance in await self._members()}
            pinger, healed, running = self._required_pinger, asyncio.Event(), dict[str, bool]()

            def on_change(change: watch_pb2.Change) -> None:
                instance = change.instance
                if not self._is_member(instance) or instance.status.host == f"hosts/{loss.host}":
                    running.pop(instance.uid, None)
                    return
                running[instance.uid] = _is_running(instance)
                if instance.uid not in before and instance.status.host:
                    self._ping(instance)
                if sum(running.values()) == count:
                    healed.set()

            pinger.begin(interval_seconds=0.02)
            async with watching(self._client, on_change):
                for instance in await self._members():
                    if instance.status.host != f"hosts/{loss.host}":
                        running[instance.uid] = _is_running(instance)
                lost = count - len(running)
                started = await loss.strike(self._engines[loss.host])
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await healed.wait()
                run = time.perf_counter()
                answered = await pinger.until_answered(lost, timeout_seconds=_TIMEOUT_SECONDS)
            await loss.undo()
            await self._until_settled(loss.host, count)
            return max(run, answered) - started
        finally:
            await self._delete()

    # -- preparation --------------------------------------------------------------------------------------------------

    async def _make_residents(self, stack: contextlib.AsyncExitStack) -> None:
        stay = sorted(self._engines)[:2]
        names = {host: f"{_PROJECT}/instances/resident-{host}" for host in stay}
        for host in stay:
            spec = _spec(RESIDENT)
            spec.placement.host = f"hosts/{host}"
            request = instances_pb2.CreateInstanceRequest(
                parent=_PROJECT, instance_id=f"resident-{host}", instance=instances_pb2.Instance(spec=spec)
            )
            await self._client.instances.CreateInstance(request)
        running = await self._client.wait_instances(list(names.values()), {_RUNNING}, _TIMEOUT_SECONDS)
        vantages = {}
        for host, name in names.items():
            pid = (await self._engines[host].inspect(running[name].status.container_id))["State"]["Pid"]
            vantages[host] = Path(f"/proc/{pid}/ns/net")
        self._pinger = await stack.enter_async_context(Pinger(vantages))

    async def _create(self, count: int, limits: Limits, *, is_exclusive: bool) -> None:
        self._number += 1
        spec = _spec(limits)
        spec.exclusive = is_exclusive
        group = groups_pb2.Group(spec=groups_pb2.GroupSpec(replicas=count, instance=spec))
        await self._client.groups.CreateGroup(
            groups_pb2.CreateGroupRequest(
                parent=_PROJECT, group_id=f"g{self._number}", group=group, request_id=new_id()
            )
        )

        async def all_run() -> bool:
            return sum(_is_running(member) for member in await self._members()) == count

        await until(all_run, "members", 0.2, time.perf_counter() + _TIMEOUT_SECONDS)

    async def _delete(self) -> None:
        name = f"{_PROJECT}/groups/g{self._number}"
        await self._client.groups.DeleteGroup(groups_pb2.DeleteGroupRequest(name=name))

        async def is_gone() -> bool:
            try:
                await self._client.groups.GetGroup(groups_pb2.GetGroupRequest(name=name))
            except NotFound:
                return True
            return False

        await until(is_gone, "the group", 0.2, time.perf_counter() + _TIMEOUT_SECONDS)

    # -- parts of a measurement ---------------------------------------------------------------------------------------

    @property
    def _required_pinger(self) -> Pinger:
        assert self._pinger is not None, "opened() was not entered"
        return self._pinger

    def _is_member(self, instance: instances_pb2.Instance) -> bool:
        return instance.name.startswith(f"{_PROJECT}/instances/g{self._number}-")

    async def _members(self) -> list[instances_pb2.Instance]:
        request = instances_pb2.ListInstancesRequest(parent=_PROJECT, page_size=1000)
        pages = paginate(self._client.instances.ListInstances, request, lambda page: page.instances)
        return [instance async for instance in pages if self._is_member(instance)]

    def _ping(self, instance: instances_pb2.Instance) -> None:
        """From the other one of the hosts that stay."""
        first, second = sorted(self._engines)[:2]
        vantage = second if instance.status.host == f"hosts/{first}" else first
        self._required_pinger.add(instance.status.nics[0].addresses[0].split("/")[0], vantage)

    async def _until_settled(self, host: str, count: int) -> None:
        async def is_settled() -> bool:
            found = await self._client.hosts.GetHost(hosts_pb2.GetHostRequest(name=f"hosts/{host}"))
            return found.status.link_state == hosts_pb2.HOST_LINK_STATE_UP and len(await self._members()) == count

        await until(is_settled, "what is there twice", 0.1, time.perf_counter() + _TIMEOUT_SECONDS)


def _is_running(instance: instances_pb2.Instance) -> bool:
    return instance.desired_state == instances_pb2.DESIRED_STATE_RUNNING and instance.status.state == _RUNNING


def _spec(limits: Limits) -> instances_pb2.InstanceSpec:
    spec = instances_pb2.InstanceSpec(
        template=f"{_PROJECT}/templates/{IMAGE}",
        command=COMMAND,
        resources=common_pb2.Resources(cpu_millis=limits.cpu_millis, memory_bytes=limits.memory_bytes),
        stop_signal=STOP_SIGNAL,
        nics=[instances_pb2.Nic(network=_NETWORK)],
    )
    spec.stop_grace.seconds = limits.grace_seconds
    return spec

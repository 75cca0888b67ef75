"""Moorage's side of rollouts: a group behind a router's balancer."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from google.protobuf.duration_pb2 import Duration

from benchmarks.network_bed import PROJECT, NetworkBed
from benchmarks.network_router_bed import ROUTER_NAME, outside_network, register_router_image, router
from benchmarks.rollout_work import COMMAND, MEMBERS, PATHS, PORT, SERVER_PORT, TOGETHER, VARIABLE
from benchmarks.workload import IMAGE, STOP_SIGNAL
from benchmarks.wrk import Asked, asking
from moorage.ids import new_id
from moorage.v1 import balancers_pb2, common_pb2, groups_pb2, hosts_pb2, instances_pb2
from moorage.v1.probes_pb2 import HttpCheck, Probe, Probes

_GROUP = f"{PROJECT}/groups/web"
_WAIT_SECONDS = 180.0


class MoorageRollout:
    """Made by `opened`."""

    name = "moorage"

    def __init__(self, bed: NetworkBed, network: str, command: Callable[[Sequence[str]], list[str]], url: str) -> None:
        self._bed = bed
        self._network = network
        self._command = command
        self._url = url

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, bed: NetworkBed) -> AsyncIterator["MoorageRollout"]:
        """All members are ready, the balancer on h1 leads to them, and clients are on h3."""
        await register_router_image(bed.fleet)
        first, *_, last = bed.fleet.hosts()
        ports = [common_pb2.PublishedPort(host_port=PORT, container_port=PORT)]
        async with (
            bed.network("rollout", "10.127.0.0/24") as network,
            outside_network(bed) as outside,
        ):
            side = cls(bed, network, last.command, f"http://{first.address}:{PORT}")
            async with side._group(), router(bed, network, outside, ingress_ports=ports):
                await side._balance()
                yield side

    def asking(self) -> contextlib.AbstractAsyncContextManager[Asked]:
        """Clients ask inside the block."""
        return asking(self._command, self._url, PATHS)

    async def update(self, number: int) -> None:
        """As `Side.update`."""
        request = groups_pb2.UpdateGroupRequest(group=groups_pb2.Group(name=_GROUP))
        request.group.spec.instance.CopyFrom(self._member(number))
        request.update_mask.paths.append("spec.instance")
        changed = await self._bed.client.groups.UpdateGroup(request)
        await self._bed.client.wait_group(_GROUP, _WAIT_SECONDS, revision=changed.status.target_revision)

    async def drain(self, host: str) -> None:
        """As `Side.drain`."""
        name = f"hosts/{host}"
        await self._bed.client.hosts.DrainHost(hosts_pb2.DrainHostRequest(name=name))
        await self._bed.client.wait_host_emptied(name, _WAIT_SECONDS)
        await self._bed.client.hosts.UncordonHost(hosts_pb2.UncordonHostRequest(name=name))
        await self._bed.client.wait_group(_GROUP, _WAIT_SECONDS)

    def _member(self, number: int) -> instances_pb2.InstanceSpec:
        readiness = Probe(http=HttpCheck(port=SERVER_PORT, path="/"), period=Duration(seconds=1))
        return instances_pb2.InstanceSpec(
            template=f"{PROJECT}/templates/{IMAGE}",
            command=COMMAND,
            env={VARIABLE: str(number)},
            stop_signal=STOP_SIGNAL,
            nics=[instances_pb2.Nic(network=self._network)],
            probes=Probes(readiness=readiness),
        )

    @contextlib.asynccontextmanager
    async def _group(self) -> AsyncIterator[None]:
        spec = groups_pb2.GroupSpec(replicas=MEMBERS, instance=self._member(0))
        spec.rollout.max_surge = str(TOGETHER)
        await self._bed.client.groups.CreateGroup(
            groups_pb2.CreateGroupRequest(
                parent=PROJECT, group_id="web", group=groups_pb2.Group(spec=spec), request_id=new_id()
            )
        )
        try:
            await self._bed.client.wait_group(_GROUP, _WAIT_SECONDS)
            yield
        finally:
            await self._bed.client.groups.DeleteGroup(groups_pb2.DeleteGroupRequest(name=_GROUP))
            await self._bed.client.wait_group_gone(_GROUP, _WAIT_SECONDS)

    async def _balance(self) -> None:
        spec = balancers_pb2.BalancerSpec(mode=balancers_pb2.BALANCER_MODE_HTTP)
        spec.listeners.add(port=PORT)
        spec.pools.add(id="web", backends=[balancers_pb2.Backend(group="web", port=SERVER_PORT)])
        await self._bed.client.balancers.CreateBalancer(
            balancers_pb2.CreateBalancerRequest(
                parent=ROUTER_NAME, balancer_id="web", balancer=balancers_pb2.Balancer(spec=spec)
            )
        )
        await self._bed.client.wait_router(ROUTER_NAME, _WAIT_SECONDS)

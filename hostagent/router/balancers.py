"""The part of a bundle that is balancers: one HAProxy for each router of this host."""

import math
from collections.abc import Callable
from pathlib import Path

from hostagent.domain import Resources
from hostagent.router.entrypoint import Entrypoint
from hostagent.router.haproxy import Haproxy, HaproxyRefused
from hostagent.router.haproxy_config import DEFAULT_LIMITS, HaproxyLimits
from moorage.errors import NotReady, Unavailable
from moorage.ids import InstanceId
from moorage.router_bundle import PoolFigure, RouterBundle
from moorage.tasks import TaskOwner

_BYTES_A_CONNECTION = 64 * 1024  # two buffers, and what the kernel needs
_FEWEST_CONNECTIONS = 1000


def limits_of(resources: Resources) -> HaproxyLimits:
    """What HAProxy may take of a container: a thread for each processor that it has, connections within half of its memory."""
    connections = DEFAULT_LIMITS.max_connections
    if resources.memory_bytes:
        connections = min(connections, max(_FEWEST_CONNECTIONS, resources.memory_bytes // 2 // _BYTES_A_CONNECTION))
    return HaproxyLimits(threads=math.ceil(resources.cpu_millis / 1000), max_connections=connections)


class BalancersApplier:
    """Keeps HAProxy of each router at its bundle.

    Args:
        folder_of: the folder that a router's container shares with the agent.
        resources_of: limits of the container.
        tasks: owner of what watches old processes after a reload.
    """

    def __init__(
        self,
        *,
        folder_of: Callable[[InstanceId], Path],
        resources_of: Callable[[InstanceId], Resources],
        tasks: TaskOwner,
    ) -> None:
        self._folder_of = folder_of
        self._resources_of = resources_of
        self._tasks = tasks
        self._routers: dict[InstanceId, tuple[HaproxyLimits, Haproxy]] = {}
        self._watched: set[InstanceId] = set()

    async def apply(self, bundle: RouterBundle) -> str | None:
        """As Applier.apply."""
        instance_id = bundle.instance_id
        if not bundle.balancers and not self._folder_of(instance_id).exists():
            return None  # nor is there a container
        haproxy = self._haproxy(instance_id)
        try:
            has_loaded = await haproxy.apply(bundle.balancers, drain_time_seconds=bundle.drain_time_seconds)
        except HaproxyRefused as refused:
            return str(refused)
        except OSError as error:
            raise Unavailable(f"the router's folder: {error}", reason="ROUTER_NOT_RUNNING") from error
        if has_loaded and instance_id not in self._watched:
            self._watched.add(instance_id)
            self._tasks.spawn(self._watch(instance_id, haproxy), name=f"old processes of router {instance_id}")
        return None

    async def figures(self, bundle: RouterBundle) -> tuple[PoolFigure, ...]:
        """Figures of each pool now.

        Raises:
            Unavailable: HAProxy does not answer.
        """
        if not bundle.balancers:
            return ()
        try:
            return await self._haproxy(bundle.instance_id).figures(bundle.balancers)
        except OSError as error:
            raise NotReady(f"the router's folder: {error}", reason="ROUTER_NOT_RUNNING") from error

    async def draining(self, bundle: RouterBundle) -> tuple[str, ...]:
        """Instances that are no back ends any more and still have connections. None when HAProxy does not run: nobody has.

        Raises:
            Unavailable: HAProxy does not answer now.
        """
        if not bundle.balancers:
            return ()
        try:
            return await self._haproxy(bundle.instance_id).draining(bundle.balancers)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise Unavailable(f"the router's folder: {error}", reason="ROUTER_NOT_RUNNING") from error

    def forget(self, instance_id: InstanceId) -> None:
        """As Applier.forget: the folder went with the instance."""
        self._routers.pop(instance_id, None)

    def _haproxy(self, instance_id: InstanceId) -> Haproxy:
        limits = limits_of(self._resources_of(instance_id))
        known = self._routers.get(instance_id)
        if known is not None and known[0] == limits:
            return known[1]
        folder = self._folder_of(instance_id)
        made = Haproxy(folder, Entrypoint(folder), limits=limits)
        self._routers[instance_id] = (limits, made)
        return made

    async def _watch(self, instance_id: InstanceId, haproxy: Haproxy) -> None:
        """Old processes until they have ended; whatever happens to them, the next change looks again."""
        try:
            await haproxy.watch_old_processes()
        except (Unavailable, OSError):
            return  # the container ended, and all its processes with it
        finally:
            self._watched.discard(instance_id)

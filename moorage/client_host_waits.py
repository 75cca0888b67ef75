"""Waiting for hosts: until they are up, or emptied."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from moorage.client_waits import Limit, Waits
from moorage.errors import Internal, NotFound, NotReady

if TYPE_CHECKING:
    from moorage.v1 import hosts_pb2, watch_pb2
    from moorage.v1.hosts_pb2_grpc import HostServiceAsyncStub

_EVERYWHERE = "projects/-"


class HostWaits(Waits):
    """What `moorage.client.Client` has of it. For fleet admins, as all calls of hosts."""

    @property
    @abstractmethod
    def hosts(self) -> "HostServiceAsyncStub": ...

    async def wait_host_emptied(
        self,
        name: str,
        timeout_seconds: float | None = None,
        *,
        on_change: "Callable[[hosts_pb2.Host], None] | None" = None,
    ) -> "hosts_pb2.Host":
        """Wait until a host that is being drained is in MAINTENANCE.

        Args:
            name: hosts/{host}.
            on_change: called with each version that is seen.
        Raises:
            DeadlineExceeded: it has instances yet. NotFound: it was removed meanwhile.
            NotReady: it is not being drained any more (DRAIN_ENDED).
        """
        from moorage.v1 import hosts_pb2

        said = "not seen"
        following = aclosing(self._follow_host(name))
        async with Limit(timeout_seconds, lambda: f"the end of all on {name} ({said})"), following as versions:
            async for host in versions:
                if on_change is not None:
                    on_change(host)
                if host.admin_state == hosts_pb2.HOST_ADMIN_STATE_MAINTENANCE:
                    return host
                if host.admin_state != hosts_pb2.HOST_ADMIN_STATE_DRAINING:
                    words = f"{name} is not drained any more: somebody has cordoned or uncordoned it"
                    raise NotReady(words, reason="DRAIN_ENDED", metadata={"name": name})
                waits = host.status.drain.waits
                said = f"{waits[0].instance}: {waits[0].message}" if waits else "about to begin"
        raise Internal("a watch ended without an error")

    async def wait_host_up(self, name: str, timeout_seconds: float | None = None) -> "hosts_pb2.Host":
        """Wait until a host's agent is connected; one that has not enrolled yet is waited for. Raises DeadlineExceeded.

        Args:
            name: hosts/{host}.
        """
        from moorage.v1 import hosts_pb2

        said = "it has not enrolled"

        async def read() -> list[hosts_pb2.Host]:
            try:
                return [await self.hosts.GetHost(hosts_pb2.GetHostRequest(name=name))]
            except NotFound:
                return []

        def pick(change: "watch_pb2.Change") -> hosts_pb2.Host:
            return change.host

        following = aclosing(self._follow(_EVERYWHERE, "hosts", read, pick))
        async with Limit(timeout_seconds, lambda: f"{name} ({said})"), following as changes:
            async for _, host in changes:
                if host.name != name:
                    continue
                if host.status.link_state == hosts_pb2.HOST_LINK_STATE_UP:
                    return host
                said = hosts_pb2.HostLinkState.Name(host.status.link_state).removeprefix("HOST_LINK_STATE_")
        raise Internal("a watch ended without an error")

    async def _follow_host(self, name: str) -> "AsyncGenerator[hosts_pb2.Host, None]":
        """The host now, and each later version. Raises NotFound."""
        from moorage.v1 import hosts_pb2, watch_pb2

        async def read() -> list[hosts_pb2.Host]:
            return [await self.hosts.GetHost(hosts_pb2.GetHostRequest(name=name))]

        def pick(change: "watch_pb2.Change") -> hosts_pb2.Host:
            return change.host

        async with aclosing(self._follow(_EVERYWHERE, "hosts", read, pick)) as changes:
            async for kind, host in changes:
                if host.name != name:
                    continue
                if kind == watch_pb2.CHANGE_TYPE_DELETED:
                    raise NotFound(f"{name} was removed meanwhile", metadata={"name": name})
                yield host

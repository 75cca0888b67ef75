"""Waiting for routers, their rules and balancers: until what was asked for is in force."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING

from moorage.client_pages import paginate
from moorage.client_waits import Limit, Waits, project_of
from moorage.errors import Internal, NotFound, NotReady

if TYPE_CHECKING:
    from moorage.v1 import balancers_pb2, router_rules_pb2, routers_pb2, watch_pb2
    from moorage.v1.balancers_pb2_grpc import BalancerServiceAsyncStub
    from moorage.v1.router_rules_pb2_grpc import RouterRuleServiceAsyncStub
    from moorage.v1.routers_pb2_grpc import RouterServiceAsyncStub


class RouterWaits(Waits):
    """What `moorage.client.Client` has of it."""

    @property
    @abstractmethod
    def routers(self) -> "RouterServiceAsyncStub": ...

    @property
    @abstractmethod
    def router_rules(self) -> "RouterRuleServiceAsyncStub": ...

    @property
    @abstractmethod
    def balancers(self) -> "BalancerServiceAsyncStub": ...

    async def wait_router(
        self, name: str, timeout_seconds: float | None = None, *, every_member: bool = False
    ) -> "routers_pb2.Router":
        """Wait until a router runs its newest configuration.

        Args:
            every_member: until all of its containers run, too: the second of a pair, and those of edge hosts.
        Raises:
            DeadlineExceeded: it is not so yet. NotFound: the router is gone.
            NotReady: it could not load the configuration; CONFIGURATION_REFUSED, with the tool's words.
        """
        from moorage.v1 import routers_pb2

        said = "not seen"
        async with (
            Limit(timeout_seconds, lambda: f"router {name} ({said})"),
            aclosing(self._follow_router(name)) as versions,
        ):
            async for router in versions:
                is_whole = router.status.reason != "MEMBER_NOT_RUNNING"
                if router.status.state == routers_pb2.ROUTER_STATE_ACTIVE and (is_whole or not every_member):
                    return router
                _raise_if_refused(router)
                said = router.status.message or routers_pb2.RouterState.Name(router.status.state)[13:]
        raise Internal("a watch ended without an error")

    async def wait_router_rules(
        self, names: Collection[str], timeout_seconds: float | None = None
    ) -> "list[router_rules_pb2.RouterRule]":
        """Wait until rules are in force; their versions then, in the order of the names.

        Args:
            names: projects/{project}/routers/{router}/rules/{rule}; all of one router.
        Raises:
            DeadlineExceeded: not all are; the message says why the first of them is not. NotFound: a rule or the router is gone.
            NotReady: the router could not load its configuration; CONFIGURATION_REFUSED, with the tool's words.
        """
        from moorage.v1 import router_rules_pb2

        active: dict[str, router_rules_pb2.RouterRule] = {}
        if not names:
            return []
        said = "not seen"

        def waits_for() -> str:
            return f"rule {next(name for name in names if name not in active)} ({said})"

        router_name = next(iter(names)).rpartition("/rules/")[0]
        request = router_rules_pb2.ListRouterRulesRequest(parent=router_name, page_size=1000)
        async with (
            Limit(timeout_seconds, waits_for),
            aclosing(self._follow_router(router_name)) as versions,
        ):
            async for router in versions:
                pages = paginate(self.router_rules.ListRouterRules, request, lambda page: page.rules)
                found = {rule.name: rule async for rule in pages}
                for name in names:
                    if name not in found:
                        raise NotFound(f"{name} does not exist (any more)", metadata={"name": name})
                active = {name: found[name] for name in names if found[name].status.active}
                if len(active) == len(set(names)):
                    return [active[name] for name in names]
                _raise_if_refused(router)
                said = next(found[name].status.message for name in names if name not in active)
        raise Internal("a watch ended without an error")

    async def wait_balancer(self, name: str, timeout_seconds: float | None = None) -> "balancers_pb2.Balancer":
        """Wait until a balancer is in force in every container of its router that runs.

        Args:
            name: projects/{project}/routers/{router}/balancers/{balancer}.
        Raises:
            DeadlineExceeded: it is not; the message says why. NotFound: it or its router is gone.
            NotReady: the router could not load its configuration; CONFIGURATION_REFUSED, with the tool's words.
        """
        from moorage.v1 import balancers_pb2

        said = "not seen"
        async with (
            Limit(timeout_seconds, lambda: f"balancer {name} ({said})"),
            aclosing(self._follow_router(name.rpartition("/balancers/")[0])) as versions,
        ):
            async for router in versions:
                balancer = await self.balancers.GetBalancer(balancers_pb2.GetBalancerRequest(name=name))
                if balancer.status.active:
                    return balancer
                _raise_if_refused(router)
                said = balancer.status.message
        raise Internal("a watch ended without an error")

    async def _follow_router(self, name: str) -> "AsyncGenerator[routers_pb2.Router, None]":
        """The router now, and anew whenever it or one of its containers changes. Raises NotFound."""
        from moorage.v1 import routers_pb2

        async def read() -> list[str]:
            return [name]

        def concerned(change: "watch_pb2.Change") -> str:
            return change.router.name if change.HasField("router") else change.instance.status.owner

        async with aclosing(self._follow(project_of(name), ("routers", "instances"), read, concerned)) as changes:
            async for _, concerns in changes:
                if concerns == name:
                    yield await self.routers.GetRouter(routers_pb2.GetRouterRequest(name=name))


def _raise_if_refused(router: "routers_pb2.Router") -> None:
    """Raises NotReady (CONFIGURATION_REFUSED): the newest configuration could not be loaded."""
    if router.status.reason == "CONFIGURATION_REFUSED":
        raise NotReady(router.status.message, reason="CONFIGURATION_REFUSED", metadata={"name": router.name})

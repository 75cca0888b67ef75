"""BalancerService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests, router_figures
from controlplane.dispatch.streams import StreamBroker
from controlplane.domain.names import parse_child, parse_grandchild
from controlplane.domain.routers import Balancer, BalancerSpec
from controlplane.services.balancers import BalancerService
from moorage.errors import Unavailable
from moorage.v1 import balancers_pb2, balancers_pb2_grpc, router_bundles_pb2

_Context = grpc.aio.ServicerContext[Any, Any]

_SPEC_FIELDS = {
    "spec.mode": "mode",
    "spec.listeners": "listeners",
    "spec.pools": "pools",
    "spec.routes": "routes",
    "spec.forwarded_for": "forwarded_for",
    "spec.idle_timeout": "idle_timeout_seconds",
}


class BalancerServicer(balancers_pb2_grpc.BalancerServiceServicer):
    """Balancers."""

    def __init__(self, balancers: BalancerService, broker: StreamBroker) -> None:
        self._balancers = balancers
        self._broker = broker

    def _message(self, record: Balancer) -> balancers_pb2.Balancer:
        return convert.balancer(record, self._balancers.status(record))

    async def CreateBalancer(
        self, request: balancers_pb2.CreateBalancerRequest, context: _Context
    ) -> balancers_pb2.Balancer:
        record = await self._balancers.create(
            *parse_child(request.parent, "routers", "parent"),
            request.balancer_id,
            dict(request.balancer.labels),
            requests.read(BalancerSpec, request.balancer.spec, "balancer.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateBalancer", request),
        )
        return self._message(record)

    async def GetBalancer(self, request: balancers_pb2.GetBalancerRequest, context: _Context) -> balancers_pb2.Balancer:
        return self._message(self._balancers.get(*parse_grandchild(request.name, "routers", "balancers")))

    async def ListBalancers(
        self, request: balancers_pb2.ListBalancersRequest, context: _Context
    ) -> balancers_pb2.ListBalancersResponse:
        page = self._balancers.list(*parse_child(request.parent, "routers", "parent"), requests.page(request))
        return balancers_pb2.ListBalancersResponse(
            balancers=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateBalancer(
        self, request: balancers_pb2.UpdateBalancerRequest, context: _Context
    ) -> balancers_pb2.Balancer:
        balancer = request.balancer
        paths = masks.paths(request.update_mask, balancer, ("labels", *_SPEC_FIELDS), "a balancer")
        spec = requests.read(BalancerSpec, balancer.spec, "balancer.spec")
        record = await self._balancers.update(
            *parse_grandchild(balancer.name, "routers", "balancers", "balancer.name"),
            labels=dict(balancer.labels) if "labels" in paths else None,
            fields={name: getattr(spec, name) for path, name in _SPEC_FIELDS.items() if path in paths},
            etag=balancer.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteBalancer(
        self, request: balancers_pb2.DeleteBalancerRequest, context: _Context
    ) -> balancers_pb2.DeleteBalancerResponse:
        await self._balancers.delete(*parse_grandchild(request.name, "routers", "balancers"), etag=request.etag)
        return balancers_pb2.DeleteBalancerResponse()

    async def GetBalancerStatistics(
        self, request: balancers_pb2.GetBalancerStatisticsRequest, context: _Context
    ) -> balancers_pb2.GetBalancerStatisticsResponse:
        balancer = self._balancers.get(*parse_grandchild(request.name, "routers", "balancers"))
        members = self._balancers.counting_members(balancer)
        wanted = router_bundles_pb2.RouterFiguresRequest(balancers=True)
        answers, missing = await router_figures.read_all(self._broker, members, wanted)
        figures = router_figures.sum_pools(answers, balancer.id)
        if not figures:
            raise Unavailable(
                f"{members[0].name} does not have {balancer.name} in force yet", reason="ROUTER_NOT_RUNNING"
            )
        return balancers_pb2.GetBalancerStatisticsResponse(
            pools=[self._pool(figures[pool.id]) for pool in balancer.spec.pools if pool.id in figures], missing=missing
        )

    def _pool(self, figure: router_bundles_pb2.PoolFigure) -> balancers_pb2.PoolStatistics:
        return balancers_pb2.PoolStatistics(
            pool=figure.pool_id,
            in_flight=figure.in_flight,
            queued=figure.queued,
            total=figure.total,
            bytes_in=figure.bytes_in,
            bytes_out=figure.bytes_out,
            backends=[
                balancers_pb2.BackendStatistics(
                    instance=self._balancers.instance_name(backend.instance_id),
                    state=backend.state,
                    check=backend.check,
                    in_flight=backend.in_flight,
                    total=backend.total,
                )
                for backend in figure.backends
            ],
        )

"""RouterService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.names import parse_child
from controlplane.domain.routers import Router, RouterSpec
from controlplane.services.routers import RouterChange, RouterService
from moorage.v1 import routers_pb2, routers_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]

_SPEC_PATHS = ("legs", "redundant", "drain_time", "ingress_ports", "edge_hosts")


class RouterServicer(routers_pb2_grpc.RouterServiceServicer):
    """Routers."""

    def __init__(self, routers: RouterService) -> None:
        self._routers = routers

    def _message(self, record: Router) -> routers_pb2.Router:
        return convert.router(record, self._routers.status(record))

    async def CreateRouter(self, request: routers_pb2.CreateRouterRequest, context: _Context) -> routers_pb2.Router:
        record = await self._routers.create(
            requests.parent_of(request),
            request.router_id,
            dict(request.router.labels),
            requests.read(RouterSpec, request.router.spec, "router.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateRouter", request),
        )
        return self._message(record)

    async def GetRouter(self, request: routers_pb2.GetRouterRequest, context: _Context) -> routers_pb2.Router:
        return self._message(self._routers.get(*parse_child(request.name, "routers")))

    async def ListRouters(
        self, request: routers_pb2.ListRoutersRequest, context: _Context
    ) -> routers_pb2.ListRoutersResponse:
        page = self._routers.list(requests.parent_of(request), requests.page(request), requests.visible())
        return routers_pb2.ListRoutersResponse(
            routers=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateRouter(self, request: routers_pb2.UpdateRouterRequest, context: _Context) -> routers_pb2.Router:
        router = request.router
        allowed = ("labels", *(f"spec.{name}" for name in _SPEC_PATHS))
        paths = masks.paths(request.update_mask, router, allowed, "a router")
        spec = requests.read(RouterSpec, router.spec, "router.spec")
        change = RouterChange(
            labels=dict(router.labels) if "labels" in paths else None,
            legs=spec.legs if "spec.legs" in paths else None,
            redundant=spec.redundant if "spec.redundant" in paths else None,
            drain_time_seconds=spec.drain_time_seconds if "spec.drain_time" in paths else None,
            ingress_ports=spec.ingress_ports if "spec.ingress_ports" in paths else None,
            edge_hosts=spec.edge_hosts,
            has_edge_hosts="spec.edge_hosts" in paths,
        )
        record = await self._routers.update(
            *parse_child(router.name, "routers", "router.name"),
            change,
            etag=router.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteRouter(
        self, request: routers_pb2.DeleteRouterRequest, context: _Context
    ) -> routers_pb2.DeleteRouterResponse:
        await self._routers.delete(*parse_child(request.name, "routers"), etag=request.etag, force=request.force)
        return routers_pb2.DeleteRouterResponse()

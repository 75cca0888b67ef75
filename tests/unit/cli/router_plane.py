"""Routers, rules and public addresses of the control plane made of dictionaries (plane.py)."""

from typing import Any

import grpc

from moorage.errors import NotReady
from moorage.v1 import (
    public_addresses_pb2,
    public_addresses_pb2_grpc,
    router_rules_pb2,
    router_rules_pb2_grpc,
    routers_pb2,
    routers_pb2_grpc,
)


class Routers(routers_pb2_grpc.RouterServiceServicer):
    def __init__(self, plane: Any) -> None:
        self.plane = plane

    def CreateRouter(self, request: Any, context: Any) -> Any:
        router = routers_pb2.Router()
        router.CopyFrom(request.router)
        router.name = f"{request.parent}/routers/{request.router_id}"
        router.status.state = routers_pb2.ROUTER_STATE_PENDING
        if not request.validate_only:
            self.plane.put(router)
        return router

    def GetRouter(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListRouters(self, request: Any, context: Any) -> Any:
        return routers_pb2.ListRoutersResponse(routers=self.plane.listed(routers_pb2.Router, request.parent))

    def UpdateRouter(self, request: Any, context: Any) -> Any:
        router = self.plane.get(request.router.name)
        request.update_mask.MergeMessage(request.router, router, True, True)
        self.plane.put(router)
        return router

    def DeleteRouter(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return routers_pb2.DeleteRouterResponse()


class RouterRules(router_rules_pb2_grpc.RouterRuleServiceServicer):
    """As the control plane does, it gives a port forward its protocol."""

    def __init__(self, plane: Any) -> None:
        self.plane = plane

    def _make(self, request: Any, parent: str) -> Any:
        rule = router_rules_pb2.RouterRule()
        rule.CopyFrom(request.rule)
        rule.name = f"{parent}/rules/{request.rule_id or 'made'}"
        _normalize(rule)
        if not request.validate_only:
            self.plane.put(rule)
        return rule

    def CreateRouterRule(self, request: Any, context: Any) -> Any:
        return self._make(request, request.parent)

    def BatchCreateRouterRules(self, request: Any, context: Any) -> Any:
        made = [self._make(item, request.parent) for item in request.requests]
        return router_rules_pb2.BatchCreateRouterRulesResponse(rules=made)

    def GetRouterRule(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListRouterRules(self, request: Any, context: Any) -> Any:
        self.plane.get(request.parent)
        found = self.plane.listed(router_rules_pb2.RouterRule, request.parent)
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(found) else ""
        return router_rules_pb2.ListRouterRulesResponse(rules=found[start : start + 2], next_page_token=token)

    def UpdateRouterRule(self, request: Any, context: Any) -> Any:
        rule = self.plane.get(request.rule.name)
        rule.spec.CopyFrom(request.rule.spec)
        rule.labels.clear()
        rule.labels.update(request.rule.labels)
        _normalize(rule)
        if not request.validate_only:
            self.plane.put(rule)
        return rule

    def BatchDeleteRouterRules(self, request: Any, context: Any) -> Any:
        for name in request.names:
            self.plane.get(name)
        for name in request.names:
            self.plane.remove(name)
        return router_rules_pb2.BatchDeleteRouterRulesResponse()

    def ListRuleCounters(self, request: Any, context: Any) -> Any:
        self.plane.get(request.parent)
        counter = router_rules_pb2.RuleCounter(rule=f"{request.parent}/rules/web", packets=3, bytes=2048)
        return router_rules_pb2.ListRuleCountersResponse(counters=[counter])


def _normalize(rule: Any) -> None:
    if rule.spec.HasField("port_forward") and not rule.spec.port_forward.protocol:
        rule.spec.port_forward.protocol = "tcp"


class PublicAddresses(public_addresses_pb2_grpc.PublicAddressServiceServicer):
    def __init__(self, plane: Any) -> None:
        self.plane = plane

    def CreatePublicAddress(self, request: Any, context: Any) -> Any:
        public = public_addresses_pb2.PublicAddress()
        public.CopyFrom(request.public_address)
        public.name = f"{request.parent}/publicAddresses/{request.address_id}"
        public.status.address = public.spec.address or "198.51.100.20"
        if not request.validate_only:
            self.plane.put(public)
        return public

    def GetPublicAddress(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListPublicAddresses(self, request: Any, context: Any) -> Any:
        found = self.plane.listed(public_addresses_pb2.PublicAddress, request.parent)
        return public_addresses_pb2.ListPublicAddressesResponse(public_addresses=found)

    def DeletePublicAddress(self, request: Any, context: Any) -> Any:
        public = self.plane.get(request.name)
        if public.status.used_by:
            raise NotReady(f"{public.name} is used", reason="PUBLIC_ADDRESS_IN_USE")
        self.plane.remove(request.name)
        return public_addresses_pb2.DeletePublicAddressResponse()


def add_to(server: grpc.Server, plane: Any) -> None:
    """Serve all three."""
    routers_pb2_grpc.add_RouterServiceServicer_to_server(Routers(plane), server)
    router_rules_pb2_grpc.add_RouterRuleServiceServicer_to_server(RouterRules(plane), server)
    public_addresses_pb2_grpc.add_PublicAddressServiceServicer_to_server(PublicAddresses(plane), server)

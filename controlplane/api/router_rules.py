"""RouterRuleService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests, router_figures
from controlplane.dispatch.streams import StreamBroker
from controlplane.domain.names import parse_child, parse_grandchild
from controlplane.domain.routers import RouterRule, RouterRuleSpec
from controlplane.services.router_rules import NewRule, RouterRuleService
from moorage.errors import FieldViolation, InvalidSpec
from moorage.v1 import router_bundles_pb2, router_rules_pb2, router_rules_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


def _new(request: router_rules_pb2.CreateRouterRuleRequest, field: str) -> NewRule:
    spec = requests.read(RouterRuleSpec, request.rule.spec, f"{field}.spec")
    return NewRule(request.rule_id, dict(request.rule.labels), spec, field)


class RouterRuleServicer(router_rules_pb2_grpc.RouterRuleServiceServicer):
    """Rules of routers."""

    def __init__(self, rules: RouterRuleService, broker: StreamBroker) -> None:
        self._rules = rules
        self._broker = broker

    def _message(self, record: RouterRule) -> router_rules_pb2.RouterRule:
        return convert.router_rule(record, self._rules.status(record))

    async def CreateRouterRule(
        self, request: router_rules_pb2.CreateRouterRuleRequest, context: _Context
    ) -> router_rules_pb2.RouterRule:
        made = await self._rules.create(
            *parse_child(request.parent, "routers", "parent"),
            [_new(request, "rule")],
            validate_only=request.validate_only,
            **requests.retry("CreateRouterRule", request),
        )
        return self._message(made[0])

    async def BatchCreateRouterRules(
        self, request: router_rules_pb2.BatchCreateRouterRulesRequest, context: _Context
    ) -> router_rules_pb2.BatchCreateRouterRulesResponse:
        strangers = [
            FieldViolation(f"requests[{index}].parent", "must be empty or the batch's", "NAME_INVALID")
            for index, item in enumerate(request.requests)
            if item.parent not in ("", request.parent)
        ]
        if strangers:
            raise InvalidSpec(strangers)
        made = await self._rules.create(
            *parse_child(request.parent, "routers", "parent"),
            [_new(item, f"requests[{index}].rule") for index, item in enumerate(request.requests)],
            validate_only=request.validate_only,
            **requests.retry("BatchCreateRouterRules", request),
        )
        return router_rules_pb2.BatchCreateRouterRulesResponse(rules=[self._message(record) for record in made])

    async def GetRouterRule(
        self, request: router_rules_pb2.GetRouterRuleRequest, context: _Context
    ) -> router_rules_pb2.RouterRule:
        return self._message(self._rules.get(*parse_grandchild(request.name, "routers", "rules")))

    async def ListRouterRules(
        self, request: router_rules_pb2.ListRouterRulesRequest, context: _Context
    ) -> router_rules_pb2.ListRouterRulesResponse:
        page = self._rules.list(*parse_child(request.parent, "routers", "parent"), requests.page(request))
        return router_rules_pb2.ListRouterRulesResponse(
            rules=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateRouterRule(
        self, request: router_rules_pb2.UpdateRouterRuleRequest, context: _Context
    ) -> router_rules_pb2.RouterRule:
        rule = request.rule
        paths = masks.paths(request.update_mask, rule, ("labels", "spec"), "a rule")
        record = await self._rules.update(
            *parse_grandchild(rule.name, "routers", "rules", "rule.name"),
            labels=dict(rule.labels) if "labels" in paths else None,
            spec=requests.read(RouterRuleSpec, rule.spec, "rule.spec") if "spec" in paths else None,
            etag=rule.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteRouterRule(
        self, request: router_rules_pb2.DeleteRouterRuleRequest, context: _Context
    ) -> router_rules_pb2.DeleteRouterRuleResponse:
        project_id, router_id, rule_id = parse_grandchild(request.name, "routers", "rules")
        await self._rules.delete(project_id, router_id, [rule_id], etag=request.etag)
        return router_rules_pb2.DeleteRouterRuleResponse()

    async def BatchDeleteRouterRules(
        self, request: router_rules_pb2.BatchDeleteRouterRulesRequest, context: _Context
    ) -> router_rules_pb2.BatchDeleteRouterRulesResponse:
        project_id, router_id = parse_child(request.parent, "routers", "parent")
        ids: list[str] = []
        for index, name in enumerate(request.names):
            *owner, rule_id = parse_grandchild(name, "routers", "rules", f"names[{index}]")
            if owner != [project_id, router_id]:
                raise InvalidSpec.of(f"names[{index}]", f"is not a rule of {request.parent}", "NAME_INVALID")
            ids.append(rule_id)
        await self._rules.delete(project_id, router_id, ids)
        return router_rules_pb2.BatchDeleteRouterRulesResponse()

    async def ListRuleCounters(
        self, request: router_rules_pb2.ListRuleCountersRequest, context: _Context
    ) -> router_rules_pb2.ListRuleCountersResponse:
        members = self._rules.counting_members(*parse_child(request.parent, "routers", "parent"))
        wanted = router_bundles_pb2.RouterFiguresRequest(rules=True)
        answers, missing = await router_figures.read_all(self._broker, members, wanted)
        counters = [
            router_rules_pb2.RuleCounter(
                rule=f"{request.parent}/rules/{figure.rule_id}", packets=figure.packets, bytes=figure.bytes
            )
            for figure in router_figures.sum_rules(answers)
        ]
        return router_rules_pb2.ListRuleCountersResponse(counters=counters, missing=missing)

"""Routers, their rules and public addresses as a stock client sees them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2

from controlplane.access.roles import Role
from controlplane.domain.instances import InstanceState, Observed
from controlplane.domain.kinds import HOST, INSTANCE, ROUTER
from controlplane.domain.routers import RouterObserved
from moorage.store.base import Transaction
from moorage.v1 import (
    agent_pb2,
    instances_pb2,
    instances_pb2_grpc,
    networks_pb2,
    networks_pb2_grpc,
    public_addresses_pb2,
    public_addresses_pb2_grpc,
    router_bundles_pb2,
    router_rules_pb2,
    router_rules_pb2_grpc,
    routers_pb2,
    routers_pb2_grpc,
    watch_pb2,
    watch_pb2_grpc,
)
from tests.support.controlplane import Plane, bearer, detail, instance, reason_of, refusal
from tests.unit.api.stream_agent import StreamAgent, ended

P = "projects/default"
EDGE = f"{P}/routers/edge"


class Api:
    """Every stub, called as root."""

    def __init__(self, plane: Plane) -> None:
        channel = plane.channel()
        self.plane = plane
        self.metadata: Any = bearer(plane.admin_key)
        self.routers: Any = routers_pb2_grpc.RouterServiceStub(channel)
        self.rules: Any = router_rules_pb2_grpc.RouterRuleServiceStub(channel)
        self.publics: Any = public_addresses_pb2_grpc.PublicAddressServiceStub(channel)
        self.networks: Any = networks_pb2_grpc.NetworkServiceStub(channel)
        self.instances: Any = instances_pb2_grpc.InstanceServiceStub(channel)
        self.watches: Any = watch_pb2_grpc.WatchServiceStub(channel)

    async def network(self, name: str) -> None:
        request = networks_pb2.CreateNetworkRequest(parent=P, network_id=name)
        await self.networks.CreateNetwork(request, metadata=self.metadata)

    async def create(self, **fields: Any) -> routers_pb2.Router:
        router = routers_pb2.Router(spec=routers_pb2.RouterSpec(legs=[routers_pb2.RouterLeg(network="back")]))
        request = routers_pb2.CreateRouterRequest(parent=P, router_id="edge", router=router, **fields)
        return await self.routers.CreateRouter(request, metadata=self.metadata)

    async def web(self) -> None:
        wanted = instance(nics=[instances_pb2.Nic(network=f"{P}/networks/back")])
        request = instances_pb2.CreateInstanceRequest(parent=P, instance_id="web", instance=wanted)
        await self.instances.CreateInstance(request, metadata=self.metadata)


@pytest.fixture
async def api(plane: Plane) -> Api:
    await plane.template()
    await plane.project("system")
    await plane.template("system", "router", "uid-system/router")
    api = Api(plane)
    await api.network("back")
    await api.network("front")
    return api


def rule(rule_id: str, **spec: Any) -> router_rules_pb2.CreateRouterRuleRequest:
    message = router_rules_pb2.RouterRule(spec=router_rules_pb2.RouterRuleSpec(**spec))
    return router_rules_pb2.CreateRouterRuleRequest(parent=EDGE, rule_id=rule_id, rule=message)


def forward(port: int) -> dict[str, Any]:
    return {"port_forward": router_rules_pb2.PortForward(first_port=port, instance="web")}


async def test_a_router_from_end_to_end(api: Api) -> None:
    made = await api.create(request_id="r1")
    assert (await api.create(request_id="r1")).uid == made.uid
    assert made.name == EDGE
    assert made.spec.outside_network == f"{P}/networks/outside"
    assert made.status.state == routers_pb2.ROUTER_STATE_PENDING
    assert (await refusal(api.create())).code() is grpc.StatusCode.ALREADY_EXISTS
    # Its container is made without being asked for.
    await api.plane.eventually(lambda: bool(api.plane.store.view().find(INSTANCE, "owner", EDGE)))
    got = await api.routers.GetRouter(routers_pb2.GetRouterRequest(name=EDGE), metadata=api.metadata)
    assert [m.instance for m in got.status.members] == [f"{P}/instances/edge-router-1"]
    listed = await api.routers.ListRouters(routers_pb2.ListRoutersRequest(parent="projects/-"), metadata=api.metadata)
    assert [r.name for r in listed.routers] == [EDGE]
    change = routers_pb2.Router(name=EDGE, etag=got.etag)
    change.spec.drain_time.CopyFrom(Duration(seconds=5))
    change.spec.legs.extend([routers_pb2.RouterLeg(network="back"), routers_pb2.RouterLeg(network="front")])
    changed = await api.routers.UpdateRouter(routers_pb2.UpdateRouterRequest(router=change), metadata=api.metadata)
    assert (changed.spec.drain_time.seconds, len(changed.spec.legs)) == (5, 2)
    stale = await refusal(
        api.routers.UpdateRouter(routers_pb2.UpdateRouterRequest(router=change), metadata=api.metadata)
    )
    assert stale.code() is grpc.StatusCode.ABORTED
    mask = FieldMask(paths=["spec.template"])
    request = routers_pb2.UpdateRouterRequest(router=routers_pb2.Router(name=EDGE), update_mask=mask)
    assert reason_of(await refusal(api.routers.UpdateRouter(request, metadata=api.metadata))) == "MASK_INVALID"
    await api.routers.DeleteRouter(routers_pb2.DeleteRouterRequest(name=EDGE), metadata=api.metadata)
    await api.plane.eventually(lambda: api.plane.store.view().count(ROUTER) == 0)


async def test_rules_and_public_addresses(api: Api) -> None:
    await api.create()
    await api.web()
    spec = public_addresses_pb2.PublicAddressSpec(network="outside")
    public = public_addresses_pb2.PublicAddress(spec=spec)
    one = await api.publics.CreatePublicAddress(
        public_addresses_pb2.CreatePublicAddressRequest(parent=P, address_id="one", public_address=public),
        metadata=api.metadata,
    )
    assert one.status.address
    assert not one.status.router
    nat = router_rules_pb2.StaticNat(public_address="one", instance="web")
    made = await api.rules.CreateRouterRule(rule("nat", static_nat=nat), metadata=api.metadata)
    assert made.spec.static_nat.instance == f"{P}/instances/web"
    assert (made.status.public_address, made.status.active) == (one.status.address, False)
    one = await api.publics.GetPublicAddress(
        public_addresses_pb2.GetPublicAddressRequest(name=one.name), metadata=api.metadata
    )
    assert (one.status.router, list(one.status.used_by)) == (EDGE, [f"{EDGE}/rules/nat"])
    release = public_addresses_pb2.DeletePublicAddressRequest(name=one.name)
    error = await refusal(api.publics.DeletePublicAddress(release, metadata=api.metadata))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "PUBLIC_ADDRESS_IN_USE")
    leases = await api.networks.ListAddresses(
        networks_pb2.ListAddressesRequest(parent=f"{P}/networks/outside"), metadata=api.metadata
    )
    assert one.name in [lease.owner for lease in leases.addresses]
    batch = router_rules_pb2.BatchCreateRouterRulesRequest(
        parent=EDGE, requests=[rule("a", **forward(80)), rule("b", **forward(81)), rule("c", **forward(80))]
    )
    error = await refusal(api.rules.BatchCreateRouterRules(batch, metadata=api.metadata))
    bad = detail(error, error_details_pb2.BadRequest)
    assert bad is not None
    assert [(v.field, v.reason) for v in bad.field_violations] == [
        ("requests[2].rule.spec.port_forward.first_port", "RULE_CLASH")
    ]
    del batch.requests[2]
    answer = await api.rules.BatchCreateRouterRules(batch, metadata=api.metadata)
    assert [r.name.rpartition("/")[2] for r in answer.rules] == ["a", "b"]
    listed = await api.rules.ListRouterRules(
        router_rules_pb2.ListRouterRulesRequest(parent=EDGE, filter="kind=port_forward"), metadata=api.metadata
    )
    assert [r.spec.port_forward.target_port for r in listed.rules] == [80, 81]
    change = router_rules_pb2.RouterRule(
        name=f"{EDGE}/rules/a", spec=router_rules_pb2.RouterRuleSpec(**forward(90)), labels={"x": "y"}
    )
    changed = await api.rules.UpdateRouterRule(
        router_rules_pb2.UpdateRouterRuleRequest(rule=change), metadata=api.metadata
    )
    assert (changed.spec.port_forward.first_port, changed.labels["x"]) == (90, "y")
    await api.rules.DeleteRouterRule(
        router_rules_pb2.DeleteRouterRuleRequest(name=f"{EDGE}/rules/nat"), metadata=api.metadata
    )
    names = [f"{EDGE}/rules/a", f"{EDGE}/rules/b"]
    await api.rules.BatchDeleteRouterRules(
        router_rules_pb2.BatchDeleteRouterRulesRequest(parent=EDGE, names=names), metadata=api.metadata
    )
    gone = router_rules_pb2.GetRouterRuleRequest(name=names[0])
    assert (await refusal(api.rules.GetRouterRule(gone, metadata=api.metadata))).code() is grpc.StatusCode.NOT_FOUND
    await api.publics.DeletePublicAddress(release, metadata=api.metadata)


async def test_batches_stay_with_their_router(api: Api) -> None:
    await api.create()
    request = router_rules_pb2.BatchCreateRouterRulesRequest(parent=EDGE, requests=[rule("a", **forward(80))])
    request.requests[0].parent = f"{P}/routers/other"
    error = await refusal(api.rules.BatchCreateRouterRules(request, metadata=api.metadata))
    assert reason_of(error) == "NAME_INVALID"
    names = [f"{P}/routers/other/rules/a"]
    delete = router_rules_pb2.BatchDeleteRouterRulesRequest(parent=EDGE, names=names)
    assert reason_of(await refusal(api.rules.BatchDeleteRouterRules(delete, metadata=api.metadata))) == "NAME_INVALID"
    wrong = router_rules_pb2.GetRouterRuleRequest(name=f"{P}/rules/a")
    assert reason_of(await refusal(api.rules.GetRouterRule(wrong, metadata=api.metadata))) == "NAME_INVALID"


async def test_counters_are_read_from_the_container_that_has_the_traffic(api: Api) -> None:
    await api.create()
    request = router_rules_pb2.ListRuleCountersRequest(parent=EDGE)
    error = await refusal(api.rules.ListRuleCounters(request, metadata=api.metadata))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "ROUTER_NOT_RUNNING")
    host = await api.plane.agent("a")
    fake = StreamAgent(api.plane, host)
    await api.plane.eventually(lambda: any(found.value.epoch for found in api.plane.store.view().all(HOST)))
    await api.plane.eventually(lambda: bool(api.plane.store.view().find(INSTANCE, "owner", EDGE)))
    member = await api.plane.running(f"{P}/instances/edge-router-1")

    async def answer(asked: Any, _: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        assert (asked.instance_id, asked.router_figures.rules) == (member.uid, True)
        figures = router_bundles_pb2.RouterFigures()
        figures.rules.add(rule_id="web", packets=3, bytes=180)
        figures.rules.add(rule_id="nat", packets=1, bytes=60)
        yield agent_pb2.OpenStreamRequest(router_figures=figures)
        yield ended()

    fake.answer = answer
    try:
        answered = await api.rules.ListRuleCounters(request, metadata=api.metadata)
        assert [(c.rule, c.packets, c.bytes) for c in answered.counters] == [
            (f"{EDGE}/rules/nat", 1, 60),
            (f"{EDGE}/rules/web", 3, 180),
        ]
    finally:
        await fake.end()


async def test_watches_show_them_as_they_stand(api: Api) -> None:
    await api.create()
    await api.web()
    request = watch_pb2.WatchRequest(kinds=["routers", "router_rules", "public_addresses"], parent=P)
    watch = api.watches.Watch(request, metadata=api.metadata)
    seen: list[Any] = []

    async def until(is_it: Any) -> Any:
        async for message in watch:
            if message.HasField("change"):
                seen.append(message.change)
                if is_it(message.change):
                    return message.change
        raise AssertionError("the watch ended")

    await until(lambda change: change.router.name == EDGE)
    await api.rules.CreateRouterRule(rule("a", **forward(80)), metadata=api.metadata)
    made = await until(lambda change: change.router_rule.name.endswith("/rules/a"))
    assert made.router_rule.status.message == "the router does not run"

    def load(tx: Transaction) -> None:
        (member,) = tx.find(INSTANCE, "owner", EDGE)
        tx.put(INSTANCE, replace(member.value, observed=Observed(InstanceState.RUNNING)))
        router = tx.get(ROUTER, "default/edge")
        assert router is not None
        tx.put(ROUTER, replace(router.value, observed=(RouterObserved(member.value.uid, 1, tx.revision),)))

    await api.plane.store.update(load)
    active = await until(lambda change: change.router.status.state == routers_pb2.ROUTER_STATE_ACTIVE)
    assert active.router.status.outside_addresses


async def test_nobody_reaches_into_another_project(api: Api) -> None:
    await api.plane.project("theirs")
    api.metadata = await api.plane.key("eve", {"default": Role.OPERATOR})
    router = routers_pb2.Router(spec=routers_pb2.RouterSpec(legs=[{"network": "projects/theirs/networks/n"}]))
    request = routers_pb2.CreateRouterRequest(parent=P, router_id="x", router=router)
    assert reason_of(await refusal(api.routers.CreateRouter(request, metadata=api.metadata))) == "OTHER_PROJECT"
    listed = await api.routers.ListRouters(routers_pb2.ListRoutersRequest(parent="projects/-"), metadata=api.metadata)
    assert list(listed.routers) == []

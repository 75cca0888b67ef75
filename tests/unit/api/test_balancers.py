"""Balancers as a stock client sees them; private keys are never seen."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2

from controlplane.domain.instances import InstanceState, Observed
from controlplane.domain.kinds import AUDIT_EVENT, BALANCER, EVENT, HOST, INSTANCE, ROUTER
from controlplane.domain.routers import RouterObserved
from moorage.store.base import Transaction
from moorage.v1 import agent_pb2, balancers_pb2, balancers_pb2_grpc, router_bundles_pb2, watch_pb2
from tests.support.certificates import make
from tests.support.controlplane import Plane, detail, reason_of, refusal
from tests.unit.api.stream_agent import StreamAgent, ended
from tests.unit.api.test_routers import EDGE, Api, P, api, forward, rule

__all__ = ["api"]
LB = f"{EDGE}/balancers/lb"
ONE = make("one.test")


def balancer(**fields: Any) -> balancers_pb2.Balancer:
    pool = balancers_pb2.BackendPool(id="web", backends=[balancers_pb2.Backend(instance="web", port=8080)])
    spec = {
        "mode": balancers_pb2.BALANCER_MODE_HTTP,
        "listeners": [balancers_pb2.Listener(port=80)],
        "pools": [pool],
        **fields,
    }
    return balancers_pb2.Balancer(spec=balancers_pb2.BalancerSpec(**spec))


def tls(port: int = 443, *, key: str = ONE.private_key_pem) -> balancers_pb2.Listener:
    certificate = balancers_pb2.Certificate(certificate_pem=ONE.certificate_pem, private_key_pem=key)
    return balancers_pb2.Listener(port=port, certificates=[certificate])


class Balancers:
    """The stub, called as root."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._stub: Any = balancers_pb2_grpc.BalancerServiceStub(api.plane.channel())

    def __getattr__(self, name: str) -> Any:
        return lambda request: getattr(self._stub, name)(request, metadata=self.api.metadata)

    async def create(self, wanted: balancers_pb2.Balancer, **fields: Any) -> balancers_pb2.Balancer:
        request = balancers_pb2.CreateBalancerRequest(parent=EDGE, balancer_id="lb", balancer=wanted, **fields)
        made: balancers_pb2.Balancer = await self.CreateBalancer(request)
        return made


@pytest.fixture
async def lbs(api: Api) -> Balancers:
    await api.create()
    await api.web()
    return Balancers(api)


async def test_a_balancer_from_end_to_end(lbs: Balancers) -> None:
    checked = await lbs.create(balancer(), validate_only=True)
    assert checked.status.active is False
    made = await lbs.create(balancer(), request_id="r1")
    assert (await lbs.create(balancer(), request_id="r1")).uid == made.uid
    assert made.name == LB
    assert made.spec.pools[0].backends[0].instance == f"{P}/instances/web"
    assert made.status.message == "the router does not run"
    assert (await refusal(lbs.create(balancer(listeners=[balancers_pb2.Listener(port=81)])))).code() is (
        grpc.StatusCode.ALREADY_EXISTS
    )
    assert await lbs.GetBalancer(balancers_pb2.GetBalancerRequest(name=LB)) == made
    listed = await lbs.ListBalancers(balancers_pb2.ListBalancersRequest(parent=EDGE))
    assert [one.name for one in listed.balancers] == [LB]

    change = balancers_pb2.Balancer(name=LB, etag=made.etag)
    change.spec.idle_timeout.CopyFrom(Duration(seconds=5))
    changed = await lbs.UpdateBalancer(balancers_pb2.UpdateBalancerRequest(balancer=change))
    assert (changed.spec.idle_timeout.seconds, len(changed.spec.pools)) == (5, 1)
    stale = await refusal(lbs.UpdateBalancer(balancers_pb2.UpdateBalancerRequest(balancer=change)))
    assert stale.code() is grpc.StatusCode.ABORTED
    mask = FieldMask(paths=["spec.forwarded_for"])
    off = balancers_pb2.Balancer(name=LB, spec=balancers_pb2.BalancerSpec(forwarded_for=False))
    changed = await lbs.UpdateBalancer(balancers_pb2.UpdateBalancerRequest(balancer=off, update_mask=mask))
    assert changed.spec.HasField("forwarded_for")
    wrong = balancers_pb2.UpdateBalancerRequest(balancer=off, update_mask=FieldMask(paths=["uid"]))
    assert reason_of(await refusal(lbs.UpdateBalancer(wrong))) == "MASK_INVALID"
    await lbs.DeleteBalancer(balancers_pb2.DeleteBalancerRequest(name=LB))
    gone = await refusal(lbs.GetBalancer(balancers_pb2.GetBalancerRequest(name=LB)))
    assert gone.code() is grpc.StatusCode.NOT_FOUND


async def test_every_bad_field_is_named(lbs: Balancers) -> None:
    bad = balancer(listeners=[balancers_pb2.Listener(port=0)], pools=[balancers_pb2.BackendPool(id="Web")])
    error = await refusal(lbs.create(bad))
    violations = detail(error, error_details_pb2.BadRequest)
    assert violations is not None
    assert {v.field for v in violations.field_violations} == {
        "balancer.spec.listeners[0].port",
        "balancer.spec.pools[0].id",
    }
    await lbs.api.rules.CreateRouterRule(rule("a", **forward(80)), metadata=lbs.api.metadata)
    assert reason_of(await refusal(lbs.create(balancer()))) == "RULE_CLASH"
    assert reason_of(await refusal(lbs.create(balancer(listeners=[tls(key=make("x").private_key_pem)])))) == (
        "CERTIFICATE_INVALID"
    )


async def test_a_private_key_is_never_read_back(lbs: Balancers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = lbs.api.plane.store
    seen: list[Any] = []
    watch = lbs.api.watches.Watch(watch_pb2.WatchRequest(kinds=["balancers"], parent=P), metadata=lbs.api.metadata)
    answers = [await lbs.create(balancer(listeners=[tls()]))]
    answers.append(await lbs.GetBalancer(balancers_pb2.GetBalancerRequest(name=LB)))
    answers.append(await lbs.ListBalancers(balancers_pb2.ListBalancersRequest(parent=EDGE)))
    change = balancers_pb2.Balancer(name=LB, spec=balancers_pb2.BalancerSpec(listeners=[tls(8443, key="")]))
    answers.append(await lbs.UpdateBalancer(balancers_pb2.UpdateBalancerRequest(balancer=change)))
    refused = await refusal(lbs.create(balancer(listeners=[tls(key="x" + ONE.private_key_pem)], mode=99)))
    async for message in watch:
        if message.HasField("change"):
            seen.append(message.change.balancer)
            if message.change.balancer.spec.listeners[0].port == 8443:
                break
    assert seen
    events = [found.value for kind in (EVENT, AUDIT_EVENT) for found in store.view().all(kind)]
    secret = ONE.private_key_pem.splitlines()[1]
    told = [
        *map(str, (*answers, *seen, *events)),
        str(refused.details()),
        str(refused.debug_error_string()),
        caplog.text,
    ]
    assert not [text for text in told if secret in text or "PRIVATE KEY" in text]
    assert all("BEGIN CERTIFICATE" in text for text in map(str, answers))
    found = store.view().get(BALANCER, "default/edge/lb")
    assert found is not None
    kept = found.value.spec.listeners[0].certificates[0]
    assert kept.private_key_pem == ONE.private_key_pem  # and the router is told


@pytest.fixture
async def agent(lbs: Balancers) -> AsyncIterator[StreamAgent]:
    """Of the host that carries the router."""
    plane: Plane = lbs.api.plane
    made = StreamAgent(plane, await plane.agent("a"))
    await plane.eventually(lambda: any(h.value.epoch for h in plane.store.view().all(HOST)))
    await plane.eventually(lambda: any(f.value.host_uid for f in plane.store.view().find(INSTANCE, "owner", EDGE)))
    yield made
    await made.end()


async def test_figures_come_from_the_routers_host(lbs: Balancers, agent: StreamAgent) -> None:
    await lbs.create(balancer())
    request = balancers_pb2.GetBalancerStatisticsRequest(name=LB)
    assert reason_of(await refusal(lbs.GetBalancerStatistics(request))) == "ROUTER_NOT_RUNNING"
    view = lbs.api.plane.store.view()
    web = view.get(INSTANCE, "default/web")
    assert web is not None

    def load(tx: Transaction) -> None:
        (member,) = tx.find(INSTANCE, "owner", EDGE)
        tx.put(INSTANCE, replace(member.value, observed=Observed(InstanceState.RUNNING)))
        router = tx.get(ROUTER, "default/edge")
        assert router is not None
        tx.put(ROUTER, replace(router.value, observed=(RouterObserved(member.value.uid, 1, tx.revision),)))

    await lbs.api.plane.store.update(load)
    pools: list[router_bundles_pb2.PoolFigure] = []

    async def answer(wanted: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        assert wanted.router_figures.balancers
        yield agent_pb2.OpenStreamRequest(router_figures=router_bundles_pb2.RouterFigures(pools=pools))
        yield ended()

    agent.answer = answer
    assert reason_of(await refusal(lbs.GetBalancerStatistics(request))) == "ROUTER_NOT_RUNNING"
    backend = router_bundles_pb2.BackendFigure(
        instance_id=web.value.uid, state="up", check="Layer4 check passed", in_flight=1, total=4
    )
    pools += [
        router_bundles_pb2.PoolFigure(balancer_id="other", pool_id="web", total=9),
        router_bundles_pb2.PoolFigure(
            balancer_id="lb", pool_id="web", in_flight=1, queued=2, total=5, bytes_in=6, bytes_out=7, backends=[backend]
        ),
    ]
    answered = await lbs.GetBalancerStatistics(request)
    assert answered.pools == [
        balancers_pb2.PoolStatistics(
            pool="web",
            in_flight=1,
            queued=2,
            total=5,
            bytes_in=6,
            bytes_out=7,
            backends=[
                balancers_pb2.BackendStatistics(
                    instance=f"{P}/instances/web", state="up", check="Layer4 check passed", in_flight=1, total=4
                )
            ],
        )
    ]

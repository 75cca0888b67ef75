"""Balancers: what they may speak of, what clashes, whose keys are kept, and how they stand."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.instances import InstanceState, Nic, Observed
from controlplane.domain.kinds import BALANCER, INSTANCE, ROUTER
from controlplane.domain.networks import DhcpSpec, NetworkSpec, Subnet
from controlplane.domain.routers import (
    Backend,
    BackendPool,
    Balancer,
    BalancerSpec,
    Listener,
    PortForward,
    PublicAddressSpec,
    RouterLeg,
    RouterObserved,
    RouterRuleSpec,
    RouterSpec,
    StaticNat,
)
from controlplane.router_members.loop import RouterMembers
from controlplane.services.instance_names import InstanceNames
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest
from controlplane.services.router_rules import NewRule
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, Unavailable, VersionConflict
from moorage.router_bundle import BalancerMode, Certificate
from moorage.store.base import Transaction
from tests.support.certificates import make
from tests.unit.controlplane.world import P, World, problems

ONE = f"projects/{P}/publicAddresses/one"
WEB = f"projects/{P}/instances/web"
BACK = f"projects/{P}/networks/back"


@pytest.fixture
async def edge(world: World) -> World:
    """A router before back and front, an instance on back and one on no network of it, and a public address."""
    await world.networks.create(P, "six", {}, NetworkSpec(subnets=(Subnet("10.6.0.0/24"),)))
    await world.routers.create(P, "edge", {}, RouterSpec(legs=(RouterLeg("back"), RouterLeg("front"))))
    await world.create("web", Nic("back"))
    await world.create("stranger", Nic("six"))
    await world.public_addresses.create(P, "one", {}, PublicAddressSpec("outside"))
    return world


def spec(*listeners: Listener, backends: tuple[Backend, ...] = (Backend("web", 8080),), **fields: Any) -> BalancerSpec:
    pools = (BackendPool("web", backends),)
    return BalancerSpec(
        **{"mode": BalancerMode.HTTP, "listeners": listeners or (Listener(port=80),), "pools": pools, **fields}
    )


async def add(world: World, name: str, wanted: BalancerSpec, **fields: Any) -> Balancer:
    return await world.balancers.create(P, "edge", name, {}, wanted, **fields)


async def refused(world: World, wanted: BalancerSpec) -> list[tuple[str, str]]:
    before = world.store.view().revision
    with pytest.raises(InvalidSpec) as caught:
        await add(world, "bad", wanted)
    assert world.store.view().revision == before
    return [(field.removeprefix("balancer.spec."), reason) for field, reason in problems(caught.value)]


async def test_where_a_router_answers_for_names_no_balancer_listens(edge: World) -> None:
    inside = Listener(inside_network="back", port=53)
    await add(edge, "lb", spec(inside, Listener(port=53)))
    with pytest.raises(InvalidSpec) as caught:
        await edge.networks.update(P, "back", dhcp=DhcpSpec(enabled=True))
    assert problems(caught.value) == [("network.spec.dhcp", "RULE_CLASH")]
    await edge.balancers.delete(P, "edge", "lb")
    await edge.networks.update(P, "back", dhcp=DhcpSpec(enabled=True))
    assert await refused(edge, spec(Listener(port=80), inside)) == [("listeners[1].port", "RULE_CLASH")]
    await add(edge, "lb", spec(Listener(inside_network="back", port=54), Listener(port=53)))


async def test_names_become_full(edge: World) -> None:
    made = await add(edge, "lb", spec(Listener("one", port=80), Listener(inside_network="back", port=80)))
    assert made.name == f"projects/{P}/routers/edge/balancers/lb"
    assert [(x.public_address, x.inside_network) for x in made.spec.listeners] == [(ONE, ""), ("", BACK)]
    assert made.spec.pools[0].backends == (Backend(WEB, 8080, 100),)
    assert edge.routers.get(P, "edge").asked_revision == edge.store.view().revision
    assert edge.balancers.get(P, "edge", "lb") == made
    assert [found.value for found in edge.balancers.list(P, "edge", PageRequest()).items] == [made]
    with pytest.raises(AlreadyExists):
        await add(edge, "lb", spec(Listener(port=81)))
    with pytest.raises(NotFound):
        await edge.balancers.create(P, "none", "lb", {}, spec())


async def test_what_no_balancer_can_speak_of_is_refused_whole(edge: World) -> None:
    backends = (Backend("web", 80), Backend("stranger", 80), Backend("none", 80))
    assert await refused(edge, spec(Listener(inside_network="six", port=80), backends=backends)) == [
        ("listeners[0].inside_network", "TARGET_NOT_A_MEMBER"),
        ("pools[0].backends[1].instance", "BACKEND_NOT_A_MEMBER"),
        ("pools[0].backends[2].instance", "BACKEND_NOT_A_MEMBER"),
    ]
    assert await refused(edge, spec(Listener("one", port=80, source_cidrs=("10.0.0.0/8", "fd00::/8")))) == [
        ("listeners[0].source_cidrs[1]", "CIDR_INVALID")
    ]
    with pytest.raises(NotFound):
        await add(edge, "bad", spec(Listener("none", port=80)))
    with pytest.raises(InvalidSpec) as caught:
        await edge.balancers.create(P, "edge", "Bad", {"": "x"}, BalancerSpec())
    assert {field for field, _ in problems(caught.value)} >= {
        "balancer_id",
        "balancer.spec.listeners",
        "balancer.spec.pools",
    }


async def test_ports_are_taken_once(edge: World) -> None:
    await add(edge, "lb", spec(Listener(port=80), Listener(inside_network="back", port=80)))
    taken = spec(Listener(port=80), Listener(port=81), Listener(port=81), Listener(inside_network="back", port=80))
    assert await refused(edge, taken) == [
        ("listeners[0].port", "RULE_CLASH"),
        ("listeners[2].port", "RULE_CLASH"),
        ("listeners[3].port", "RULE_CLASH"),
    ]
    forward = RouterRuleSpec(port_forward=PortForward(first_port=8000, last_port=8010, instance="web"))
    await edge.rules.create(P, "edge", [NewRule("f", {}, forward)])
    await edge.rules.create(P, "edge", [NewRule("n", {}, RouterRuleSpec(static_nat=StaticNat("one", "web")))])
    assert await refused(edge, spec(Listener(port=8005), Listener("one", port=443))) == [
        ("listeners[0].port", "RULE_CLASH"),
        ("listeners[1].port", "RULE_CLASH"),
    ]
    wanted = RouterRuleSpec(port_forward=PortForward(first_port=80, instance="web"))
    with pytest.raises(InvalidSpec) as caught:
        await edge.rules.create(P, "edge", [NewRule("g", {}, wanted)])
    assert [reason for _, reason in problems(caught.value)] == ["RULE_CLASH"]


async def test_keys_stay_with_their_certificate(edge: World) -> None:
    one, other = make("one.test", now=edge.clock.now()), make("other.test", now=edge.clock.now())
    tls = Listener(port=443, certificates=(Certificate(one.certificate_pem, one.private_key_pem),))
    made = await add(edge, "lb", spec(tls))
    assert made.spec.listeners[0].certificates[0].private_key_pem == one.private_key_pem
    assert "PRIVATE" not in repr(made)

    def shown(*certificates: Certificate) -> dict[str, object]:
        return {"listeners": (replace(tls, port=8443, certificates=certificates),)}

    without = Certificate(one.certificate_pem)
    changed = await edge.balancers.update(P, "edge", "lb", fields=shown(without))
    assert (changed.spec.listeners[0].port, changed.generation) == (8443, 2)
    assert changed.spec.listeners[0].certificates == made.spec.listeners[0].certificates
    with pytest.raises(InvalidSpec) as caught:
        await edge.balancers.update(P, "edge", "lb", fields=shown(without, Certificate(other.certificate_pem)))
    assert problems(caught.value) == [("balancer.spec.listeners[0].certificates[1].private_key_pem", "REQUIRED")]
    with pytest.raises(InvalidSpec) as caught:
        await edge.balancers.update(
            P, "edge", "lb", fields=shown(Certificate(one.certificate_pem, other.private_key_pem))
        )
    assert problems(caught.value) == [
        ("balancer.spec.listeners[0].certificates[0].private_key_pem", "CERTIFICATE_INVALID")
    ]
    assert edge.balancers.get(P, "edge", "lb") == changed
    edge.clock.advance(2 * 86400)
    assert (await edge.balancers.update(P, "edge", "lb", labels={"a": "b"})).labels == {"a": "b"}


async def test_updates_and_deletes(edge: World) -> None:
    made = await add(edge, "lb", spec(), request_key="k", body=b"1")
    assert await add(edge, "lb", spec(), request_key="k", body=b"1") == made
    dry = await edge.balancers.update(P, "edge", "lb", fields={"idle_timeout_seconds": 9.0}, validate_only=True)
    assert dry.spec.idle_timeout_seconds == 9.0
    assert edge.balancers.get(P, "edge", "lb") == made
    drained = (BackendPool("web", (Backend("web", 8080, drain=True),)),)
    changed = await edge.balancers.update(P, "edge", "lb", fields={"pools": drained}, etag=etag_of(made))
    assert changed.spec.pools[0].backends[0].drain
    assert changed.spec.listeners == made.spec.listeners
    with pytest.raises(VersionConflict):
        await edge.balancers.update(P, "edge", "lb", labels={}, etag=etag_of(made))
    with pytest.raises(InvalidSpec):
        await edge.balancers.update(P, "edge", "lb", fields={"mode": BalancerMode.TCP, "forwarded_for": True})
    with pytest.raises(VersionConflict):
        await edge.balancers.delete(P, "edge", "lb", etag=etag_of(made))
    await edge.balancers.delete(P, "edge", "lb")
    with pytest.raises(NotFound):
        edge.balancers.get(P, "edge", "lb")


async def test_a_back_end_that_goes_away_stays_in_the_record(edge: World) -> None:
    await add(edge, "lb", spec())
    await edge.instances.delete(P, ["web"], force=True)
    changed = await edge.balancers.update(P, "edge", "lb", fields={"idle_timeout_seconds": 9.0})
    assert changed.spec.pools[0].backends[0].instance == WEB
    assert await refused(edge, spec(Listener(port=81))) == [("pools[0].backends[0].instance", "BACKEND_NOT_A_MEMBER")]


async def test_how_it_stands(edge: World, members: RouterMembers) -> None:
    made = await add(
        edge, "lb", spec(Listener(port=80), Listener("one", port=443), Listener(inside_network="back", port=80))
    )
    assert edge.balancers.status(made).message == "the router does not run"
    with pytest.raises(Unavailable):
        edge.balancers.counting_members(made)
    await members.reconcile_once()
    (member,) = (found.value for found in edge.store.view().find(INSTANCE, "owner", f"projects/{P}/routers/edge"))

    def runs(version: int, failed: int = 0, error: str = "") -> Any:
        def write(tx: Transaction) -> None:
            tx.put(INSTANCE, replace(tx_member(tx), observed=Observed(InstanceState.RUNNING)))
            router = edge.routers.get(P, "edge")
            observed = RouterObserved(member.uid, running_version=version, failed_version=failed, error=error)
            tx.put(ROUTER, replace(router, observed=(observed,)))

        return write

    def tx_member(tx: Transaction) -> Any:
        found = tx.get(INSTANCE, INSTANCE.key(member))
        assert found is not None
        return found.value

    found = edge.store.view().get(BALANCER, BALANCER.key(made))
    assert found is not None
    await edge.store.update(runs(found.revision - 1))
    assert "still at version" in edge.balancers.status(made).message
    await edge.store.update(runs(found.revision - 1, found.revision, "[ALERT] bad"))
    assert edge.balancers.status(made).message.endswith("could not load it: [ALERT] bad")
    await edge.store.update(runs(found.revision))
    status = edge.balancers.status(made)
    assert (status.active, status.message) == (True, "")
    own = member.nics[0].addresses[0].partition("/")[0]
    assert status.endpoints == (f"{own}:80", "10.1.0.1:80")  # the public address is not on the member yet
    assert [one.uid for one in edge.balancers.counting_members(made)] == [member.uid]
    assert edge.balancers.instance_name(member.uid) == member.name
    assert edge.balancers.instance_name("gone") == "gone"


async def test_a_renamed_instance_stays_behind_its_balancers_and_rules(edge: World) -> None:
    await add(edge, "lb", spec(Listener(port=80), backends=(Backend("web", 8080), Backend("web", 8081))))
    forward = RouterRuleSpec(port_forward=PortForward(first_port=8000, last_port=8010, instance="web"))
    nat = RouterRuleSpec(static_nat=StaticNat("one", "web"))
    await edge.rules.create(P, "edge", [NewRule("f", {}, forward), NewRule("n", {}, nat)])
    before = edge.balancers.get(P, "edge", "lb")
    await InstanceNames(edge.context).rename(P, "web", "shop")
    shop = f"projects/{P}/instances/shop"
    after = edge.balancers.get(P, "edge", "lb")
    assert [backend.instance for backend in after.spec.pools[0].backends] == [shop, shop]
    assert after.generation == before.generation + 1
    assert edge.rules.get(P, "edge", "f").spec.port_forward.instance == shop  # type: ignore[union-attr]
    assert edge.rules.get(P, "edge", "n").spec.static_nat.instance == shop  # type: ignore[union-attr]
    edge.audit()

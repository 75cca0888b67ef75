"""How routers and rules are said to stand."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.instances import DesiredState, Instance, InstanceState, Nic, Observed
from controlplane.domain.kinds import INSTANCE, ROUTER
from controlplane.domain.routers import (
    FirewallRule,
    PortForward,
    PublicAddressSpec,
    Router,
    RouterLeg,
    RouterObserved,
    RouterRuleSpec,
    RouterSpec,
    RouterState,
    StaticNat,
)
from controlplane.router_members.loop import RouterMembers
from controlplane.routers.status import RuleStatus, running_members, status_of
from controlplane.services.router_rules import NewRule
from controlplane.services.routers import RouterChange
from moorage.router_bundle import FirewallDirection, RouterRole
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World
from tests.unit.routers.scenes import member, router

RUNNING = Observed(InstanceState.RUNNING)


def state(members: list[Instance], *observed: RouterObserved, **fields: Any) -> tuple[RouterState, str]:
    found = status_of(router(observed=observed, **{"asked_revision": 10, **fields}), members)
    assert bool(found.reason) == bool(found.message)
    return found.state, found.reason


def seen(slot: str = "1", version: int = 10, **fields: Any) -> RouterObserved:
    return RouterObserved(member(slot).uid, 1, version, **fields)


ONE, TWO = member("1", observed=RUNNING), member("2", observed=RUNNING)
EDGE = member("e-h2", observed=RUNNING)
WAITING = member("1", observed=Observed(InstanceState.PENDING, "UNPLACEABLE", "no host fits"))
ACTIVE, STANDBY = RouterRole.ACTIVE, RouterRole.STANDBY


@pytest.mark.parametrize(
    ("members", "observed", "fields", "expected"),
    [
        ([], (), {}, (RouterState.PENDING, "MEMBER_NOT_RUNNING")),
        ([], (), {"reason": "QUOTA_EXCEEDED", "message": "m"}, (RouterState.PENDING, "QUOTA_EXCEEDED")),
        ([WAITING], (), {}, (RouterState.PENDING, "UNPLACEABLE")),
        ([ONE], (), {}, (RouterState.PENDING, "MEMBER_NOT_RUNNING")),
        ([ONE], (seen(version=0),), {}, (RouterState.PENDING, "MEMBER_NOT_RUNNING")),
        ([WAITING], (seen(),), {}, (RouterState.PENDING, "UNPLACEABLE")),
        ([ONE], (seen(),), {}, (RouterState.ACTIVE, "")),
        ([ONE], (seen(version=11),), {}, (RouterState.ACTIVE, "")),
        ([ONE], (seen(version=9),), {}, (RouterState.UPDATING, "")),
        ([ONE], (seen(),), {"reason": "DOES_NOT_FIT", "message": "m"}, (RouterState.UPDATING, "DOES_NOT_FIT")),
        (
            [ONE],
            (seen(version=9, failed_version=10, error="no"),),
            {},
            (RouterState.DEGRADED, "CONFIGURATION_REFUSED"),
        ),
        ([ONE], (seen(version=11, failed_version=10, error="no"),), {}, (RouterState.ACTIVE, "")),
        ([ONE, TWO], (seen(role=ACTIVE), seen("2", role=STANDBY)), {}, (RouterState.ACTIVE, "")),
        (
            [ONE, TWO],
            (seen(role=ACTIVE), seen("2", role=ACTIVE)),
            {"redundant": True},
            (RouterState.SPLIT, "ROUTER_SPLIT"),
        ),
        ([WAITING, TWO], (seen(role=ACTIVE), seen("2", role=ACTIVE)), {}, (RouterState.ACTIVE, "MEMBER_NOT_RUNNING")),
        ([ONE, EDGE], (seen(role=ACTIVE), seen("e-h2", role=ACTIVE)), {}, (RouterState.ACTIVE, "")),
        ([ONE], (seen(),), {"is_deleting": True}, (RouterState.DELETING, "")),
    ],
)
def test_where_a_router_stands(
    members: list[Instance],
    observed: tuple[RouterObserved, ...],
    fields: dict[str, Any],
    expected: tuple[RouterState, str],
) -> None:
    assert state(members, *observed, **fields) == expected


def test_members_and_addresses_are_shown() -> None:
    two = replace(member("2", lent=("198.51.100.20/24",)), host="h2", host_uid="u")
    one = member("1", lent=("198.51.100.20/24",))
    found = status_of(router(observed=(seen("2", 7, role=ACTIVE, error="e", failed_version=8),)), [two, one])
    assert [(m.instance, m.host) for m in found.members] == [(one.name, ""), (two.name, "hosts/h2")]
    shown = found.members[1]
    assert (shown.role, shown.running_version, shown.failed_version, shown.error) == (ACTIVE, 7, 8, "e")
    assert found.outside_addresses == ("198.51.100.9", "198.51.100.20")


def test_who_has_the_traffic() -> None:
    both = (seen(role=STANDBY), seen("2", role=ACTIVE))
    pair = router(observed=both, redundant=True)
    assert running_members(pair, [ONE, TWO], ()) == [TWO, ONE]
    assert running_members(router(redundant=True), [TWO, ONE], ()) == [ONE, TWO]
    assert running_members(pair, [ONE, member("2")], ()) == [ONE], "one that does not run says nothing"
    edge = replace(ONE, uid="uid-edge", id="edge-router-e-h3")
    assert running_members(router(observed=(seen(role=STANDBY),)), [edge, ONE], ()) == [ONE, edge]
    assert running_members(router(), [WAITING], ()) == []
    assert running_members(pair, [replace(TWO, given_up="its host is lost")], ()) == []
    assert running_members(pair, [ONE, replace(TWO, host_uid="uid-h2")], {"uid-h2"}) == [ONE]


def test_a_single_router_waits_for_its_lost_host_and_says_so() -> None:
    there = replace(ONE, host="h1", host_uid="uid-h1")
    found = status_of(router(observed=(seen(),), asked_revision=10), [there], {"uid-h1"})
    assert (found.state, found.reason) == (RouterState.DEGRADED, "HOST_LOST")
    assert "moor host lost h1" in found.message
    edge = replace(ONE, uid="uid-e", id="edge-router-e-h3", host="h3", host_uid="uid-h3")
    beside = status_of(router(observed=(seen(version=11),), asked_revision=10), [there, edge], {"uid-h3"})
    assert (beside.state, beside.reason) == (RouterState.ACTIVE, "MEMBER_NOT_RUNNING")


class _Edge:
    """A router whose one member runs, and what it is told to have loaded."""

    def __init__(self, world: World, members: RouterMembers) -> None:
        self.world, self._members = world, members

    async def begin(self) -> "_Edge":
        await self.world.routers.create(P, "edge", {}, RouterSpec(legs=(RouterLeg("back"), RouterLeg("front"))))
        await self.world.create("web", Nic("back"))
        await self.world.public_addresses.create(P, "one", {}, PublicAddressSpec("outside"))
        await self._members.reconcile_once()
        return self

    async def add(self, rule_id: str, spec: RouterRuleSpec) -> None:
        await self.world.rules.create(P, "edge", [NewRule(rule_id, {}, spec)])

    async def settle(self) -> None:
        """The members' keeper has its turn."""
        await self._members.reconcile_once()

    async def load(self, version: int | None = None, network_generation: int = 1, **fields: Any) -> None:
        """The member runs this version; default: the newest."""

        def write(tx: Transaction) -> None:
            (found,) = tx.find(INSTANCE, "owner", self.router.name)
            tx.put(INSTANCE, replace(found.value, observed=replace(RUNNING, network_generation=network_generation)))
            said = RouterObserved(found.value.uid, 1, tx.revision if version is None else version, **fields)
            tx.put(ROUTER, replace(self.router, observed=(said,)))

        await self.world.store.update(write)

    @property
    def router(self) -> Router:
        return self.world.routers.get(P, "edge")

    def rule(self, rule_id: str) -> RuleStatus:
        return self.world.rules.status(self.world.rules.get(P, "edge", rule_id))


@pytest.fixture
async def edge(world: World, members: RouterMembers) -> _Edge:
    return await _Edge(world, members).begin()


FORWARD = RouterRuleSpec(port_forward=PortForward(first_port=80, instance="web"))


async def test_a_rule_is_active_once_members_run_it(edge: _Edge) -> None:
    await edge.add("r", FORWARD)
    web = edge.world.get("web").nics[0].addresses[0].partition("/")[0]
    assert edge.rule("r") == RuleStatus(False, "the router does not run", "", web)
    await edge.load(1)
    assert "is still at version 1" in edge.rule("r").message
    newest = edge.world.store.view().revision
    await edge.load(1, failed_version=newest, error="nft says no")
    assert "could not load it: nft says no" in edge.rule("r").message
    await edge.load()
    assert edge.rule("r") == RuleStatus(True, "", "", web)
    assert edge.world.routers.status(edge.router).state is RouterState.ACTIVE
    await edge.add("s", RouterRuleSpec(firewall=FirewallRule(FirewallDirection.IN)))
    assert edge.rule("r").active
    assert not edge.rule("s").active
    assert edge.world.routers.status(edge.router).state is RouterState.UPDATING
    await edge.world.rules.delete(P, "edge", ["s"])
    assert edge.world.routers.status(edge.router).state is RouterState.UPDATING, "a deletion is to be carried out too"
    await edge.load()
    assert edge.world.routers.status(edge.router).state is RouterState.ACTIVE


async def test_a_rule_whose_target_is_gone_leads_nowhere_until_it_is_back(edge: _Edge) -> None:
    await edge.add("r", FORWARD)
    await edge.load()
    await edge.world.instances.delete(P, ["web"])
    found = edge.rule("r")
    assert (found.active, found.target_address) == (False, "")
    assert found.message.startswith("leads nowhere: projects/demo/instances/web")
    await edge.world.create("web", Nic("back"))
    assert edge.rule("r").active


async def test_a_rule_waits_for_its_public_address(edge: _Edge) -> None:
    await edge.add("nat", RouterRuleSpec(static_nat=StaticNat("one", "web")))
    await edge.load()
    address = edge.world.public_addresses.get(P, "one").address
    found = edge.rule("nat")
    assert (found.active, found.public_address) == (False, address)
    assert found.message == f"the router's containers do not have {address} yet"
    await edge.settle()
    assert not edge.rule("nat").active, "it is lent, and its host has not said that it is there"
    await edge.load(network_generation=2)
    assert edge.rule("nat").active
    assert edge.rule("nat").public_address in edge.world.routers.status(edge.router).outside_addresses


async def test_a_rule_whose_network_left_the_router(edge: _Edge) -> None:
    rule = FirewallRule(FirewallDirection.ACROSS, to_network="front")
    await edge.add("r", RouterRuleSpec(firewall=rule))
    await edge.world.routers.update(P, "edge", RouterChange(legs=(RouterLeg("back"),)))
    await edge.load()
    assert edge.rule("r").message.startswith("projects/demo/networks/front is not behind the router any more")


async def test_a_rule_that_was_only_checked(edge: _Edge) -> None:
    await edge.load()
    (rule,) = await edge.world.rules.create(P, "edge", [NewRule("r", {}, FORWARD)], validate_only=True)
    found = edge.world.rules.status(rule)
    assert (found.active, bool(found.target_address)) == (False, True)


async def test_a_stopped_member_says_nothing(edge: _Edge) -> None:
    await edge.add("r", FORWARD)
    await edge.load()

    def stop(tx: Transaction) -> None:
        (found,) = tx.find(INSTANCE, "owner", edge.router.name)
        tx.put(INSTANCE, replace(found.value, desired=DesiredState.STOPPED))

    await edge.world.store.update(stop)
    assert edge.rule("r").message == "the router does not run"

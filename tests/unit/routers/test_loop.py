"""The containers of routers over a store: made with their addresses, changed in place, removed with all that was theirs."""

from dataclasses import replace

import pytest

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.domain.hosts import HostLinkState
from controlplane.domain.instances import DesiredState, Instance, InstanceState, Nic, PublishedPort
from controlplane.domain.kinds import ADDRESS, HOST, INSTANCE, PROJECT, ROUTER, ROUTER_RULE, TEMPLATE
from controlplane.domain.routers import (
    EdgeHosts,
    PortForward,
    PublicAddressSpec,
    Router,
    RouterLeg,
    RouterObserved,
    RouterRule,
    RouterRuleSpec,
    RouterSpec,
)
from controlplane.router_members.loop import RouterMembers
from controlplane.routers.status import status_of
from controlplane.services.host_losses import HostLosses
from controlplane.services.public_addresses import PublicAddressService
from controlplane.services.router_reports import RouterReports
from moorage.errors import NotReady
from moorage.router_bundle import RouterReport, RouterRole
from moorage.store.base import Transaction
from tests.support.controlplane import ready_template
from tests.unit.controlplane.world import P, World

NAME = f"projects/{P}/routers/edge"


async def put_router(world: World, **fields: object) -> Router:
    """What the service would write."""
    networks = [world.networks.get(P, name) for name in ("back", "front")]
    outside = world.networks.get(P, "outside")
    spec = RouterSpec(
        tuple(RouterLeg(n.name) for n in networks), outside.name, "projects/system/templates/router", redundant=False
    )
    uids = tuple(n.uid for n in networks)
    router = Router("uid-edge", P, "edge", world.clock.now(), spec, uids, outside.uid, **fields)  # type: ignore[arg-type]
    await world.store.update(lambda tx: tx.put(ROUTER, router))
    return router


def router_of(world: World) -> Router | None:
    found = world.store.view().get(ROUTER, f"{P}/edge")
    return found.value if found is not None else None


def the_member(world: World) -> Instance:
    (found,) = world.store.view().find(INSTANCE, "owner", NAME)
    return found.value


async def place(world: World) -> Instance:
    return await world.place("edge-router-1", "h1")


async def test_a_member_has_the_gateways_and_is_charged(world: World, members: RouterMembers) -> None:
    await put_router(world)
    await members.reconcile_once()
    member = the_member(world)
    assert member.image.startswith("uid-system/router@")
    outside, back, front = member.nics
    assert (back.addresses, back.gateways, back.forwards) == (("10.1.0.1/24",), (), True)
    assert (front.addresses, front.forwards) == (("10.2.0.1/24",), True)
    assert (outside.gateways, outside.forwards) == (("198.51.100.1",), False)
    assert member.effective.hostname == "edge"
    world.audit()
    await members.reconcile_once()
    assert the_member(world) == member


async def test_what_keeps_it_from_being_made_is_said_and_goes_away(world: World, members: RouterMembers) -> None:
    await put_router(world)
    template = world.store.view().get(TEMPLATE, "system/router")
    assert template is not None
    await world.store.update(lambda tx: tx.delete(TEMPLATE, "system/router"))
    await members.reconcile_once()
    router = router_of(world)
    assert router is not None
    assert router.reason == "ROUTER_TEMPLATE_MISSING"
    assert "router-image register" in router.message
    assert world.reasons().count("ROUTER_TEMPLATE_MISSING") == 1
    await members.reconcile_once()
    assert world.reasons().count("ROUTER_TEMPLATE_MISSING") == 1
    await world.store.update(lambda tx: tx.put(TEMPLATE, template.value))
    await members.reconcile_once()
    router = router_of(world)
    assert router is not None
    assert (router.reason, router.message) == ("", "")
    assert the_member(world)


async def test_the_policy_is_asked_again_when_a_member_is_made(world: World, members: RouterMembers) -> None:
    own = ready_template(P, "mine", world.clock.now())
    router = await put_router(world)
    router = replace(router, spec=replace(router.spec, template=f"projects/{P}/templates/mine"))

    def write(tx: Transaction) -> None:
        tx.put(TEMPLATE, own)
        tx.put(ROUTER, router)

    await world.store.update(write)
    await members.reconcile_once()
    noted = router_of(world)
    assert noted is not None
    assert "NET_ADMIN" in noted.message
    assert not world.store.view().find(INSTANCE, "owner", NAME)
    await world.projects.update(P, policy=ProjectPolicy(allowed_capabilities=("NET_ADMIN", "NET_RAW")))
    await members.reconcile_once()
    assert the_member(world).template_uid == own.uid


async def test_a_quota_keeps_all_of_it_out(world: World, members: RouterMembers) -> None:
    def limit(tx: Transaction) -> None:
        found = tx.get(PROJECT, P)
        assert found is not None
        tx.put(PROJECT, replace(found.value, quota=Quota(addresses=2)))

    await world.store.update(limit)
    await put_router(world)
    await members.reconcile_once()
    router = router_of(world)
    assert router is not None
    assert router.reason == "QUOTA_EXCEEDED"
    assert not world.store.view().find(INSTANCE, "owner", NAME)
    assert not list(world.store.view().all(ADDRESS))


async def test_the_name_of_a_member_is_taken(world: World, members: RouterMembers) -> None:
    await world.create("edge-router-1", Nic("back"))
    await put_router(world)
    await members.reconcile_once()
    router = router_of(world)
    assert router is not None
    assert router.reason == "MEMBER_NAME_TAKEN"


async def test_the_end(world: World, members: RouterMembers) -> None:
    router = await put_router(world)
    await members.reconcile_once()
    await place(world)
    rule = RouterRule(
        "uid-r", P, "edge", router.uid, "r", world.clock.now(), RouterRuleSpec(port_forward=PortForward())
    )
    await world.store.update(lambda tx: tx.put(ROUTER_RULE, rule))
    await put_router(world, is_deleting=True, generation=2)
    await members.reconcile_once()
    assert the_member(world).desired is DesiredState.DELETED
    await world.report(the_member(world), InstanceState.DELETED)
    await members.reconcile_once()
    assert router_of(world) is None
    view = world.store.view()
    assert not list(view.all(ROUTER_RULE))
    assert not list(view.all(ADDRESS))
    world.audit()


async def test_what_runs_and_what_was_refused(world: World, members: RouterMembers) -> None:
    reports = RouterReports(world.context)
    await put_router(world)
    await members.reconcile_once()
    member = await place(world)
    await reports.apply("uid-h1", 5, [RouterReport(member.uid, 12)])
    router = router_of(world)
    assert router is not None
    assert router.observed == (RouterObserved(member.uid, 5, 12),)
    await reports.apply("uid-h2", 9, [RouterReport(member.uid, 99)])  # not its host
    await reports.apply("uid-h1", 4, [RouterReport(member.uid, 98)])  # an agent of before
    assert router_of(world) == router
    await reports.apply("uid-h1", 5, [RouterReport(member.uid, 12, 13, "line 3: unknown keyword")])
    assert world.reasons()[-1] == "CONFIGURATION_REFUSED"


async def test_a_split_is_told_once(world: World, members: RouterMembers) -> None:
    reports = RouterReports(world.context)
    router = await put_router(world)
    await world.host("h2")
    await world.store.update(
        lambda tx: tx.put(ROUTER, replace(router, spec=replace(router.spec, redundant=True), generation=2))
    )
    await members.reconcile_once()
    one, two = [await world.place(f"edge-router-{n}", f"h{n}") for n in (1, 2)]
    assert one.nics[1].addresses != two.nics[1].addresses
    await reports.apply("uid-h1", 1, [RouterReport(one.uid, 1, role=RouterRole.ACTIVE)])
    await reports.apply("uid-h2", 1, [RouterReport(two.uid, 1, role=RouterRole.STANDBY)])
    await reports.apply("uid-h2", 1, [RouterReport(two.uid, 1, role=RouterRole.ACTIVE)])
    await reports.apply("uid-h2", 1, [RouterReport(two.uid, 2, role=RouterRole.ACTIVE)])
    assert world.reasons().count("ROUTER_SPLIT") == 1


async def test_members_that_only_take_ports_of_their_hosts_split_nothing(world: World, members: RouterMembers) -> None:
    reports = RouterReports(world.context)
    router = await put_router(world)
    await world.host("h2")
    spec = replace(router.spec, ingress_ports=(PublishedPort(80, 80),), edge_hosts=EdgeHosts(every_host=True))
    await world.store.update(lambda tx: tx.put(ROUTER, replace(router, spec=spec, generation=2)))
    await members.reconcile_once()
    one = await world.place("edge-router-1", "h1")
    await members.reconcile_once()
    edge = await world.place("edge-router-e-h2", "h2")
    await reports.apply("uid-h1", 1, [RouterReport(one.uid, 1, role=RouterRole.ACTIVE)])
    await reports.apply("uid-h2", 1, [RouterReport(edge.uid, 1, role=RouterRole.ACTIVE)])
    assert "ROUTER_SPLIT" not in world.reasons()


async def test_a_public_address_is_nobody_elses_until_its_host_has_let_go(world: World, members: RouterMembers) -> None:
    service = PublicAddressService(world.context)
    await put_router(world)
    await members.reconcile_once()
    await place(world)
    one = await service.create(P, "one", {}, PublicAddressSpec("outside"))
    rule = RouterRule(
        "uid-r",
        P,
        "edge",
        "uid-edge",
        "r",
        world.clock.now(),
        RouterRuleSpec(port_forward=PortForward(one.name, "tcp", 80, 0, f"projects/{P}/instances/web")),
    )
    await world.store.update(lambda tx: tx.put(ROUTER_RULE, rule))
    await members.reconcile_once()
    await world.report(the_member(world), InstanceState.RUNNING, network_generation=the_member(world).nics_generation)
    assert the_member(world).nics[0].lent_addresses == (f"{one.address}/24",)
    await world.store.update(lambda tx: tx.delete(ROUTER_RULE, ROUTER_RULE.key(rule)))
    for _ in range(2):
        with pytest.raises(NotReady) as refused:
            await service.delete(P, "one")
        assert refused.value.reason == "PUBLIC_ADDRESS_IN_USE"
        await members.reconcile_once()  # now the control plane has taken it back, and the host has not said so
    member = the_member(world)
    await world.report(member, InstanceState.RUNNING, sequence=2, network_generation=member.nics_generation)
    await service.delete(P, "one")


async def test_a_single_router_is_replaced_on_an_operators_word(world: World, members: RouterMembers) -> None:
    await put_router(world)
    await world.host("h2", link_state=HostLinkState.DISCONNECTED)
    await members.reconcile_once()
    one = await world.place("edge-router-1", "h2")
    losses = HostLosses(world.context, world.making)
    assert await losses.lose("uid-h2", "nobody reaches it", ["hosts/h1: no answer"])
    await members.reconcile_once()
    assert the_member(world) == one, "it may still have the gateways"
    await losses.declare("h2")
    await members.reconcile_once()
    owned = {found.value.uid: found.value for found in world.store.view().find(INSTANCE, "owner", NAME)}
    assert len(owned) == 2
    again = next(instance for uid, instance in owned.items() if uid != one.uid)
    assert (again.id, again.host_uid) == ("edge-router-1", "")
    assert [nic.addresses for nic in again.nics[1:]] == [nic.addresses for nic in one.nics[1:]]
    assert owned[one.uid].id == f"edge-router-1-lost-{one.uid[:6]}"
    assert not any(nic.addresses for nic in owned[one.uid].nics)
    world.audit()
    revision = world.store.view().revision
    await members.reconcile_once()
    assert world.store.view().revision == revision


async def test_a_lost_member_of_a_pair_is_replaced(world: World, members: RouterMembers) -> None:
    router = await put_router(world)
    await world.host("h2", link_state=HostLinkState.DISCONNECTED)
    pair = replace(router, spec=replace(router.spec, redundant=True), generation=2)
    await world.store.update(lambda tx: tx.put(ROUTER, pair))
    await members.reconcile_once()
    one, two = [await world.place(f"edge-router-{n}", f"h{n}") for n in (1, 2)]
    assert await HostLosses(world.context, world.making).lose("uid-h2", "nobody reaches it", ["hosts/h1: no answer"])
    await members.reconcile_once()
    owned = {found.value.id: found.value for found in world.store.view().find(INSTANCE, "owner", NAME)}
    gone = next(instance for instance in owned.values() if instance.uid == two.uid)
    assert gone.given_up
    assert gone.nics == two.nics, "its addresses are nobody else's before its host has spoken"
    assert gone.id == f"edge-router-2-lost-{two.uid[:6]}"
    assert sorted(owned) == ["edge-router-1", "edge-router-2", gone.id]
    again = owned["edge-router-2"]
    assert (again.uid != two.uid, again.host_uid, again.given_up) == (True, "", "")
    assert not {a for nic in again.nics for a in nic.addresses} & {a for nic in two.nics for a in nic.addresses}
    shown = status_of(pair, list(owned.values())).members
    assert [member.instance for member in shown] == [one.name, two.name]
    world.audit()
    revision = world.store.view().revision
    await members.reconcile_once()
    assert world.store.view().revision == revision
    await world.report(gone, InstanceState.DELETED)
    assert len(world.store.view().find(INSTANCE, "owner", NAME)) == 2
    world.audit()


async def test_a_single_router_comes_back_with_its_host(world: World, members: RouterMembers) -> None:
    await put_router(world)
    await members.reconcile_once()
    await place(world)
    host = world.hosts.get("h1")
    away = replace(host, link_state=HostLinkState.DISCONNECTED)
    await world.store.update(lambda tx: tx.put(HOST, away))
    assert await HostLosses(world.context, world.making).lose("uid-h1", "nobody reaches it", [])
    await members.reconcile_once()
    member = the_member(world)
    assert (member.given_up, member.desired) == ("", DesiredState.RUNNING)

"""Which agents hear of a router, and what."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from controlplane.dispatch.assignments import VirtualStation
from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.dispatch.sessions import AssignmentSet, HostSession
from controlplane.domain.instances import Nic
from controlplane.domain.kinds import ROUTER, ROUTER_RULE
from controlplane.domain.routers import PortForward, PublicAddressSpec, RouterObserved, RouterRule, RouterRuleSpec
from controlplane.router_members.loop import RouterMembers
from tests.unit.controlplane.world import P, World
from tests.unit.routers.test_loop import place, put_router, the_member


@pytest.fixture
async def dispatcher(world: World) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(world.store, world.clock)
    task = asyncio.create_task(dispatcher.run())
    yield dispatcher
    task.cancel()


async def news(world: World, session: HostSession) -> AssignmentSet:
    """What the session has to say; whatever was committed has been looked at."""
    await world.store.update(lambda tx: None)
    for _ in range(20):
        await asyncio.sleep(0)
    return session.incremental(world.store.view())


def forward(rule_id: str, instance: str, generation: int = 1) -> RouterRule:
    spec = RouterRuleSpec(port_forward=PortForward("", "tcp", 8080, 0, instance, 80))
    return RouterRule(
        f"uid-{rule_id}", P, "edge", "uid-edge", rule_id, World().clock.now(), spec, generation=generation
    )


async def test_the_host_of_a_router_hears_what_concerns_it(
    world: World, members: RouterMembers, dispatcher: Dispatcher
) -> None:
    web = await world.create("web", Nic("back", addresses=("10.1.0.7",)))
    await put_router(world)
    await members.reconcile_once()
    member = await place(world)
    session = dispatcher.open("uid-h1", 1)
    (bundle,) = session.complete(world.store.view()).routers
    assert bundle.instance_id == member.uid
    assert bundle.version == world.store.view().revision

    await world.store.update(lambda tx: tx.put(ROUTER_RULE, forward("f", web.name)))
    (bundle,) = (await news(world, session)).routers
    assert [f.address for f in bundle.port_forwards] == ["10.1.0.7"]
    assert bundle.version >= next(f.revision for f in world.store.view().find(ROUTER_RULE, "uid", "uid-f"))

    await world.instances.delete(P, ["web"])
    (bundle,) = (await news(world, session)).routers
    assert bundle.port_forwards == ()


async def test_a_change_without_effect_is_told_so_that_its_author_knows(
    world: World, members: RouterMembers, dispatcher: Dispatcher
) -> None:
    await put_router(world)
    await members.reconcile_once()
    await place(world)
    session = dispatcher.open("uid-h1", 1)
    session.complete(world.store.view())
    await world.store.update(lambda tx: tx.put(ROUTER_RULE, forward("f", f"projects/{P}/instances/nobody")))
    assert len((await news(world, session)).routers) == 1


async def test_what_does_not_concern_it_is_not_told(
    world: World, members: RouterMembers, dispatcher: Dispatcher
) -> None:
    router = await put_router(world)
    await members.reconcile_once()
    member = await place(world)
    session = dispatcher.open("uid-h1", 1)
    session.complete(world.store.view())
    seen = replace(router, observed=(RouterObserved(member.uid, 1, 1),))
    await world.store.update(lambda tx: tx.put(ROUTER, seen))
    await world.create("other", Nic("back"))
    assert (await news(world, session)).routers == ()


async def test_hosts_are_no_gateway_of_a_network_behind_a_router(
    world: World, members: RouterMembers, dispatcher: Dispatcher
) -> None:
    await world.host("h2")
    await world.create("web", Nic("outside"), Nic("back"))
    await world.place("web", "h2")
    session = dispatcher.open("uid-h2", 1)
    told = {n.name: n for n, _ in session.complete(world.store.view()).networks}
    assert [s.gateway for s in told["back"].subnets] == ["10.1.0.1"]
    await put_router(world)
    told = {n.name: n for n, _ in (await news(world, session)).networks}
    assert [s.gateway for s in told["back"].subnets] == [""]
    assert "outside" not in told
    await members.reconcile_once()
    assert the_member(world).nics[1].addresses == ("10.1.0.1/24",)
    await world.store.update(lambda tx: tx.delete(ROUTER, f"{P}/edge"))
    told = {n.name: n for n, _ in (await news(world, session)).networks}
    assert [s.gateway for s in told["back"].subnets] == ["10.1.0.1"]


async def test_hosts_hear_of_the_gateway_that_a_pair_holds_in_turn(
    world: World, members: RouterMembers, dispatcher: Dispatcher
) -> None:
    await world.create("web", Nic("back", addresses=("10.1.0.7",)))
    await world.place("web", "h2")
    router = await put_router(world)
    elsewhere = dispatcher.open("uid-h2", 1)
    (told,) = (network for network, _ in elsewhere.complete(world.store.view()).networks)
    assert told.virtual_stations == ()

    pair = replace(router, spec=replace(router.spec, redundant=True))
    await world.store.update(lambda tx: tx.put(ROUTER, pair))
    await members.reconcile_once()
    await place(world)
    gateway = VirtualStation("00:00:5e:00:01:01", ("10.1.0.1",))
    ((told, _),) = (await news(world, elsewhere)).networks
    assert told.virtual_stations == (gateway,)

    (member,) = dispatcher.open("uid-h1", 1).complete(world.store.view()).instances
    outside, back, front = member.nics
    assert (outside.virtual, back.virtual) == (None, gateway)
    assert (back.forwards, back.gateways) == (True, ())
    assert front.virtual == VirtualStation("00:00:5e:00:01:01", ("10.2.0.1",))
    assert not {"10.1.0.1/24", "10.2.0.1/24"} & {*back.addresses, *front.addresses}


async def test_hosts_hear_of_the_public_addresses_that_a_pair_holds_in_turn(
    world: World, members: RouterMembers, dispatcher: Dispatcher
) -> None:
    await world.create("world", Nic("outside"))
    await world.place("world", "h2")
    router = await put_router(world)
    pair = replace(router, spec=replace(router.spec, redundant=True), outside_virtual_id=254)
    await world.store.update(lambda tx: tx.put(ROUTER, pair))
    await members.reconcile_once()
    await place(world)
    elsewhere, at_member = dispatcher.open("uid-h2", 1), dispatcher.open("uid-h1", 1)
    (told,) = (network for network, _ in elsewhere.complete(world.store.view()).networks)
    assert told.virtual_stations == (VirtualStation("00:00:5e:00:01:fe", ()),), "there before the first one"
    at_member.complete(world.store.view())

    public = await world.public_addresses.create(P, "one", {}, PublicAddressSpec("outside"))
    address = public.address
    rule = RouterRuleSpec(port_forward=PortForward(public.name, "tcp", 8080, 0, f"projects/{P}/instances/web", 80))
    await world.store.update(
        lambda tx: tx.put(ROUTER_RULE, replace(forward("f", f"projects/{P}/instances/web"), spec=rule))
    )
    await members.reconcile_once()
    station = VirtualStation("00:00:5e:00:01:fe", (address,))
    ((told, peers),) = (await news(world, elsewhere)).networks
    assert told.virtual_stations == (station,)
    assert address not in str(peers), "it is no member's own"
    heard = await news(world, at_member)
    (member,) = heard.instances
    assert member.nics[0].virtual == station
    assert f"{address}/24" not in member.nics[0].addresses
    (bundle,) = heard.routers
    assert bundle.pair is not None
    assert (bundle.pair.outside_virtual_id, bundle.pair.outside_addresses) == (254, (address,))
    assert address in bundle.outside_addresses

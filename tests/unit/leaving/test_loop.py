"""Instances behind a balancer leave it before they are removed; others are removed at once."""

from dataclasses import replace

import pytest

from controlplane.domain.instances import DesiredState, Instance, InstanceState, Nic, Observed
from controlplane.domain.kinds import INSTANCE, ROUTER
from controlplane.domain.routers import (
    Backend,
    BackendPool,
    BalancerSpec,
    Listener,
    RouterLeg,
    RouterObserved,
    RouterSpec,
)
from controlplane.leaving.loop import Leaving
from controlplane.router_members.loop import RouterMembers
from controlplane.services import lookup
from controlplane.services.undelete import UndeleteService
from moorage.errors import NotReady
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World


@pytest.fixture
async def behind(world: World, members: RouterMembers) -> World:
    """A router that runs, with `web` behind its balancer and `other` beside it; everything has a host and runs."""
    await world.routers.create(P, "edge", {}, RouterSpec(legs=(RouterLeg("back"), RouterLeg("front"))))
    await world.create("web", Nic("back"))
    await world.create("other", Nic("back"))
    spec = BalancerSpec(listeners=(Listener(port=80),), pools=(BackendPool("p", (Backend("web", 80),)),))
    await world.balancers.create(P, "edge", "lb", {}, spec)
    await members.reconcile_once()

    def run(tx: Transaction) -> None:
        for found in tx.all(INSTANCE):
            tx.put(
                INSTANCE, replace(found.value, host_uid="uid-h1", host="h1", observed=Observed(InstanceState.RUNNING))
            )

    await world.store.update(run)
    return world


def web(world: World) -> Instance:
    return world.instances.get(P, "web")


async def router_says(world: World, version: int, *draining: str) -> None:
    def write(tx: Transaction) -> None:
        router = lookup.router(tx, P, "edge")
        (member,) = tx.find(INSTANCE, "owner", router.name)
        seen = RouterObserved(member.value.uid, running_version=version, draining=draining)
        tx.put(ROUTER, replace(router, observed=(seen,)))

    await world.store.update(write)


async def test_behind_a_balancer_it_leaves_first(behind: World) -> None:
    leaving = Leaving(behind.context, behind.making)
    await behind.instances.delete(P, ["web", "other"])
    assert behind.instances.get(P, "other").desired is DesiredState.DELETED
    left = web(behind)
    assert left.desired is DesiredState.RUNNING
    assert left.leave_time == behind.clock.now()
    assert left.leave_revision == behind.store.view().revision
    with pytest.raises(NotReady):
        await behind.instances.stop(P, "web")
    await behind.instances.delete(P, ["web"])  # asking again changes nothing
    assert web(behind) == left
    await router_says(behind, left.leave_revision - 1)
    await leaving.reconcile_once()
    await router_says(behind, left.leave_revision, left.uid)
    await leaving.reconcile_once()
    assert web(behind).desired is DesiredState.RUNNING
    await router_says(behind, left.leave_revision)
    await leaving.reconcile_once()
    assert web(behind).desired is DesiredState.DELETED


async def test_its_time_is_up(behind: World) -> None:
    leaving = Leaving(behind.context, behind.making)
    await behind.instances.delete(P, ["web"])
    await leaving.reconcile_once()
    assert web(behind).desired is DesiredState.RUNNING
    behind.clock.advance(30.0)
    await leaving.reconcile_once()
    assert web(behind).desired is DesiredState.DELETED


async def test_by_force_it_does_not_wait(behind: World) -> None:
    await behind.instances.delete(P, ["web"], force=True)
    assert web(behind).desired is DesiredState.DELETED


async def test_one_that_is_kept_leaves_first_and_then_stands_still(behind: World) -> None:
    leaving = Leaving(behind.context, behind.making)
    await behind.projects.update(P, undelete_window_seconds=3600.0)
    await behind.instances.delete(P, ["web"])
    assert (web(behind).desired, web(behind).purge_time is None) == (DesiredState.RUNNING, False)
    await leaving.reconcile_once()
    assert web(behind).desired is DesiredState.RUNNING, "a router still leads clients to it"
    await router_says(behind, web(behind).leave_revision)
    await leaving.reconcile_once()
    left = web(behind)
    assert left.desired is DesiredState.STOPPED
    await leaving.reconcile_once()
    assert web(behind) == left
    back = await UndeleteService(behind.context).instance(P, "web")
    assert (back.desired, back.leave_time) == (DesiredState.RUNNING, None)

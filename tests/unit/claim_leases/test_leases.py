"""What the control plane gives, until when a claim is kept from others, and how it is handed over."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.claim_leases.ledger import LeaseLedger
from controlplane.claim_leases.loop import ClaimLeases
from controlplane.domain.instances import Claim, DesiredState, Instance, InstanceSpec, InstanceState, Nic
from controlplane.domain.kinds import ADDRESS, INSTANCE, PROJECT
from controlplane.services.instance_making import NewInstance
from controlplane.services.taking_over import hand_over
from moorage.errors import NotReady
from moorage.tasks import TaskOwner
from tests.unit.controlplane.world import P, World

LEASE = 10.0
LAN = "lan"


@pytest.fixture
async def world() -> World:
    return await World().begin()


async def _placed(world: World, instance_id: str = "db", **fields: Any) -> Instance:
    nics = fields.pop("nics", ())
    await world.create(instance_id, *nics, **{"exclusive": True, **fields})
    return await _change(world, instance_id, host_uid="h1", host="h1")


async def _change(world: World, instance_id: str, **fields: object) -> Instance:
    def apply(tx: Any) -> Instance:
        changed: Instance = replace(tx.get(INSTANCE, f"{P}/{instance_id}").value, **fields)
        tx.put(INSTANCE, changed)
        return changed

    return await world.store.update(apply)


def _now(world: World, instance_id: str = "db") -> Instance:
    found = world.store.view().get(INSTANCE, f"{P}/{instance_id}")
    assert found is not None
    instance: Instance = found.value
    return instance


async def test_only_the_instances_own_host_gets_leases_and_only_while_it_is_not_lost(world: World) -> None:
    db = await _placed(world)
    await world.create("web")
    web = await _change(world, "web", host_uid="h1")
    ledger = LeaseLedger(world.store, world.clock)
    assert ledger.give("h1", [db.uid, web.uid, "nobody"]) == [db.uid]
    assert ledger.give("h2", [db.uid]) == []
    await _change(world, "db", desired=DesiredState.DELETED)
    assert ledger.give("h1", [db.uid]) == [db.uid], "it stops in order"
    await _change(world, "db", given_up="its host is lost")
    assert ledger.give("h1", [db.uid]) == []


async def test_a_claim_is_free_when_the_last_lease_has_ended_for_certain(world: World) -> None:
    db = await _placed(world)
    world.clock.advance(100.0)
    ledger = LeaseLedger(world.store, world.clock)
    leases = ClaimLeases(world.context, ledger)
    world.clock.advance(50.0)
    assert ledger.give("h1", [db.uid])
    world.clock.advance(5.0)
    async with TaskOwner("test") as owner:
        owner.spawn(leases.run(), name="run")
        owner.spawn(leases.keep_time(), name="time")
        await world.clock.settle()
        await _change(world, "db", given_up="its host is lost")
        await world.clock.run_for(LEASE - 5.0 + 0.9)
        assert not _now(world).is_claim_free
        await world.clock.run_for(0.2)
        assert _now(world).is_claim_free


async def test_after_a_restart_the_last_lease_may_have_been_given_at_the_very_end(world: World) -> None:
    await _placed(world)
    world.clock.advance(1000.0)
    leases = ClaimLeases(world.context, LeaseLedger(world.store, world.clock))
    await _change(world, "db", given_up="its host is lost")
    world.clock.advance(LEASE)
    await leases.reconcile_once()
    assert not _now(world).is_claim_free
    world.clock.advance(1.1)
    await leases.reconcile_once()
    assert _now(world).is_claim_free


async def test_what_survives_isolation_has_no_lease_and_is_free_on_an_operators_word(world: World) -> None:
    db = await _placed(world, survives_isolation=True)
    ledger = LeaseLedger(world.store, world.clock)
    assert (db.claims, db.lease_seconds) == ((Claim.INSTANCE,), 0.0)
    assert ledger.give("h1", [db.uid]) == []
    await _change(world, "db", given_up="an operator says that its host is gone")
    await ClaimLeases(world.context, ledger).reconcile_once()
    assert _now(world).is_claim_free


async def test_name_and_address_go_to_the_successor_in_one_transaction(world: World) -> None:
    await world.network(LAN, "10.9.0.0/24")
    nics = (Nic(LAN, addresses=("10.9.0.7",)),)
    await _placed(world, nics=nics)
    usage = world.store.view().get(PROJECT, P)
    assert usage is not None

    def take_over(tx: Any) -> Instance:
        hand_over(tx, tx.get(INSTANCE, f"{P}/db").value)
        spec = InstanceSpec(template="web", exclusive=True, nics=nics)
        return world.making.admit_all(tx, P, [NewInstance("db", {}, spec)])[0]

    with pytest.raises(NotReady) as refused:
        await world.store.update(take_over)
    assert refused.value.reason == "CLAIM_HELD"
    lost = await _change(world, "db", given_up="its host is lost", desired=DesiredState.DELETED)
    with pytest.raises(NotReady):
        await world.store.update(take_over)
    await _change(world, "db", is_claim_free=True)
    successor = await world.store.update(take_over)
    assert successor.uid != lost.uid
    assert successor.nics[0].addresses == ("10.9.0.7/24",)
    view = world.store.view()
    (lease,) = [found.value for found in view.all(ADDRESS) if found.value.address == "10.9.0.7"]
    assert lease.owner_uid == successor.uid
    (old,) = [found.value for found in view.find(INSTANCE, "uid", lost.uid)]
    assert old.id == f"db-lost-{lost.uid[:6]}"
    assert old.nics[0].addresses == ()
    world.audit()
    # The old one's removal gives back what it still has, and nothing of the successor's.
    await world.report(old, InstanceState.DELETED)
    view = world.store.view()
    assert not view.find(INSTANCE, "uid", lost.uid)
    after = view.get(PROJECT, P)
    assert after is not None
    assert after.value.usage == usage.value.usage
    assert [found.value.owner_uid for found in view.all(ADDRESS)] == [successor.uid]
    world.audit()

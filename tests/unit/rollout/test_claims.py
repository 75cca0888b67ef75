"""Members that claim something and are lost: nobody takes their place before the claim is free, and then with what they had."""

from dataclasses import replace

import pytest

from controlplane.domain.groups import SlotPolicy
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec, Nic
from controlplane.domain.kinds import INSTANCE
from controlplane.services import lookup
from controlplane.services.instance_claims import release
from moorage.store.base import Transaction
from tests.unit.controlplane.world import World
from tests.unit.rollout.test_loop import Groups

_LAN = InstanceSpec(template="web", nics=(Nic("lan"),))
_FIXED = InstanceSpec(template="web", nics=(Nic("lan", addresses=("10.5.0.9",)),))
_ALONE = InstanceSpec(template="web", exclusive=True)


async def _change(world: World, uid: str, **fields: object) -> None:
    def write(tx: Transaction) -> None:
        tx.put(INSTANCE, replace(lookup.by_uid(tx, INSTANCE, uid), **fields))

    await world.store.update(write)


def _addresses(instance: Instance) -> list[str]:
    return [address for nic in instance.nics for address in nic.addresses]


@pytest.mark.parametrize(
    ("spec", "slots"),
    [
        (_LAN, SlotPolicy(sticky_name=True)),
        (_LAN, SlotPolicy(sticky_address=True)),
        (_LAN, SlotPolicy(sticky_name=True, sticky_address=True)),
        (_FIXED, SlotPolicy()),
        (_FIXED, SlotPolicy(sticky_name=True, sticky_address=True)),
        (_ALONE, SlotPolicy()),
    ],
)
async def test_a_successor_waits_for_the_claim_and_gets_it(world: World, spec: InstanceSpec, slots: SlotPolicy) -> None:
    groups = Groups(world)
    await world.network("lan", "10.5.0.0/24")
    await groups.make(1, spec, slots=slots)
    await groups.converge()
    (lost,) = groups.members()
    assert lost.claims
    await _change(world, lost.uid, given_up="its host is lost", desired=DesiredState.DELETED)
    for _ in range(3):
        await groups.rollout.reconcile_once()
    assert [member.uid for member in groups.members()] == [lost.uid]
    world.audit()
    await _change(world, lost.uid, is_claim_free=True)
    await groups.rollout.reconcile_once()
    old, new = sorted(groups.members(), key=lambda member: member.uid != lost.uid)
    assert not new.given_up
    if slots.sticky_name:
        assert new.id == lost.id
    assert old.id != new.id
    if slots.sticky_address or spec is _FIXED:
        assert _addresses(new) == _addresses(lost)
    assert not set(_addresses(old)) & set(_addresses(new))
    world.audit()
    await world.store.update(lambda tx: release(tx, old, world.clock.now()))  # its host is back, and has removed it
    world.audit()
    await groups.converge()
    assert [member.uid for member in groups.members()] == [new.uid]
    world.audit()

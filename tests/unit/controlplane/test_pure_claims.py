"""What claims something, how long its leases are, and whether it keeps another from taking its place."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from controlplane.domain import claims
from controlplane.domain.groups import SlotPolicy
from controlplane.domain.instances import Claim, Instance, InstanceSpec, Nic
from controlplane.services.instance_making import Membership, NewInstance
from moorage.errors import InvalidSpec
from tests.unit.controlplane.world import World, problems

_PLAIN = InstanceSpec(template="web")
_FIXED = replace(_PLAIN, nics=(Nic("lan", addresses=("10.0.0.5",)),))


def _instance(**fields: object) -> Instance:
    spec = InstanceSpec(template="web")
    made = Instance("u", "p", "i", datetime(2030, 1, 1, tzinfo=UTC), spec, spec, "t", "image", ())
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "slot", "slots", "expected"),
    [
        (_PLAIN, -1, SlotPolicy(), ()),
        (_PLAIN, 3, SlotPolicy(), ()),
        (replace(_PLAIN, exclusive=True), -1, SlotPolicy(), (Claim.INSTANCE,)),
        (_PLAIN, 0, SlotPolicy(sticky_name=True), (Claim.NAME,)),
        (_PLAIN, 0, SlotPolicy(sticky_address=True), (Claim.ADDRESS,)),
        (_FIXED, 0, SlotPolicy(), (Claim.ADDRESS,)),
        (_FIXED, -1, SlotPolicy(), ()),  # nobody replaces it
        (
            replace(_FIXED, exclusive=True),
            0,
            SlotPolicy(True, True),
            (Claim.INSTANCE, Claim.NAME, Claim.ADDRESS),
        ),
    ],
)
def test_what_claims_something(spec: InstanceSpec, slot: int, slots: SlotPolicy, expected: tuple[Claim, ...]) -> None:
    assert claims.claims_of(spec, slot, slots) == expected


def test_an_exclusive_volume_is_a_claim() -> None:
    assert claims.claims_of(_PLAIN, -1, SlotPolicy(), has_exclusive_volume=True) == (Claim.VOLUME,)


def test_only_claims_that_do_not_survive_isolation_are_leased() -> None:
    terms = claims.LeaseTerms(8.0, 0.5)
    assert terms.seconds_for(_PLAIN, ()) == 0.0
    assert terms.seconds_for(_PLAIN, (Claim.NAME,)) == 8.0
    assert terms.seconds_for(replace(_PLAIN, survives_isolation=True), (Claim.NAME,)) == 0.0


def test_a_lost_claim_keeps_others_away_until_it_is_free() -> None:
    lost = _instance(claims=(Claim.ADDRESS,), lease_seconds=10.0, given_up="its host is lost")
    assert claims.blocks_successor(lost)
    assert not claims.is_renewed(lost)
    assert not claims.blocks_successor(replace(lost, is_claim_free=True))
    assert not claims.blocks_successor(_instance(given_up="its host is lost"))
    kept = replace(lost, given_up="")
    assert claims.is_renewed(kept)
    assert not claims.is_renewed(replace(kept, lease_seconds=0.0))


def test_what_survives_isolation_is_given_up_by_nobody() -> None:
    spec = replace(_PLAIN, survives_isolation=True)
    assert not claims.may_be_given_up(_instance(effective=spec))
    assert claims.may_be_given_up(_instance())


async def test_claims_are_settled_when_an_instance_is_made() -> None:
    world = await World().begin()
    membership = Membership("projects/demo/groups/db", 0, 1, SlotPolicy(sticky_name=True))
    wanted = [NewInstance("db-0", {}, InstanceSpec(template="web"))]
    (made,) = await world.store.update(lambda tx: world.making.admit_all(tx, "demo", wanted, membership))
    assert made.claims == (Claim.NAME,)
    assert made.lease_seconds == claims.DEFAULT_TERMS.lease_seconds
    assert (await world.create("two")).lease_seconds == 0.0
    with pytest.raises(InvalidSpec) as refused:
        await world.changes.replace("demo", "two", spec=InstanceSpec(template="web", exclusive=True))
    assert ("spec.exclusive", "IMMUTABLE") in problems(refused.value)

"""Moves for balance over real records: who may be moved, what a dry run says, and what is taken back."""

from dataclasses import replace

import pytest

from controlplane.domain.groups import GroupState, RolloutPolicy
from controlplane.domain.hosts import HostAdminState, HostFacts
from controlplane.domain.instances import InstanceState, Observed
from controlplane.domain.kinds import GROUP, INSTANCE
from controlplane.rebalance.loop import Rebalancer
from controlplane.rebalance.plan import Move, RebalanceTerms
from controlplane.services.instance_claims import release
from moorage.errors import InvalidSpec
from moorage.store.base import Transaction
from tests.unit.controlplane.conftest import world as world
from tests.unit.controlplane.world import P, World

TERMS = RebalanceTerms(at_once=1, per_hour=2)
FACTS = HostFacts(platform="linux/amd64", cpu_millis=4000, memory_bytes=8 << 30)


async def group_on(world: World, last: str, *hosts: str, **fields: object) -> None:
    """A group whose members stand there and do well."""
    group = await world.group(last, len(hosts), **fields)

    def write(tx: Transaction) -> None:
        found = tx.get(GROUP, f"{P}/{last}")
        assert found is not None
        stable = replace(found.value, state=GroupState.STABLE, target_revision=1, stable_revision=1)
        tx.put(GROUP, stable)

    await world.store.update(write)
    for slot, host in enumerate(hosts):
        made = await world.create(f"{last}-{slot}")
        member = replace(
            made,
            owner=group.name,
            slot=slot,
            revision=1,
            host=host,
            host_uid=f"uid-{host}",
            observed=Observed(InstanceState.RUNNING),
        )
        await world.store.update(lambda tx, member=member: tx.put(INSTANCE, member))  # type: ignore[misc]


async def gone(world: World, move: Move) -> None:
    """Nothing is left of who was moved."""
    instance = world.get(move.instance.rpartition("/")[2])
    await world.store.update(lambda tx: release(tx, instance, world.clock.now()))


@pytest.fixture
async def hosts(world: World) -> World:
    for name in ("a", "b", "c"):
        await world.host(name, facts=FACTS)
    return world


async def test_a_dry_run_says_what_would_be_moved_and_a_word_moves_it(hosts: World) -> None:
    await group_on(hosts, "web", "a", "a", "b")
    rebalancer = Rebalancer(hosts.context)
    revision = hosts.store.view().revision
    (move,) = await rebalancer.move(0, validate_only=True)
    assert hosts.store.view().revision == revision
    assert (move.from_host, move.to_host) == ("hosts/a", "hosts/c")
    assert await rebalancer.move(5) == [move]
    assert hosts.get("web-0").evict == f"the fleet is rebalanced: {move.why}"
    assert await rebalancer.move(5) == [], "its group is busy"
    assert hosts.reasons()[-1] == "REBALANCED"
    for wrong in (-1, 101):
        with pytest.raises(InvalidSpec):
            await rebalancer.move(wrong)
    assert not rebalancer.is_on


async def test_who_is_left_alone(hosts: World) -> None:
    await group_on(hosts, "stops", "a", "a", rollout=RolloutPolicy(max_surge="0", max_unavailable="1"))
    await group_on(hosts, "even", "a", "b")
    await group_on(hosts, "held", "a", "a")

    def pause(tx: Transaction) -> None:
        found = tx.get(GROUP, f"{P}/held")
        assert found is not None
        tx.put(GROUP, replace(found.value, is_paused=True))

    await hosts.store.update(pause)
    assert await Rebalancer(hosts.context).move(9) == []


async def test_hosts_that_take_nothing_are_no_aim(hosts: World) -> None:
    await group_on(hosts, "web", "a", "a")
    await hosts.hosts.set_admin_state("b", HostAdminState.CORDONED)
    (move,) = await Rebalancer(hosts.context).move(1, validate_only=True)
    assert move.to_host == "hosts/c"
    await hosts.hosts.set_admin_state("c", HostAdminState.CORDONED)
    assert await Rebalancer(hosts.context).move(1) == []


async def test_by_itself_it_keeps_to_its_budget_also_after_a_restart(hosts: World) -> None:
    for last in ("x", "y", "z"):
        await group_on(hosts, last, "a", "a")
    rebalancer = Rebalancer(hosts.context, TERMS)
    assert rebalancer.is_on
    (first,) = await rebalancer.look_once()
    assert await rebalancer.look_once() == [], "one at a time"
    await gone(hosts, first)
    (second,) = await rebalancer.look_once()
    await gone(hosts, second)
    assert await Rebalancer(hosts.context, TERMS).look_once() == [], "two an hour"
    hosts.clock.advance(3601.0)
    assert len(await Rebalancer(hosts.context, TERMS).look_once()) == 1


async def test_a_move_that_finds_no_place_is_taken_back(hosts: World) -> None:
    await group_on(hosts, "web", "a", "a")
    rebalancer = Rebalancer(hosts.context, replace(TERMS, at_once=1, per_hour=1))
    await rebalancer.look_once()
    made = await hosts.create("web-new")
    moved = hosts.get("web-0")
    waiting = replace(made, owner=moved.owner, slot=moved.slot, observed=Observed(reason="UNPLACEABLE"))
    await hosts.store.update(lambda tx: tx.put(INSTANCE, waiting))
    assert await rebalancer.look_once() == []
    assert hosts.get("web-0").evict == ""

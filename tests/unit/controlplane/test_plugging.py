"""Interfaces and addresses that come and go while the instance lives."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.dispatch.assignments import instance_assignment
from controlplane.domain.instances import Instance, InstanceNic, InstanceState, Nic, NicRoute, NicRule
from controlplane.domain.kinds import ADDRESS
from controlplane.networks.leases import with_interfaces
from moorage.errors import InvalidSpec, NotFound, NotReady, QuotaExceeded
from tests.unit.controlplane.world import P, World, problems


@pytest.fixture
async def placed(world: World) -> Instance:
    """`i`, running on host h, with 10.1.0.2 on n."""
    await world.host("h")
    await world.network("n", "10.1.0.0/24")
    await world.network("m", "10.2.0.0/24")
    await world.create("i", Nic("n"))
    await world.place("i", "h")
    return await said(world, 1)


async def said(world: World, generation: int) -> Instance:
    """The host has what this generation of `i` names, and nothing else."""
    found = world.get("i")
    await world.report(
        found, InstanceState.RUNNING, sequence=found.observed.sequence + 1, network_generation=generation
    )
    return world.get("i")


async def plug(world: World, *nics: Nic, **fields: Any) -> Instance:
    return await world.changes.update(P, "i", spec_fields={"nics": nics, **fields})


def leases(world: World) -> dict[str, int]:
    """Address to the generation since which it leaves, or 0."""
    return {found.value.address: found.value.leaving_since for found in world.store.view().all(ADDRESS)}


async def test_attach_and_detach(world: World, placed: Instance) -> None:
    both = await plug(world, Nic("n"), Nic("m"))
    assert [(nic.interface, nic.addresses) for nic in both.nics] == [
        ("eth0", ("10.1.0.2/24",)),
        ("eth1", ("10.2.0.2/24",)),
    ]
    assert both.nics[0] == placed.nics[0], "what was there is not touched"
    assert [nic.interface for nic in both.spec.nics] == ["eth0", "eth1"]
    assert (both.run_request, both.container_generation) == (placed.run_request, placed.container_generation)
    assert both.effective.nics == both.spec.nics
    one = await plug(world, both.spec.nics[1])
    assert [(nic.interface, nic.gateways) for nic in one.nics] == [("eth1", ("10.2.0.1",))]
    assert leases(world) == {"10.1.0.2": 3, "10.2.0.2": 0}
    none = await plug(world, no_network=True)
    assert none.nics == ()
    assert world.reasons().count("NICS_CHANGED") == 3


async def test_an_address_is_free_when_its_host_has_said_so(world: World, placed: Instance) -> None:
    await plug(world, Nic("n", addresses=("10.1.0.9",)))
    assert leases(world) == {"10.1.0.2": 2, "10.1.0.9": 0}
    for generation in (0, 1):
        await said(world, generation)
        with pytest.raises(InvalidSpec) as caught:
            await world.create("j", Nic("n", addresses=("10.1.0.2",)))
        assert caught.value.reason == "ADDRESS_TAKEN"
    assert (await said(world, 2)).observed.network_generation == 2
    other = await world.create("j", Nic("n", addresses=("10.1.0.2",)))
    assert world.get("i").nics[0].mac == placed.nics[0].mac, "neighbours know it"
    assert other.nics[0].mac != placed.nics[0].mac, "so the next owner of the address has another"


async def test_an_address_that_comes_back_stays(world: World, placed: Instance) -> None:
    await plug(world, Nic("m"))
    back = await plug(world, Nic("m"), Nic("n", addresses=("10.1.0.2",)))
    await said(world, back.generation - 1)
    assert leases(world) == {"10.1.0.2": 0, "10.2.0.2": 0}


async def test_before_it_has_a_host_addresses_are_free_at_once(world: World) -> None:
    await world.network("n", "10.1.0.0/24")
    await world.create("i", Nic("n"))
    await plug(world, Nic("n", addresses=("10.1.0.9",)))
    assert leases(world) == {"10.1.0.9": 0}


async def test_replace_keeps_what_leaves_until_then_too(world: World, placed: Instance) -> None:
    replaced = await world.changes.replace(P, "i", spec=replace(placed.spec, nics=(Nic("m"),)))
    assert leases(world) == {"10.1.0.2": 2, "10.2.0.2": 0}
    assert replaced.nics_generation == 2
    await said(world, 2)
    assert leases(world) == {"10.2.0.2": 0}


async def test_a_network_whose_addresses_leave_is_in_use(world: World, placed: Instance) -> None:
    await plug(world, Nic("m"))
    with pytest.raises(NotReady) as caught:
        await world.networks.delete(P, "n")
    assert (caught.value.reason, caught.value.metadata["leaving"]) == ("NETWORK_IN_USE", "1")
    await said(world, 2)
    await world.networks.delete(P, "n")


async def test_a_deleted_instance_leaves_nothing(world: World, placed: Instance) -> None:
    await plug(world, Nic("m"))
    await world.instances.delete(P, ["i"])
    await world.report(world.get("i"), InstanceState.DELETED, sequence=9)
    assert leases(world) == {}


async def test_the_network_nobody_asked_for_can_stay(world: World) -> None:
    await world.network("m", "10.2.0.0/24")
    made = await world.create("i")
    changed = await plug(world, Nic("default"), Nic("m"))
    assert changed.nics[0] == made.nics[0]


async def test_refusals_change_nothing(world: World, placed: Instance) -> None:
    await world.create("other", Nic("m", addresses=("10.2.0.7",)))
    for nics, fields, kind in (
        ((Nic("n"), Nic("nowhere")), {}, NotFound),
        ((Nic("n"), Nic("m", addresses=("10.2.0.7",))), {}, InvalidSpec),
        ((Nic("n", "eth0"), Nic("m", "eth0")), {}, InvalidSpec),
        ((Nic("n"), Nic("n")), {}, InvalidSpec),
        ((Nic("n"),), {"no_network": True}, InvalidSpec),
    ):
        with pytest.raises(kind):
            await plug(world, *nics, **fields)
        assert world.get("i") == placed
    world.audit()


async def test_policy_and_host_of_a_shared_network(world: World, placed: Instance) -> None:
    await world.projects.update(P, policy=ProjectPolicy(allowed_bridges=("br0",)))
    await world.shared("lan", "br0", "10.3.0.0/24")
    with pytest.raises(NotReady) as caught:
        await plug(world, Nic("n"), Nic("lan"))
    assert caught.value.reason == "DOES_NOT_FIT", "its host has no such bridge"
    await world.host("h", facts=replace((await world.host("h")).facts, bridges=("br0",)))
    await plug(world, Nic("n"), Nic("lan"))
    await world.projects.update(P, policy=ProjectPolicy())
    await plug(world, Nic("lan"))
    await plug(world, Nic("n"))
    with pytest.raises(InvalidSpec) as refused:
        await plug(world, Nic("n"), Nic("lan"))
    assert problems(refused.value) == [("instance.spec.nics", "POLICY_BRIDGE")]


async def test_quota(world: World, placed: Instance) -> None:
    await world.projects.update(P, quota=Quota(addresses=2))
    await plug(world, Nic("n"), Nic("m"))
    with pytest.raises(QuotaExceeded):
        await plug(world, Nic("n", addresses=("10.1.0.2", "10.1.0.3")), Nic("m"))


def test_names_of_interfaces() -> None:
    def have(network: str, interface: str) -> InstanceNic:
        return InstanceNic(network, network, interface, "", ())

    def names(*wanted: Nic) -> list[str]:
        return [nic.interface for nic in with_interfaces(wanted, [have("a", "eth0"), have("b", "eth1")])]

    assert names(Nic("a"), Nic("b")) == ["eth0", "eth1"]
    assert names(Nic("b"), Nic("a")) == ["eth1", "eth0"]
    assert names(Nic("a"), Nic("c")) == ["eth0", "eth2"]
    assert names(Nic("b"), Nic("c")) == ["eth1", "eth2"], "a name that leaves is not given again at once"
    assert names(Nic("c"), Nic("a", "lan0"), Nic("d")) == ["eth2", "lan0", "eth3"]
    assert names(Nic("c", "eth1"), Nic("b")) == ["eth1", "eth2"]


async def test_options_are_what_the_host_is_told(world: World, placed: Instance) -> None:
    rule = NicRule("10.1.0.2", table=100, routes=(NicRoute("0.0.0.0/0", "10.1.0.9"),))
    wanted = Nic("n", mtu=1400, routes=(NicRoute("10.9.0.0/16", "10.1.0.9"),), rules=(rule,), rate_in_bits=10**7)
    changed = await plug(world, wanted)
    (told,) = instance_assignment(changed).nics
    assert (told.mtu, told.routes, told.rules, told.rate_in_bits, told.rate_out_bits) == (
        1400,
        wanted.routes,
        (rule,),
        10**7,
        0,
    )
    assert told.addresses == placed.nics[0].addresses
    assert changed.nics_generation == changed.generation


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"mtu": 100}, [("mtu", "OUT_OF_RANGE")]),
        ({"mtu": 1451}, [("mtu", "OUT_OF_RANGE")]),
        ({"mtu": 1200}, [("mtu", "OUT_OF_RANGE")]),
        (
            {"rate_in_bits": 7999, "rate_out_bits": -1},
            [("rate_in_bits", "OUT_OF_RANGE"), ("rate_out_bits", "OUT_OF_RANGE")],
        ),
        ({"routes": (NicRoute("10.9.0.1/16"),)}, [("routes[0].destination", "ROUTE_INVALID")]),
        ({"routes": (NicRoute("0.0.0.0/0", "10.1.0.9"),)}, [("routes[0].destination", "ROUTE_INVALID")]),
        ({"routes": (NicRoute("10.9.0.0/16", "fd00::1"),)}, [("routes[0].gateway", "ROUTE_INVALID")]),
        ({"routes": (NicRoute("10.9.0.0/16", "x"),)}, [("routes[0].gateway", "ADDRESS_INVALID")]),
        ({"routes": (NicRoute("10.9.0.0/16"),) * 2}, [("routes[1].destination", "ROUTE_INVALID")]),
        ({"rules": (NicRule(table=100),)}, [("rules[0]", "RULE_INVALID")]),
        (
            {"rules": (NicRule("10.0.0.1/8", table=254),)},
            [("rules[0].source", "RULE_INVALID"), ("rules[0].table", "OUT_OF_RANGE")],
        ),
        ({"rules": (NicRule("10.0.0.1", "fd00::1", table=7),)}, [("rules[0]", "RULE_INVALID")]),
        ({"rules": (NicRule(fwmark=1, table=7, priority=5),) * 2}, [("rules[1].priority", "RULE_INVALID")]),
        ({"rules": (NicRule(fwmark=1 << 32, table=7),)}, [("rules[0].fwmark", "OUT_OF_RANGE")]),
        (
            {"rules": (NicRule(fwmark=1, table=7, routes=(NicRoute("here"),), priority=40000),)},
            [("rules[0].priority", "OUT_OF_RANGE"), ("rules[0].routes[0].destination", "ROUTE_INVALID")],
        ),
    ],
)
async def test_options_that_cannot_be(world: World, fields: dict[str, Any], wrong: list[tuple[str, str]]) -> None:
    await world.network("six", "10.1.0.0/24", "fd00:1::/64")
    with pytest.raises(InvalidSpec) as caught:
        await world.create("i", Nic("six", **fields))
    assert problems(caught.value) == [(f"instance.spec.nics[0].{field}", reason) for field, reason in wrong]

"""Security groups: what may be asked for, who may have them, and what hosts are told of their members."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.dispatch.security import members_of
from controlplane.domain.instances import InstanceState, Nic
from controlplane.domain.kinds import ROUTER, SECURITY_GROUP
from controlplane.domain.routers import Router, RouterLeg, RouterSpec
from controlplane.domain.security_groups import SecurityDirection, SecurityGroupSpec, SecurityRule
from controlplane.services.paging import PageRequest
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, NotReady, VersionConflict
from moorage.router_bundle import TrafficProtocol
from tests.unit.controlplane.world import P, World, problems

IN, OUT = SecurityDirection.IN, SecurityDirection.OUT
TCP, ICMP, ICMPV6 = TrafficProtocol.TCP, TrafficProtocol.ICMP, TrafficProtocol.ICMPV6
WEB = f"projects/{P}/securityGroups/web"


async def test_a_group_is_kept_with_nothing_left_to_guess(world: World) -> None:
    await world.security_group("lb")
    made = await world.security_group("web", SecurityRule(IN, TCP, ("80",), group="lb"), SecurityRule(IN, group="web"))
    assert made.name == WEB
    assert [rule.group for rule in made.spec.rules] == [f"projects/{P}/securityGroups/lb", WEB]
    assert made.spec.rules[1].protocol is TrafficProtocol.ANY
    assert made.group_uids[WEB] == made.uid
    assert world.security_groups.get(P, "web") == made
    assert [item.value.id for item in world.security_groups.list(P, PageRequest()).items] == ["lb", "web"]
    assert world.reasons() == ["CREATED", "CREATED"]


@pytest.mark.parametrize(
    ("rule", "field", "reason"),
    [
        (SecurityRule(), "direction", "REQUIRED"),
        (SecurityRule(IN, ports=("80",)), "ports", "NOT_ALLOWED"),
        (SecurityRule(IN, ICMP, ports=("80",)), "ports", "NOT_ALLOWED"),
        (SecurityRule(IN, TCP, ("0",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("65536",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("90-80",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("http",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("80-",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("80 ; drop",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("9" * 5000,)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("0000000809999",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("080",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("80-090",)), "ports[0]", "PORTS_INVALID"),
        (SecurityRule(IN, TCP, ("80-90", "85")), "ports[1]", "PORTS_OVERLAP"),
        (SecurityRule(IN, TCP, icmp_type=8), "icmp_type", "NOT_ALLOWED"),
        (SecurityRule(IN, ICMP, icmp_type=256), "icmp_type", "OUT_OF_RANGE"),
        (SecurityRule(IN, cidrs=("10.1.0.1/24",)), "cidrs[0]", "CIDR_INVALID"),
        (SecurityRule(IN, cidrs=("10.1.0.1",)), "cidrs[0]", "CIDR_INVALID"),
        (SecurityRule(IN, cidrs=("somewhere",)), "cidrs[0]", "CIDR_INVALID"),
        (SecurityRule(IN, cidrs=("fe80::%eth0/64",)), "cidrs[0]", "CIDR_INVALID"),
        (SecurityRule(IN, ICMP, cidrs=("fd00::/8",)), "cidrs[0]", "CIDR_INVALID"),
        (SecurityRule(IN, ICMPV6, cidrs=("10.0.0.0/8",)), "cidrs[0]", "CIDR_INVALID"),
        (SecurityRule(IN, cidrs=("10.0.0.0/8",), group="web"), "group", "NOT_ALLOWED"),
        (SecurityRule(IN, cidrs=tuple(f"10.0.{n}.0/24" for n in range(101))), "cidrs", "OUT_OF_RANGE"),
        (SecurityRule(IN, group="projects/theirs/securityGroups/x"), "group", "OTHER_PROJECT"),
        (SecurityRule(IN, group="projects/demo/networks/x"), "group", "NAME_INVALID"),
    ],
)
async def test_bad_rules(world: World, rule: SecurityRule, field: str, reason: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        await world.security_group("web", rule)
    assert problems(refused.value) == [(f"security_group.spec.rules[0].{field}", reason)]
    assert not list(world.store.view().all(SECURITY_GROUP))


async def test_every_bad_field_at_once(world: World) -> None:
    rule = SecurityRule(IN, TCP, ("80",))
    with pytest.raises(InvalidSpec) as refused:
        await world.security_group("Web", rule, rule, SecurityRule(IN, TCP, ("x",)), description="x" * 1025)
    assert [reason for _, reason in problems(refused.value)] == [
        *("NAME_INVALID", "OUT_OF_RANGE", "RULE_DUPLICATE", "PORTS_INVALID")
    ]
    with pytest.raises(InvalidSpec, match="at most 200"):
        await world.security_group("web", *(SecurityRule(IN, TCP, (str(n),)) for n in range(1, 202)))
    with pytest.raises(InvalidSpec) as refused:
        await world.security_group(
            "web", SecurityRule(IN, group="web"), SecurityRule(IN, TrafficProtocol.ANY, group=WEB)
        )
    assert problems(refused.value) == [("security_group.spec.rules[1]", "RULE_DUPLICATE")]


async def test_names_are_unique_and_creates_are_remembered(world: World) -> None:
    spec = SecurityGroupSpec()
    first = await world.security_groups.create(P, "web", {}, spec, request_key="r1", body=b"x")
    assert await world.security_groups.create(P, "web", {}, spec, request_key="r1", body=b"x") == first
    with pytest.raises(AlreadyExists):
        await world.security_group("web")
    with pytest.raises(NotFound):
        await world.security_group("db", SecurityRule(IN, group="nobody"))
    assert (await world.security_groups.create(P, "db", {}, spec, validate_only=True)).id == "db"
    with pytest.raises(NotFound):
        world.security_groups.get(P, "db")


async def test_updates(world: World) -> None:
    made = await world.security_group("web")
    rules = (SecurityRule(IN, TCP, ("80",)),)
    etag = f"{made.uid}-1"
    changed = await world.security_groups.update(P, "web", spec_fields={"rules": rules, "deny_out": True}, etag=etag)
    assert (changed.spec.rules, changed.spec.deny_out, changed.generation) == (rules, True, 2)
    with pytest.raises(VersionConflict):
        await world.security_groups.update(P, "web", labels={}, etag=etag)
    with pytest.raises(InvalidSpec):
        await world.security_groups.update(P, "web", spec_fields={"rules": (SecurityRule(),)})
    assert world.security_groups.get(P, "web") == changed
    dry = await world.security_groups.update(P, "web", spec_fields={"rules": ()}, validate_only=True)
    assert dry.spec.rules == ()
    assert world.security_groups.get(P, "web") == changed
    assert world.reasons() == ["CREATED", "RULES_CHANGED"]


async def test_what_is_in_use_stays(world: World) -> None:
    await world.security_group("lb")
    await world.security_group("web", SecurityRule(IN, group="lb"), SecurityRule(IN, group="web"))
    await world.create("a", Nic("default", security_groups=("web",)))
    for name, carrier in (("lb", "a rule of"), ("web", "an interface of")):
        with pytest.raises(NotReady, match=carrier) as refused:
            await world.security_groups.delete(P, name)
        assert refused.value.reason == "SECURITY_GROUP_IN_USE"
    with pytest.raises(NotReady, match="security groups"):
        await world.projects.delete(P)
    await world.instances.delete(P, ["a"])
    await world.security_groups.delete(P, "web")
    await world.security_groups.delete(P, "lb")
    with pytest.raises(NotFound):
        await world.security_groups.delete(P, "lb")


async def test_an_interface_carries_groups_by_name_and_uid(world: World) -> None:
    group, other = await world.security_group("web"), await world.security_group("admin")
    made = await world.create("a", Nic("default", security_groups=("web", f"projects/{P}/securityGroups/admin")))
    (nic,) = made.nics
    assert nic.security_groups == (other.name, group.name)
    assert nic.security_group_uids == (other.uid, group.uid)
    assert world.security_groups.members(group) == 1
    world.audit()
    kept = await world.changes.replace(P, "a")
    assert kept.nics == made.nics


@pytest.mark.parametrize("power", ["NET_ADMIN", "cap_net_raw", "SYS_ADMIN", "ALL"])
async def test_who_could_go_round_them_may_not_have_them(world: World, power: str) -> None:
    await world.security_group("web")
    nic = Nic("default", security_groups=("web",))
    with pytest.raises(InvalidSpec) as refused:
        await world.create("a", nic, capabilities_add=("CHOWN", power))
    assert problems(refused.value) == [("instance.spec.capabilities_add[1]", "SECURITY_GROUP_UNENFORCEABLE")]
    with pytest.raises(InvalidSpec) as refused:
        await world.create("a", nic, privileged=True)
    assert problems(refused.value) == [("instance.spec.privileged", "SECURITY_GROUP_UNENFORCEABLE")]


async def test_groups_of_a_running_interface_change_in_place(world: World) -> None:
    await world.host("h1")
    await world.security_group("web")
    made = await world.create("a", Nic("default"))
    await world.place("a", "h1")
    await world.report(world.get("a"), InstanceState.RUNNING)
    changed = await world.changes.update(P, "a", spec_fields={"nics": (Nic("default", security_groups=("web",)),)})
    assert changed.nics[0].security_groups == (WEB,)
    assert changed.nics[0].addresses == made.nics[0].addresses
    assert (changed.run_request, changed.container_generation) == (made.run_request, made.container_generation)
    with pytest.raises(NotFound):
        await world.changes.update(P, "a", spec_fields={"nics": (Nic("default", security_groups=("nobody",)),)})
    bare = await world.changes.update(P, "a", spec_fields={"nics": (Nic("default"),)})
    assert bare.nics[0].security_group_uids == ()
    world.audit()


@pytest.mark.parametrize(
    ("groups", "field", "reason"),
    [
        (("web", WEB), "instance.spec.nics[0].security_groups", "INVALID"),
        (tuple(f"g{n}" for n in range(17)), "instance.spec.nics[0].security_groups", "OUT_OF_RANGE"),
        (("projects/theirs/securityGroups/x",), "instance.spec.nics[0].security_groups[0]", "OTHER_PROJECT"),
    ],
)
async def test_bad_groups_of_an_interface(world: World, groups: tuple[str, ...], field: str, reason: str) -> None:
    await world.security_group("web")
    with pytest.raises(InvalidSpec) as refused:
        await world.create("a", Nic("default", security_groups=groups))
    assert problems(refused.value) == [(field, reason)]


async def test_members_are_those_that_the_network_reaches_under_these_addresses(world: World) -> None:
    group = await world.security_group("web")
    nets = {name: await world.network(name, cidr) for name, cidr in (("n", "10.1.0.0/24"), ("m", "10.2.0.0/24"))}
    twin = await world.network("twin", "10.1.0.0/24")
    for name in ("n", "m", "twin"):
        await world.create(f"on-{name}", Nic(name, security_groups=("web",)))

    def members(network: Any) -> set[str]:
        return set(members_of(world.store.view(), group.uid, network.uid))

    assert members(nets["n"]) == {"10.1.0.2"}
    assert members(nets["m"]) == {"10.2.0.2"}
    uids = (nets["n"].uid, nets["m"].uid)
    router = Router("r1", P, "r", world.clock.now(), RouterSpec(), uids, outside_uid="outside")
    await world.store.update(lambda tx: tx.put(ROUTER, router))
    assert members(nets["n"]) == members(nets["m"]) == {"10.1.0.2", "10.2.0.2"}
    assert members(twin) == {"10.1.0.2"}, "its own, not its namesake's"


async def test_hosts_hear_of_members_wherever_they_are_and_others_do_not(world: World) -> None:
    dispatcher = Dispatcher(world.store, world.clock)
    running = asyncio.create_task(dispatcher.run())
    await world.clock.settle()
    for host in ("h1", "h2", "h3"):
        await world.host(host)
    await world.network("n", "10.1.0.0/24")
    await world.network("m", "10.2.0.0/24")
    lb = await world.security_group("lb")
    web = await world.security_group("web", SecurityRule(IN, group="lb"))
    await world.create("a", Nic("n", security_groups=("web",)))
    await world.place("a", "h1")
    await world.create("c", Nic("m"))
    await world.place("c", "h3")
    sessions = {host: dispatcher.open(f"uid-{host}", 1) for host in ("h1", "h2", "h3")}
    first = {host: session.complete(world.store.view()).security for host, session in sessions.items()}
    assert [group.group_id for group in first["h1"].groups] == [web.uid]
    assert first["h1"].groups[0].rules[0].group == lb.uid
    assert [(one.group_id, one.added) for one in first["h1"].members] == [(lb.uid, ())]
    assert not first["h2"]
    assert not first["h3"]

    async def news() -> dict[str, Any]:
        await world.clock.settle()
        changes = {name: session.incremental(world.store.view()).security for name, session in sessions.items()}
        return {name: change for name, change in changes.items() if change}

    await world.create("b", Nic("n", security_groups=("lb",)))
    told = await news()
    assert set(told) == {"h1"}, "before it has a host, so that no packet is too early"
    assert told["h1"].members[0].added == ("10.1.0.3",)
    await world.place("b", "h2")
    told = await news()
    assert {name: [group.group_id for group in one.groups] for name, one in told.items()} == {"h2": [lb.uid]}
    await world.security_groups.update(P, "web", spec_fields={"rules": (SecurityRule(IN, TCP, group="lb"),)})
    told = await news()
    assert set(told) == {"h1"}
    assert (len(told["h1"].groups), told["h1"].members) == (1, ())
    await world.changes.update(P, "b", spec_fields={"nics": (Nic("n"),)})
    told = await news()
    assert told["h1"].members[0].removed == ("10.1.0.3",)
    assert told["h2"].removed_groups == (lb.uid,)
    await world.security_groups.update(P, "web", spec_fields={"rules": ()})
    told = await news()
    assert told["h1"].members[0].dropped
    await world.changes.update(P, "a", spec_fields={"nics": (Nic("n"),)})
    told = await news()
    assert told["h1"].removed_groups == (web.uid,)
    running.cancel()
    await asyncio.wait([running])


async def test_a_routers_networks_are_told_when_it_comes(world: World) -> None:
    dispatcher = Dispatcher(world.store, world.clock)
    running = asyncio.create_task(dispatcher.run())
    await world.clock.settle()
    await world.host("h1")
    networks = [await world.network("n", "10.1.0.0/24"), await world.network("m", "10.2.0.0/24")]
    await world.security_group("web", SecurityRule(IN, group="web"))
    await world.create("a", Nic("n", security_groups=("web",)))
    await world.create("b", Nic("m", security_groups=("web",)))
    await world.place("a", "h1")
    session = dispatcher.open("uid-h1", 1)
    session.complete(world.store.view())
    legs = tuple(RouterLeg(network.name) for network in networks)
    uids = tuple(network.uid for network in networks)
    router = Router("r1", P, "r", world.clock.now(), RouterSpec(legs), uids, outside_uid="x")
    await world.store.update(lambda tx: tx.put(ROUTER, router))
    await world.clock.settle()
    (update,) = session.incremental(world.store.view()).security.members
    assert update.added == ("10.2.0.2",)
    alone = replace(router, spec=RouterSpec(legs[:1]), network_uids=uids[:1], generation=2)
    await world.store.update(lambda tx: tx.put(ROUTER, alone))
    await world.clock.settle()
    (update,) = session.incremental(world.store.view()).security.members
    assert update.removed == ("10.2.0.2",)
    running.cancel()
    await asyncio.wait([running])

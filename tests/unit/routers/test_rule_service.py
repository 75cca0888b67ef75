"""Rules: what they may speak of, which of them clash, and that a request is taken whole or not at all."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.access.quota import Quota
from controlplane.domain.instances import Claim, Instance, Nic
from controlplane.domain.kinds import BALANCER, INSTANCE, ROUTER_RULE
from controlplane.domain.networks import NetworkSpec, Subnet
from controlplane.domain.routers import (
    FirewallRule,
    Listener,
    PortForward,
    PublicAddressSpec,
    RouterLeg,
    RouterRule,
    RouterRuleSpec,
    RouterSpec,
    SourceNat,
    StaticNat,
)
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest
from controlplane.services.router_rules import NewRule
from controlplane.services.rule_targets import RuleTargets
from moorage.errors import AlreadyExists, Exhausted, InvalidSpec, NotFound, NotReady, QuotaExceeded, VersionConflict
from moorage.router_bundle import FirewallDirection
from tests.unit.controlplane.world import P, World, problems
from tests.unit.routers.scenes import balancer

WEB = f"projects/{P}/instances/web"
ONE = f"projects/{P}/publicAddresses/one"
ACROSS = FirewallDirection.ACROSS


@pytest.fixture
async def edge(world: World) -> World:
    """A router before back and front, an instance on each, one on neither, and three public addresses."""
    await world.networks.create(P, "six", {}, NetworkSpec(subnets=(Subnet("10.6.0.0/24"), Subnet("fd00:6::/64"))))
    spec = RouterSpec(legs=(RouterLeg("back"), RouterLeg("front")))
    await world.routers.create(P, "edge", {}, spec)
    await world.create("web", Nic("back"))
    await world.create("db", Nic("front"))
    await world.create("stranger", Nic("six"))
    for name in ("one", "two"):
        await world.public_addresses.create(P, name, {}, PublicAddressSpec("outside"))
    return world


def forward(first: int = 80, instance: str = "web", **fields: Any) -> RouterRuleSpec:
    return RouterRuleSpec(port_forward=PortForward(first_port=first, instance=instance, **fields))


def static(address: str = "one", instance: str = "web") -> RouterRuleSpec:
    return RouterRuleSpec(static_nat=StaticNat(address, instance))


def source(cidr: str = "10.1.0.0/24", address: str = "one") -> RouterRuleSpec:
    return RouterRuleSpec(source_nat=SourceNat(cidr, address))


def firewall(**fields: Any) -> RouterRuleSpec:
    return RouterRuleSpec(firewall=FirewallRule(**{"direction": FirewallDirection.IN, **fields}))


async def add(world: World, rule_id: str, spec: RouterRuleSpec, router_id: str = "edge") -> RouterRule:
    (made,) = await world.rules.create(P, router_id, [NewRule(rule_id, {}, spec)])
    return made


async def refused(world: World, *specs: RouterRuleSpec, router_id: str = "edge") -> list[tuple[str, str]]:
    wanted = [NewRule(f"r{n}", {}, spec, f"requests[{n}].rule") for n, spec in enumerate(specs)]
    before = world.store.view().revision
    with pytest.raises(InvalidSpec) as caught:
        await world.rules.create(P, router_id, wanted)
    assert world.store.view().revision == before
    return [(field.removeprefix("requests[0].rule.spec."), reason) for field, reason in problems(caught.value)]


async def test_names_become_full_and_one_is_made(edge: World) -> None:
    made = await add(edge, "", forward())
    assert made.id.startswith("port-forward-")
    assert made.spec.port_forward == PortForward("", "tcp", 80, 80, WEB, 80)
    nat = await add(edge, "nat", static(ONE, WEB))
    assert nat.spec.static_nat == StaticNat(ONE, WEB)
    assert (await add(edge, "src", source(address="two"))).spec.source_nat == SourceNat(
        "10.1.0.0/24", f"projects/{P}/publicAddresses/two"
    )
    rule = (await add(edge, "fw", firewall(direction=ACROSS, from_network="back", to_network="front"))).spec.firewall
    assert rule is not None
    assert (rule.from_network, rule.to_network) == (f"projects/{P}/networks/back", f"projects/{P}/networks/front")
    assert edge.routers.get(P, "edge").asked_revision == edge.store.view().revision


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (forward(instance="none"), [("port_forward.instance", "TARGET_NOT_A_MEMBER")]),
        (forward(instance="stranger"), [("port_forward.instance", "TARGET_NOT_A_MEMBER")]),
        (static(instance="stranger"), [("static_nat.instance", "TARGET_NOT_A_MEMBER")]),
        (forward(instance="projects/other/instances/web"), [("port_forward.instance", "OTHER_PROJECT")]),
        (static("projects/other/publicAddresses/one"), [("static_nat.public_address", "OTHER_PROJECT")]),
        (source("10.6.0.0/24"), [("source_nat.source_cidr", "CIDR_INVALID")]),
        (source("10.0.0.0/8"), [("source_nat.source_cidr", "CIDR_INVALID")]),
        (
            forward(public_address="one", source_cidrs=("10.0.0.0/8", "fd00::/8")),
            [("port_forward.source_cidrs[1]", "CIDR_INVALID")],
        ),
        (firewall(direction=ACROSS, from_network="six"), [("firewall.from_network", "TARGET_NOT_A_MEMBER")]),
        (firewall(direction=ACROSS, to_network="outside"), [("firewall.to_network", "TARGET_NOT_A_MEMBER")]),
        (
            firewall(direction=ACROSS, from_network="back", to_network="back"),
            [("firewall.to_network", "NOT_ALLOWED")],
        ),
        (RouterRuleSpec(), [("requests[0].rule.spec", "KIND_MISSING")]),
    ],
)
async def test_what_no_rule_can_speak_of(edge: World, spec: RouterRuleSpec, expected: list[tuple[str, str]]) -> None:
    assert await refused(edge, spec) == expected


async def test_every_problem_of_a_batch_is_named_and_nothing_is_kept(edge: World) -> None:
    found = await refused(edge, forward(instance="none"), firewall(), forward(81, instance="stranger"))
    assert found == [
        ("port_forward.instance", "TARGET_NOT_A_MEMBER"),
        ("requests[2].rule.spec.port_forward.instance", "TARGET_NOT_A_MEMBER"),
    ]
    bad_ids = [NewRule("Bad", {"moorage.x": "y"}, forward(0), "requests[0].rule")]
    with pytest.raises(InvalidSpec) as caught:
        await edge.rules.create(P, "edge", bad_ids)
    assert [v.field for v in caught.value.violations] == [
        "requests[0].rule_id",
        "requests[0].rule.labels[moorage.x]",
        "requests[0].rule.spec.port_forward.first_port",
    ]


async def test_an_address_of_another_family_is_no_target(edge: World) -> None:
    await edge.networks.create(P, "out6", {}, NetworkSpec(subnets=(Subnet("2001:db8::/64"),), egress=True))
    await edge.routers.create(P, "r6", {}, RouterSpec(legs=(RouterLeg("six"),), outside_network="out6"))
    await edge.public_addresses.create(P, "a6", {}, PublicAddressSpec("out6", ipv6=True))
    await edge.network("four", "10.7.0.0/24")
    assert await refused(edge, source("10.6.0.0/24", "a6"), router_id="r6") == [
        ("source_nat.source_cidr", "CIDR_INVALID")
    ]
    await add(edge, "ok", static("a6", "stranger"), "r6")
    assert await refused(edge, forward(public_address="a6", instance="web"), router_id="r6") == [
        ("port_forward.instance", "TARGET_NOT_A_MEMBER")
    ]


async def test_public_addresses_are_of_the_outside_and_of_one_router(edge: World) -> None:
    with pytest.raises(NotFound):
        await add(edge, "x", static("none"))
    await edge.routers.create(P, "other", {}, RouterSpec(legs=(RouterLeg("six"),)))
    await add(edge, "nat", static("one"))
    assert await refused(edge, static("one", "stranger"), router_id="other") == [
        ("static_nat.public_address", "PUBLIC_ADDRESS_IN_USE")
    ]
    await edge.network("dmz", "10.9.0.0/24", egress=True)
    await edge.network("inner", "10.8.0.0/24")
    await edge.routers.create(P, "third", {}, RouterSpec(legs=(RouterLeg("inner"),), outside_network="dmz"))
    await edge.create("deep", Nic("inner"))
    assert await refused(edge, static("two", "deep"), router_id="third") == [
        ("static_nat.public_address", "PUBLIC_ADDRESS_UNSUITABLE")
    ]


@pytest.mark.parametrize(
    ("held", "wanted", "field"),
    [
        (forward(80), forward(80, "db"), "port_forward.first_port"),
        (forward(80, last_port=90), forward(85), "port_forward.first_port"),
        (static("one"), forward(80, public_address="one"), "port_forward.first_port"),
        (forward(80, public_address="one"), static("one"), "static_nat.public_address"),
        (static("one"), static("one", "db"), "static_nat.public_address"),
        (static("one"), static("two"), "static_nat.instance"),
        (source("10.1.0.0/25"), source("10.1.0.0/24", "two"), "source_nat.source_cidr"),
    ],
)
async def test_clashes_name_the_other_rule(
    edge: World, held: RouterRuleSpec, wanted: RouterRuleSpec, field: str
) -> None:
    assert [reason for _, reason in await refused(edge, held, wanted)] == ["RULE_CLASH"], "also within a request"
    await add(edge, "held", held)
    with pytest.raises(InvalidSpec) as caught:
        await add(edge, "wanted", wanted)
    assert problems(caught.value) == [(f"rule.spec.{field}", "RULE_CLASH")]
    assert f"projects/{P}/routers/edge/rules/held" in caught.value.message


async def test_balancers_take_part(edge: World) -> None:
    router = edge.routers.get(P, "edge")
    record = replace(balancer("b"), router_uid=router.uid)
    record = replace(record, spec=replace(record.spec, listeners=(Listener(port=80), Listener(ONE, port=443))))
    await edge.store.update(lambda tx: tx.put(BALANCER, record))
    assert await refused(edge, forward(80)) == [("port_forward.first_port", "RULE_CLASH")]
    assert await refused(edge, static("one")) == [("static_nat.public_address", "RULE_CLASH")]
    await add(edge, "udp", forward(80, protocol="udp"))
    assert edge.public_addresses.used_by(edge.public_addresses.get(P, "one")) == (router.name, (record.name,))


async def test_names_retries_listing_and_batches(edge: World) -> None:
    wanted = [NewRule(f"r{n}", {"n": str(n)}, forward(100 + n)) for n in range(3)]
    made = await edge.rules.create(P, "edge", wanted, request_key="k", body=b"x")
    assert await edge.rules.create(P, "edge", wanted, request_key="k", body=b"x") == made
    with pytest.raises(AlreadyExists):
        await add(edge, "r0", forward())
    with pytest.raises(AlreadyExists):
        await edge.rules.create(P, "edge", [NewRule("s", {}, forward(1)), NewRule("s", {}, forward(2))])
    before = edge.store.view().revision
    assert (await edge.rules.create(P, "edge", [NewRule("t", {}, forward())], validate_only=True))[0].id == "t"
    assert edge.store.view().revision == before
    await add(edge, "fw", firewall())
    found = edge.rules.list(P, "edge", PageRequest(filter="kind=firewall"))
    assert [item.value.id for item in found.items] == ["fw"]
    found = edge.rules.list(P, "edge", PageRequest(filter="labels.n=1"))
    assert [item.value.id for item in found.items] == ["r1"]
    with pytest.raises(NotFound):
        edge.rules.list(P, "none", PageRequest())
    with pytest.raises(NotFound):
        await edge.rules.delete(P, "edge", ["r0", "none"])
    assert edge.store.view().count(ROUTER_RULE) == 4, "all or none"
    await edge.rules.delete(P, "edge", ["r0", "r1", "r0"])
    assert edge.routers.get(P, "edge").asked_revision == edge.store.view().revision
    with pytest.raises(VersionConflict):
        await edge.rules.delete(P, "edge", ["r2"], etag="x")
    for call in (edge.rules.create(P, "edge", wanted * 400), edge.rules.delete(P, "edge", ["r"] * 1001)):
        with pytest.raises(InvalidSpec) as caught:
            await call
        assert caught.value.reason == "OUT_OF_RANGE"


async def test_a_rule_is_changed_and_keeps_its_kind(edge: World) -> None:
    made = await add(edge, "r", forward(80))
    await add(edge, "other", forward(90))
    changed = await edge.rules.update(P, "edge", "r", spec=forward(80, last_port=85), etag=etag_of(made))
    assert changed.spec.port_forward is not None
    assert (changed.spec.port_forward.last_port, changed.generation) == (85, 2)
    assert (await edge.rules.update(P, "edge", "r", labels={"a": "b"})).labels == {"a": "b"}
    with pytest.raises(VersionConflict):
        await edge.rules.update(P, "edge", "r", labels={}, etag=etag_of(made))
    for spec, reason in (
        (firewall(), "KIND_CHANGED"),
        (forward(85, last_port=95), "RULE_CLASH"),
        (forward(0), "PORT_INVALID"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            await edge.rules.update(P, "edge", "r", spec=spec)
        assert caught.value.reason == reason
    with pytest.raises(NotFound):
        await edge.rules.update(P, "edge", "none", labels={})


async def test_labels_can_be_changed_while_the_target_is_gone(edge: World) -> None:
    await add(edge, "r", forward())
    await edge.instances.delete(P, ["web"])
    assert (await edge.rules.update(P, "edge", "r", labels={"a": "b"})).labels == {"a": "b"}


async def test_public_addresses_are_leased(edge: World) -> None:
    one, two = edge.public_addresses.get(P, "one"), edge.public_addresses.get(P, "two")
    assert one.address != two.address
    edge.audit()
    made = await edge.public_addresses.create(P, "wanted", {"a": "b"}, PublicAddressSpec("outside", "198.51.100.77"))
    assert made.address == "198.51.100.77"
    for address, reason in (
        ("198.51.100.77", "ADDRESS_TAKEN"),
        ("198.51.100.1", "ADDRESS_RESERVED"),
        ("10.0.0.1", "ADDRESS_OUTSIDE_SUBNET"),
        ("x", "ADDRESS_INVALID"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            await edge.public_addresses.create(P, "bad", {}, PublicAddressSpec("outside", address))
        assert problems(caught.value) == [("public_address.spec.address", reason)]
    with pytest.raises(InvalidSpec) as caught:
        await edge.create("thief", Nic("outside", addresses=("198.51.100.77",)))
    assert caught.value.reason == "ADDRESS_TAKEN"
    edge.audit()


async def test_what_no_public_address_can_be(edge: World) -> None:
    for spec, field, reason in (
        (PublicAddressSpec(), "network", "REQUIRED"),
        (PublicAddressSpec("back"), "network", "OUTSIDE_UNSUITABLE"),
        (PublicAddressSpec("projects/other/networks/n"), "network", "OTHER_PROJECT"),
        (PublicAddressSpec("outside", ipv6=True), "ipv6", "ADDRESS_OUTSIDE_SUBNET"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            await edge.public_addresses.create(P, "a", {}, spec)
        assert problems(caught.value) == [(f"public_address.spec.{field}", reason)]
    with pytest.raises(NotFound):
        await edge.public_addresses.create(P, "a", {}, PublicAddressSpec("none"))
    with pytest.raises(AlreadyExists):
        await edge.public_addresses.create(P, "one", {}, PublicAddressSpec("outside"))
    used = edge.projects.get(P).usage.addresses
    await edge.projects.update(P, quota=Quota(addresses=used))
    with pytest.raises(QuotaExceeded):
        await edge.public_addresses.create(P, "a", {}, PublicAddressSpec("outside"))


async def test_a_pool_runs_dry(edge: World) -> None:
    await edge.networks.create(P, "tiny", {}, NetworkSpec(subnets=(Subnet("203.0.113.0/30"),), egress=True))
    await edge.routers.create(P, "t", {}, RouterSpec(legs=(RouterLeg("six"),), outside_network="tiny"))
    await edge.public_addresses.create(P, "a", {}, PublicAddressSpec("tiny"))
    with pytest.raises(Exhausted) as caught:
        await edge.public_addresses.create(P, "b", {}, PublicAddressSpec("tiny"))
    assert caught.value.reason == "ADDRESSES_EXHAUSTED"


async def test_public_addresses_are_given_back_when_nobody_uses_them(edge: World) -> None:
    await add(edge, "nat", static("one"))
    with pytest.raises(NotReady) as caught:
        await edge.public_addresses.delete(P, "one")
    assert (caught.value.reason, caught.value.metadata["user"]) == (
        "PUBLIC_ADDRESS_IN_USE",
        f"projects/{P}/routers/edge/rules/nat",
    )
    await edge.rules.delete(P, "edge", ["nat"])
    public = edge.public_addresses.get(P, "one")
    changed = await edge.public_addresses.update(P, "one", labels={"a": "b"}, etag=etag_of(public))
    with pytest.raises(InvalidSpec):
        await edge.public_addresses.update(P, "one", labels={"moorage.x": ""})
    with pytest.raises(VersionConflict):
        await edge.public_addresses.delete(P, "one", etag=etag_of(public))
    found = edge.public_addresses.list(P, PageRequest(filter="labels.a=b"))
    assert [item.value.id for item in found.items] == ["one"]
    await edge.public_addresses.delete(P, "one", etag=etag_of(changed))
    with pytest.raises(NotFound):
        edge.public_addresses.get(P, "one")
    edge.audit()


async def put(world: World, member: Instance) -> None:
    await world.store.update(lambda tx: tx.put(INSTANCE, member))


async def test_a_member_of_a_group_is_a_target_if_its_successor_has_its_name(edge: World) -> None:
    web = edge.get("web")
    cases: tuple[tuple[tuple[Claim, ...], int], ...] = (((), 1), ((Claim.NAME,), 0))
    for claims, count in cases:
        member = replace(web, owner=f"projects/{P}/groups/web", slot=0, claims=claims)
        await put(edge, member)
        target = RuleTargets(edge.store.view(), edge.routers.get(P, "edge"))
        _, found = target.instance("web", "instance")
        assert [problem.reason for problem in found] == ["TARGET_NOT_A_MEMBER"] * count

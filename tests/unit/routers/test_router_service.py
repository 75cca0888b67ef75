"""Routers: what may be asked for, what is refused, and what else a router keeps from happening."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.domain.containers import PublishedPort, Resources
from controlplane.domain.instances import Nic, Placement
from controlplane.domain.kinds import INSTANCE, NETWORK, ROUTER, TEMPLATE
from controlplane.domain.networks import Network, NetworkKind, NetworkSpec, Subnet
from controlplane.domain.routers import (
    DefaultAction,
    EdgeHosts,
    PortForward,
    PublicAddressSpec,
    Router,
    RouterLeg,
    RouterRuleSpec,
    RouterSpec,
)
from controlplane.router_members.loop import RouterMembers
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest
from controlplane.services.router_field_rules import check_networks
from controlplane.services.router_rules import NewRule
from controlplane.services.routers import RouterChange
from moorage.errors import AlreadyExists, Exhausted, InvalidSpec, NotFound, NotReady, QuotaExceeded, VersionConflict
from moorage.store.base import Transaction
from tests.support.controlplane import ready_template
from tests.unit.controlplane.world import P, World, problems


async def make(world: World, *legs: str, router_id: str = "edge", **fields: Any) -> Router:
    spec = RouterSpec(legs=tuple(map(RouterLeg, legs or ("back",))), **fields)
    return await world.routers.create(P, router_id, {}, spec)


async def refused(world: World, *legs: str, **fields: Any) -> list[tuple[str, str]]:
    before = world.store.view().revision
    with pytest.raises(InvalidSpec) as caught:
        await make(world, *legs, **fields)
    assert world.store.view().revision == before
    return [(field.removeprefix("router.spec."), reason) for field, reason in problems(caught.value)]


async def not_ready(world: World, *legs: str, **fields: Any) -> NotReady:
    before = world.store.view().revision
    with pytest.raises(NotReady) as caught:
        await make(world, *legs, **fields)
    assert world.store.view().revision == before
    return caught.value


async def test_names_become_full_and_defaults_are_chosen(world: World) -> None:
    router = await make(world, "back", f"projects/{P}/networks/front", ingress_ports=(PublishedPort(80, 80),))
    assert router.spec.legs == (
        RouterLeg(f"projects/{P}/networks/back", DefaultAction.ALLOW),
        RouterLeg(f"projects/{P}/networks/front", DefaultAction.ALLOW),
    )
    assert router.spec.outside_network == f"projects/{P}/networks/outside"
    assert router.spec.template == "projects/system/templates/router"
    assert router.spec.ingress_ports == (PublishedPort(80, 80, "tcp"),)
    back, front, outside = (world.networks.get(P, name).uid for name in ("back", "front", "outside"))
    assert (router.network_uids, router.outside_uid) == ((back, front), outside)
    assert router.asked_revision == world.store.view().revision
    assert world.reasons()[-1] == "CREATED"


async def test_the_outside_is_made_when_first_needed(world: World) -> None:
    await world.networks.delete(P, "outside")
    await make(world)
    outside = world.networks.get(P, "outside")
    assert (outside.spec.kind, outside.spec.egress) == (NetworkKind.ISOLATED, True)
    await make(world, "front", router_id="other")
    assert world.store.view().count(NETWORK) == 3
    world.audit()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"legs": ()}, [("legs", "REQUIRED")]),
        ({"legs": (RouterLeg(),)}, [("legs[0].network", "REQUIRED")]),
        ({"drain_time_seconds": -1.0}, [("drain_time", "OUT_OF_RANGE")]),
        ({"drain_time_seconds": 86401.0}, [("drain_time", "OUT_OF_RANGE")]),
        ({"resources": Resources(memory_bytes=1)}, [("resources.memory_bytes", "OUT_OF_RANGE")]),
        ({"placement": Placement(host="h1")}, [("placement.host", "NAME_INVALID")]),
        ({"ingress_ports": (PublishedPort(0, 80),)}, [("ingress_ports[0].host_port", "OUT_OF_RANGE")]),
        (
            {"ingress_ports": (PublishedPort(80, 80), PublishedPort(80, 81))},
            [("ingress_ports[1].host_port", "HOST_PORT_TAKEN")],
        ),
        ({"edge_hosts": EdgeHosts(every_host=True)}, [("ingress_ports", "REQUIRED")]),
        ({"edge_hosts": EdgeHosts(), "ingress_ports": (PublishedPort(80, 80),)}, [("edge_hosts", "REQUIRED")]),
        (
            {"edge_hosts": EdgeHosts(True, {"a": "b"}), "ingress_ports": (PublishedPort(80, 80),)},
            [("edge_hosts", "NOT_ALLOWED")],
        ),
        ({"legs": (RouterLeg("back"),) * 2}, [("legs[1].network", "LEG_UNSUITABLE")]),
        ({"legs": (RouterLeg("outside"),)}, [("legs[0].network", "LEG_UNSUITABLE")]),
        ({"outside_network": "front"}, [("outside_network", "OUTSIDE_UNSUITABLE")]),
        ({"outside_network": "projects/other/networks/front"}, [("outside_network", "OTHER_PROJECT")]),
        ({"legs": (RouterLeg("projects/other/networks/front"),)}, [("legs[0].network", "OTHER_PROJECT")]),
        ({"template": "projects/other/templates/t"}, [("template", "OTHER_PROJECT")]),
        ({"template": "web"}, [("template", "POLICY_CAPABILITY")] * 2),
    ],
)
async def test_what_no_router_can_be(world: World, fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    spec = RouterSpec(**{"legs": (RouterLeg("back"),), **fields})
    before = world.store.view().revision
    with pytest.raises(InvalidSpec) as caught:
        await world.routers.create(P, "edge", {}, spec)
    found = [(field.removeprefix("router.spec."), reason) for field, reason in problems(caught.value)]
    assert found == [(field.removeprefix("router.spec."), reason) for field, reason in expected]
    assert world.store.view().revision == before


async def test_names_labels_quota_retries_and_dry_runs(world: World) -> None:
    with pytest.raises(InvalidSpec) as caught:
        await world.routers.create(P, "Edge", {"moorage.x": "y"}, RouterSpec(legs=(RouterLeg("back"),)))
    assert problems(caught.value) == [("router_id", "NAME_INVALID"), ("router.labels[moorage.x]", "LABEL_RESERVED")]
    with pytest.raises(NotFound):
        await make(world, "nowhere")
    before = world.store.view().revision
    spec = RouterSpec(legs=(RouterLeg("back"),))
    assert (await world.routers.create(P, "edge", {}, spec, validate_only=True)).name == f"projects/{P}/routers/edge"
    assert world.store.view().revision == before
    made = await world.routers.create(P, "edge", {"a": "b"}, spec, request_key="k", body=b"x")
    assert await world.routers.create(P, "edge", {"a": "b"}, spec, request_key="k", body=b"x") == made
    with pytest.raises(AlreadyExists):
        await make(world)
    found = world.routers.list(P, PageRequest(filter="labels.a=b"))
    assert [item.value.id for item in found.items] == ["edge"]
    await world.projects.update(P, quota=Quota(addresses=1))
    with pytest.raises(QuotaExceeded):
        await make(world, "front", router_id="other")


async def test_pairs_on_one_outside_have_ids_of_their_own(world: World) -> None:
    one = await make(world, redundant=True)
    other = await make(world, "front", router_id="other", redundant=True)
    assert (one.outside_virtual_id, other.outside_virtual_id) == (254, 253)
    alone = await world.routers.update(P, "edge", RouterChange(redundant=False))
    assert alone.outside_virtual_id == 0
    kept = await world.routers.update(P, "other", RouterChange(labels={"a": "b"}))
    assert kept.outside_virtual_id == 253
    again = await world.routers.update(P, "edge", RouterChange(redundant=True))
    assert again.outside_virtual_id == 254


async def test_vrrp_tells_254_pairs_apart(world: World) -> None:
    one = await make(world, redundant=True)

    def fill(tx: Transaction) -> None:
        for number in range(1, 254):
            tx.put(ROUTER, replace(one, uid=f"u{number}", id=f"r{number}", network_uids=(), outside_virtual_id=number))

    await world.store.update(fill)
    with pytest.raises(Exhausted) as caught:
        await make(world, "front", router_id="other", redundant=True)
    assert caught.value.reason == "VIRTUAL_IDS_EXHAUSTED"
    await make(world, "front", router_id="other")


async def test_a_pair_needs_twice_the_quota(world: World) -> None:
    await world.projects.update(P, quota=Quota(instances=1))
    with pytest.raises(QuotaExceeded):
        await make(world, redundant=True)
    await make(world)


async def test_the_template_must_be_there(world: World) -> None:
    await world.store.update(lambda tx: tx.delete(TEMPLATE, "system/router"))
    error = await not_ready(world)
    assert error.reason == "ROUTER_TEMPLATE_MISSING"
    assert "moor router-image register" in error.message


async def test_of_the_platforms_templates_only_images_of_routers_are_a_routers(world: World) -> None:
    other = ready_template("system", "other", world.clock.now())
    await world.store.update(lambda tx: tx.put(TEMPLATE, other))
    name = "projects/system/templates/other"
    with pytest.raises(InvalidSpec) as caught:
        await make(world, template=name)
    assert problems(caught.value) == [("router.spec.template", "TEMPLATE_UNSUITABLE")]
    await world.store.update(lambda tx: tx.put(TEMPLATE, replace(other, labels={"router-image": "true"})))
    assert (await make(world, template=name)).spec.template == name


async def test_ones_own_template_needs_the_policy(world: World) -> None:
    await world.projects.update(P, policy=ProjectPolicy(allowed_capabilities=("NET_ADMIN", "NET_RAW")))
    own = ready_template(P, "mine", world.clock.now(), repository="uid-demo/mine")
    await world.store.update(lambda tx: tx.put(TEMPLATE, own))
    assert (await make(world, template="mine")).spec.template == f"projects/{P}/templates/mine"
    assert (await not_ready(world, "front", router_id="b", template="none")).reason == "ROUTER_TEMPLATE_MISSING"
    await world.store.update(lambda tx: tx.delete(TEMPLATE, f"{P}/mine"))


async def test_networks_must_be_told_apart(world: World) -> None:
    await world.network("twin", "10.1.0.0/25")
    assert await refused(world, "back", "twin") == [("legs[1].network", "SUBNET_OVERLAPS")]
    await world.network("wide", "198.51.0.0/16")
    assert await refused(world, "wide") == [("legs[0].network", "SUBNET_OVERLAPS")]


async def test_shared_networks_are_outside_only(world: World) -> None:
    await world.projects.update(P, policy=ProjectPolicy(allowed_bridges=("br0",)))
    await world.shared("office", "br0", "192.0.2.0/24")
    assert await refused(world, "office") == [("legs[0].network", "LEG_UNSUITABLE")]
    ports = (PublishedPort(80, 80),)
    fields = {"outside_network": "office", "ingress_ports": ports}
    assert await refused(world, **fields) == [("ingress_ports", "PORT_NOT_PUBLISHABLE")]
    await make(world, outside_network="office")
    await world.projects.update(P, policy=ProjectPolicy())
    assert await refused(world, "front", router_id="b", outside_network="office") == [
        ("outside_network", "POLICY_BRIDGE")
    ]


async def test_no_router_behind_a_router(world: World) -> None:
    await make(world, "back")
    await world.network("dmz", "10.3.0.0/24", egress=True)
    await make(world, "front", router_id="inner", outside_network="dmz")
    assert await refused(world, "dmz", router_id="x") == [("legs[0].network", "LEG_UNSUITABLE")]
    await world.network("far", "10.4.0.0/24", egress=True)
    await world.network("deep", "10.5.0.0/24")
    await make(world, "far", router_id="far")
    assert await refused(world, "deep", router_id="y", outside_network="far") == [
        ("outside_network", "OUTSIDE_UNSUITABLE")
    ]


async def test_a_network_has_one_router(world: World) -> None:
    await make(world)
    error = await not_ready(world, "front", "back", router_id="other")
    assert (error.reason, error.metadata["router"]) == ("NETWORK_HAS_ROUTER", f"projects/{P}/routers/edge")
    await world.routers.delete(P, "edge")
    assert (await not_ready(world, router_id="other")).reason == "NETWORK_HAS_ROUTER", "until it is gone"


async def test_published_ports_and_routers_exclude_each_other(world: World) -> None:
    await world.create("web", Nic("back"), published_ports=(PublishedPort(80, 80),))
    error = await not_ready(world)
    assert error.reason == "NETWORK_HAS_PUBLISHED_PORTS"
    assert "projects/demo/instances/web" in error.message
    await world.changes.update(P, "web", spec_fields={"published_ports": ()})
    await make(world)


async def test_a_router_is_changed_in_place(world: World) -> None:
    made = await make(world)
    legs = (RouterLeg("back", DefaultAction.DENY), RouterLeg("front"))
    change = RouterChange(labels={"a": "b"}, legs=legs, redundant=True, drain_time_seconds=5.0)
    changed = await world.routers.update(P, "edge", change, etag=etag_of(made))
    assert (changed.labels, changed.spec.redundant, changed.spec.drain_time_seconds) == ({"a": "b"}, True, 5.0)
    assert [leg.egress for leg in changed.spec.legs] == [DefaultAction.DENY, DefaultAction.ALLOW]
    assert (len(changed.network_uids), changed.generation) == (2, 2)
    assert changed.asked_revision == world.store.view().revision
    with pytest.raises(VersionConflict):
        await world.routers.update(P, "edge", change, etag=etag_of(made))
    ports = RouterChange(
        ingress_ports=(PublishedPort(80, 80),), edge_hosts=EdgeHosts(every_host=True), has_edge_hosts=True
    )
    assert (await world.routers.update(P, "edge", ports)).spec.edge_hosts == EdgeHosts(every_host=True)
    before = world.store.view().revision
    for bad in (
        RouterChange(legs=()),
        RouterChange(ingress_ports=()),
        RouterChange(labels={"moorage.x": "y"}),
        RouterChange(legs=(RouterLeg("outside"),)),
    ):
        with pytest.raises(InvalidSpec):
            await world.routers.update(P, "edge", bad)
    gone = RouterChange(ingress_ports=(), has_edge_hosts=True)
    assert (await world.routers.update(P, "edge", gone, validate_only=True)).spec.edge_hosts is None
    assert world.store.view().revision == before


async def test_deleting_asks_and_the_members_go_first(world: World) -> None:
    made = await make(world)
    await world.create("web", Nic("back"))
    spec = RouterRuleSpec(port_forward=PortForward(first_port=80, instance="web"))
    await world.rules.create(P, "edge", [NewRule("r", {}, spec)])
    with pytest.raises(NotReady) as caught:
        await world.routers.delete(P, "edge")
    assert (caught.value.reason, "has 1 rule;" in caught.value.message) == ("ROUTER_IN_USE", True)
    with pytest.raises(VersionConflict):
        await world.routers.delete(P, "edge", etag="x", force=True)
    await world.routers.delete(P, "edge", etag=etag_of(made), force=True)
    await world.routers.delete(P, "edge")
    assert world.routers.get(P, "edge").is_deleting
    for call in (
        world.routers.update(P, "edge", RouterChange(labels={})),
        world.rules.create(P, "edge", [NewRule("s", {}, spec)]),
        world.rules.update(P, "edge", "r", labels={}),
    ):
        with pytest.raises(NotReady) as caught:
            await call
        assert caught.value.reason == "ROUTER_DELETING"
    with pytest.raises(NotFound):
        await world.routers.delete(P, "none")


async def test_observations_do_not_change_what_was_asked(world: World) -> None:
    made = await make(world)
    await world.store.update(lambda tx: tx.put(ROUTER, replace(made, reason="X", message="y")))
    assert world.routers.get(P, "edge").asked_revision == made.asked_revision


async def test_ports_of_hosts_do_not_lead_behind_a_router(world: World) -> None:
    await world.create("old", Nic("front"), published_ports=(PublishedPort(80, 80),))
    await make(world)
    ports = {"published_ports": (PublishedPort(8080, 80),)}
    with pytest.raises(InvalidSpec) as caught:
        await world.create("web", Nic("back"), **ports)
    assert problems(caught.value) == [("instance.spec.published_ports", "PORT_NOT_PUBLISHABLE")]
    assert f"projects/{P}/routers/edge" in caught.value.message
    web = await world.create("web", Nic("back"))
    for fields in (ports, {**ports, "nics": (Nic("back"), Nic("front"))}):
        with pytest.raises(InvalidSpec) as caught:
            await world.changes.update(P, "web", spec_fields=fields)
        assert problems(caught.value) == [("instance.spec.published_ports", "PORT_NOT_PUBLISHABLE")]
    with pytest.raises(InvalidSpec) as caught:
        await world.changes.update(P, "old", spec_fields={"nics": (Nic("front"), Nic("back"))})
    assert problems(caught.value) == [("instance.spec.published_ports", "PORT_NOT_PUBLISHABLE")]
    with pytest.raises(InvalidSpec) as caught:
        await world.changes.replace(P, "web", spec=replace(web.spec, **ports))  # type: ignore[arg-type]
    assert problems(caught.value) == [("spec.published_ports", "PORT_NOT_PUBLISHABLE")]


async def test_networks_of_routers_stay(world: World) -> None:
    await make(world)
    for name, words in (("back", "is behind"), ("outside", "is the outside of")):
        with pytest.raises(NotReady) as caught:
            await world.networks.delete(P, name)
        assert caught.value.reason == "NETWORK_IN_USE"
        assert f"{words} projects/{P}/routers/edge" in caught.value.message
    with pytest.raises(NotReady) as caught:
        await world.networks.update(P, "outside", egress=False)
    assert caught.value.reason == "NETWORK_IN_USE"
    await world.networks.update(P, "outside", egress=True)
    assert world.networks.router_before(world.networks.get(P, "back")) == f"projects/{P}/routers/edge"
    assert world.networks.router_before(world.networks.get(P, "front")) == ""


async def test_a_network_with_public_addresses_stays(world: World, members: RouterMembers) -> None:
    await make(world)
    await world.public_addresses.create(P, "one", {}, PublicAddressSpec("outside"))
    await world.routers.delete(P, "edge")
    await members.reconcile_once()
    with pytest.raises(NotReady) as caught:
        await world.networks.delete(P, "outside")
    assert (caught.value.reason, "publicAddresses/one" in caught.value.message) == ("NETWORK_IN_USE", True)
    await world.public_addresses.delete(P, "one")
    await world.networks.delete(P, "outside")


async def test_containers_of_a_router_are_its_own_affair(world: World, members: RouterMembers) -> None:
    await make(world)
    await members.reconcile_once()
    (found,) = world.store.view().find(INSTANCE, "owner", f"projects/{P}/routers/edge")
    before = found.value
    name = before.id
    for call in (
        world.changes.update(P, name, labels={"a": "b"}),
        world.changes.replace(P, name, spec=before.spec),
        world.instances.stop(P, name),
        world.instances.pause(P, name),
        world.instances.delete(P, [name]),
        world.instances.delete(P, [name], force=True),
    ):
        with pytest.raises(NotReady) as caught:
            await call
        assert (caught.value.reason, caught.value.metadata["owner"]) == ("INSTANCE_OWNED", before.owner)
    assert world.get(name) == before
    rebooted = await world.instances.reboot(P, name)
    replaced = await world.changes.replace(P, name)
    assert replaced.container_generation == rebooted.container_generation + 1
    assert (replaced.nics, replaced.owner) == (before.nics, before.owner)
    assert replaced.effective.capabilities_add == before.effective.capabilities_add
    world.audit()


def test_an_outside_whose_addresses_nobody_here_knows() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    back = Network("b", P, "back", now, NetworkSpec(NetworkKind.ISOLATED, (Subnet("10.1.0.0/24", "10.1.0.1"),)), 5000)
    lan = Network("l", P, "lan", now, NetworkSpec(NetworkKind.SHARED, parent="eth1", dhcp_client=True), 0)
    found = check_networks(RouterSpec((RouterLeg(back.name),)), [back], lan, {}, "", "s")
    assert [(one.field, one.reason) for one in found] == [("s.outside_network", "OUTSIDE_UNSUITABLE")]

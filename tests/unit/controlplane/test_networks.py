"""Networks: what may be asked for, and what is chosen."""

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.api import convert
from controlplane.dispatch.assignments import instance_assignment, network_assignment
from controlplane.domain.instances import InstanceSpec, InstanceState, LeasedNic, Nic
from controlplane.domain.kinds import NETWORK
from controlplane.domain.networks import MacvlanMode, NetworkDns, NetworkKind, NetworkSpec, SharedAttachment, Subnet
from controlplane.networks.subnets import check_spec
from controlplane.services import networks as module
from controlplane.services.instance_making import NewInstance
from controlplane.services.lookup import etag_of
from controlplane.services.networks import free_vni
from controlplane.services.paging import PageRequest
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, QuotaExceeded, VersionConflict
from tests.unit.controlplane.world import P, World, problems


async def test_what_is_left_open_is_chosen(world: World) -> None:
    one, two = await world.network("one"), await world.network("two")
    v4, v6 = one.spec.subnets
    assert (v4.cidr, v4.gateway) == ("10.64.0.0/24", "10.64.0.1")
    assert ipaddress.ip_network(v6.cidr).is_private
    assert v6.cidr.endswith("/64")
    assert two.spec.subnets[0].cidr == "10.64.1.0/24"
    assert two.spec.subnets[1] != v6
    assert one.vni != two.vni
    assert min(one.vni, two.vni) >= 4096
    assert (one.spec.kind, one.spec.mtu, one.spec.egress) == (NetworkKind.ISOLATED, 1450, False)


async def test_how_names_are_answered_can_be_changed(world: World) -> None:
    network = await world.network("back")
    assert network.dns_domain == "back.internal"
    changed = await world.networks.update(P, "back", dns={"domain": "corp.example", "forwarders": ("9.9.9.9",)})
    assert (changed.dns_domain, changed.spec.dns.forwarders) == ("corp.example", ("9.9.9.9",))
    assert changed.generation == network.generation + 1
    with pytest.raises(InvalidSpec):
        await world.networks.update(P, "back", dns={"no_forwarding": True})
    changed = await world.networks.update(P, "back", dns={"forwarders": (), "no_forwarding": True})
    assert changed.spec.dns == NetworkDns("corp.example", (), no_forwarding=True)


async def test_automatic_subnets_keep_clear_of_the_projects_own(world: World) -> None:
    await world.network("big", "10.64.0.0/15")
    assert (await world.network("n")).spec.subnets[0].cidr == "10.66.0.0/24"
    await world.project("other")
    theirs = await world.networks.create("other", "n", {}, NetworkSpec())
    assert theirs.spec.subnets[0].cidr == "10.64.0.0/24", "tenants do not see each other's"


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"subnets": (Subnet("10.1.0.1/24"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("10.1.0.0"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("x"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("10.1.0.0/31"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("fd00::/127"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("127.0.0.0/24"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("0.0.0.0/0"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("126.0.0.0/7"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("169.254.7.0/24"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("224.0.0.0/24"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("fe80::/64"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("::/0"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("10.1.0.0/24"), Subnet("10.2.0.0/24"))}, "subnets[1].cidr", "SUBNET_OVERLAPS"),
        ({"subnets": (Subnet("10.1.0.0/24", "10.2.0.1"),)}, "subnets[0].gateway", "ADDRESS_INVALID"),
        ({"dns": NetworkDns("Back.internal")}, "dns.domain", "DOMAIN_INVALID"),
        ({"dns": NetworkDns("a..b")}, "dns.domain", "DOMAIN_INVALID"),
        ({"dns": NetworkDns("internal.")}, "dns.domain", "DOMAIN_INVALID"),
        ({"dns": NetworkDns("10.in-addr.arpa")}, "dns.domain", "DOMAIN_INVALID"),
        ({"dns": NetworkDns("10.1.0.1")}, "dns.domain", "DOMAIN_INVALID"),
        ({"dns": NetworkDns(".".join(["a" * 60] * 4))}, "dns.domain", "DOMAIN_INVALID"),
        ({"dns": NetworkDns(forwarders=("127.0.0.53",))}, "dns.forwarders[0]", "ADDRESS_INVALID"),
        ({"dns": NetworkDns(forwarders=("9.9.9.9", "169.254.169.254"))}, "dns.forwarders[1]", "ADDRESS_INVALID"),
        ({"dns": NetworkDns(forwarders=("::ffff:127.0.0.1",))}, "dns.forwarders[0]", "ADDRESS_INVALID"),
        ({"dns": NetworkDns(forwarders=("fe80::1%eth0",))}, "dns.forwarders[0]", "ADDRESS_INVALID"),
        ({"dns": NetworkDns(forwarders=("ns.example",))}, "dns.forwarders[0]", "ADDRESS_INVALID"),
        ({"dns": NetworkDns(forwarders=("9.9.9.9",) * 9)}, "dns.forwarders", "OUT_OF_RANGE"),
        ({"dns": NetworkDns(forwarders=("9.9.9.9",), no_forwarding=True)}, "dns.forwarders", "INVALID"),
        ({"subnets": (Subnet("10.1.0.0/24", "10.1.0.0"),)}, "subnets[0].gateway", "ADDRESS_INVALID"),
        ({"subnets": (Subnet("10.1.0.0/24", "10.1.0.255"),)}, "subnets[0].gateway", "ADDRESS_INVALID"),
        ({"subnets": (Subnet("10.1.0.0/24", ranges=("10.1.0.9-10.1.0.3",)),)}, "subnets[0].ranges[0]", "RANGE_INVALID"),
        ({"subnets": (Subnet("10.1.0.0/24", ranges=("10.1.0.9",)),)}, "subnets[0].ranges[0]", "RANGE_INVALID"),
        ({"subnets": (Subnet("fd00::%x/64"),)}, "subnets[0].cidr", "SUBNET_INVALID"),
        ({"subnets": (Subnet("fd00::/64", "fd00::1%x"),)}, "subnets[0].gateway", "ADDRESS_INVALID"),
        (
            {"kind": NetworkKind.SHARED, "bridge": "br0\n", "subnets": (Subnet("10.1.0.0/24"),)},
            "bridge",
            "BRIDGE_INVALID",
        ),
        ({"mtu": 576}, "mtu", "OUT_OF_RANGE"),
        ({"bridge": "br0"}, "bridge", "NOT_ALLOWED"),
        ({"kind": NetworkKind.SHARED, "subnets": (Subnet("10.1.0.0/24"),)}, "bridge", "REQUIRED"),
        ({"kind": NetworkKind.SHARED, "bridge": "br0"}, "subnets", "REQUIRED"),
        (
            {"kind": NetworkKind.SHARED, "bridge": "br/0", "subnets": (Subnet("10.1.0.0/24"),)},
            "bridge",
            "BRIDGE_INVALID",
        ),
        (
            {"kind": NetworkKind.SHARED, "bridge": "br0", "egress": True, "subnets": (Subnet("10.1.0.0/24"),)},
            "egress",
            "NOT_ALLOWED",
        ),
    ],
)
async def test_what_no_network_can_be(world: World, fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        await world.networks.create(P, "n", {}, NetworkSpec(**fields))
    assert problems(caught.value) == [(f"network.spec.{field}", reason)]
    assert world.store.view().count(NETWORK) == 0


async def test_subnets_have_one_spelling(world: World) -> None:
    spec = NetworkSpec(subnets=(Subnet("10.1.0.0/255.255.255.0"), Subnet("FD00:0::/64", "fd00:0::0:9")))
    made = await world.networks.create(P, "n", {}, spec)
    assert made.spec.subnets == (Subnet("10.1.0.0/24", "10.1.0.1"), Subnet("fd00::/64", "fd00::9"))


async def test_shared_networks_need_the_policy_and_share_a_bridge_apart(world: World) -> None:
    with pytest.raises(InvalidSpec) as caught:
        await world.shared("s", "br0", "10.1.0.0/24")
    assert problems(caught.value) == [("network.spec.bridge", "POLICY_BRIDGE")]
    await world.projects.update(P, policy=ProjectPolicy(allowed_bridges=("br0", "br1")))
    made = await world.shared("s", "br0", "10.1.0.0/24")
    assert (made.vni, made.spec.mtu, made.spec.subnets[0].gateway) == (0, 1500, "")
    with pytest.raises(InvalidSpec) as caught:
        await world.shared("t", "br0", "10.1.0.0/25")
    assert problems(caught.value) == [("network.spec.subnets", "SUBNET_OVERLAPS")]
    await world.shared("t", "br0", "10.2.0.0/24")
    await world.shared("u", "br1", "10.1.0.0/24")
    await world.network("n", "10.1.0.0/24")


async def test_names_quota_retries_and_etags(world: World) -> None:
    made = await world.networks.create(P, "n", {}, NetworkSpec(), request_key="k", body=b"x")
    again = await world.networks.create(P, "n", {}, NetworkSpec(), request_key="k", body=b"x")
    assert again == made
    with pytest.raises(AlreadyExists) as caught:
        await world.networks.create(P, "n", {}, NetworkSpec(), request_key="k", body=b"y")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(AlreadyExists):
        await world.network("n")
    await world.projects.update(P, quota=Quota(networks=1))
    with pytest.raises(QuotaExceeded):
        await world.network("m")
    changed = await world.networks.update(P, "n", egress=True, labels={"a": "b"}, etag=etag_of(made))
    assert (changed.spec.egress, changed.labels) == (True, {"a": "b"})
    with pytest.raises(VersionConflict):
        await world.networks.delete(P, "n", etag=etag_of(made))
    with pytest.raises(InvalidSpec):
        await world.networks.update(P, "n", labels={"moorage.x": "y"})
    revision = world.store.view().revision
    assert not (await world.networks.update(P, "n", egress=False, validate_only=True)).spec.egress
    assert world.store.view().revision == revision
    found = world.networks.list(P, PageRequest(filter="kind=ISOLATED labels.a=b"))
    assert [item.value.id for item in found.items] == ["n"]
    await world.networks.delete(P, "n")
    with pytest.raises(NotFound):
        world.networks.get(P, "n")


async def test_a_dry_create_keeps_nothing(world: World) -> None:
    revision = world.store.view().revision
    made = await world.networks.create(P, "n", {}, NetworkSpec(), validate_only=True)
    assert made.vni
    assert world.store.view().revision == revision


async def test_vxlan_ids_are_not_given_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_VNI", 100)
    monkeypatch.setattr(module, "_LAST_VNI", 102)
    found = {(await world.network(f"n{number}")).vni for number in range(3)}
    assert found == {100, 101, 102}
    with pytest.raises(Exception, match="no VXLAN id is left"):
        free_vni(world.store.view(), "any")


def on_nic(attachment: SharedAttachment, cidr: str = "192.0.2.0/24", **fields: Any) -> NetworkSpec:
    values = {"parent": "eth1", "attachment": attachment, **fields}
    return NetworkSpec(NetworkKind.SHARED, (Subnet(cidr),), **values)


_BRIDGE, _MACVLAN, _WHOLE = SharedAttachment.BRIDGE, SharedAttachment.MACVLAN, SharedAttachment.WHOLE_NIC


async def test_networks_on_a_nic(world: World) -> None:
    with pytest.raises(InvalidSpec) as refused:
        await world.networks.create(P, "lan", {}, on_nic(_MACVLAN))
    assert problems(refused.value) == [("network.spec.parent", "POLICY_NIC")]
    await world.projects.update(P, policy=ProjectPolicy(allowed_nics=("eth1",)))
    lan = await world.networks.create(P, "lan", {}, on_nic(_MACVLAN))
    assert lan.spec.macvlan_mode is MacvlanMode.BRIDGE
    told = network_assignment(world.store.view(), lan)
    assert (told.parent, told.attachment, told.macvlan_mode) == ("eth1", _MACVLAN, MacvlanMode.BRIDGE)
    assert "NET_ADMIN" in convert.network(lan, (), 0, "").status.not_enforced
    for name, spec, wrong in (
        ("same", on_nic(_MACVLAN), ("network.spec.subnets", "SUBNET_OVERLAPS")),
        ("bridge", on_nic(_BRIDGE, "198.51.100.0/24"), ("network.spec.parent", "PARENT_IN_USE")),
        ("whole", on_nic(_WHOLE, "198.51.100.0/24"), ("network.spec.parent", "PARENT_IN_USE")),
        (
            "passthru",
            on_nic(_MACVLAN, "198.51.100.0/24", macvlan_mode=MacvlanMode.PASSTHRU),
            ("network.spec.parent", "PARENT_IN_USE"),
        ),
    ):
        with pytest.raises(InvalidSpec) as clash:
            await world.networks.create(P, name, {}, spec)
        assert problems(clash.value) == [wrong]
    await world.networks.create(P, "other", {}, on_nic(_MACVLAN, "198.51.100.0/24"))
    vlan = await world.networks.create(P, "vlan", {}, on_nic(_BRIDGE, vlan_id=7))
    assert convert.network(vlan, (), 0, "").status.not_enforced == ""


async def test_where_instances_on_a_nic_go(world: World) -> None:
    await world.projects.update(P, policy=ProjectPolicy(allowed_nics=("eth1",)))
    await world.networks.create(P, "lan", {}, on_nic(_WHOLE))
    for name in ("a", "b"):
        record = await world.host(name)
        if name == "b":
            await world.host(name, facts=replace(record.facts, links=("eth0", "eth1")))
    (planned,) = await world.instances.create(
        P, [NewInstance("i", {}, InstanceSpec(template="web", nics=(Nic("lan"),)))], validate_only=True
    )
    assert planned.host == "b"
    await world.create("i", Nic("lan"))
    await world.place("i", "b")
    (second,) = await world.instances.create(
        P, [NewInstance("j", {}, InstanceSpec(template="web", nics=(Nic("lan"),)))], validate_only=True
    )
    assert second.host == ""
    assert second.placement is not None
    assert "has no NIC eth1, or has another instance on it" in second.placement.summary
    await world.changes.update(P, "i", spec_fields={"nics": (Nic("lan", mtu=1400),)})
    with pytest.raises(InvalidSpec) as limited:
        await world.changes.update(P, "i", spec_fields={"nics": (Nic("lan", rate_in_bits=10**6),)})
    assert problems(limited.value) == [("instance.spec.nics[0].rate_in_bits", "NOT_ALLOWED")]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        (
            {"kind": NetworkKind.ISOLATED, "parent": "eth1", "vlan_id": 7},
            [("parent", "NOT_ALLOWED"), ("vlan_id", "NOT_ALLOWED")],
        ),
        ({"parent": "eth1", "bridge": "br0"}, [("parent", "NOT_ALLOWED")]),
        ({}, [("bridge", "REQUIRED")]),
        ({"parent": "eth1"}, [("attachment", "REQUIRED")]),
        ({"parent": "a/b", "attachment": _WHOLE}, [("parent", "BRIDGE_INVALID")]),
        ({"bridge": "br0", "attachment": _MACVLAN}, [("attachment", "NOT_ALLOWED")]),
        (
            {"parent": "eth1", "attachment": _BRIDGE, "macvlan_mode": MacvlanMode.VEPA},
            [("macvlan_mode", "NOT_ALLOWED")],
        ),
        ({"parent": "eth1", "attachment": _WHOLE, "vlan_id": 7}, [("vlan_id", "NOT_ALLOWED")]),
        ({"parent": "eth1", "attachment": _BRIDGE, "vlan_id": 4095}, [("vlan_id", "OUT_OF_RANGE")]),
    ],
)
def test_attachments_that_cannot_be(fields: dict[str, Any], wrong: list[tuple[str, str]]) -> None:
    spec = NetworkSpec(**{"kind": NetworkKind.SHARED, "subnets": (Subnet("192.0.2.0/24"),), **fields})
    assert [(one.field, one.reason) for one in check_spec(spec, "s")] == [
        (f"s.{field}", reason) for field, reason in wrong
    ]


async def test_addresses_from_a_server_outside(world: World) -> None:
    await world.projects.update(P, policy=ProjectPolicy(allowed_nics=("eth1",)))
    spec = replace(on_nic(_MACVLAN), subnets=(), dhcp_client=True)
    assert [one.field for one in check_spec(replace(spec, subnets=(Subnet("192.0.2.0/24"),)), "s")] == ["s.subnets"]
    assert [one.reason for one in check_spec(NetworkSpec(dhcp_client=True), "s")] == ["NOT_ALLOWED"]
    lan = await world.networks.create(P, "lan", {}, spec)
    assert lan.spec.subnets == ()
    await world.network("n", "10.1.0.0/24")
    record = await world.host("h")
    await world.host("h", facts=replace(record.facts, links=("eth1",)))
    with pytest.raises(InvalidSpec) as wanted:
        await world.create("i", Nic("lan", addresses=("192.0.2.9",)))
    assert problems(wanted.value) == [("instance.spec.nics[0].addresses", "NOT_ALLOWED")]
    with pytest.raises(InvalidSpec) as twice:
        await world.create("i", Nic("lan"), Nic("lan"))
    assert problems(twice.value) == [("instance.spec.nics[1].network", "SUBNET_OVERLAPS")]
    made = await world.create("i", Nic("lan"), Nic("n"))
    other = await world.create("j", Nic("lan"))
    assert (made.nics[0].addresses, made.nics[0].dhcp_client) == ((), True)
    assert made.nics[0].mac != other.nics[0].mac
    placed = await world.place("i", "h")
    assert instance_assignment(placed).nics[0].dhcp_client
    given = (LeasedNic("eth0", ("192.0.2.9/24",)),)
    await world.report(placed, InstanceState.RUNNING, leased=given)
    shown = convert.instance(world.get("i")).status.nics
    assert [(list(nic.addresses), nic.leased) for nic in shown] == [
        (["192.0.2.9/24"], True),
        (["10.1.0.2/24"], False),
    ]
    replaced = await world.changes.replace(P, "i", spec=made.spec)
    assert replaced.nics == made.nics, "with its MAC"

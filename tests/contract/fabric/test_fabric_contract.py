"""What a fabric promises, checked on the fake and, with root, on the kernel."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hostagent.domain import (
    GroupMembers,
    NetworkAssignment,
    NetworkKind,
    NicAssignment,
    NicFilter,
    NicRoute,
    NicRule,
    Peer,
    PublishedPort,
    RuleProtocol,
    SecurityDirection,
    SecurityGroup,
    SecurityRule,
    SharedAttachment,
    Subnet,
)
from hostagent.executor.ports import Fabric as ExecutorsFabric
from hostagent.netlink.fabric import LinuxFabric
from moorage.errors import Exhausted, InvalidSpec, MoorageError, NotFound, NotReady, NotSupported
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import (
    FirewallBundle,
    FirewallDirection,
    LegBundle,
    RouterBundle,
    RuleFigure,
    TrafficProtocol,
)
from tests.fakes.fabric import FakeFabric
from tests.integration.netlink.bed import Bed, require_namespaces

Fabric = FakeFabric | LinuxFabric
NET, OTHER = NetworkId("naaaaaaaaa"), NetworkId("nbbbbbbbbb")
ONE, TWO = InstanceId("iaaaaaaaaa"), InstanceId("ibbbbbbbbb")


@pytest.fixture(params=["fake", pytest.param("linux", marks=pytest.mark.root)])
async def fabric(request: pytest.FixtureRequest) -> AsyncIterator[Fabric]:
    """A started fabric of a host that has the bridge lan0."""
    if request.param == "fake":
        fake = FakeFabric(bridges=["lan0"], links=["nic0", "up0"])
        await fake.start()
        yield fake
        await fake.close()
        return
    require_namespaces()
    bed = Bed()
    try:
        host = await bed.host(1)
        bed.run(host.path, "ip link add lan0 type bridge")
        bed.run(host.path, "ip link add nic0 type veth peer name vethfar")
        yield host.fabric
    finally:
        await bed.close()


def net(network_id: NetworkId = NET, *, vni: int = 42, peers: tuple[Peer, ...] = ()) -> NetworkAssignment:
    """An isolated network."""
    subnets = (Subnet("10.1.0.0/24", "10.1.0.1"), Subnet("fd00:1::/64", "fd00:1::1"))
    return NetworkAssignment(network_id, "front", NetworkKind.ISOLATED, subnets, 1450, vni=vni, peers=peers)


def lan(bridge: str) -> NetworkAssignment:
    """A shared network."""
    return NetworkAssignment(OTHER, "lan", NetworkKind.SHARED, (Subnet("192.168.9.0/24"),), 1500, bridge=bridge)


def nic(number: int, network_id: NetworkId = NET, name: str = "eth0") -> NicAssignment:
    """An interface."""
    return NicAssignment(network_id, name, f"02:00:00:00:00:{number:02x}", (f"10.1.0.{number}/24",), ("10.1.0.1",))


async def plugged(fabric: Fabric, instance_id: InstanceId = ONE, number: int = 5) -> Path:
    """A network and an instance."""
    await fabric.ensure_network(net())
    return await fabric.ensure_instance(instance_id, [nic(number)], {NET: net()})


async def test_inventory_follows(fabric: Fabric) -> None:
    assert (await fabric.inventory()).instances == frozenset()
    path = await plugged(fabric)
    assert path.name == f"i-{ONE}"
    assert await plugged(fabric) == path
    found = await fabric.inventory()
    assert found.instances == {ONE}
    assert found.networks == {NET}
    assert found.strays == ()
    assert set(await fabric.counters(ONE)) == {"eth0"}
    for _ in range(2):
        await fabric.remove_instance(ONE)
        await fabric.remove_network(NET)
    found = await fabric.inventory()
    assert (found.instances, found.networks) == (frozenset(), frozenset())


async def test_order_is_required(fabric: Fabric) -> None:
    with pytest.raises(NotFound) as missing:
        await fabric.ensure_instance(ONE, [nic(5)], {NET: net()})
    assert missing.value.reason == "NETWORK_NOT_READY"
    with pytest.raises(NotFound):
        await fabric.update_peers(NET, [], [])
    with pytest.raises(NotFound):
        await fabric.counters(ONE)


async def test_peers(fabric: Fabric) -> None:
    await fabric.ensure_network(net())
    peer = Peer("02:00:00:00:00:09", ("10.1.0.9", "fd00:1::9"), "192.168.77.9")
    await fabric.update_peers(NET, [peer], ["02:00:00:00:00:0a"])
    await fabric.update_peers(NET, [peer], [])
    await fabric.update_peers(NET, [], [peer.mac])
    await fabric.ensure_network(net(peers=(peer,)))


@pytest.mark.parametrize(
    ("nics", "reason"),
    [
        ([nic(5), nic(6)], "collides"),
        ([nic(5, NetworkId("nzzzzzzzzz"))], "was not given"),
        ([nic(5, name="a/b")], "interface's name"),
        ([nic(5, name="lo")], "interface's name"),
        ([dataclasses.replace(nic(5), mac="01:00:00:00:00:05")], "MAC"),
        ([dataclasses.replace(nic(5), addresses=("10.1.0.500/24",))], "no address"),
        ([dataclasses.replace(nic(5), gateways=("here",))], "no address"),
        ([dataclasses.replace(nic(5), routes=(NicRoute("10.1.0.1/8", "10.1.0.1"),))], "no subnet"),
        ([dataclasses.replace(nic(5), rules=(NicRule("10.1.0.1/8", table=7),))], "no subnet"),
    ],
)
async def test_bad_interfaces(fabric: Fabric, nics: list[NicAssignment], reason: str) -> None:
    await fabric.ensure_network(net())
    with pytest.raises(InvalidSpec, match=reason):
        await fabric.ensure_instance(ONE, nics, {NET: net()})
    assert (await fabric.inventory()).instances == frozenset()


async def test_bad_networks(fabric: Fabric) -> None:
    await fabric.ensure_network(net())
    with pytest.raises(NotReady) as taken:
        await fabric.ensure_network(net(OTHER))
    assert taken.value.reason == "VXLAN_TAKEN"
    with pytest.raises(InvalidSpec):
        await fabric.ensure_network(net(OTHER, vni=0))
    with pytest.raises(InvalidSpec):
        await fabric.ensure_network(net(NetworkId("../x")))
    subnets = (Subnet("10.1.0.0/24", "10.2.0.1"),)
    with pytest.raises(InvalidSpec, match="not inside"):
        await fabric.ensure_network(dataclasses.replace(net(OTHER, vni=43), subnets=subnets))


async def test_filters(fabric: Fabric) -> None:
    """What may pass interfaces is taken with the instance, changed in place, and forgotten with it."""
    rules = (
        SecurityRule(SecurityDirection.IN, RuleProtocol.TCP, ("80", "8000-8010"), cidrs=("10.0.0.0/8", "10.1.0.0/16")),
        SecurityRule(SecurityDirection.IN, RuleProtocol.UDP, cidrs=("0.0.0.0/0", "::/0")),
        SecurityRule(SecurityDirection.OUT, RuleProtocol.ICMP, icmp_type=8, group="gaaaaaaaaa"),
        SecurityRule(SecurityDirection.OUT, RuleProtocol.ICMPV6, cidrs=("fd00::/8",)),
    )
    group = SecurityGroup("gbbbbbbbbb", "web", rules)
    members = GroupMembers("gaaaaaaaaa", NET, ("10.1.0.6", "fd00:1::6"))
    filters = [NicFilter("eth0", NET, ("10.1.0.5",), (group,), (members,))]
    with pytest.raises(NotFound):
        await fabric.filter_instance(ONE, filters)
    await fabric.ensure_network(net())
    for _ in range(2):
        await fabric.ensure_instance(ONE, [nic(5)], {NET: net()}, filters)
    for addresses in ((), ("10.1.0.7",), ("10.1.0.7", "fd00:1::7")):
        changed = dataclasses.replace(filters[0], members=(dataclasses.replace(members, addresses=addresses),))
        await fabric.filter_instance(ONE, [changed])
    await fabric.filter_instance(ONE, [dataclasses.replace(filters[0], groups=(), members=())])
    await fabric.reassert()
    await fabric.filter_instance(ONE, [])
    await fabric.filter_instance(ONE, filters)
    await fabric.remove_instance(ONE)
    with pytest.raises(NotFound):
        await fabric.filter_instance(ONE, filters)
    await fabric.reassert()


async def test_shared_networks(fabric: Fabric) -> None:
    await fabric.ensure_network(lan("lan0"))
    with pytest.raises(NotFound) as missing:
        await fabric.ensure_network(lan("lan1"))
    assert missing.value.reason == "BRIDGE_NOT_FOUND"
    await fabric.ensure_instance(ONE, [nic(5, OTHER)], {OTHER: lan("lan0")})
    assert (await fabric.inventory()).networks == frozenset()
    with pytest.raises(NotSupported):
        await fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [nic(5, OTHER)])


@pytest.mark.parametrize("attachment", [one for one in SharedAttachment if one is not SharedAttachment.EXISTING_BRIDGE])
async def test_shared_networks_on_a_nic(fabric: Fabric, attachment: SharedAttachment) -> None:
    network = dataclasses.replace(lan(""), parent="nic0", attachment=attachment)
    assert await fabric.host_links() == ("nic0", "up0")
    with pytest.raises(NotFound) as missing:
        await fabric.ensure_network(dataclasses.replace(network, parent="nic9"))
    assert missing.value.reason == "PARENT_NOT_FOUND"
    with pytest.raises(NotFound) as early:
        await fabric.ensure_instance(ONE, [nic(5, OTHER)], {OTHER: network})
    assert early.value.reason == "NETWORK_NOT_READY"
    await fabric.ensure_network(network)
    assert (await fabric.inventory()).networks == {OTHER}
    for _ in range(2):
        await fabric.ensure_instance(ONE, [nic(5, OTHER)], {OTHER: network})
    if attachment is SharedAttachment.WHOLE_NIC:
        with pytest.raises(NotReady) as taken:
            await fabric.ensure_instance(TWO, [nic(6, OTHER)], {OTHER: network})
        assert taken.value.reason == "PARENT_IN_USE"
    else:
        await fabric.ensure_instance(TWO, [nic(6, OTHER)], {OTHER: network})
    assert await fabric.host_links() == ("nic0", "up0")
    assert set(await fabric.counters(ONE)) == {"eth0"}
    for instance_id in (ONE, TWO):
        await fabric.remove_instance(instance_id)
    await fabric.remove_network(OTHER)
    found = await fabric.inventory()
    assert (found.instances, found.networks, found.strays) == (frozenset(), frozenset(), ())


async def test_ports_are_exclusive(fabric: Fabric) -> None:
    await plugged(fabric)
    await plugged(fabric, TWO, 6)
    await fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [nic(5)])
    await fabric.publish_ports(ONE, [PublishedPort(8080, 81), PublishedPort(8080, 81, "udp")], [nic(5)])
    with pytest.raises(Exhausted) as taken:
        await fabric.publish_ports(TWO, [PublishedPort(8080, 80)], [nic(6)])
    assert taken.value.reason == "HOST_PORT_TAKEN"
    await fabric.publish_ports(ONE, [], [])
    await fabric.publish_ports(TWO, [PublishedPort(8080, 80)], [nic(6)])
    await fabric.remove_instance(TWO)
    await fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [nic(5)])
    with pytest.raises(InvalidSpec):
        await fabric.publish_ports(ONE, [PublishedPort(70000, 80)], [nic(5)])


def router(version: int = 1, **fields: Any) -> RouterBundle:
    leg = LegBundle(NET, "eth0", ("10.1.0.0/24",), ("10.1.0.5",))
    return RouterBundle(ONE, version, legs=(leg,), **fields)


async def test_routers(fabric: Fabric) -> None:
    with pytest.raises(NotFound):
        await fabric.apply_router(router())
    await plugged(fabric)
    assert list(await fabric.router_figures(ONE)) == []
    rule = FirewallBundle("r1", FirewallDirection.ACROSS, protocol=TrafficProtocol.TCP, ports=("80",))
    await fabric.apply_router(router(firewall=(rule,)))
    await fabric.apply_router(router(2, firewall=(rule,)))
    assert list(await fabric.router_figures(ONE)) == [RuleFigure("r1")]
    with pytest.raises(InvalidSpec, match="eighty"):
        await fabric.apply_router(router(3, firewall=(dataclasses.replace(rule, ports=("eighty",)),)))
    assert list(await fabric.router_figures(ONE)) == [RuleFigure("r1")]
    await fabric.remove_instance(ONE)
    with pytest.raises(NotFound):
        await fabric.router_figures(ONE)


async def test_restart_and_destroy(fabric: Fabric) -> None:
    await plugged(fabric)
    await fabric.destroy_all()
    with pytest.raises(MoorageError):
        await _after_close(fabric)


async def _after_close(fabric: Fabric) -> None:
    await fabric.close()
    await fabric.ensure_network(net())


def conforms(real: LinuxFabric, fake: FakeFabric) -> tuple[ExecutorsFabric, ExecutorsFabric]:
    """For the type checker: both are what the executor asks for."""
    return real, fake


async def test_faults_are_scripted() -> None:
    fake = FakeFabric()
    await fake.start()
    fake.fail_next("ensure_network", NotReady("first"))
    fake.fail_next("ensure_network", NotFound("second"))
    with pytest.raises(NotReady):
        await fake.ensure_network(net())
    with pytest.raises(NotFound):
        await fake.ensure_network(net())
    await fake.ensure_network(net())
    assert fake.calls == ["start", *["ensure_network"] * 3]

"""What removal leaves: nothing, whatever state it finds."""

import asyncio
import json

import pytest

from hostagent.domain import PublishedPort
from hostagent.netlink.guard import Family
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import Bed, Host, net, nic, peer, plug

pytestmark = pytest.mark.root
NET, OTHER_NET = "naaaaaaaaa", "nbbbbbbbbb"
ONE, TWO = InstanceId("iaaaaaaaaa"), InstanceId("ibbbbbbbbb")


def _links(bed: Bed, host: Host) -> set[str]:
    return {link["ifname"] for link in json.loads(bed.run(host.path, "ip -j link"))}


@pytest.mark.parametrize("family", Family)
async def test_nothing_is_left(bed: Bed, family: Family) -> None:
    host = await bed.host(1, guard_family=family)
    before = _links(bed, host)
    await plug(host, ONE, nic(NET, 5), networks=(net(NET, egress=True),))
    await plug(host, TWO, nic(NET, 6), networks=(net(NET, egress=True),))
    await host.fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [nic(NET, 5)])
    inventory = await host.fabric.inventory()
    assert inventory.instances == {ONE, TWO}
    assert inventory.networks == {NetworkId(NET)}
    assert inventory.strays == ()
    for _ in range(2):  # the second time there is nothing to do
        await host.fabric.remove_instance(ONE)
        assert str(ONE) not in bed.run(host.network(NET), "ip link") + bed.run(host.network(NET), "nft list ruleset")
        assert not host.instance(ONE).exists()
    for _ in range(2):
        await host.fabric.remove_instance(TWO)
        await host.fabric.remove_network(NetworkId(NET))
    assert _links(bed, host) == before
    assert list((host.run_dir / "netns").iterdir()) == []
    assert "mu" + NET not in bed.run(host.path, "nft list ruleset")
    inventory = await host.fabric.inventory()
    assert (inventory.instances, inventory.networks, inventory.strays) == (frozenset(), frozenset(), ())


async def test_many_removals_at_once(bed: Bed, host: Host) -> None:
    instances = [InstanceId(f"i{number:09}") for number in range(30)]
    for number, instance_id in enumerate(instances):
        await plug(host, instance_id, nic(NET, 5 + number), networks=(net(NET),))
    await asyncio.gather(*(host.fabric.remove_instance(instance_id) for instance_id in instances))
    left = bed.run(host.network(NET), "ip -o link") + bed.run(host.network(NET), "nft list ruleset")
    assert "mii" not in left
    assert (await host.fabric.inventory()).instances == frozenset()


async def test_removal_by_an_agent_that_knows_nothing(bed: Bed, host: Host) -> None:
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    bed.run(host.path, f"umount {host.instance(TWO)}")  # its host end is still there
    restarted = host.new_fabric()
    await host.start(restarted)
    try:
        for instance_id in (ONE, TWO):
            await restarted.remove_instance(instance_id)
    finally:
        await restarted.close()
    assert "mi" + ONE not in bed.run(host.network(NET), "ip link")
    assert "mi" + TWO not in bed.run(host.network(NET), "ip link")
    assert list((host.run_dir / "netns").glob("i-*")) == []


async def test_processes_in_the_namespace_do_not_keep_the_links(bed: Bed, host: Host) -> None:
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    bed.serve(path, 80)
    await host.fabric.remove_instance(ONE)
    assert "mi" + ONE not in bed.run(host.network(NET), "ip link")


async def test_destroy_all(bed: Bed, host: Host, other: Host) -> None:
    before = _links(bed, host)
    rules = bed.run(host.path, "nft list ruleset")
    assert "table inet moorage" in rules
    await plug(host, ONE, nic(NET, 5), networks=(net(NET, peers=(peer(9, other),)),))
    await plug(host, TWO, nic(OTHER_NET, 5), networks=(net(OTHER_NET, vni=43, egress=True),))
    await host.fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [nic(NET, 5)])
    (host.run_dir / "netns" / "junk").touch()
    await host.fabric.destroy_all()
    assert _links(bed, host) == before
    assert bed.run(host.path, "nft list ruleset").strip() == ""
    assert list(host.run_dir.iterdir()) == []


async def test_concurrent_calls_end_well(bed: Bed, host: Host) -> None:
    """The same instance made, changed and removed by calls that overlap: the last one counts, nothing is torn."""
    by_id = {NetworkId(NET): net(NET)}
    await host.fabric.ensure_network(net(NET))
    for _ in range(3):
        calls = [host.fabric.ensure_instance(ONE, [nic(NET, 5)], by_id) for _ in range(3)]
        await asyncio.gather(*calls, host.fabric.ensure_network(net(NET)), host.fabric.ensure_network(net(NET)))
        await asyncio.gather(host.fabric.remove_instance(ONE), host.fabric.remove_instance(ONE))
    inventory = await host.fabric.inventory()
    assert (inventory.instances, inventory.strays) == (frozenset(), ())


async def test_cancelled_calls_leave_nothing_running(bed: Bed, host: Host) -> None:
    """A caller that gives up keeps its lock until the work has ended, and what it asked for is not done later."""
    by_id = {NetworkId(NET): net(NET)}
    await host.fabric.ensure_network(net(NET))
    await host.fabric.ensure_instance(TWO, [nic(NET, 6)], by_id)
    for call in (host.fabric.ensure_instance(ONE, [nic(NET, 5)], by_id), host.fabric.remove_instance(ONE)):
        task = asyncio.create_task(call)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    path = await host.fabric.ensure_instance(ONE, [nic(NET, 5)], by_id)
    await host.fabric.remove_instance(TWO)
    assert "10.1.0.5" in bed.run(path, "ip addr")
    inventory = await host.fabric.inventory()
    assert inventory.instances == {ONE}
    assert inventory.strays == ()


async def test_start_after_destruction(bed: Bed, host: Host) -> None:
    await host.fabric.destroy_all()
    await host.start()
    path = await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    assert "10.1.0.5" in bed.run(path, "ip addr")

"""A host that is gone for good: an operator's word frees what it had, and should it come back, nobody listens to it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.dev.fleet import Fleet
from cli.dev.programs import Access, Programs
from moorage.errors import Internal, NotFound, NotReady
from moorage.v1 import hosts_pb2
from tests.e2e.conftest import TEMPLATE, connect
from tests.support import onhost
from tests.support.fleet import box, in_own_loop
from tests.support.plane import Plane, pieces_of, until

_ADDRESS = "10.66.0.10"


@pytest.fixture
def two() -> Iterator[Fleet]:
    """Two hosts: the fleet that other tests share must keep all of its own."""
    with box(2, programs=Programs()) as made:
        in_own_loop(made.up())
        yield made


async def _at_once(access: Access, host_name: str) -> bool:
    return True


@pytest.mark.slow
async def test_a_host_that_is_off_is_removed_by_force(two: Fleet, rootfs: Path) -> None:
    async with connect(two) as client:
        plane = Plane(client, TEMPLATE)
        await plane.finish(await plane.upload(TEMPLATE, pieces_of(rootfs)))
        network = await plane.network("lan", "10.66.0.0/24")
        made = await plane.run(
            {
                "lost": plane.spec(host=2, networks=[f"lan={_ADDRESS}"], ports={8080: 80}),
                "stays": plane.spec(host=1, networks=["lan"]),
            }
        )
        first, second = two.hosts()
        await two.power_off("h2")
        await plane.away(2)
        request = hosts_pb2.DeleteHostRequest(name="hosts/h2")
        with pytest.raises(NotReady):
            await client.hosts.DeleteHost(request)
        assert _ADDRESS in await plane.leases("lan")
        await client.hosts.DeleteHost(hosts_pb2.DeleteHostRequest(name="hosts/h2", force=True))

        assert list(await plane.instances()) == [plane.name("instances", "stays")]
        assert _ADDRESS not in await plane.leases("lan")
        with pytest.raises(NotFound):
            await client.hosts.GetHost(hosts_pb2.GetHostRequest(name="hosts/h2"))

        async def is_forgotten() -> bool:
            table = await first.run(["nft", "list", "table", "inet", "moorage-segments"])
            space = f"--net={onhost.RUN_DIR}/netns/n-{network.uid}"
            forwarding = await first.run(["nsenter", space, "bridge", "fdb", "show", "dev", f"mv{network.uid}"])
            return second.address not in table + forwarding

        await until(is_forgotten, what="h1 to forget h2")
        again = await plane.run({"again": plane.spec(host=1, networks=[f"lan={_ADDRESS}"])})
        await onhost.inside(first, made["stays"].uid, "ping", "-c1", "-W5", _ADDRESS)

        # It comes back: its instance runs, for nobody has told it otherwise, and is alone with its address.
        alone = Fleet.open(two.config.directory, programs=replace(Programs(), agent_ready=_at_once))
        await alone.start("h2")
        returned = alone.host(2)

        async def runs_again() -> bool:
            return any(c.is_running and c.instance == made["lost"].uid for c in await onhost.containers(returned))

        await until(runs_again, what="the lost instance on h2")
        stays = made["stays"].status.nics[0].addresses[0].partition("/")[0]
        await returned.run(["ping", "-c1", "-W5", first.address])
        with pytest.raises(Internal, match="100% packet loss"):
            await onhost.inside(returned, made["lost"].uid, "ping", "-c2", "-i0.2", "-W1", stays)
        assert (await plane.get("again")).uid == again["again"].uid
        await onhost.inside(first, made["stays"].uid, "ping", "-c1", "-W5", _ADDRESS)
        assert "hosts/h2" not in {
            host.name for host in (await client.hosts.ListHosts(hosts_pb2.ListHostsRequest())).hosts
        }

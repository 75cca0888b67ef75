"""A redundant pair on the box: the gateway moves when the active member's host is gone, with nobody there to ask."""

import time
from collections.abc import AsyncIterator

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.programs import CONTROLPLANE
from moorage.v1 import instances_pb2, routers_pb2
from tests.support import onhost
from tests.support.plane import Plane, until
from tests.support.routers import Routers

FAILOVER_SECONDS = 5.0  # 2 s are measured on a quiet machine by `make bench-network`


@pytest.fixture
async def routers(plane: Plane, router_image: None) -> AsyncIterator[Routers]:
    """Routers of the test's project; gone after it."""
    made = Routers(plane)
    await plane.network("back", "10.71.0.0/24")
    await plane.network("outside", "198.51.100.0/24", egress=True)
    yield made
    await made.clean()


def member(router: routers_pb2.Router, role: "routers_pb2.RouterRole.ValueType") -> routers_pb2.RouterMember:
    (found,) = [one for one in router.status.members if one.role == role]
    return found


async def settled(routers: Routers) -> routers_pb2.Router:
    """The pair, once one is active and the other waits."""

    async def look() -> routers_pb2.Router | None:
        router = await routers.get("edge")
        roles = sorted(one.role for one in router.status.members)
        return router if roles == [routers_pb2.ROUTER_ROLE_ACTIVE, routers_pb2.ROUTER_ROLE_STANDBY] else None

    found = await until(look, what="one member is active and one waits")
    assert found is not None
    return found


async def test_the_active_members_host_is_cut_off_while_the_control_plane_is_away(
    plane: Plane, routers: Routers, fleet: Fleet, hosts: list[Host]
) -> None:
    await routers.create("edge", "back", redundant=True)
    router = await settled(routers)
    active = member(router, routers_pb2.ROUTER_ROLE_ACTIVE).host.removeprefix("hosts/")
    taken = {one.host.removeprefix("hosts/") for one in router.status.members}
    assert len(taken) == 2
    (free,) = [host for host in hosts if host.name not in taken]
    number = hosts.index(free) + 1
    running = await plane.run(
        {"inside": plane.spec(host=number, networks=["back"]), "world": plane.spec(host=number, networks=["outside"])}
    )

    async def gets_out() -> bool:
        return await pings(free, running["inside"], address(running["world"]))

    await until(gets_out, what="the way out by the active member")
    await fleet.kill(CONTROLPLANE)
    try:
        await fleet.cut(active)
        begin = time.monotonic()
        try:
            await until(gets_out, what="the way out by the other member")
            assert time.monotonic() - begin < FAILOVER_SECONDS
        finally:
            await fleet.heal(active)
    finally:
        await fleet.start(CONTROLPLANE)
    await settled(routers)
    await until(gets_out, what="the way out after the cut is healed")


def address(instance: instances_pb2.Instance) -> str:
    return instance.status.nics[0].addresses[0].partition("/")[0]


async def pings(host: Host, instance: instances_pb2.Instance, target: str) -> bool:
    said = await onhost.inside(host, instance.uid, "ping", "-c1", "-W1", target, check=False)
    return " 0% packet loss" in said

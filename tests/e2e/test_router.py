"""A router on the box, with real clients in real instances: each kind of rule lets through what it should and stops what it should.

The world outside is the network `outside` with an instance on it; behind the router are `back` and `front`. The router is on another
host than its neighbours, so all traffic crosses hosts.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.programs import CONTROLPLANE
from moorage.errors import InvalidSpec
from moorage.v1 import common_pb2, instances_pb2, router_rules_pb2
from tests.support import onhost
from tests.support.plane import Plane, until
from tests.support.routers import ACROSS, ALLOW, DENY, ICMP, IN, OUT, TCP, Routers

#: Says its name, and who asks.
SERVER = (
    "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo {name} $REMOTE_ADDR\\n' >/www/cgi-bin/who; chmod +x /www/cgi-bin/who; "
    "trap 'exit 0' TERM; httpd -f -p 80 -h /www & httpd -f -p 81 -h /www & wait"
)


def words_of(answer: str) -> list[str]:
    """The words of an answer; busybox's server writes IPv4 addresses as IPv6 ones."""
    return answer.replace("[::ffff:", "").replace("]", "").split()


class World:
    """The instances by name, and what they can reach."""

    def __init__(self, plane: Plane, routers: Routers, hosts: list[Host]) -> None:
        self.plane = plane
        self.routers = routers
        self.hosts = hosts
        self.instances: dict[str, instances_pb2.Instance] = {}

    async def begin(self) -> None:
        for network, cidr in (("back", "10.71.0.0/24"), ("front", "10.72.0.0/24")):
            await self.plane.network(network, cidr)
        await self.plane.network("outside", "198.51.100.0/24", egress=True)
        where = {"web": ("back", 2), "db": ("front", 3), "world": ("outside", 3)}
        self.instances = await self.plane.run(
            {
                name: self.plane.spec(SERVER.format(name=name), host=host, networks=[network])
                for name, (network, host) in where.items()
            }
        )

    def address(self, name: str) -> str:
        return self.instances[name].status.nics[0].addresses[0].partition("/")[0]

    async def inside(self, name: str, *argv: str) -> str:
        """What a program says in the network of an instance."""
        instance = self.instances[name]
        host = next(h for h in self.hosts if h.name == instance.status.host.removeprefix("hosts/"))
        return await onhost.inside(host, instance.uid, *argv, check=False)

    async def get(self, name: str, target: str, port: int = 80) -> list[str]:
        """(who answered, who it thinks asked) for one that asks by HTTP; empty when nobody answers."""
        url = f"http://{target}:{port}/cgi-bin/who"
        return words_of(await self.inside(name, "curl", "-s", "-m", "2", url))

    async def pings(self, name: str, target: str) -> bool:
        return " 0% packet loss" in await self.inside(name, "ping", "-c1", "-W2", target)


@pytest.fixture
async def routers(plane: Plane, router_image: None) -> AsyncIterator[Routers]:
    """Routers of the test's project; gone after it."""
    made = Routers(plane)
    yield made
    await made.clean()


@pytest.fixture
async def world(plane: Plane, routers: Routers, hosts: list[Host]) -> World:
    made = World(plane, routers, hosts)
    await made.begin()
    return made


async def outside_address(routers: Routers) -> str:
    return (await routers.get("edge")).status.outside_addresses[0]


async def test_the_way_out_and_a_port_in(world: World, routers: Routers) -> None:
    await routers.create("edge", "back", host=1)
    edge = await outside_address(routers)
    assert await world.get("web", world.address("world")) == ["world", edge]
    assert await world.pings("web", world.address("world"))
    assert await world.get("world", edge, 8080) == []
    assert await world.get("world", world.address("web")) == [], "there is no way to an address behind the router"
    await routers.rule(
        "edge", "in", port_forward=router_rules_pb2.PortForward(first_port=8080, instance="web", target_port=80)
    )
    assert await world.get("world", edge, 8080) == ["web", world.address("world")], "the caller's address is kept"
    assert await world.get("web", edge, 8080) == ["web", "10.71.0.1"], "from behind the router too"
    await routers.delete_rule("edge", "in")
    assert await world.get("world", edge, 8080) == []


async def test_ranges_and_who_may_come(world: World, routers: Routers) -> None:
    await routers.create("edge", "back", host=1)
    edge = await outside_address(routers)
    forward = router_rules_pb2.PortForward
    await routers.rule(
        "edge", "r", port_forward=forward(first_port=2000, last_port=2001, instance="web", target_port=80)
    )
    assert (await world.get("world", edge, 2000))[0] == "web"
    assert (await world.get("world", edge, 2001))[0] == "web", "its port 81"
    await routers.rule(
        "edge",
        "s",
        port_forward=forward(first_port=3000, instance="web", target_port=80, source_cidrs=["203.0.113.0/24"]),
    )
    assert await world.get("world", edge, 3000) == []


async def test_one_to_one_with_a_firewall(world: World, routers: Routers) -> None:
    await routers.create("edge", "back", host=1)
    public = await routers.public_address("p", "outside")
    await routers.rule("edge", "one", static_nat=router_rules_pb2.StaticNat(public_address="p", instance="web"))
    assert await world.get("web", world.address("world")) == ["world", public], "it leaves under its own address"
    assert await world.get("world", public) == [], "what comes in is denied unless a rule allows it"
    assert not await world.pings("world", public)
    await routers.firewall("edge", "http", IN, ALLOW, order=20, protocol=TCP, ports=["80"])
    assert await world.get("world", public) == ["web", world.address("world")]
    assert await world.get("world", public, 81) == []
    await routers.firewall("edge", "echo", IN, ALLOW, order=20, protocol=ICMP, icmp_type=8)
    assert await world.pings("world", public)
    source = [f"{world.address('world')}/32"]
    await routers.firewall("edge", "not-he", IN, DENY, order=10, protocol=TCP, ports=["80"], source_cidrs=source)
    assert await world.get("world", public) == [], "the lower order decides"


async def test_nothing_leaves_but_what_is_allowed(world: World, routers: Routers) -> None:
    await routers.create("edge", "back=deny", host=1)
    target = world.address("world")
    assert await world.get("web", target) == []
    await routers.firewall(
        "edge", "http", OUT, ALLOW, protocol=TCP, ports=["80"], destination_cidrs=["198.51.100.0/24"]
    )
    assert (await world.get("web", target))[0] == "world"
    assert await world.get("web", target, 81) == []


async def test_tiers(world: World, routers: Routers) -> None:
    await routers.create("edge", "back", "front", host=1)
    assert await world.get("web", world.address("db")) == []
    await routers.firewall(
        "edge", "a", ACROSS, ALLOW, from_network="back", to_network="front", protocol=TCP, ports=["80"]
    )
    assert await world.get("web", world.address("db")) == ["db", world.address("web")], "without translation"
    assert await world.get("web", world.address("db"), 81) == []
    assert await world.get("db", world.address("web")) == [], "the other way is another rule"


async def test_a_source_under_another_address(world: World, routers: Routers) -> None:
    await routers.create("edge", "back", "front", host=1)
    public = await routers.public_address("p", "outside")
    await routers.rule(
        "edge", "n", source_nat=router_rules_pb2.SourceNat(source_cidr="10.71.0.0/24", public_address="p")
    )
    assert await world.get("web", world.address("world")) == ["world", public]
    assert await world.get("db", world.address("world")) == ["world", await outside_address(routers)]


async def test_ports_of_the_host_lead_in_and_the_caller_is_known(
    world: World, routers: Routers, hosts: list[Host]
) -> None:
    ports = [common_pb2.PublishedPort(host_port=8390, container_port=8080)]
    await routers.create("edge", "back", host=1, ingress_ports=ports)
    await routers.rule(
        "edge", "in", port_forward=router_rules_pb2.PortForward(first_port=8080, instance="web", target_port=80)
    )

    async def answer() -> list[str]:
        return words_of(await onhost.fetch(hosts[1], f"http://{hosts[0].address}:8390/cgi-bin/who", check=False))

    assert await until(answer, what="the port answers") == ["web", hosts[1].address]


async def test_it_works_with_the_control_plane_down_and_after_kills(
    world: World, routers: Routers, fleet: Fleet, hosts: list[Host]
) -> None:
    await routers.create("edge", "back", host=1)
    edge = await outside_address(routers)
    await routers.rule(
        "edge", "in", port_forward=router_rules_pb2.PortForward(first_port=8080, instance="web", target_port=80)
    )
    await fleet.kill(CONTROLPLANE)
    try:
        assert (await world.get("world", edge, 8080))[0] == "web"
        (container,) = [c for c in await onhost.containers(hosts[0]) if c.is_running]
        await hosts[0].docker("kill", container.id)

        async def is_back() -> bool:
            return any(c.is_running and c.started_at != container.started_at for c in await onhost.containers(hosts[0]))

        await until(is_back, what="the router's container runs again")
        assert (await world.get("world", edge, 8080))[0] == "web"
    finally:
        await fleet.start(CONTROLPLANE)
    await routers.active("edge")


async def test_a_network_gets_a_router_while_its_members_run(world: World, routers: Routers) -> None:
    """Hosts were the gateway until now; connections of before do not matter, new ones go by the router."""
    await world.plane.network("live", "10.73.0.0/24", egress=True)
    world.instances |= await world.plane.run({"one": world.plane.spec(host=2, networks=["live"])})
    target = world.hosts[2].address
    assert await world.pings("one", target)
    await routers.create("edge", "live", host=1)

    async def goes_by_the_router() -> bool:
        return await world.pings("one", world.address("world"))

    await until(goes_by_the_router, what="its way out is the router")
    await routers.clean()

    async def goes_by_its_host() -> bool:
        return await world.pings("one", target)

    await until(goes_by_its_host, what="its way out is its host again")


async def test_many_at_once(world: World, routers: Routers) -> None:
    """Five hundred rules in one call, all of them in force or none."""
    await routers.create("edge", "back", host=1)
    edge = await outside_address(routers)

    def request(number: int, port: int) -> router_rules_pb2.CreateRouterRuleRequest:
        forward = router_rules_pb2.PortForward(first_port=port, instance="web", target_port=80)
        spec = router_rules_pb2.RouterRuleSpec(port_forward=forward)
        return router_rules_pb2.CreateRouterRuleRequest(
            rule_id=f"f{number}", rule=router_rules_pb2.RouterRule(spec=spec)
        )

    async def batch(requests: list[router_rules_pb2.CreateRouterRuleRequest]) -> None:
        parent = world.plane.name("routers", "edge")
        await routers.client.router_rules.BatchCreateRouterRules(
            router_rules_pb2.BatchCreateRouterRulesRequest(parent=parent, requests=requests)
        )

    with pytest.raises(InvalidSpec, match="9000"):
        await batch([request(0, 9000), request(1, 9000)])
    assert await world.get("world", edge, 9000) == []
    await batch([request(n, 10_000 + n) for n in range(500)])
    await routers.active("edge")
    found = await asyncio.gather(*(world.get("world", edge, port) for port in (10_000, 10_250, 10_499)))
    assert [one[0] for one in found] == ["web"] * 3

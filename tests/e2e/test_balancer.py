"""A router's balancer on the box: clients outside, servers on two hosts behind it."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from cli.dev.host import Host
from moorage.v1 import balancers_pb2, common_pb2, instances_pb2, routers_pb2
from tests.support import onhost
from tests.support.plane import Plane, until
from tests.support.routers import Routers

HTTP = balancers_pb2.BALANCER_MODE_HTTP
#: Says its name, who asks, and for whom.
SERVER = (
    "mkdir -p /www/cgi-bin; "
    "printf '#!/bin/sh\\necho; echo {name} $HTTP_X_FORWARDED_FOR\\n' >/www/cgi-bin/who; chmod +x /www/cgi-bin/who; "
    "trap 'exit 0' TERM; httpd -f -p 80 -h /www & wait"
)


@pytest.fixture
async def routers(plane: Plane, router_image: None) -> AsyncIterator[Routers]:
    """Routers of the test's project, with servers `one` on h2 and `two` on h3 behind `edge` on h1; gone after the test."""
    made = Routers(plane)
    await plane.network("back", "10.71.0.0/24")
    await plane.network("outside", "198.51.100.0/24", egress=True)
    await plane.run(
        {
            name: plane.spec(SERVER.format(name=name), host=host, networks=["back"])
            for name, host in (("one", 2), ("two", 3))
        }
    )
    yield made
    await made.clean()


async def ask(host: Host, url: str) -> list[str]:
    """(name of the server, for whom it answered); empty when nobody answers."""
    return (await onhost.fetch(host, f"{url}/cgi-bin/who", check=False)).split()


async def asked(host: Host, url: str, times: int) -> Counter[str]:
    """How often each server answered."""
    answers = [await ask(host, url) for _ in range(times)]
    return Counter(answer[0] if answer else "nobody" for answer in answers)


def ingress(port: int) -> list[common_pb2.PublishedPort]:
    return [common_pb2.PublishedPort(host_port=port, container_port=80)]


async def test_in_turn_for_whom_and_without_those_that_are_gone(
    plane: Plane, routers: Routers, hosts: list[Host]
) -> None:
    await routers.create("edge", "back", host=1, ingress_ports=ingress(8391))
    await routers.balancer("edge", "web", {"one": 80, "two": 80}, port=80, mode=HTTP)
    url, client = f"http://{hosts[0].address}:8391", hosts[1]

    async def answers() -> bool:
        return set(await asked(client, url, 4)) == {"one", "two"}

    await until(answers, what="both servers answer")
    assert await asked(client, url, 10) == {"one": 5, "two": 5}
    assert (await ask(client, url))[1] == client.address, "the caller's address is in X-Forwarded-For"
    await plane.client.instances.StopInstance(instances_pb2.StopInstanceRequest(name=plane.name("instances", "one")))

    async def only_two() -> bool:
        return await asked(client, url, 6) == {"two": 6}

    await until(only_two, what="the one that stopped is left out")


async def test_drained_and_back(plane: Plane, routers: Routers, hosts: list[Host]) -> None:
    await routers.create("edge", "back", host=1, ingress_ports=ingress(8392))
    await routers.balancer("edge", "web", {"one": 80, "two": 80}, port=80, mode=HTTP)
    url, client = f"http://{hosts[0].address}:8392", hosts[1]
    for drained in (True, False):
        await routers.drain("edge", "web", "one", drained)

        async def is_so(drained: bool = drained) -> bool:
            return set(await asked(client, url, 4)) == ({"two"} if drained else {"one", "two"})

        await until(is_so, what="the drained one gets nothing new")


async def test_every_host_takes_the_port(plane: Plane, routers: Routers, hosts: list[Host]) -> None:
    """Without any public address: the same port of every host leads to the balancer, and the caller is known."""
    edge = routers_pb2.EdgeHosts(every_host=True)
    await routers.create("edge", "back", host=1, ingress_ports=ingress(8393), edge_hosts=edge)
    await routers.balancer("edge", "web", {"one": 80, "two": 80}, port=80, mode=HTTP)

    async def are_there() -> bool:
        return len((await routers.get("edge")).status.members) == len(hosts)

    await until(are_there, what="a member on every host")
    await routers.active("edge")
    for number, host in enumerate(hosts):
        client = hosts[(number + 1) % len(hosts)]

        async def answers(host: Host = host, client: Host = client) -> list[str]:
            return await ask(client, f"http://{host.address}:8393")

        found = await until(answers, what=f"the port of {host.name} answers")
        assert found[1] == client.address

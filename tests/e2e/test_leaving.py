"""An instance behind a balancer that is deleted ends what it has begun, and gets nothing new."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cli.dev.host import Host
from moorage.errors import NotFound
from moorage.v1 import balancers_pb2, common_pb2, instances_pb2
from tests.support import onhost
from tests.support.plane import Plane, until
from tests.support.routers import Routers

SLOW_SECONDS = 4  # less than clients wait
#: Says its name: at once, or after a while.
SERVER = (
    "mkdir -p /www/cgi-bin; "
    "printf '#!/bin/sh\\necho; echo {name}\\n' >/www/cgi-bin/who; "
    "printf '#!/bin/sh\\nsleep {slow}; echo; echo {name}\\n' >/www/cgi-bin/slow; chmod +x /www/cgi-bin/*; "
    "trap 'exit 0' TERM; httpd -f -p 80 -h /www & wait"
)


@pytest.fixture
async def routers(plane: Plane, router_image: None) -> AsyncIterator[Routers]:
    made = Routers(plane)
    await plane.network("back", "10.72.0.0/24")
    await plane.network("outside", "198.51.100.0/24", egress=True)
    await plane.run(
        {
            name: plane.spec(SERVER.format(name=name, slow=SLOW_SECONDS), host=host, networks=["back"])
            for name, host in (("one", 2), ("two", 3))
        }
    )
    yield made
    await made.clean()


async def test_a_request_is_answered_though_its_instance_leaves(
    plane: Plane, routers: Routers, hosts: list[Host]
) -> None:
    ports = [common_pb2.PublishedPort(host_port=8395, container_port=80)]
    await routers.create("edge", "back", host=1, ingress_ports=ports)
    await routers.balancer("edge", "web", {"one": 80, "two": 80}, port=80, mode=balancers_pb2.BALANCER_MODE_HTTP)
    url, client = f"http://{hosts[0].address}:8395/cgi-bin", hosts[1]

    async def who() -> str:
        return (await onhost.fetch(client, f"{url}/who", check=False)).strip()

    async def both() -> bool:
        return {await who() for _ in range(4)} == {"one", "two"}

    await until(both, what="both servers answer")
    slow = [asyncio.create_task(onhost.fetch(client, f"{url}/slow", check=False)) for _ in range(2)]
    name = plane.name("instances", "one")
    get = instances_pb2.GetInstanceRequest(name=name)

    async def is_busy() -> bool:
        answer = await plane.client.balancers.GetBalancerStatistics(
            balancers_pb2.GetBalancerStatisticsRequest(name=f"{plane.name('routers', 'edge')}/balancers/web")
        )
        return all(backend.in_flight == 1 for pool in answer.pools for backend in pool.backends)

    await until(is_busy, what="each has a slow request")
    await plane.client.instances.DeleteInstance(instances_pb2.DeleteInstanceRequest(name=name))
    leaving = await plane.client.instances.GetInstance(get)
    assert leaving.status.HasField("leave_time")
    assert leaving.desired_state == instances_pb2.DESIRED_STATE_RUNNING

    async def only_two() -> bool:
        return {await who() for _ in range(4)} == {"two"}

    await until(only_two, what="the one that leaves gets nothing new")
    assert sorted(await asyncio.gather(*slow)) == ["one\n", "two\n"]

    async def is_gone() -> bool:
        try:
            await plane.client.instances.GetInstance(get)
        except NotFound:
            return True
        return False

    await until(is_gone, what="it goes when its request has ended")
    assert await who() == "two"

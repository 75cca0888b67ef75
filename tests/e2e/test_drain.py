"""Hosts that are emptied for work on their machines, and come back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.duration_pb2 import Duration

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.v1 import balancers_pb2, common_pb2, hosts_pb2
from tests.e2e.conftest import moor
from tests.support import onhost
from tests.support.groups import Groups
from tests.support.plane import Plane, until
from tests.support.routers import Routers

PORT = 8396
SERVER = "mkdir /www; echo it works >/www/index.html; trap 'exit 0' TERM; httpd -f -p 80 -h /www & wait"
QUICK = {"min_ready": Duration(nanos=300_000_000)}


@pytest.fixture
async def groups(plane: Plane) -> AsyncIterator[Groups]:
    made = Groups(plane)
    yield made
    await made.remove_all()


@pytest.fixture
async def drains(plane: Plane, hosts: list[Host]) -> AsyncIterator[None]:
    """Whatever a test drained takes instances again after it."""
    yield
    for host in hosts:
        await plane.client.hosts.UncordonHost(hosts_pb2.UncordonHostRequest(name=f"hosts/{host.name}"))


@pytest.fixture
async def routers(plane: Plane, router_image: None, groups: Groups) -> AsyncIterator[Routers]:
    made = Routers(plane)
    await plane.network("back", "10.74.0.0/24")
    await plane.network("outside", "198.51.100.0/24", egress=True)
    yield made
    await made.clean()


async def host_of(plane: Plane, last: str) -> hosts_pb2.Host:
    return await plane.client.hosts.GetHost(hosts_pb2.GetHostRequest(name=f"hosts/{last}"))


@asynccontextmanager
async def asked(client: Host, url: str) -> AsyncIterator[list[str]]:
    """Asks again and again; yields what was answered."""
    answers: list[str] = []
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            answers.append(await onhost.fetch(client, url, check=False))

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    try:
        yield answers
    finally:
        is_over.set()
        await asyncio.gather(*asking)


async def test_a_group_behind_a_balancer_moves_without_a_failed_request(
    plane: Plane, groups: Groups, routers: Routers, hosts: list[Host], fleet: Fleet, drains: None
) -> None:
    await groups.create("web", 3, plane.spec(SERVER, networks=["back"]), rollout=QUICK)
    ports = [common_pb2.PublishedPort(host_port=PORT, container_port=80)]
    await routers.create("edge", "back", host=1, ingress_ports=ports)
    mode = balancers_pb2.BALANCER_MODE_HTTP
    await routers.balancer("edge", "web", {}, groups={"web": 80}, port=80, mode=mode)
    url = f"http://{hosts[0].address}:{PORT}/"

    async def answers() -> bool:
        return await onhost.fetch(hosts[2], url, check=False) == "it works\n"

    await until(answers, what="the balancer leads to the group")
    before = {member.status.host for member in await groups.members("web")}
    assert before == {f"hosts/{host.name}" for host in hosts}
    async with asked(hosts[2], url) as answered, groups.watched("web") as seen:
        await asyncio.to_thread(moor, fleet, "host", "drain", hosts[1].name, "--wait")
    assert len(answered) > 20, "it was asked all the while"
    assert set(answered) == {"it works\n"}
    assert seen.least_ready == 3
    host = await host_of(plane, hosts[1].name)
    assert host.admin_state == hosts_pb2.HOST_ADMIN_STATE_MAINTENANCE
    assert host.status.used.instances == 0
    assert await onhost.containers(hosts[1]) == []
    after = {member.status.host for member in await groups.members("web")}
    assert after == before - {host.name}
    moor(fleet, "host", "uncordon", hosts[1].name)
    await groups.create("more", 3, plane.spec(networks=["back"]), rollout=QUICK)
    assert host.name in {member.status.host for member in await groups.members("more")}


async def test_a_pair_of_routers_is_never_without_one(
    plane: Plane, routers: Routers, hosts: list[Host], fleet: Fleet, drains: None
) -> None:
    await routers.create("edge", "back", redundant=True)

    async def two() -> set[str]:
        found = (await routers.get("edge")).status.members
        return {member.host for member in found if member.running_version}

    async def both() -> bool:
        return len(await two()) == 2

    await until(both, what="both containers run")
    first = sorted(await two())[0]
    moor(fleet, "host", "drain", first, "--wait")
    await until(both, what="both run again", within_seconds=60)
    assert first not in await two()


async def test_an_update_goes_on_while_its_host_is_drained_and_members_come_back_for_balance(
    plane: Plane, groups: Groups, hosts: list[Host], fleet: Fleet, drains: None
) -> None:
    await plane.network("back", "10.74.0.0/24")
    await groups.create("web", 3, plane.spec(networks=["back"], env={"V": "1"}), rollout=QUICK)
    name = hosts[1].name
    async with groups.watched("web") as seen:
        await groups.change("web", plane.spec(networks=["back"], env={"V": "2"}), wait=False)
        await asyncio.to_thread(moor, fleet, "host", "drain", name, "--wait")
        await groups.wait("web", revision=2)
    assert (seen.least_ready, seen.most_members) == (3, 4)
    members = await groups.members("web")
    assert {member.spec.env["V"] for member in members} == {"2"}
    assert f"hosts/{name}" not in {member.status.host for member in members}
    moor(fleet, "host", "uncordon", name)
    told = moor(fleet, "host", "rebalance", "--dry-run", "-o", "json")
    assert [move["to_host"] for move in json.loads(told)] == [f"hosts/{name}"]
    moor(fleet, "host", "rebalance")

    async def is_spread() -> bool:
        found = await groups.members("web")
        return len(found) == 3 and len({member.status.host for member in found}) == 3

    await until(is_spread, what="one is on each host", within_seconds=60)
    await groups.wait("web")
    assert json.loads(moor(fleet, "host", "rebalance", "--dry-run", "-o", "json")) == []


async def test_what_nobody_makes_anew_is_named_and_deleted_only_on_a_word(
    plane: Plane, hosts: list[Host], fleet: Fleet, drains: None
) -> None:
    name = hosts[2].name
    await plane.run({"own": plane.spec(host=3, no_network=True)})
    moor(fleet, "host", "drain", name)

    async def named() -> bool:
        waits = (await host_of(plane, name)).status.drain.waits
        return [(wait.instance, wait.reason) for wait in waits] == [(plane.name("instances", "own"), "UNMANAGED")]

    await until(named, what="the drain says what it waits for")
    assert list(await plane.instances()) == [plane.name("instances", "own")]
    moor(fleet, "host", "drain", name, "--deadline", "0s", "--delete-unmanaged", "--wait")
    assert not await plane.instances()
    assert (await host_of(plane, name)).admin_state == hosts_pb2.HOST_ADMIN_STATE_MAINTENANCE

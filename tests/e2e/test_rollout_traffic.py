"""Groups that have clients while they change: by a balancer, and by their name."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from benchmarks.wrk import asking
from cli.dev.host import Host
from moorage.v1 import balancers_pb2, common_pb2, groups_pb2
from moorage.v1 import instances_pb2 as pb
from moorage.v1.probes_pb2 import HttpCheck, Probe, Probes
from tests.e2e.test_names import addresses, look_up, soon
from tests.support import onhost
from tests.support.groups import Groups
from tests.support.plane import Plane, shell, until
from tests.support.routers import Routers

UPDATES = 3
PORT = 8397
#: Serves while /www/up is there. Ends on its stop signal at once: what it has begun is cut off.
SERVER = r"""
mkdir -p /www/cgi-bin
echo yes >/www/up
cat >/www/cgi-bin/value <<'END'
#!/bin/sh
sleep 0.1
printf 'Connection: close\r\nContent-Length: 2\r\n\r\n%s\n' "$V"
END
chmod +x /www/cgi-bin/value
trap 'exit 0' TERM
httpd -f -p 80 -h /www & wait
"""
QUICK: Mapping[str, Any] = {"min_ready": Duration(nanos=300_000_000), "max_surge": "2"}
ONE_LESS: Mapping[str, Any] = {**QUICK, "order": groups_pb2.ROLLOUT_ORDER_STOP_FIRST, "max_surge": "0"}
HTTP, TCP = balancers_pb2.BALANCER_MODE_HTTP, balancers_pb2.BALANCER_MODE_TCP


@pytest.fixture
async def groups(plane: Plane) -> AsyncIterator[Groups]:
    made = Groups(plane)
    yield made
    await made.remove_all()


@pytest.fixture
async def routers(plane: Plane, router_image: None, groups: Groups) -> AsyncIterator[Routers]:
    """A router `edge` on h1 with the network `back` behind it; gone after the test, before the groups are."""
    made = Routers(plane)
    await plane.network("back", "10.75.0.0/24")
    await plane.network("outside", "198.51.100.0/24", egress=True)
    ports = [common_pb2.PublishedPort(host_port=PORT, container_port=80)]
    await made.create("edge", "back", host=1, ingress_ports=ports)
    yield made
    await made.clean()


def served(plane: Plane, value: str, *, network: str = "back") -> pb.InstanceSpec:
    """What a member is; it says `value`."""
    readiness = Probe(http=HttpCheck(port=80, path="/up"), period=Duration(nanos=200_000_000), failure_threshold=1)
    return plane.spec(SERVER, env={"V": value}, networks=[network], probes=Probes(readiness=readiness))


async def balance(routers: Routers, group: str, mode: "balancers_pb2.BalancerMode.ValueType" = HTTP) -> None:
    """Clients of the port are led to the group."""
    await routers.balancer("edge", "web", {}, groups={group: 80}, port=80, mode=mode)


async def set_up(plane: Plane, member: pb.Instance, is_up: bool) -> float:
    """Make a member ready, or take that from it; when the API said so, by time.monotonic()."""
    await plane.exec(member.name, shell("echo yes >/www/up" if is_up else "rm /www/up"))
    await plane.see(member.name, lambda found: found.status.ready is is_up, what=f"ready: {is_up}")
    return time.monotonic()


@pytest.mark.parametrize(("mode", "rollout"), [(HTTP, QUICK), (TCP, ONE_LESS)], ids=["http", "tcp"])
async def test_no_request_fails_while_a_group_is_updated(
    plane: Plane,
    groups: Groups,
    routers: Routers,
    hosts: list[Host],
    mode: "balancers_pb2.BalancerMode.ValueType",
    rollout: Mapping[str, Any],
) -> None:
    await groups.create("web", 3, served(plane, "0"), rollout=rollout)
    await balance(routers, "web", mode)
    url, client = f"http://{hosts[0].address}:{PORT}/cgi-bin/value", hosts[1]

    async def value() -> str:
        return (await onhost.fetch(client, url, check=False)).strip()

    async def only(wanted: str) -> bool:
        return {await value() for _ in range(6)} == {wanted}

    await until(lambda: only("0"), what="the group answers")
    async with asking(client.command, f"http://{hosts[0].address}:{PORT}", ("/up", "/cgi-bin/value")) as asked:
        for number in range(1, UPDATES + 1):
            await groups.change("web", served(plane, str(number)))
            await until(lambda value=str(number): only(value), what="only new members answer")
    print(f"answered: {asked.answered}")
    assert asked.answered > 0
    assert asked.failed == 0, asked.words


async def test_a_balancer_without_ready_members_says_so(
    plane: Plane, groups: Groups, routers: Routers, hosts: list[Host]
) -> None:
    await groups.create("web", 2, served(plane, "0"), rollout=QUICK)
    await balance(routers, "web")
    url = f"http://{hosts[0].address}:{PORT}/cgi-bin/value"
    request = balancers_pb2.GetBalancerRequest(name=f"{plane.name('routers', 'edge')}/balancers/web")

    async def status() -> str:
        code = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "5", url]
        return await hosts[1].run(code, check=False)

    async def says(code: str) -> bool:
        return await status() == code

    await until(lambda: says("200"), what="the group answers")
    members = await groups.members("web")
    for member in members:
        await set_up(plane, member, False)
    await until(lambda: says("503"), what="clients are told that there is no service")
    found = (await plane.client.balancers.GetBalancer(request)).status
    assert found.active, "the balancer is as it was asked for"
    assert found.message == f"pool main: no member of {groups.name('web')} is ready"
    await set_up(plane, members[1], True)
    await until(lambda: says("200"), what="one is enough")
    assert not (await plane.client.balancers.GetBalancer(request)).status.message


async def test_the_name_of_a_group_leads_to_members_that_take_clients(
    plane: Plane, groups: Groups, hosts: list[Host]
) -> None:
    await plane.network("lan")
    here = (await plane.run({"here": plane.spec(host=1, networks=["lan"])}))["here"]
    await groups.create("web", 3, served(plane, "0", network="lan"), rollout=QUICK)
    members = await groups.members("web")
    took: dict[str, float] = {}

    async def leads_to(wanted: list[pb.Instance]) -> bool:
        for kind, number in (("a", 0), ("aaaa", 1)):
            if await look_up(hosts[0], here, "web.lan.internal", kind) != {addresses(i)[number] for i in wanted}:
                return False
        return True

    await until(lambda: leads_to(members), what="all members")
    await set_up(plane, members[0], False)
    took["not ready"] = await soon(lambda: leads_to(members[1:]), "only those that are ready")
    await set_up(plane, members[0], True)
    took["ready"] = await soon(lambda: leads_to(members), "the one that is ready again")
    await plane.client.groups.UpdateGroup(scaled(groups, "web", 2))
    took["leaving"] = await soon(lambda: leads_to(members[:2]), "without the one that leaves")
    print(", ".join(f"{what}: {seconds:.2f} s" for what, seconds in took.items()))


def scaled(groups: Groups, last: str, replicas: int) -> groups_pb2.UpdateGroupRequest:
    """The request for so many members."""
    request = groups_pb2.UpdateGroupRequest(group=groups_pb2.Group(name=groups.name(last)))
    request.group.spec.replicas = replicas
    request.update_mask.paths.append("spec.replicas")
    return request

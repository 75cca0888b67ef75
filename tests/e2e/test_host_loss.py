"""Hosts that are lost: what they had is made anew elsewhere, and a host that comes back has nothing twice."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import NotFound
from moorage.v1 import balancers_pb2, common_pb2, groups_pb2, hosts_pb2
from moorage.v1 import instances_pb2 as pb
from tests.e2e.test_names import look_up
from tests.support import onhost
from tests.support.plane import RUNNING, STAY, Plane, until
from tests.support.routers import Routers

COUNT = 6
CUT_SECONDS = 20.0
HEALED_SECONDS = 30.0  # with the machine busy; alone it is a tenth of that


#: Says its address.
SERVER = (
    "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; hostname -i\\n' >/www/cgi-bin/who; chmod +x /www/cgi-bin/who; "
    "trap 'exit 0' TERM; httpd -f -p 80 -h /www & wait"
)


@pytest.fixture
async def whole(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet; whatever is missing of it after the test is started again."""
    yield fleet
    await fleet.up()


@contextlib.asynccontextmanager
async def group_of_six(plane: Plane, script: str = STAY) -> AsyncIterator[dict[str, pb.Instance]]:
    """A group that is spread over all hosts. Yields its members by uid, once all run."""
    await plane.network("lan", "10.74.0.0/24")
    spec = groups_pb2.GroupSpec(replicas=COUNT, instance=plane.spec(script, networks=["lan"]))
    await plane.client.groups.CreateGroup(
        groups_pb2.CreateGroupRequest(parent=plane.project, group_id="six", group=groups_pb2.Group(spec=spec))
    )
    name = plane.name("groups", "six")
    try:
        yield {i.uid: i for i in await until(lambda: _running(plane), what="six members")}
    finally:
        await plane.client.groups.DeleteGroup(groups_pb2.DeleteGroupRequest(name=name))

        async def is_gone() -> bool:
            try:
                await plane.client.groups.GetGroup(groups_pb2.GetGroupRequest(name=name))
            except NotFound:
                return True
            return False

        await until(is_gone, what="the end of the group", within_seconds=60)


async def _running(plane: Plane, *, not_on: str = "") -> list[pb.Instance]:
    """The six members when all of them run, none on that host; else nothing."""
    found = [
        i
        for i in (await plane.instances()).values()
        if i.desired_state == pb.DESIRED_STATE_RUNNING and i.status.state == RUNNING and i.status.host != not_on
    ]
    return found if len(found) == COUNT else []


async def _names(host: Host, members: Sequence[pb.Instance], host_name: str) -> list[str]:
    """What the group's name means on a host, asked by a member there."""
    asks = next(i for i in members if i.status.host == host_name)
    return sorted(await look_up(host, asks, "six.lan.internal"))


def _addresses(instances: Sequence[pb.Instance]) -> list[str]:
    return sorted(a.partition("/")[0] for i in instances for nic in i.status.nics for a in nic.addresses)


async def _is_settled(plane: Plane, hosts: Sequence[Host], members: Sequence[pb.Instance]) -> bool:
    """Whether the hosts have these members and nothing else of anybody, each once, with its own addresses."""
    wanted = {i.uid: sorted(_addresses([i])) for i in members}
    if len(await plane.instances()) != len(wanted):
        return False
    containers = await onhost.all_containers(hosts)
    if sorted(c.instance for c in containers) != sorted(wanted) or not all(c.is_running for c in containers):
        return False
    return {uid: sorted(found) for uid, found in (await onhost.all_namespaces(hosts)).items()} == wanted


async def _kill(fleet: Fleet, host: Host) -> None:
    """Agent, engine and containers; the machine itself lives."""
    victims = [c.pid for c in await onhost.containers(host) if c.is_running]
    await fleet.kill("h3", "all")
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("case", ["its programs are killed", "it is switched off"])
async def test_members_are_made_anew_elsewhere(plane: Plane, whole: Fleet, hosts: list[Host], case: str) -> None:
    async with group_of_six(plane) as before:
        lost = [i for i in before.values() if i.status.host == "hosts/h3"]
        assert lost
        if case == "it is switched off":
            await whole.power_off("h3")
        else:
            await _kill(whole, hosts[2])
        began = time.monotonic()
        after = await until(
            lambda: _running(plane, not_on="hosts/h3"), what="all elsewhere", within_seconds=HEALED_SECONDS
        )
        print(f"elsewhere after {time.monotonic() - began:.2f} s")

        loss = (await plane.host(3)).status.loss
        assert len(loss.evidence) == 2, loss
        word = "no answer" if case == "it is switched off" else "the machine is there"
        assert all(word in said for said in loss.evidence), loss
        kept = {uid for uid in before if before[uid] not in lost}
        assert kept < {i.uid for i in after}, "the others were left alone"
        leases = await plane.leases("lan")
        assert sorted(leases) == sorted(_addresses([*after, *lost])), "addresses are kept until the host has spoken"

        await whole.start("h3")
        await plane.link(3, hosts_pb2.HOST_LINK_STATE_UP)
        await until(lambda: _is_settled(plane, whole.hosts(), after), what="nothing twice")
        assert not (await plane.host(3)).status.HasField("loss")
        assert sorted(await plane.leases("lan")) == _addresses(after)
        assert not await onhost.containers(whole.host(3))


async def test_a_host_that_was_cut_off_has_nothing_twice(plane: Plane, whole: Fleet, hosts: list[Host]) -> None:
    async with group_of_six(plane) as before:
        alone = (await plane.run({"alone": plane.spec(host=2, networks=["lan"])}))["alone"]
        cut_at = time.monotonic()
        await whole.cut("h2")
        try:

            async def is_elsewhere() -> list[pb.Instance]:
                found = [i for i in (await plane.instances()).values() if i.uid != alone.uid]
                good = [i for i in found if i.status.state == RUNNING and i.status.host != "hosts/h2"]
                return good if len(good) == COUNT else []

            after = await until(is_elsewhere, what="all elsewhere", within_seconds=HEALED_SECONDS)
            assert not set(_addresses(after)) & set(
                _addresses([i for i in before.values() if i.status.host == "hosts/h2"])
            )

            async def are_named() -> bool:
                return await _names(hosts[0], after, "hosts/h1") == _addresses(after)

            await until(are_named, what="their name on a host that stays")
            assert (await plane.get("alone")).desired_state == pb.DESIRED_STATE_RUNNING, "nobody would replace it"
            await asyncio.sleep(max(0.0, cut_at + CUT_SECONDS - time.monotonic()))
        finally:
            await whole.heal("h2")
        healed_at = time.monotonic()

        async def is_named() -> bool:
            return sorted(await look_up(hosts[1], alone, "six.lan.internal")) == _addresses(after)

        await until(is_named, what="the name on the host that was cut off")
        print(f"named {time.monotonic() - healed_at:.2f} s after it was healed")
        await until(lambda: _is_settled(plane, hosts, [*after, alone]), what="nothing twice")
        print(f"settled {time.monotonic() - healed_at:.2f} s after it was healed")
        again = {c.instance: c for c in await onhost.containers(hosts[1])}
        assert again[alone.uid].is_running
        assert (await plane.get("alone")).status.run == alone.status.run


async def test_only_the_way_to_the_control_plane_is_cut(plane: Plane, whole: Fleet, hosts: list[Host]) -> None:
    """Its neighbours reach it: it is no loss, however long that lasts."""
    machine = whole.config.machine_address
    rules = (
        "add table inet cut; add chain inet cut out { type filter hook output priority 0; }; "
        f"add rule inet cut out ip daddr {machine} drop"
    )
    async with group_of_six(plane) as before:
        await hosts[1].run(["nft", rules])
        try:

            async def is_told() -> str:
                return (await plane.host(2)).status.link_message

            assert "reached it" in await until(is_told, what="what the neighbours say")
            await plane.link(2, hosts_pb2.HOST_LINK_STATE_DISCONNECTED)
        finally:
            await hosts[1].run(["nft", "delete", "table", "inet", "cut"])
        await plane.link(2, hosts_pb2.HOST_LINK_STATE_UP)
        status = (await plane.host(2)).status
        assert (status.link_message, status.HasField("loss")) == ("", False)
        assert {i.uid for i in await _running(plane)} == set(before)


async def test_the_balancer_of_a_host_that_was_cut_off(
    plane: Plane, whole: Fleet, hosts: list[Host], router_image: None
) -> None:
    """Its router was cut off with some members of a group: when it is back, it leads to those that are there now, and to no other."""
    routers = Routers(plane)
    await plane.network("outside", "198.51.100.0/24", egress=True)
    async with group_of_six(plane, SERVER) as before:
        try:
            ports = [common_pb2.PublishedPort(host_port=8396, container_port=80)]
            await routers.create("edge", "lan", host=2, ingress_ports=ports)
            await routers.balancer(
                "edge", "web", {}, groups={"six": 80}, port=80, mode=balancers_pb2.BALANCER_MODE_HTTP
            )

            async def who() -> list[str]:
                url = f"http://{hosts[1].address}:8396/cgi-bin/who"
                said = await asyncio.gather(*(onhost.fetch(hosts[0], url, check=False) for _ in range(2 * COUNT)))
                return sorted({line.strip() for line in said})

            async def leads_to(members: Sequence[pb.Instance]) -> bool:
                return await who() == _addresses(members)

            await until(lambda: leads_to(list(before.values())), what="an answer of each")
            await whole.cut("h2")
            try:
                after = await until(
                    lambda: _running(plane, not_on="hosts/h2"), what="all elsewhere", within_seconds=HEALED_SECONDS
                )
            finally:
                await whole.heal("h2")
            healed_at = time.monotonic()

            async def is_right() -> bool:
                answers = [answer for answer in await who() if answer]
                return bool(answers) and set(answers) <= set(_addresses(after))

            await until(is_right, what="only members that are there now")
            print(f"balanced {time.monotonic() - healed_at:.2f} s after it was healed")
            # Those on other hosts could not be reached from here, and must have passed the balancer's own checks again.
            await until(lambda: leads_to(after), what="all members that are there now")
        finally:
            await routers.clean()

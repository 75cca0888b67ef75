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
from moorage.v1 import groups_pb2, hosts_pb2
from moorage.v1 import instances_pb2 as pb
from tests.e2e.test_names import look_up
from tests.support import onhost
from tests.support.plane import RUNNING, Plane, until

COUNT = 6
CUT_SECONDS = 20.0
HEALED_SECONDS = 30.0  # with the machine busy; alone it is a tenth of that


@pytest.fixture
async def whole(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet; whatever is missing of it after the test is started again."""
    yield fleet
    await fleet.up()


@contextlib.asynccontextmanager
async def group_of_six(plane: Plane) -> AsyncIterator[dict[str, pb.Instance]]:
    """A group that is spread over all hosts. Yields its members by uid, once all run."""
    await plane.network("lan")
    spec = groups_pb2.GroupSpec(replicas=COUNT, instance=plane.spec(networks=["lan"]))
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

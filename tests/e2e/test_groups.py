"""Groups on real hosts: they come up, heal, are scaled, updated and rolled back."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf.duration_pb2 import Duration

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import NotReady
from moorage.v1 import groups_pb2
from moorage.v1 import instances_pb2 as pb
from tests.e2e.conftest import moor
from tests.support import onhost
from tests.support.groups import Groups
from tests.support.plane import STAY, Plane, shell, until

#: Short, so that an update of three is seconds.
QUICK = {"min_ready": Duration(nanos=300_000_000)}


@pytest.fixture
async def groups(plane: Plane) -> AsyncIterator[Groups]:
    made = Groups(plane)
    yield made
    await made.remove_all()


def env(plane: Plane, value: str, script: str = STAY) -> pb.InstanceSpec:
    return plane.spec(script, env={"V": value}, networks=["back"])


async def values(plane: Plane, groups: Groups, last: str) -> list[str]:
    """What the members themselves have."""
    return [(await plane.exec(m.name, shell("echo $V")))[1].strip() for m in await groups.members(last)]


async def test_by_the_command_line(plane: Plane, groups: Groups, fleet: Fleet) -> None:
    moor(fleet, "group", "create", "web", "web", "-r", "2", "--min-ready", "300ms", "--wait", "--", *shell(STAY))
    assert "2/2" in moor(fleet, "group", "ls")
    moor(fleet, "group", "scale", "web", "3", "--wait")
    members = await groups.members("web")
    assert [m.status.slot for m in members] == [0, 1, 2]
    assert [m.name.rpartition("/")[2][:6] for m in members] == ["web-0-", "web-1-", "web-2-"]
    assert {m.spec.hostname for m in members} == {"web-0", "web-1", "web-2"}
    assert len({m.status.host for m in members}) == 3, "spread over the hosts"
    moor(fleet, "group", "scale", "web", "1", "--wait")
    (left,) = await groups.members("web")
    assert left.name == members[0].name, "the highest slots go first"
    moor(fleet, "group", "rm", "web")
    assert not await plane.instances()


async def test_what_dies_comes_back_and_what_is_deleted_is_made_again(
    plane: Plane, groups: Groups, hosts: list[Host]
) -> None:
    await plane.network("back", "10.73.0.0/24")
    await groups.create("web", 3, env(plane, "1"), rollout=QUICK)
    before = {m.status.slot: m for m in await groups.members("web")}
    killed = before[1]
    host = next(host for host in hosts if f"hosts/{host.name}" == killed.status.host)
    (container,) = [c for c in await onhost.containers(host) if c.instance == killed.uid]
    await host.docker("kill", container.id)
    await plane.see(killed.name, lambda i: i.status.run > killed.status.run and i.status.ready, what="it runs again")
    await plane.delete([before[2].name])
    await groups.wait("web")
    after = {m.status.slot: m for m in await groups.members("web")}
    assert (after[0].uid, after[1].uid) == (before[0].uid, killed.uid)
    assert after[2].uid != before[2].uid


async def test_a_rolling_update_keeps_its_number_and_rollback_brings_the_old_back(plane: Plane, groups: Groups) -> None:
    await plane.network("back", "10.73.0.0/24")
    await groups.create("web", 3, env(plane, "1"), rollout=QUICK)
    async with groups.watched("web") as seen:
        changed = await groups.change("web", env(plane, "2"))
    assert (changed.status.target_revision, changed.status.stable_revision) == (2, 2)
    assert await values(plane, groups, "web") == ["2", "2", "2"]
    assert (seen.least_ready, seen.most_members) == (3, 4)
    request = groups_pb2.RollbackGroupRequest(name=groups.name("web"))
    back = await plane.client.groups.RollbackGroup(request)
    assert back.spec.instance.env["V"] == "1"
    await groups.wait("web", revision=1)
    assert await values(plane, groups, "web") == ["1", "1", "1"]


async def test_an_update_that_fails_goes_back_and_says_why(plane: Plane, groups: Groups) -> None:
    await plane.network("back", "10.73.0.0/24")
    await groups.create("web", 2, env(plane, "1"), rollout={**QUICK, "failure_limit": 2})
    before = {m.uid for m in await groups.members("web")}
    async with groups.watched("web") as seen:
        with pytest.raises(NotReady) as failed:
            await groups.change("web", env(plane, "2", "echo no such database; exit 3"))
    assert failed.value.reason == "ROLLED_BACK"
    assert "no such database" in failed.value.message
    group = await groups.wait("web", revision=1)
    assert (group.status.reason, group.spec.instance.env["V"]) == ("ROLLED_BACK", "2"), "the user's words stay"
    assert {m.uid for m in await groups.members("web")} == before
    assert seen.least_ready == 2
    again = await groups.change("web", group.spec.instance, wait=False)
    assert again.status.target_revision == 1, "the same again is not tried again"
    request = groups_pb2.ListGroupRevisionsRequest(parent=group.name)
    listed = (await plane.client.groups.ListGroupRevisions(request)).revisions
    assert [bool(revision.failure) for revision in listed] == [False, True]


async def test_canaries_wait_for_a_word(plane: Plane, groups: Groups) -> None:
    await plane.network("back", "10.73.0.0/24")
    await groups.create("web", 3, env(plane, "1"), rollout={**QUICK, "canaries": 1})
    group = await groups.change("web", env(plane, "2"))
    assert group.status.state == groups_pb2.GROUP_STATE_CANARY
    assert await values(plane, groups, "web") == ["2", "1", "1"]
    await plane.client.groups.PromoteGroup(groups_pb2.PromoteGroupRequest(name=groups.name("web")))
    await groups.wait("web", revision=2)
    assert await values(plane, groups, "web") == ["2", "2", "2"]


async def test_slots_keep_names_and_addresses(plane: Plane, groups: Groups) -> None:
    await plane.network("back", "10.73.0.0/24")
    slots = groups_pb2.SlotPolicy(sticky_name=True, sticky_address=True)
    await groups.create("db", 2, env(plane, "1"), rollout=QUICK, slots=slots)

    async def places() -> list[tuple[str, str]]:
        members = await groups.members("db")
        return [(m.name.rpartition("/")[2], m.status.nics[0].addresses[0]) for m in members]

    before = await places()
    assert [name for name, _ in before] == ["db-0", "db-1"]
    await groups.change("db", env(plane, "2"))
    assert await places() == before
    assert await values(plane, groups, "db") == ["2", "2"]


async def test_one_on_each_host(plane: Plane, groups: Groups, hosts: list[Host]) -> None:
    spec = plane.spec(no_network=True)
    await groups.create("each", 0, spec, mode=groups_pb2.GROUP_MODE_PER_HOST, rollout=QUICK)
    members = await groups.members("each")
    assert sorted(m.status.host for m in members) == sorted(f"hosts/{host.name}" for host in hosts)

    async def status() -> bool:
        found = (await groups.get("each")).status
        return (found.wanted, found.ready, found.state) == (len(hosts), len(hosts), groups_pb2.GROUP_STATE_STABLE)

    await until(status, what="the group says so")

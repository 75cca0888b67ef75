"""What is killed comes back, and nothing else notices: fifty instances are on their way when a part of the fleet dies
of SIGKILL; in the end all run, each once, no address is given twice, and no process that ran was stopped."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.programs import CONTROLPLANE, Access, Programs
from moorage.errors import DeadlineExceeded, Unavailable
from moorage.v1 import common_pb2, hosts_pb2, operations_pb2, templates_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support import onhost
from tests.support.plane import RUNNING, STAY, STOPPED, Plane, until

COUNT = 50
MARKED = "echo run >>/runs; " + STAY
Victims = tuple[tuple[str, str], ...]

CASES: Mapping[str, Victims] = {
    "control plane": ((CONTROLPLANE, ""),),
    "agent": (("h1", "agent"),),
    "dockerd": (("h2", "engine"),),
    "containerd": (("h3", "containerd"),),
    "agent and control plane": (("h2", "agent"), (CONTROLPLANE, "")),
}


async def check_starts(containers: Iterable[onhost.Container], count: int) -> None:
    """Each process has begun so often, as its container's own files tell."""

    async def have_written() -> bool:
        runs = [Path(f"/proc/{container.pid}/root/runs") for container in containers]
        written = [path.read_text().count("run") if path.exists() else 0 for path in runs]
        assert max(written, default=count) <= count, "a process was started again"
        return min(written, default=count) == count

    await until(have_written, what=f"{count} starts of each process")


@pytest.fixture
async def whole(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet; whatever is missing of it after the test is started again."""
    yield fleet
    await fleet.up()


async def revive(fleet: Fleet, victims: Victims) -> None:
    """Start what was killed; the control plane first, for an agent is ready when that says so."""
    for target, part in sorted(victims, key=lambda victim: victim[0] != CONTROLPLANE):
        await fleet.start(target, part or "all")


async def create(plane: Plane, number: int, case: str) -> pb.Instance:
    """Ask for one instance as a patient caller does: with a request id, again until there is an answer."""
    request = pb.CreateInstanceRequest(
        parent=plane.project,
        instance_id=f"n{number}",
        instance=pb.Instance(spec=plane.spec(MARKED, networks=["lan"])),
        request_id=f"n{number} {case}",
    )

    async def ask() -> pb.Instance:
        return await plane.client.instances.CreateInstance(request, timeout=5)

    return await until(ask, what=f"an answer about n{number}", ignore=(Unavailable, DeadlineExceeded))


@pytest.mark.parametrize("case", CASES)
async def test_a_kill_in_the_middle_of_fifty_creations(
    plane: Plane, whole: Fleet, hosts: list[Host], case: str
) -> None:
    victims = CASES[case]
    await plane.network("lan")
    made: list[pb.Instance] = []

    async def create_all() -> None:
        for number in range(COUNT):
            made.append(await create(plane, number, case))

    async def are_on_their_way() -> bool:
        if CONTROLPLANE in dict(victims):
            return len(made) >= COUNT // 5
        return len(await onhost.all_containers(hosts)) >= COUNT // 5

    async def running() -> dict[str, onhost.Container]:
        return {c.instance: c for c in await onhost.all_containers(hosts) if c.is_running}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(create_all(), name="fifty creations")
        await until(are_on_their_way, what="the first instances")
        # A dead engine cannot be asked. The others are killed first: looking takes as long as many creations.
        before = await running() if "engine" in dict(victims).values() else None
        for target, part in victims:
            await whole.kill(target, part or "agent")
        finished = len(made)
        before = before or await running()
        await revive(whole, victims)
    assert CONTROLPLANE not in dict(victims) or finished < COUNT, "the kill came too late to prove anything"

    async def do_all_run() -> list[pb.Instance]:
        found = list((await plane.instances()).values())
        return found if {instance.status.state for instance in found} == {RUNNING} else []

    # A start that its engine's death has spoilt may fail once more before the agent's next try.
    at_last = await until(do_all_run, what="fifty running instances", within_seconds=60)
    assert sorted(instance.name for instance in at_last) == sorted(instance.name for instance in made)
    after = await onhost.all_containers(hosts)
    assert len(after) == COUNT
    assert {c.instance for c in after} == {instance.uid for instance in made}
    assert all(c.is_running for c in after)
    survivors = {c.instance: c for c in after}
    for uid, container in before.items():
        assert (survivors[uid].id, survivors[uid].pid) == (container.id, container.pid), "a running process was stopped"
        assert survivors[uid].started_at == container.started_at
    once = survivors if all(part in ("agent", "") for _, part in victims) else before
    await check_starts([survivors[uid] for uid in once], 1)

    leases = await plane.leases("lan")
    plugged = await onhost.all_namespaces(hosts)
    by_api = {i.uid: sorted(str(ipaddress.ip_interface(a).ip) for a in i.status.nics[0].addresses) for i in at_last}
    assert {uid: sorted(found) for uid, found in plugged.items()} == by_api
    assert sorted(leases) == sorted(address for some in by_api.values() for address in some)


async def test_a_power_cut_while_the_control_plane_is_away(plane: Plane, whole: Fleet) -> None:
    """The agent starts from its journal what may start, with the addresses that it had, and tells later."""
    never = common_pb2.RestartPolicy(mode=common_pb2.RESTART_MODE_NEVER)
    await plane.network("lan")
    specs = {f"n{n}": plane.spec(MARKED, host=3, networks=["lan"]) for n in range(3)}
    specs |= {"still": plane.spec(host=3), "once": plane.spec(MARKED, host=3, restart=never)}
    made = await plane.run(specs)
    await plane.client.instances.StopInstance(pb.StopInstanceRequest(name=plane.name("instances", "still")))
    await plane.reach(["still"], STOPPED)

    await whole.kill(CONTROLPLANE)
    await whole.power_off("h3")
    alone = Fleet.open(whole.config.directory, programs=replace(Programs(), agent_ready=_at_once))
    await alone.start("h3")
    host = whole.host(3)

    async def are_back() -> list[onhost.Container]:
        running = [c for c in await onhost.containers(host) if c.is_running]
        return running if len(running) >= 3 else []

    back = await until(are_back, what="three containers on h3")
    assert {c.instance for c in back} == {made[f"n{n}"].uid for n in range(3)}
    assert {c.id for c in back} == {made[f"n{n}"].status.container_id for n in range(3)}
    await check_starts(back, 2)
    plugged = await onhost.namespaces(host)
    for n in range(3):
        wanted = [str(ipaddress.ip_interface(a).ip) for a in made[f"n{n}"].status.nics[0].addresses]
        assert sorted(plugged[made[f"n{n}"].uid]) == sorted(wanted)
        await onhost.inside(host, made["n0"].uid, "ping", "-c1", "-W5", wanted[0])

    await whole.start(CONTROLPLANE)
    await plane.link(3, hosts_pb2.HOST_LINK_STATE_UP)
    await plane.reach(["n0", "n1", "n2"], RUNNING, after_runs={f"n{n}": made[f"n{n}"].status.run for n in range(3)})
    await plane.see("once", lambda i: i.status.reason == "HOST_REBOOTED", what="the reason of its end")
    assert {(await plane.get(name)).status.state for name in ("once", "still")} == {STOPPED}


async def _at_once(access: Access, host_name: str) -> bool:
    return True


async def test_a_host_that_is_cut_off_runs_on_and_comes_back(plane: Plane, whole: Fleet, hosts: list[Host]) -> None:
    made = (await plane.run({"alone": plane.spec(MARKED, host=2)}))["alone"]
    before = await onhost.containers(hosts[1])
    await whole.cut("h2")
    try:
        await plane.away(2)
        assert (await plane.get("alone")).status.stale
        # What is asked for meanwhile is done when the host is back.
        await plane.start_all({"later": plane.spec(host=2)})
    finally:
        await whole.heal("h2")
    await plane.link(2, hosts_pb2.HOST_LINK_STATE_UP)
    await plane.reach(["later"], RUNNING)
    after = {c.instance: c for c in await onhost.containers(hosts[1])}
    assert after[made.uid] == before[0]
    assert not (await plane.get("alone")).status.stale
    await asyncio.gather(*(plane.exec(name, ["true"]) for name in ("alone", "later")))


def slow_build(plane: Plane, seconds: int) -> templates_pb2.TemplateSource:
    """A build that takes a while, so that something can happen to it."""
    text = f"FROM {plane.template}\nRUN echo begun && sleep {seconds} && echo done >/done\n"
    return templates_pb2.TemplateSource(dockerfile=templates_pb2.DockerfileSource(inline=text))


async def building_host(plane: Plane, operation: operations_pb2.Operation) -> str:
    """Wait until a host builds; its name."""

    async def look() -> str:
        request = operations_pb2.GetOperationRequest(name=operation.name)
        found = await plane.client.operations.GetOperation(request)
        return next(iter(found.hosts), "") if "begun" in found.log else ""

    return (await until(look, what="the build's first words")).removeprefix("hosts/")


async def test_the_agent_of_a_build_dies(plane: Plane, whole: Fleet) -> None:
    """The operation says so and nothing is left of the template; the same again works."""
    operation = await plane.create_template("torn", slow_build(plane, 60))
    host = await building_host(plane, operation)
    await whole.kill(host, "agent")
    with pytest.raises(Unavailable):
        await plane.finish(operation)
    assert plane.name("templates", "torn") not in await plane.templates()
    await whole.start(host, "agent")

    async def nothing_is_left() -> bool:
        return not await whole.host(int(host[1:])).docker("ps", "-aq")

    await until(nothing_is_left, what=f"the end of the build's container on {host}")
    await plane.finish(await plane.create_template("torn", slow_build(plane, 0)))


async def test_the_control_plane_dies_during_a_build(plane: Plane, whole: Fleet) -> None:
    """The work begins again by itself, for its source is at hand."""
    operation = await plane.create_template("resumed", slow_build(plane, 3))
    await building_host(plane, operation)
    await whole.kill(CONTROLPLANE)
    await whole.start(CONTROLPLANE)
    await plane.finish(operation)
    await plane.run({"of-it": plane.spec(template="resumed")})
    assert await plane.exec("of-it", ["cat", "/done"]) == (0, "done\n")

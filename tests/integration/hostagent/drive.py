"""A whole agent and a control plane in memory, run inside a test engine's namespaces by test_real_host.py.

    python -m tests.integration.hostagent.drive SCENARIO SETTINGS

SETTINGS is JSON (see `Settings`); the last line of output is JSON with what was seen.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from hostagent.agent import Agent, World
from hostagent.engine.docker_engine import DockerEngine
from hostagent.facts import Site, boot_id
from hostagent.journal.journal import Journal
from hostagent.netlink.fabric import LinuxFabric
from hostagent.runtime import wrapper
from hostagent.secret_files import SecretFiles
from hostagent.watchdog import lease_file
from moorage.clock import SystemClock
from moorage.v1 import agent_pb2
from moorage.v1 import instances_pb2 as pb
from tests.unit.hostagent.conftest import instance, network
from tests.unit.hostagent.fakes import FakeControlPlane, FakeDoor

SCRIPT = (
    "ip addr show eth0; ip route; cat /etc/hosts; hostname; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"
)


@dataclass
class Settings:
    """Where everything is."""

    folder: str
    engine: str
    runtime: str
    image: str  # repository@digest, without the registry
    registry_port: int


@dataclass
class Machine:
    """The world of one run."""

    settings: Settings
    engine: DockerEngine
    fabric: LinuxFabric
    control_plane: FakeControlPlane

    async def agent(self) -> Agent:
        folder = Path(self.settings.folder)
        world = World(
            engine=self.engine,
            fabric=self.fabric,
            keys=wrapper.RuntimeKeys(folder / "run"),
            secrets=SecretFiles(folder / "run" / "secrets"),
            clock=SystemClock(),
            data_dir=folder / "data",
            run_dir=folder / "run",
            boot_id=boot_id(),
            site=Site("127.0.0.1", 4789, self.settings.registry_port),
        )
        (folder / "data").mkdir(exist_ok=True)
        agent = Agent(
            world, Journal.open(folder / "data", now=time.time()), connect=self.control_plane.connect, door=FakeDoor()
        )
        await agent.start()
        return agent

    def instance(self, name: str, number: int, **fields: Any) -> agent_pb2.InstanceAssignment:
        spec = pb.InstanceSpec(command=["sh", "-c", SCRIPT])
        spec.stop_grace.FromSeconds(3)
        return instance(name, number, image=self.settings.image, spec=spec, **fields)

    async def output(self, container_id: str, last: str) -> str:
        """What the process wrote, up to and with the line `last`."""
        text = ""
        async with asyncio.timeout(10):
            async for chunk in self.engine.logs(container_id, follow=True):
                text += chunk.data.decode()
                if text.endswith(f"\n{last}\n"):
                    break
        return text


@asynccontextmanager
async def machine(settings: Settings) -> AsyncIterator[Machine]:
    engine = await DockerEngine.connect(settings.engine)
    run_dir = Path(settings.folder) / "run"
    run_dir.mkdir(exist_ok=True)
    wrapper.install(Path(settings.runtime), run_dir=run_dir)
    fabric = LinuxFabric(run_dir=run_dir, underlay_address="127.0.0.1")
    await fabric.start()
    control_plane = FakeControlPlane()
    await control_plane.start()
    try:
        yield Machine(settings, engine, fabric, control_plane)
    finally:
        await control_plane.stop()
        await fabric.close()
        await engine.close()


async def one(m: Machine) -> dict[str, Any]:
    """One instance comes up with its network, is stopped, started, and goes."""
    m.control_plane.set_complete([], [network()])
    agent = await m.agent()
    await m.control_plane.until(lambda: bool(m.control_plane.heartbeats))
    seen: dict[str, Any] = {"start_ms": [], "delete_ms": []}
    for number in range(10, 15):
        name = f"a{number}"
        began = time.perf_counter()
        m.control_plane.change(m.instance(name, number))
        await m.control_plane.until_state(name, pb.INSTANCE_STATE_RUNNING)
        seen["start_ms"].append(round(1000 * (time.perf_counter() - began), 1))
    container_id = m.control_plane.reports["a10"].container_id
    seen["states"] = [report.state for report in m.control_plane.history if report.instance_id == "a10"]
    seen["output"] = await m.output(container_id, "web-a10")
    m.control_plane.change(m.instance("a10", 10, generation=2, run_request=2))
    await m.control_plane.until_state("a10", pb.INSTANCE_STATE_RUNNING, run=2)
    seen["same_container"] = m.control_plane.reports["a10"].container_id == container_id
    seen["exit_code"] = m.control_plane.reports["a10"].exit_code
    for number in range(10, 15):
        name = f"a{number}"
        began = time.perf_counter()
        m.control_plane.change(m.instance(name, number, generation=3, desired=pb.DESIRED_STATE_DELETED))
        await m.control_plane.until_state(name, pb.INSTANCE_STATE_DELETED)
        seen["delete_ms"].append(round(1000 * (time.perf_counter() - began), 1))
    seen["left"] = await left(m)
    await agent.close()
    return seen


async def fifty(m: Machine) -> dict[str, Any]:
    """Fifty at once come up and go."""
    m.control_plane.set_complete([], [network()])
    agent = await m.agent()
    await m.control_plane.until(lambda: bool(m.control_plane.heartbeats))
    names = {f"b{number}": number for number in range(10, 60)}
    m.control_plane.change(m.instance("warm", 200))
    await m.control_plane.until_state("warm", pb.INSTANCE_STATE_RUNNING)
    transactions = agent.journal.transactions
    began, cpu = time.perf_counter(), time.process_time()
    m.control_plane.change(*[m.instance(name, number) for name, number in names.items()])
    await m.control_plane.until(lambda: all(_is(m, name, pb.INSTANCE_STATE_RUNNING) for name in names), 60)
    seen = {"up_seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}
    seen["transactions"] = agent.journal.transactions - transactions
    began = time.perf_counter()
    m.control_plane.change(
        *[m.instance(name, number, generation=2, desired=pb.DESIRED_STATE_DELETED) for name, number in names.items()]
    )
    await m.control_plane.until(lambda: all(_is(m, name, pb.INSTANCE_STATE_DELETED) for name in names), 60)
    seen["down_seconds"] = round(time.perf_counter() - began, 2)
    await agent.close()
    return seen


async def adopt(m: Machine) -> dict[str, Any]:
    """An agent that ends in the middle and comes back adopts what runs, and finishes what was begun."""
    names = {f"c{number}": number for number in range(10, 18)}
    m.control_plane.set_complete([m.instance(name, number) for name, number in names.items()], [network()])
    agent = await m.agent()
    await m.control_plane.until(lambda: any(_is(m, name, pb.INSTANCE_STATE_RUNNING) for name in names))
    await agent.close()
    before = {c.labels["moorage.instance"]: (c.container_id, c.pid) for c in await m.engine.list("moorage.instance")}
    running = {name for name in before if before[name][1]}
    agent = await m.agent()
    await m.control_plane.until(lambda: all(_is(m, name, pb.INSTANCE_STATE_RUNNING) for name in names), 30)
    after = {c.labels["moorage.instance"]: (c.container_id, c.pid) for c in await m.engine.list("moorage.instance")}
    runs = {report.run for report in m.control_plane.reports.values()}
    await agent.close()
    return {
        "ran_before": len(running),
        "kept": all(after[name] == before[name] for name in running),
        "containers": len(after),
        "runs": sorted(runs),
    }


async def crash(m: Machine) -> dict[str, Any]:
    """The test kills the engine while thirty instances come up, once the file `now` is there; in the end each runs
    once.
    """
    names = {f"d{number}": number for number in range(10, 40)}
    spec = pb.InstanceSpec(command=["sleep", "1000"])
    wanted = [instance(name, number, image=m.settings.image, spec=spec) for name, number in names.items()]
    m.control_plane.set_complete(wanted, [network()])
    agent = await m.agent()
    await m.control_plane.until(lambda: sum(_is(m, name, pb.INSTANCE_STATE_RUNNING) for name in names) >= 5, 30)
    folder = Path(m.settings.folder)
    (folder / "now").touch()
    await m.control_plane.until((folder / "again").exists, 60)
    await m.control_plane.until(lambda: all(_is(m, name, pb.INSTANCE_STATE_RUNNING) for name in names), 80)
    found = await m.engine.list("moorage.instance")
    inhabitants = [len(_processes_in(folder / f"run/netns/i-{name}")) for name in names]
    await agent.close()
    return {"containers": len(found), "running": sum(c.pid > 0 for c in found), "processes": inhabitants}


async def full(m: Machine) -> dict[str, Any]:
    """The disk with the agent's data fills up while instances come and go; then somebody makes room."""
    data = Path(m.settings.folder) / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", data], check=True)  # goes with this namespace
    plane = m.control_plane
    plane.set_complete([m.instance("e10", 10), m.instance("e11", 11)], [network()])
    agent = await m.agent()
    await plane.until(lambda: all(_is(m, name, pb.INSTANCE_STATE_RUNNING) for name in ("e10", "e11")), 30)
    before = {c.labels["moorage.instance"]: (c.container_id, c.pid) for c in await m.engine.list("moorage.instance")}
    ballast = data / "ballast"
    wanted = [m.instance(f"e{number}", number) for number in range(10, 40)]
    wanted[1] = m.instance("e11", 11, generation=2, desired=pb.DESIRED_STATE_DELETED)
    plane.set_complete(wanted[:10], [network()])
    plane.change(*wanted[1:10])
    await plane.until(lambda: any(r.state >= pb.INSTANCE_STATE_PREPARING for r in _of(m, range(12, 20))), 30)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    plane.set_complete(wanted, [network()])
    plane.change(*wanted[10:])
    told = len(plane.heartbeats)
    await plane.until(lambda: any(c.reason == "DISK_PRESSURE" for h in plane.heartbeats for c in h.conditions), 30)
    await plane.until(lambda: len(plane.heartbeats) > told + 10, 30)  # the session stands
    seen: dict[str, Any] = {
        "sessions": len(plane.hellos),
        "reports": sorted({r.message for r in plane.history if r.reason}),
    }
    seen["begun"] = len([r for r in _of(m, range(20, 40)) if r.state >= pb.INSTANCE_STATE_PREPARING])
    ballast.unlink()
    names = [f"e{number}" for number in range(10, 40) if number != 11]
    await plane.until(lambda: all(_is(m, name, pb.INSTANCE_STATE_RUNNING) for name in names), 90)
    await plane.until_state("e11", pb.INSTANCE_STATE_DELETED)
    after = {c.labels["moorage.instance"]: (c.container_id, c.pid) for c in await m.engine.list("moorage.instance")}
    seen["kept"] = after["e10"] == before["e10"]
    seen["containers"] = len(after)
    lines = data / "instances/e10/hosts"
    await plane.until(lambda: lines.read_text().count("web-e") == len(names), 10)
    await agent.close()
    return seen


async def leased(m: Machine) -> dict[str, Any]:
    """An instance under leases of 4 s: they are not renewed, then they are; then its agent ends, and a new one comes."""
    plane, run_dir = m.control_plane, Path(m.settings.folder) / "run"
    space = run_dir / "netns/i-f10"
    plane.set_complete([m.instance("f10", 10, lease=Duration(seconds=4))], [network()])
    agent = await m.agent()
    await plane.until_state("f10", pb.INSTANCE_STATE_RUNNING)
    container_id = plane.reports["f10"].container_id
    seen: dict[str, Any] = {"runs": [plane.reports["f10"].run]}
    try:
        plane.gives_leases = False
        await plane.until_state("f10", pb.INSTANCE_STATE_STOPPED)
        seen["reason"] = plane.reports["f10"].reason
        await plane.until(lambda: not space.exists())
        plane.gives_leases = True
        await plane.until_state("f10", pb.INSTANCE_STATE_RUNNING, run=2)
        seen["runs"].append(plane.reports["f10"].run)
        await agent.close()
        began = time.monotonic()
        await plane.until(lambda: not _processes_in(space), 10)
        seen["ended_seconds"] = round(time.monotonic() - began, 1)
        await plane.until(lambda: "eth0" not in _links_up(space))
        agent = await m.agent()
        await plane.until_state("f10", pb.INSTANCE_STATE_RUNNING, run=3, seconds=20)
        seen["runs"].append(plane.reports["f10"].run)
        seen["same_container"] = plane.reports["f10"].container_id == container_id
        seen["links"] = _links_up(space)
        plane.change(m.instance("f10", 10, generation=2, desired=pb.DESIRED_STATE_DELETED, lease=Duration(seconds=4)))
        await plane.until_state("f10", pb.INSTANCE_STATE_DELETED)
        seen["left"] = await left(m)
    finally:
        await agent.close()
        if (answer := lease_file.read_answer(run_dir)) is not None:
            os.kill(answer.pid, signal.SIGKILL)
    return seen


def _links_up(space: Path) -> list[str]:
    argv = ["nsenter", f"--net={space}", "ip", "-j", "link", "show", "up"]
    listed = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout or "[]")
    return sorted(link["ifname"] for link in listed if link)  # none: an empty one


def _processes_in(namespace: Path) -> list[str]:
    wanted = namespace.stat().st_ino
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "ns/net").stat().st_ino == wanted:
                found.append(path.name)
        except OSError:
            continue  # it ended meanwhile
    return found


async def left(m: Machine) -> dict[str, int]:
    """What of ours is on the machine."""
    inventory = await m.fabric.inventory()
    return {
        "containers": len(await m.engine.list("moorage.instance")),
        "namespaces": len(inventory.instances),
        "strays": len(inventory.strays),
        "keys": len(wrapper.RuntimeKeys(Path(m.settings.folder) / "run").published()),
    }


def _of(m: Machine, numbers: Iterable[int]) -> list[agent_pb2.InstanceReport]:
    return [m.control_plane.reports[name] for n in numbers if (name := f"e{n}") in m.control_plane.reports]


def _is(m: Machine, name: str, state: int) -> bool:
    report = m.control_plane.reports.get(name)
    return report is not None and report.state == state


SCENARIOS: dict[str, Callable[[Machine], Awaitable[dict[str, Any]]]] = {
    "one": one,
    "fifty": fifty,
    "adopt": adopt,
    "crash": crash,
    "full": full,
    "leased": leased,
}


async def main(scenario: str, settings: Settings) -> None:
    async with machine(settings) as m:
        print(json.dumps(await SCENARIOS[scenario](m)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Settings(**json.loads(sys.argv[2]))))

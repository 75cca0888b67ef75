"""The operations on a fleet in a box. Each takes the fleet's lock, each can be repeated, each copes with whatever an
earlier one that was killed has left.

`up` looks for every part and makes what is missing, so it is also the repair. Order: underlay, hosts (all at once),
control plane, agents (all at once). `down` is the other way round and ends with the folder.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moorage.errors import AlreadyExists, DeadlineExceeded, Forbidden, NotFound, NotReady, NotSupported

from . import cgroups, machine, processes, programs, removal, sample_registry, state, underlay
from .config import FleetConfig, HostPlan
from .host import Host
from .processes import Process
from .state import FleetState

PARTS = (machine.ENGINE, machine.CONTAINERD, machine.AGENT)
_TOOLS = ("ip", "nsenter", "unshare", "setsid", "mount", "nft", "iptables", "dockerd", "containerd", "runc")
_READY_SECONDS = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host: whether its namespaces exist, its cable is plugged in, and the pid of each part (None: not running)."""

    name: str
    address: str
    docker_socket: str
    is_on: bool
    is_plugged_in: bool
    pids: dict[str, int | None]
    containers: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The fleet as it is now."""

    directory: str
    api_address: str
    controlplane_pid: int | None
    hosts: tuple[HostStatus, ...]


class Fleet:
    """A fleet in a box.

    Args:
        config: what it is; `Fleet.open` takes it from the folder instead.
        programs: control plane and agents; None: engines only.
        say: is given one line a step.
    """

    def __init__(
        self, config: FleetConfig, *, programs: programs.Programs | None = None, say: Say = lambda line: None
    ) -> None:
        self.config = config
        self._programs = programs
        self._say = say

    @classmethod
    def open(
        cls, directory: Path, *, programs: programs.Programs | None = None, say: Say = lambda line: None
    ) -> "Fleet":
        """The fleet that was made in this folder.

        Raises:
            NotFound: none was.
        """
        found = state.load(directory)
        if found is None:
            raise NotFound(f"there is no fleet in {directory}; make one with `moor dev up`")
        return cls(found.config(directory), programs=programs, say=say)

    async def up(self) -> None:
        """Bring up whatever is missing.

        Raises:
            Forbidden: not root. NotSupported: a program is missing. AlreadyExists: a name or the subnet is taken.
            NotReady, DeadlineExceeded: a part did not start; its own words are in the message.
        """
        _check_machine()
        with self._step("fleet"):
            async with state.locked(self.config.directory) as lock:
                current = self._ensure_state()
                await underlay.check_free(self.config, current)
                with self._step("underlay"):
                    keeper = await self._ensure_underlay(current, lock)
                await _all(self._ensure_host(current, host, keeper, lock) for host in self.config.all_hosts())
                if self._programs is not None:
                    await sample_registry.ensure(self.config, current, lock)
                    access = await self._ensure_controlplane(current, lock, self._programs)
                    await self._ensure_agents(current, access, lock, self._programs)

    async def down(self, *, keep_data: bool = False) -> None:
        """Remove every process, namespace, link, mount, table, control group and file of the fleet.

        Args:
            keep_data: stop the programs in order and keep the folder: the next `up` finds containers, images and
            objects again.

        Raises:
            DeadlineExceeded: a process or a control group does not go away.
        """
        directory = self.config.directory
        if not directory.exists():
            return
        with self._step("down"):
            async with state.locked(directory) as lock:
                current = state.load(directory)
                if current is not None:
                    config = current.config(directory)
                    if keep_data:
                        await self._shut_down(config, current)
                    await removal.remove_outside(config, current, lock)
                if current is None:
                    removal.remove_empty(directory)
                elif keep_data:
                    shutil.rmtree(config.records, ignore_errors=True)
                else:
                    await asyncio.to_thread(removal.remove_folder, directory)

    async def status(self) -> FleetStatus:
        """The fleet as it is now.

        Raises:
            NotFound: there is none.
        """
        current = self._state()
        keeper = processes.recorded(self.config.records / underlay.KEEPER, current.token)
        legs = await underlay.legs_up(keeper) if keeper else {}
        hosts = []
        for host in self.config.all_hosts():
            found = {part: machine.find(self.config, current, host, part) for part in PARTS}
            hosts.append(
                HostStatus(
                    name=host.name,
                    address=host.address,
                    docker_socket=str(host.docker_socket),
                    is_on=machine.find(self.config, current, host, machine.HOLDER) is not None,
                    is_plugged_in=legs.get(host.name, False),
                    pids={part: process.pid if process else None for part, process in found.items()},
                    containers=len(cgroups.leaves(host.cgroup)),
                )
            )
        controlplane = self._controlplane(current)
        return FleetStatus(
            directory=str(self.config.directory),
            api_address=self.config.api_address,
            controlplane_pid=controlplane.pid if controlplane else None,
            hosts=tuple(hosts),
        )

    async def cut(self, host: str) -> None:
        """Pull the host's cable out of the underlay; what runs on it runs on."""
        await self._plug(host, up=False)

    async def heal(self, host: str) -> None:
        """Plug the host's cable in again."""
        await self._plug(host, up=True)

    async def kill(self, target: str, part: str = machine.AGENT) -> None:
        """SIGKILL the `controlplane`, or one part of a host: `engine`, `containerd`, `agent`, or `all` three.

        Returns when it is dead. Containers are untouched: see `power_off`.

        Raises:
            NotFound: no such host or part. NotReady: the part does not run.
        """
        async with state.locked(self.config.directory):
            current = self._state()
            if target == programs.CONTROLPLANE:
                victims = {target: self._controlplane(current)}
            else:
                plan = self._plan(target)
                victims = {name: machine.find(self.config, current, plan, name) for name in _parts(part)}
            alive = {name: process for name, process in victims.items() if process is not None}
            if not alive:
                raise NotReady(f"{' and '.join(victims)} of {target} is not running")
            for name, process in alive.items():
                if not await processes.end(process, 9, within_seconds=10):
                    raise DeadlineExceeded(f"{name} of {target} (pid {process.pid}) does not end after SIGKILL")

    async def start(self, target: str, part: str = "all") -> None:
        """Start what is missing of a host (or one part of it), or the `controlplane`; returns when it is ready."""
        async with state.locked(self.config.directory) as lock:
            current = self._state()
            if target == programs.CONTROLPLANE:
                await self._ensure_controlplane(current, lock, self._needed_programs())
                return
            plan, wanted = self._plan(target), _parts(part)
            keeper = await self._ensure_underlay(current, lock)
            holder = await self._ensure_on(current, plan, keeper, lock)
            if machine.CONTAINERD in wanted:
                await machine.start_containerd(self.config, current, plan, holder, lock)
            if machine.ENGINE in wanted:
                await machine.start_engine(self.config, current, plan, holder, lock)
            if machine.AGENT in wanted and self._programs is not None:
                access = programs.read_access(self.config)
                await self._ensure_agent(current, plan, access, lock, self._programs, token=None)

    async def power_off(self, host: str) -> int:
        """Kill a host with all that runs on it, as a power cut would; its disks stay. Returns the count of
        processes."""
        async with state.locked(self.config.directory) as lock:
            current, plan = self._state(), self._plan(host)
            killed = await machine.power_off(self.config, current, plan)
            keeper = processes.recorded(self.config.records / underlay.KEEPER, current.token)
            if keeper is not None:
                await underlay.remove_host_leg(keeper, plan, lock)
            return killed

    def host(self, number: int) -> Host:
        """The running host of this number.

        Raises:
            NotFound: there is no such host. NotReady: it is off.
        """
        plan = self._plan(f"h{number}")
        holder = machine.find(self.config, self._state(), plan, machine.HOLDER)
        return Host(plan, machine.require_on(holder, plan))

    def hosts(self) -> list[Host]:
        """All running hosts. Raises NotReady if one is off."""
        return [self.host(plan.number) for plan in self.config.all_hosts()]

    def access(self) -> programs.Access:
        """How to call the control plane. Raises NotReady before its first start."""
        return programs.read_access(self.config)

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _ensure_state(self) -> FleetState:
        config = self.config
        found = state.load(config.directory)
        if found is None:
            # `down` removes the folder as a whole, so nobody else's files may be in it.
            strange = sorted(entry.name for entry in config.directory.iterdir() if entry.name not in state.OWN_FILES)
            if strange:
                raise AlreadyExists(f"{config.directory} is not empty ({strange[0]}); choose a folder of its own")
            return state.create(config)
        if (found.prefix, found.subnet, found.loopback_port) != (config.prefix, config.subnet, config.loopback_port):
            raise AlreadyExists(
                f"{config.directory} holds a fleet with prefix {found.prefix}, subnet {found.subnet} and port "
                f"{found.loopback_port}; end it with `moor dev down` first"
            )
        if config.hosts < found.hosts:
            raise AlreadyExists(
                f"the fleet has {found.hosts} hosts; to make it smaller, end it with `moor dev down` first"
            )
        changed = state.adjusted(found, config)
        state.save(config.directory, changed)
        return changed

    async def _ensure_underlay(self, current: FleetState, lock: int) -> Process:
        keeper = await underlay.ensure_bridge(self.config, current, lock)
        await underlay.ensure_machine_leg(self.config, current, keeper, lock)
        if self.config.egress:
            if current.ip_forward_was is None:
                state.save(self.config.directory, state.with_ip_forward(current, underlay.ip_forward()))
            await underlay.ensure_egress(self.config, lock)
        return keeper

    async def _ensure_host(self, current: FleetState, plan: HostPlan, keeper: Process, lock: int) -> None:
        with self._step(f"host {plan.name} ({plan.address})"):
            holder = await self._ensure_on(current, plan, keeper, lock)
            await machine.start_containerd(self.config, current, plan, holder, lock)
            await machine.start_engine(self.config, current, plan, holder, lock)

    async def _ensure_on(self, current: FleetState, plan: HostPlan, keeper: Process, lock: int) -> Process:
        """The host's namespaces with its leg plugged in."""
        if machine.find(self.config, current, plan, machine.HOLDER) is None:
            await underlay.remove_host_leg(keeper, plan, lock)
        holder = await machine.ensure_holder(self.config, current, plan, lock)
        legs = await underlay.legs_up(keeper)
        await underlay.ensure_host_leg(self.config, keeper, plan, holder, lock)
        if plan.name not in legs:  # one that was cut stays cut until `heal`
            await underlay.set_host_leg(keeper, plan, up=True, lock=lock)
        return holder

    async def _ensure_controlplane(self, current: FleetState, lock: int, what: programs.Programs) -> programs.Access:
        config = self.config
        log = config.logs / f"{programs.CONTROLPLANE}.log"
        running = self._controlplane(current)
        with self._step("control plane"):
            if running is None:
                running = await processes.launch(
                    what.controlplane(programs.write_controlplane_config(config)),
                    record=config.records / programs.CONTROLPLANE,
                    log=log,
                    tag=f"{current.token}:{programs.CONTROLPLANE}/",
                    lock=lock,
                    extra_environment=_python_path(),
                )

            async def ready() -> bool:
                try:
                    return await what.controlplane_ready(programs.read_access(config))
                except NotReady:
                    return False

            await _until(ready, what="the control plane", process=running, log=log)
        return programs.read_access(config)

    async def _ensure_agents(
        self, current: FleetState, access: programs.Access, lock: int, what: programs.Programs
    ) -> None:
        plans = self.config.all_hosts()
        joining = sum(not _has_joined(plan) for plan in plans)
        token = await what.join_token(access, joining) if joining else None

        async def ensure(plan: HostPlan) -> None:
            with self._step(f"agent of {plan.name}"):
                await self._ensure_agent(current, plan, access, lock, what, token)

        await _all(ensure(plan) for plan in plans)

    async def _ensure_agent(
        self,
        current: FleetState,
        plan: HostPlan,
        access: programs.Access,
        lock: int,
        what: programs.Programs,
        token: str | None,
    ) -> None:
        config_file = plan.folder / "agent.yaml"
        if not _has_joined(plan):
            config_file = programs.write_agent_config(self.config, plan, token or await what.join_token(access, 1))
        holder = machine.require_on(machine.find(self.config, current, plan, machine.HOLDER), plan)
        argv = what.agent(config_file)
        agent = await machine.start_agent(self.config, current, plan, holder, argv, lock, _python_path())
        if _has_joined(plan) and self._controlplane(current) is None:
            return  # it works from its journal, and nobody is there who could say that it is up

        async def ready() -> bool:
            return await what.agent_ready(access, plan.name)

        log = self.config.logs / f"{machine.role(plan, machine.AGENT)}.log"
        await _until(ready, what=f"the agent of {plan.name}", process=agent, log=log)
        (plan.folder / "joined").touch()

    async def _shut_down(self, config: FleetConfig, current: FleetState) -> None:
        await _all(machine.shut_down(config, current, plan) for plan in config.all_hosts())
        controlplane = self._controlplane(current)
        if controlplane is not None:
            await processes.end(controlplane, 15, within_seconds=20)

    async def _plug(self, host: str, *, up: bool) -> None:
        async with state.locked(self.config.directory) as lock:
            plan = self._plan(host)
            keeper = processes.recorded(self.config.records / underlay.KEEPER, self._state().token)
            if keeper is None:
                raise NotReady("the fleet is down; bring it up with `moor dev up`")
            await underlay.set_host_leg(keeper, plan, up=up, lock=lock)

    def _controlplane(self, current: FleetState) -> Process | None:
        return processes.recorded(self.config.records / programs.CONTROLPLANE, current.token)

    def _state(self) -> FleetState:
        found = state.load(self.config.directory)
        if found is None:
            raise NotFound(f"there is no fleet in {self.config.directory}; make one with `moor dev up`")
        return found

    def _plan(self, host: str) -> HostPlan:
        for plan in self.config.all_hosts():
            if plan.name == host:
                return plan
        raise NotFound(f"there is no host {host}; there are h1 to h{self.config.hosts}")

    def _needed_programs(self) -> programs.Programs:
        if self._programs is None:
            raise NotSupported("this fleet has engines only, no control plane")
        return self._programs

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._say(f"{what}: {time.monotonic() - started:.1f} s")


@contextlib.asynccontextmanager
async def running(config: FleetConfig, *, what: programs.Programs | None = None) -> AsyncIterator[Fleet]:
    """A fleet that is up inside the block and gone after it."""
    fleet = Fleet(config, programs=what)
    try:
        await fleet.up()
        yield fleet
    finally:
        await fleet.down()


def missing_tools() -> list[str]:
    """Programs that a fleet needs and this machine lacks."""
    path = processes.clean_environment()["PATH"]
    return [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise Forbidden("a fleet in a box needs root, because it makes network namespaces; run it with sudo")
    lacks = missing_tools()
    if lacks:
        raise NotSupported(f"programs are missing: {', '.join(lacks)}; run `make setup`")


def _has_joined(plan: HostPlan) -> bool:
    return (plan.folder / "joined").exists() and (plan.folder / "agent.yaml").exists()


def _parts(part: str) -> tuple[str, ...]:
    if part == "all":
        return PARTS
    if part not in PARTS:
        raise NotFound(f"there is no part {part}; there are {', '.join(PARTS)} and all")
    return (part,)


def _python_path() -> dict[str, str]:
    """Lets programs started from a checkout find the packages beside this one."""
    root = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": ":".join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}


async def _until(condition: Callable[[], Awaitable[bool]], *, what: str, process: Process, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not await condition():
        if not process.is_alive:
            raise NotReady(f"{what} ended: {processes.tail(log)}")
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what} was not ready after {_READY_SECONDS:.0f} s: {processes.tail(log)}")
        await asyncio.sleep(0.05)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Run all at once; the first failure is raised after all have ended, so that nothing of it moves any more."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result

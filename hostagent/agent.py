"""One host agent put together from its parts: who knows whom, and in which order they begin and end.

Everything that touches the world comes in as an argument, so that main.py runs it on a real host, and tests and hollow
agents run the same with an engine and a network in memory.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hostagent.claims.book import ClaimBook
from hostagent.claims.keeper import ClaimKeeper
from hostagent.devices.handing import told
from hostagent.devices.inventory import DeviceInventory
from hostagent.dhcp_client.clients import DhcpClients
from hostagent.domain import AgentHeartbeat, HostCondition, HostFacts, InstanceAssignment, Resources
from hostagent.executor.executor import Executor
from hostagent.executor.host_state import HostState
from hostagent.executor.image_tasks import Door as ImageDoor
from hostagent.executor.image_tasks import ImageEngine, ImageMaker
from hostagent.executor.ports import Engine, Fabric, RuntimeKeys
from hostagent.executor.volumes import InstanceVolumes
from hostagent.facts import Site, disk_condition, held_digests, host_facts, machine_mark
from hostagent.files import InstanceFiles
from hostagent.journal.journal import AssignmentChange, Journal
from hostagent.names.book import NameBook
from hostagent.names.ports import NamesFabric
from hostagent.names.service import InstanceNames
from hostagent.neighbours.asker import ask
from hostagent.neighbours.responder import Responder
from hostagent.probes.loop import ProbeKeeper
from hostagent.router.balancers import BalancersApplier
from hostagent.router.dnsmasq import DhcpApplier
from hostagent.router.figures import RouterFiguresReader
from hostagent.router.keeper import RouterKeeper
from hostagent.router.pair import PairApplier
from hostagent.router.ports import RouterFabric
from hostagent.router.roles import read_role
from hostagent.router.rules import RulesApplier
from hostagent.secret_files import SecretFiles
from hostagent.session.outbox import Outbox
from hostagent.session.session import Connect, Session
from hostagent.session.task_runner import TaskRunner
from hostagent.session.translate import volumes_message
from hostagent.session.unary import AgentCalls
from hostagent.streams.ports import StreamEngine, StreamFabric
from hostagent.streams.service import SideStreams
from hostagent.volumes.store import VolumeStore
from hostagent.worker.images import ImageKeeper
from hostagent.worker.intake import Intake
from hostagent.worker.loop import Reconciler
from hostagent.worker.networks import NetworkKeeper, PeerBook, networks_of
from hostagent.worker.sweeper import Sweeper
from hostagent.worker.volumes import VolumeMeter
from hostagent.worker.watcher import EngineWatcher
from moorage.clock import Clock
from moorage.errors import EngineUnavailable, MoorageError, NotFound, NotReady
from moorage.ids import ContainerId, InstanceId
from moorage.retry import Backoff
from moorage.tasks import OnFailure, TaskOwner
from moorage.v1 import agent_pb2

log = logging.getLogger(__name__)

RUNTIME = "moorage"
_FACTS_SECONDS = 15.0
#: How long an agent that has something to start waits for the control plane, which may have given this host up and replaced it elsewhere.
_WORD_SECONDS = 3.0
_MOST_QUESTIONS = 200  # of the control plane about other hosts, at once
_LONGEST_QUESTION_SECONDS = 10.0


class Door(ImageDoor, Protocol):
    """The way to the platform's registry."""

    async def open(self, registry_url: str, registry_ca_pem: str) -> None: ...


class AgentEngine(StreamEngine, Engine, ImageEngine, Protocol):
    """All that an agent needs of an engine."""


class AgentFabric(Fabric, StreamFabric, NamesFabric, RouterFabric, Protocol):
    """All that an agent needs of the host's network."""


@dataclass(frozen=True, slots=True)
class World:
    """What an agent needs of the outside."""

    engine: AgentEngine
    fabric: AgentFabric
    keys: RuntimeKeys
    secrets: SecretFiles
    clock: Clock
    data_dir: Path
    run_dir: Path
    boot_id: str
    site: Site


class Agent:
    """A whole agent. `start`, then `close`.

    Args:
        connect: opens a channel to the control plane.
        door: the way to the platform's registry; told its address at each welcome, before anything is pulled.
        on_failure: called when a task ends with an error that nobody expected; ends the program.
    """

    def __init__(
        self,
        world: World,
        journal: Journal,
        *,
        connect: Connect,
        door: Door,
        on_failure: OnFailure | None = None,
    ) -> None:
        self._world = world
        self.journal = journal
        self._door = door
        self._tasks = TaskOwner("agent", on_failure=on_failure)
        self._steps = TaskOwner("instances")
        self.outbox = Outbox()
        self.state = HostState(journal.nonce)
        self._files = InstanceFiles(world.data_dir / "instances")
        self._data_root = ""
        self._door_problem = ""
        self._facts = self._told_facts = HostFacts()
        self._has_listed = asyncio.Event()
        self._is_told = asyncio.Event()  # all that this host shall carry
        self._has_begun = asyncio.Event()
        self._questions = 0
        site = world.site
        self.responder = Responder(site.underlay_address, site.neighbour_port, machine_mark(journal.nonce), world.clock)
        book, name_book = PeerBook(journal), NameBook(journal)
        self.names = InstanceNames(fabric=world.fabric, book=name_book, tasks=self._steps)
        self.leases = DhcpClients(
            world.data_dir / "dhcp", tasks=self._steps, clock=world.clock, on_change=self._on_lease
        )
        self.claims = ClaimBook(
            journal=journal, state=self.state, clock=world.clock, run_dir=world.run_dir, boot_id=world.boot_id
        )
        self.devices = DeviceInventory(world.site.devices, world.engine.info)
        self.volumes = InstanceVolumes(
            VolumeStore(world.data_dir / "volumes"),
            world.engine,
            journal,
            self.state,
            lambda: self.volume_meter.wake(),
        )
        self.volume_meter = VolumeMeter(
            self.volumes, world.clock, lambda found: self.outbox.notify(volumes_message(found))
        )
        self.executor = Executor(
            engine=world.engine,
            fabric=world.fabric,
            names=self.names,
            leases=self.leases,
            claims=self.claims,
            keys=world.keys,
            files=self._files,
            secrets=world.secrets,
            fetch_payloads=lambda instance_id: self.calls.payloads(instance_id),
            journal=journal,
            volumes=self.volumes,
            state=self.state,
            clock=world.clock,
            runtime=RUNTIME,
            peer_lines=book.lines,
            on_prepared=lambda instance_id: self.routers.renew(instance_id),
            devices=self.devices.current,
            boot_id=world.boot_id,
        )
        self.probes = ProbeKeeper(
            engine=world.engine,
            fabric=world.fabric,
            journal=journal,
            clock=world.clock,
            tasks=self._steps,
            wake=lambda instance_id: self.reconciler.wake(instance_id),
        )
        self.reconciler = Reconciler(
            journal=journal,
            state=self.state,
            executor=self.executor,
            clock=world.clock,
            tasks=self._steps,
            publish=self.outbox.put,
            watch=self.probes.follow,
            on_gone=self._on_gone,
            on_left=lambda network_ids: self.networks.mark(network_ids),
            hold=self.claims.hold,
            boot_id=world.boot_id,
        )
        self.networks = NetworkKeeper(
            journal=journal,
            state=self.state,
            executor=self.executor,
            book=book,
            name_book=name_book,
            clock=world.clock,
            wake=self.reconciler.wake,
        )
        self.balancers = BalancersApplier(
            folder_of=self._files.router_folder, resources_of=self._resources_of, tasks=self._steps
        )
        self.routers = RouterKeeper(
            journal=journal,
            state=self.state,
            appliers=(
                RulesApplier(world.fabric),
                PairApplier(self._files.router_folder),
                DhcpApplier(self._files.router_folder),
                self.balancers,
            ),
            clock=world.clock,
            tasks=self._steps,
            role_of=lambda bundle: read_role(bundle, self._files.router_folder),
            draining_of=self.balancers.draining,
            publish=self.outbox.put_router,
        )
        self._intake = Intake(
            journal=journal,
            reconciler=self.reconciler,
            networks=self.networks,
            routers=self.routers,
            clock=world.clock,
        )
        self.sweeper = Sweeper(
            fabric=world.fabric,
            keys=world.keys,
            files=self._files,
            secrets=world.secrets,
            journal=journal,
            state=self.state,
            executor=self.executor,
            reconciler=self.reconciler,
            clock=world.clock,
        )
        self.images = ImageKeeper(
            engine=world.engine,
            journal=journal,
            state=self.state,
            clock=world.clock,
            data_root=lambda: self._data_root,
        )
        self._watcher = EngineWatcher(
            engine=world.engine,
            state=self.state,
            executor=self.executor,
            on_listing=self._on_listing,
            wake=self.reconciler.wake,
            clock=world.clock,
        )
        self.session = Session(
            connect=connect,
            journal=journal,
            outbox=self.outbox,
            peer=self,
            clock=world.clock,
            registry=f"127.0.0.1:{world.site.registry_proxy_port}",
        )

        self.claim_keeper = ClaimKeeper(
            book=self.claims,
            clock=world.clock,
            run_dir=world.run_dir,
            send=self.session.ask_leases,
            wake=self.reconciler.wake,
        )

        self.streams = SideStreams(
            channel=lambda: self.session.channel,
            engine=world.engine,
            fabric=world.fabric,
            instances=self,
            routers=RouterFiguresReader(journal, world.fabric, self.balancers),
            volume_files=self.volumes,
            clock=world.clock,
        )

        self.calls = AgentCalls(lambda: self.session.channel)
        registry = f"127.0.0.1:{world.site.registry_proxy_port}"
        self._task_runner = TaskRunner(
            maker=ImageMaker(world.engine, door, registry, on_pulled=self.executor.note_pulled),
            calls=self.calls,
            outbox=self.outbox,
            clock=world.clock,
            container_of=self.container_of,
        )

    async def start(self) -> None:
        """Look at the host, then work; returns when the first look was taken and the session is being opened."""
        self.claims.begin()
        self.leases.forget_others(self.journal.assignments.keys())
        await self.sweeper.begin()
        await self.journal.commit()
        backoff = Backoff(initial=0.1, maximum=5.0)
        if self._world.site.neighbour_port:
            self._tasks.supervise(self.responder.run, name="answers to neighbours")
        self._tasks.supervise(self._watcher.run, name="engine watcher", backoff=backoff)
        self._tasks.supervise(self._begin, name="begin")
        self._tasks.supervise(self.claim_keeper.run, name="claim keeper")
        self._tasks.supervise(self.networks.run, name="network keeper")
        self._tasks.supervise(self.routers.run, name="router keeper")
        self._tasks.supervise(self.routers.sweep, name="router sweep")
        self._tasks.supervise(self.routers.watch_roles, name="roles of routers")
        self._tasks.supervise(self.routers.watch_draining, name="who drains of routers")
        self._tasks.supervise(self.volume_meter.run, name="volume meter", backoff=Backoff(initial=1.0, maximum=60.0))
        self._tasks.supervise(self.images.run, name="image keeper")
        self._tasks.supervise(self._sweep, name="sweep", backoff=Backoff(initial=1.0, maximum=30.0))
        self._tasks.supervise(self._watch_facts, name="facts", backoff=Backoff(initial=1.0, maximum=30.0))
        self._tasks.supervise(self.session.run, name="session", backoff=backoff)

    async def close(self) -> None:
        """Stop working; instances run on. The journal is closed too."""
        await self.session.say_farewell()
        await self.streams.close()
        await self._task_runner.close()
        await self._tasks.close()
        await self._steps.close()
        self.claims.end()
        self.names.shutdown()
        self.journal.close()

    # What the session asks of us.

    async def on_welcome(
        self, *, host_name: str, registry_url: str, registry_ca_pem: str, lease_renewal_seconds: float
    ) -> None:
        """A session stands."""
        self.claim_keeper.set_renewal(lease_renewal_seconds)
        self._door_problem = ""
        self.volume_meter.renew()
        try:
            if registry_url:
                await self._door.open(registry_url, registry_ca_pem)
        except OSError as exc:
            # The host is of use without it, for images that are here already.
            self._door_problem = f"the loopback registry proxy cannot listen: {exc}; free its port, restart the agent"
            log.error("the registry proxy is not open", extra={"problem": str(exc)})

    async def on_assignments(self, change: AssignmentChange) -> None:
        """News from the control plane."""
        await self._intake.apply(change)
        if change.is_complete:
            self._is_told.set()
        self.claim_keeper.mark()

    def on_stream(self, request: agent_pb2.StreamRequest) -> None:
        """Somebody wants to look into an instance."""
        self.streams.open(request)

    def on_task(self, task: agent_pb2.Task) -> None:
        """Work that is no instance."""
        self._task_runner.take(task)

    def on_release_sweep_brake(self) -> None:
        """An operator's word."""
        self.sweeper.release()
        self._steps.spawn(self.sweeper.sweep_once(), name="released sweep")

    def on_neighbour(self, question: agent_pb2.NeighbourQuestion) -> None:
        """The control plane does not hear another host."""
        if self._questions < _MOST_QUESTIONS:
            self._questions += 1
            self._steps.spawn(self._ask_neighbour(question), name=f"neighbour {question.address}")

    async def _ask_neighbour(self, question: agent_pb2.NeighbourQuestion) -> None:
        try:
            wait_seconds = min(question.wait.ToNanoseconds() / 1e9, _LONGEST_QUESTION_SECONDS)
            verdict, datagram = await ask(question.address, question.port, question.datagram, wait_seconds)
        finally:
            self._questions -= 1
        answer = agent_pb2.NeighbourAnswer(
            question_id=question.question_id,
            verdict=agent_pb2.NeighbourVerdict.Value(f"NEIGHBOUR_VERDICT_{verdict.name}"),
            datagram=datagram,
        )
        self.outbox.notify(agent_pb2.SessionRequest(neighbour=answer))

    def on_leases(self, number: int, given: list[InstanceId]) -> None:
        """Leases were given."""
        self.claim_keeper.take(number, given)

    async def facts(self) -> HostFacts:
        """What this machine is; of an engine that does not answer, what it was when it did."""
        await self._read_facts()
        self._told_facts = self._facts
        return self._facts

    def heartbeat(self) -> AgentHeartbeat:
        """What is wrong with this host."""
        conditions: list[HostCondition] = []
        if not self._watcher.is_engine_up:
            conditions.append(HostCondition("ENGINE_DOWN", "the Docker Engine does not answer"))
        if self._door_problem:
            conditions.append(HostCondition("REGISTRY_PROXY_DOWN", self._door_problem))
        facts = self._facts if self._facts != self._told_facts else None
        self._told_facts = self._facts
        folders = (*filter(None, [self._data_root]), str(self._world.data_dir))
        if pressure := disk_condition(*folders):
            conditions.append(pressure)
        if unwatched := self.claim_keeper.condition():
            conditions.append(unwatched)
        return AgentHeartbeat(tuple(conditions), self.sweeper.quarantined, self.sweeper.brake, facts)

    # What side streams and tasks ask of us.

    def container_of(self, instance_id: InstanceId) -> ContainerId:
        """The container of an instance.

        Raises:
            NotFound: the instance is not assigned here.
            NotReady: NO_CONTAINER, it has none (yet).
        """
        view = self.reconciler.view(instance_id)
        if view is None:
            raise NotFound(f"instance {instance_id} is not on this host", reason="INSTANCE_NOT_HERE")
        if view.container is None:
            raise NotReady("the instance has no container now", reason="NO_CONTAINER")
        return view.container.container_id

    def namespace_of(self, instance_id: InstanceId) -> tuple[Path, Sequence[str]]:
        """The network namespace of an instance and its addresses.

        Raises:
            NotFound: the instance is not assigned here.
            NotReady: NAMESPACE_MISSING, it has none (yet).
        """
        assignment = self.journal.assignments.get(instance_id)
        if assignment is None:
            raise NotFound(f"instance {instance_id} is not on this host", reason="INSTANCE_NOT_HERE")
        namespace = self.state.namespaces.get(instance_id)
        if namespace is None or namespace.path is None:
            raise NotReady("the instance has no network namespace now", reason="NAMESPACE_MISSING")
        return namespace.path, [a.partition("/")[0] for nic in assignment.nics for a in nic.addresses]

    # What the parts tell each other.

    def _resources_of(self, instance_id: InstanceId) -> Resources:
        assignment = self.journal.assignments.get(instance_id)
        return Resources() if assignment is None else assignment.container.resources

    async def _read_facts(self) -> None:
        try:
            info = await self._world.engine.info()
        except EngineUnavailable:
            return
        self._data_root = info.data_root
        links = await self._world.fabric.host_links()
        devices = told(await self.devices.look(info))
        images = held_digests(self.journal.images.values())
        facts = host_facts(info, self._world.site, links=links, devices=devices, images=images)
        self._facts = replace(facts, neighbour_port=self.responder.port)

    async def _watch_facts(self) -> None:
        """NICs and bridges come and go; what changed is told with the next heartbeat."""
        while True:
            await self._world.clock.sleep(_FACTS_SECONDS)
            await self._read_facts()

    def _on_lease(self, instance_id: InstanceId) -> None:
        self._steps.spawn(self._apply_leases(instance_id), name=f"lease {instance_id}")

    async def _apply_leases(self, instance_id: InstanceId) -> None:
        try:
            await self.executor.apply_leases(instance_id)
        except MoorageError as exc:
            log.warning("an address was not set", extra={"instance": instance_id, "reason": exc.reason})
        self.reconciler.wake(instance_id)

    def _on_listing(self, changed: set[InstanceId]) -> None:
        self._steps.spawn(self._read_facts(), name="facts")  # it may be another version of the engine
        if not self._has_listed.is_set():
            self._has_listed.set()
            self.sweeper.find_cut_off()
        self.reconciler.wake(*changed)  # nothing happens before it has begun

    async def _begin(self) -> None:
        """Let the workers begin: after the first look at the host, and where something is to be started, once the control plane has said
        what this host shall carry. It is not waited for long: a host starts what it had also while the control plane is away.
        """
        await self._has_listed.wait()
        if self.reconciler.has_to_start():
            waits = [
                asyncio.ensure_future(self._world.clock.sleep(_WORD_SECONDS)),
                asyncio.ensure_future(self._is_told.wait()),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        self.reconciler.begin()
        self._has_begun.set()

    def _on_gone(self, assignment: InstanceAssignment) -> None:
        self.names.close(assignment.instance_id)
        self.routers.forget(assignment.instance_id)
        self.networks.mark(networks_of(assignment))
        if assignment.instance_id in self.journal.orphans:
            self.outbox.forget(assignment.instance_id)

    async def _sweep(self) -> None:
        await self._has_begun.wait()
        await self.sweeper.run()

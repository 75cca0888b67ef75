"""A host of one instance as plain values, on which planned steps can be done: for the planner's properties."""

from dataclasses import dataclass, field, replace

from hostagent.claims.deadlines import Hold
from hostagent.domain import (
    ContainerObservation,
    ContainerPhase,
    ContainerSpec,
    DesiredState,
    InstanceAssignment,
    NicAssignment,
    NicFilter,
    PayloadAssignment,
    PublishedPort,
)
from hostagent.journal.state import LocalState, ProbeVerdict, RunStage
from hostagent.worker import actions as do
from hostagent.worker.plan import InstanceView, backoff_seconds, plan
from moorage.ids import ContainerId, InstanceId, NetworkId

NETWORK = NetworkId("n1")
ALIVE = (ContainerPhase.RUNNING, ContainerPhase.PAUSED)


def assignment(**fields: object) -> InstanceAssignment:
    values: dict[str, object] = {
        "instance_id": InstanceId("i1"),
        "name": "web",
        "project": "p",
        "generation": 1,
        "run_request": 1,
        "desired": DesiredState.RUNNING,
        "container": ContainerSpec(image="app@sha256:1"),
        "nics": (NicAssignment(NETWORK, "eth0", "02:00:00:00:00:01", ("10.1.0.5/24",)),),
        "published_ports": (PublishedPort(8080, 80),),
    }
    return InstanceAssignment(**{**values, **fields})  # type: ignore[arg-type]


@dataclass
class World:
    """The host's truth, and what the agent knows of it."""

    wanted: InstanceAssignment = field(default_factory=assignment)
    local: LocalState = field(default_factory=LocalState)
    boot_id: str = "boot-1"
    containers: dict[int, ContainerObservation] = field(default_factory=dict)  # by generation
    image: bool = False
    network: bool = False
    nics: tuple[NicAssignment, ...] | None = None
    filters: tuple[NicFilter, ...] | None = None
    wanted_filters: tuple[NicFilter, ...] | None = ()
    namespace: bool = False
    ports: tuple[PublishedPort, ...] | None = None
    keys: set[str] = field(default_factory=set)
    files: bool = False
    payloads: tuple[PayloadAssignment, ...] = ()
    signals: int = 0
    retry_at: float | None = None
    hold: Hold = Hold.FREE
    now: float = 1000.0
    starts: int = 0
    ids: int = 0

    def view(self) -> InstanceView:
        current = self.containers.get(self.wanted.container_generation)
        return InstanceView(
            assignment=self.wanted,
            local=self.local,
            boot_id=self.boot_id,
            container=current,
            old_containers=tuple(
                c for g, c in sorted(self.containers.items()) if g != self.wanted.container_generation
            ),
            has_image=self.image,
            missing_networks=() if self.network else (NETWORK,),
            has_namespace=self.namespace,
            nics=self.nics,
            filters=self.filters,
            wanted_filters=self.wanted_filters,
            has_key=current is not None and current.container_id in self.keys,
            ports=self.ports,
            has_files=self.files,
            payloads=self.payloads,
            retry_at=self.retry_at,
            hold=self.hold,
        )

    def plan(self) -> list[do.Action]:
        return plan(self.view(), self.now)

    def apply(self, step: do.Action) -> None:
        """Carry out one step, checking what must hold when it is taken."""
        self.now += 0.001
        match step:
            case do.BeginRun():
                assert self.local.stage is not RunStage.BEGUN
                self.local = replace(
                    self.local,
                    run=self.local.run + 1,
                    stage=RunStage.BEGUN,
                    run_request=self.wanted.run_request,
                    container_generation=self.wanted.container_generation,
                    generation=self.wanted.generation,
                    begun_at=self.now,
                    boot_id=self.boot_id,
                    was_asked_to_stop=False,
                    is_final=False,
                    reason="",
                    verdict=ProbeVerdict(),
                    hostname=self.local.container_hostname,
                    failures_in_row=self.local.failures_in_row if step.is_restart else 0,
                )
            case do.AbandonRun():
                assert self.local.stage is RunStage.BEGUN
                self.local = replace(self.local, stage=RunStage.ENDED, was_asked_to_stop=True)
            case do.RecordStart():
                self.local = replace(self.local, stage=RunStage.STARTED, boot_id=self.boot_id)
            case do.RecordExit():
                self._record_exit(step)
            case do.Pull():
                self.image = True
            case do.EnsureNetwork():
                self.network = True
            case do.PrepareNamespace():
                assert self.network
                assert self.hold is not Hold.LACKING, "it must not be reached"
                self.ports = (
                    self.ports if self.namespace and self.nics == self.wanted.nics else None if self.namespace else ()
                )
                assert self.wanted_filters is not None, "it would be plugged unfiltered"
                self.namespace, self.nics, self.filters = True, self.wanted.nics, self.wanted_filters
            case do.ApplyFilters():
                assert self.namespace
                assert self.wanted_filters is not None
                self.nics, self.filters = self.wanted.nics, self.wanted_filters
            case do.PlacePayloads():
                self.payloads, self.files = self.wanted.payloads, True
                self.signals += any(c.phase in ALIVE for c in self.containers.values())
            case do.CreateContainer():
                assert self.payloads == self.wanted.payloads, "it mounts files that are not there"
                assert not self.containers
                assert self.image
                self.ids += 1
                self.files = True
                self.containers[self.wanted.container_generation] = ContainerObservation(
                    ContainerId(f"c{self.ids}"), "web", {}, ContainerPhase.CREATED
                )
                name = self.wanted.container.hostname
                limits = self.wanted.container.resources
                self.local = replace(self.local, limits=limits, container_hostname=name, hostname=name)
            case do.PublishRuntimeKey():
                assert self.namespace
                self.keys.add(step.container_id)
            case do.PublishPorts():
                assert self.namespace
                self.ports = step.ports
            case do.Start():
                self._start(step)
            case do.Stop():
                assert not step.is_failure or self.local.verdict.failure
                self.local = replace(self.local, was_asked_to_stop=not step.is_failure)
                self._set(step.container_id, phase=ContainerPhase.EXITED, exit_code=0, finished_at=self.now)
            case do.Pause():
                self._set(step.container_id, phase=ContainerPhase.PAUSED)
            case do.Unpause():
                self._set(step.container_id, phase=ContainerPhase.RUNNING)
            case do.UpdateLimits():
                self.local = replace(self.local, limits=step.limits)
            case do.SetHostName():
                assert any(c.phase in ALIVE for c in self.containers.values()), "nobody has the name"
                self.local = replace(self.local, hostname=self.wanted.container.hostname)
            case do.RemoveContainer():
                self.containers = {g: c for g, c in self.containers.items() if c.container_id != step.container_id}
                self.keys.discard(step.container_id)
            case do.RemoveNamespace():
                runs = any(c.phase in ALIVE for c in self.containers.values())
                assert not runs, "it would run cut off"
                is_kept = self.hold is Hold.LACKING
                assert is_kept or not self.containers, "the address of a container that is still there would be free"
                self.namespace, self.nics, self.ports, self.filters = False, None, None, None
            case do.RemoveFiles():
                assert not self.containers
                self.files = False
            case do.WaitBackoff():
                self.now += step.seconds
            case _:
                raise AssertionError(step)

    def exit(self, code: int) -> None:
        """The process ends by itself."""
        for container in list(self.containers.values()):
            if container.phase in ALIVE:
                self._set(container.container_id, phase=ContainerPhase.EXITED, exit_code=code, finished_at=self.now)

    def fail_probe(self) -> None:
        """The liveness probe of a process fails."""
        if self.local.stage is RunStage.STARTED:
            self.local = replace(self.local, verdict=ProbeVerdict(failure="LIVENESS_FAILED", words="liveness (tcp 80)"))

    def restart_agent(self) -> None:
        """The agent forgets what only its memory held."""
        self.network, self.nics, self.ports, self.retry_at, self.image = False, None, None, None, False
        self.filters = None

    def reboot(self) -> None:
        """Processes and namespaces are gone, and the agent starts anew."""
        self.exit(255)
        self.boot_id += "+"
        self.namespace = False
        self.keys = set()
        self.payloads = ()
        self.restart_agent()

    def _record_exit(self, step: do.RecordExit) -> None:
        found = next((c for c in self.containers.values() if c.container_id == step.container_id), None)
        assert found is None or found.phase not in ALIVE
        failures = self.local.failures_in_row
        was_us = self.local.was_asked_to_stop or step.is_lease_lost
        if not step.is_host_reboot and not was_us:
            failures += 1
        self.local = replace(
            self.local,
            stage=RunStage.ENDED,
            was_asked_to_stop=was_us,
            exit_code=found.exit_code if found else None,
            failures_in_row=failures,
            reason=self.local.verdict.failure if found else "CONTAINER_GONE",
            message=self.local.verdict.words,
        )
        self.retry_at = self.now + backoff_seconds(self.view())

    def _start(self, step: do.Start) -> None:
        # Network before process, one container at a time, and every run recorded before.
        assert self.local.stage is RunStage.BEGUN
        assert self.namespace
        assert self.nics == self.wanted.nics
        assert step.container_id in self.keys
        assert (self.ports or ()) == self.wanted.published_ports
        assert len(self.containers) == 1
        assert self.hold in (Hold.FREE, Hold.HELD), "it must not run"
        assert self.payloads == self.wanted.payloads
        self.starts += 1
        self._set(step.container_id, phase=ContainerPhase.RUNNING, started_at=self.now)
        self.local = replace(self.local, stage=RunStage.STARTED)

    def _set(self, container_id: str, **values: object) -> None:
        for generation, container in self.containers.items():
            if container.container_id == container_id:
                self.containers[generation] = replace(container, **values)  # type: ignore[arg-type]

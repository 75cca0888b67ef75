"""What the agent knows of its host right now: containers, namespaces, ports, images. In memory only, learnt anew at
each start.

Filled from listings, from the engine's events and from what our own steps did, so that no step needs to look first.
What is not known counts as not done: steps are idempotent, and doing one again repairs what somebody else broke.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hostagent.domain import (
    ContainerObservation,
    ContainerPhase,
    Mount,
    NetworkAssignment,
    NicAssignment,
    NicFilter,
    PayloadAssignment,
    PublishedPort,
    VolumeAssignment,
)
from hostagent.engine.values import EngineEvent
from moorage.ids import ContainerId, InstanceId, NetworkId

INSTANCE_LABEL = "moorage.instance"
NONCE_LABEL = "moorage.nonce"
GENERATION_LABEL = "moorage.generation"

_FACTS_OF_ACTION = frozenset({"die", "start", "pause", "unpause", "oom", "destroy"})


@dataclass(frozen=True, slots=True)
class NamespaceState:
    """A namespace of an instance, and what this agent process plugged into it; None: found on start, not checked."""

    path: Path | None = None
    nics: tuple[NicAssignment, ...] | None = None
    filters: tuple[NicFilter, ...] | None = None


@dataclass(slots=True)
class HostState:
    """Mutable facts, changed only from the event loop's thread.

    `containers` holds ours alone: those whose label carries this host's nonce. The rest with our label is in `foreign`.
    """

    nonce: str
    is_listed: bool = False  # whether the engine was ever asked for all containers
    containers: dict[InstanceId, dict[ContainerId, ContainerObservation]] = field(default_factory=dict)
    foreign: dict[ContainerId, ContainerObservation] = field(default_factory=dict)
    namespaces: dict[InstanceId, NamespaceState] = field(default_factory=dict)
    lost_namespaces: set[InstanceId] = field(default_factory=set)  # the process runs in one that we cannot reach
    suspects: set[InstanceId] = field(default_factory=set)  # may have a process that the engine forgot (leftovers.py)
    ports: dict[InstanceId, tuple[PublishedPort, ...]] = field(default_factory=dict)
    networks: dict[NetworkId, NetworkAssignment] = field(default_factory=dict)  # as last set up
    images: set[str] = field(default_factory=set)
    keys: set[ContainerId] = field(default_factory=set)  # published to the runtime wrapper
    folders: set[InstanceId] = field(default_factory=set)  # with files of ours
    payloads: dict[InstanceId, tuple[PayloadAssignment, ...]] = field(default_factory=dict)  # placed
    # What was prepared for each instance in this agent's life, as it was asked for, and the mounts of its container.
    volumes: dict[InstanceId, tuple[tuple[VolumeAssignment, ...], tuple[Mount, ...]]] = field(default_factory=dict)
    held: set[InstanceId] = field(default_factory=set)  # paused by us while their volume is read
    _deaths: dict[ContainerId, int] = field(default_factory=dict)

    def container(self, instance_id: InstanceId, generation: int) -> ContainerObservation | None:
        """The container of an instance's current generation."""
        for container in self.containers.get(instance_id, {}).values():
            if generation_of(container.labels) == generation:
                return container
        return None

    def others(self, instance_id: InstanceId, generation: int) -> tuple[ContainerObservation, ...]:
        """Containers of other generations, which a replace left to be removed."""
        found = self.containers.get(instance_id, {}).values()
        return tuple(container for container in found if generation_of(container.labels) != generation)

    def set_listing(self, listing: Mapping[ContainerId, ContainerObservation]) -> set[InstanceId]:
        """Take over a full listing. Returns the instances whose containers are not as known before."""
        before, self.containers, self.foreign = self.containers, {}, {}
        self.is_listed = True
        for container in listing.values():
            instance_id = self.put(container)
            if instance_id is not None and container.phase not in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
                self.suspects.add(instance_id)
        return {i for i in before.keys() | self.containers.keys() if before.get(i) != self.containers.get(i)}

    def put(self, container: ContainerObservation) -> InstanceId | None:
        """Take over one observation. Returns its instance if it is ours."""
        instance_id = InstanceId(container.labels.get(INSTANCE_LABEL, ""))
        if not instance_id:
            return None
        if container.labels.get(NONCE_LABEL) != self.nonce:
            self.foreign[container.container_id] = container
            return None
        self.containers.setdefault(instance_id, {})[container.container_id] = container
        return instance_id

    def drop(self, instance_id: InstanceId, container_id: ContainerId) -> None:
        """A container is gone."""
        self._deaths.pop(container_id, None)
        self.foreign.pop(container_id, None)
        known = self.containers.get(instance_id, {})
        known.pop(container_id, None)
        if not known:
            self.containers.pop(instance_id, None)

    def deaths(self, container_id: ContainerId) -> int:
        """How many ends of its process were seen: tells whether one fell into a call of ours."""
        return self._deaths.get(container_id, 0)

    def apply(self, event: EngineEvent) -> tuple[InstanceId | None, bool]:
        """Take in an event. Returns the instance that it is about, and whether a look at the container is needed."""
        labels = event.attributes
        instance_id = InstanceId(labels.get(INSTANCE_LABEL, ""))
        container_id = ContainerId(event.container_id)
        if not instance_id:
            return None, False
        if labels.get(NONCE_LABEL) != self.nonce:
            if event.action == "destroy":
                self.foreign.pop(container_id, None)
            return None, event.action == "create"
        if event.action == "destroy":
            self.drop(instance_id, container_id)
            return instance_id, False
        known = self.containers.get(instance_id, {}).get(container_id)
        action, _, detail = event.action.partition(": ")
        if known is None:
            # Ours, and not known: made by a call whose answer is still on its way, or behind our back.
            return instance_id, action in _FACTS_OF_ACTION
        changed, look = _after_event(known, action, detail, event)
        if action == "die":
            self._deaths[container_id] = self.deaths(container_id) + 1
        if changed == known and not look:
            return None, False
        self.containers[instance_id][container_id] = changed
        return instance_id, look


def generation_of(labels: Mapping[str, str]) -> int:
    """Container generation in a container's labels; 0 when there is none that can be read."""
    text = labels.get(GENERATION_LABEL, "")
    return int(text) if text.isdecimal() else 0


def _after_event(
    known: ContainerObservation, action: str, detail: str, event: EngineEvent
) -> tuple[ContainerObservation, bool]:
    """(the observation after the event, whether the engine has to be asked for the rest)."""
    match action:
        case "start":
            if known.phase is ContainerPhase.RUNNING:
                return known, False
            return replace(known, phase=ContainerPhase.RUNNING, started_at=event.time, health="", error=""), False
        case "die":
            code = event.attributes.get("exitCode", "")
            exit_code = int(code) if code.lstrip("-").isdecimal() else None
            ended = replace(known, phase=ContainerPhase.EXITED, exit_code=exit_code, finished_at=event.time, pid=0)
            # 137 is SIGKILL, ours or the kernel's for want of memory: only the engine's record tells.
            return ended, exit_code in (None, 137)
        case "pause":
            return replace(known, phase=ContainerPhase.PAUSED), False
        case "unpause":
            return replace(known, phase=ContainerPhase.RUNNING), False
        case "oom":
            return replace(known, oom_killed=True), False
        case "health_status":
            return replace(known, health=detail), False
    return known, False

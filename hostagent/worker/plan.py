"""What one instance needs next, decided from values alone.

`plan` returns the steps that can be done now, all at once; when they are done, it is asked again. An empty list means
converged. Nothing here looks at the host, so the same view always gives the same steps, and stopping anywhere and
asking again is safe: what was done is in the view.

Order rules that safety hangs on:
- a run is recorded (BeginRun) before anything is done for it, so that its number is never used twice;
- no Start before the namespace is plugged, the runtime key published and the ports in place: network before process;
- no container is made, and none is started, before its volumes are prepared for this run;
- a container of an older generation is gone before its successor is created;
- deletion removes the container first and its namespace, ports and files after it: an address is free only when
  nothing uses it;
- the end of a run is recorded before the next one begins;
- without a lease, where it needs one, an instance has neither process nor network; its container and files stay.
"""

from dataclasses import dataclass, replace

from hostagent.claims.deadlines import Hold, grace_seconds
from hostagent.domain import (
    ContainerObservation,
    ContainerPhase,
    DesiredState,
    InstanceAssignment,
    LeasedNic,
    NicAssignment,
    NicFilter,
    PayloadAssignment,
    PublishedPort,
    RestartMode,
)
from hostagent.journal.state import LocalState, RunStage
from hostagent.worker.actions import (
    AbandonRun,
    Action,
    ApplyFilters,
    BeginRun,
    CreateContainer,
    EnsureNetwork,
    Pause,
    PlacePayloads,
    PrepareNamespace,
    PrepareVolumes,
    PublishPorts,
    PublishRuntimeKey,
    Pull,
    RecordExit,
    RecordStart,
    RemoveContainer,
    RemoveFiles,
    RemoveNamespace,
    SetHostName,
    Start,
    Stop,
    Unpause,
    UpdateLimits,
    WaitBackoff,
)
from moorage.ids import NetworkId

_ALIVE = (ContainerPhase.RUNNING, ContainerPhase.PAUSED)
START_FAILED = "START_FAILED"  # the engine's word for a start that its runtime could not carry out


@dataclass(frozen=True, slots=True)
class InstanceView:
    """All that decides about one instance at one moment."""

    assignment: InstanceAssignment
    local: LocalState
    boot_id: str  # of the machine now
    container: ContainerObservation | None = None  # of the assigned generation
    old_containers: tuple[ContainerObservation, ...] = ()  # of other generations
    has_image: bool = False
    missing_networks: tuple[NetworkId, ...] = ()  # assigned here and not set up
    unknown_networks: tuple[NetworkId, ...] = ()  # that a NIC names and nobody assigned
    has_namespace: bool = False
    is_namespace_lost: bool = False  # the process runs in a namespace that the host does not have any more
    nics: tuple[NicAssignment, ...] | None = None  # plugged, as far as we know
    filters: tuple[NicFilter, ...] | None = ()  # in force, as far as we know
    wanted_filters: tuple[NicFilter, ...] | None = ()  # None: a security group that a NIC names is not known
    has_key: bool = False  # of the container, at the runtime wrapper
    ports: tuple[PublishedPort, ...] | None = None  # None: not looked at yet
    has_files: bool = False
    payloads: tuple[PayloadAssignment, ...] = ()  # secrets and configs that are placed
    is_held: bool = False  # paused by ourselves, while a volume of it is read
    has_volumes: bool = True  # all that it needs of them is prepared
    retry_at: float | None = None  # monotonic seconds; no new run before
    lease_wait_seconds: float = 0.0  # for a DHCP server outside to give a first address
    leased: tuple[LeasedNic, ...] = ()  # what such servers have given
    hold: Hold = Hold.FREE  # whether it may run, and be reached


def is_alive(container: ContainerObservation | None) -> bool:
    """Whether the container has a process."""
    return container is not None and container.phase in _ALIVE


def is_plugged(view: InstanceView) -> bool:
    """Whether the host has the assigned interfaces and ports and no others; a namespace that is not there has none."""
    if view.is_namespace_lost:
        return False
    if not view.has_namespace:
        return not view.ports
    return view.nics == view.assignment.nics and view.ports == view.assignment.published_ports


def is_gone(view: InstanceView) -> bool:
    """Whether nothing of the instance is left on the host."""
    return not (view.container or view.old_containers or view.has_namespace or view.has_files or view.ports)


def plan(view: InstanceView, now: float) -> list[Action]:
    """The steps to do now.

    Args:
        now: monotonic seconds.
    """
    if view.assignment.desired is DesiredState.DELETED:
        return _delete(view)
    if view.hold is Hold.LACKING:
        return _let_go(view)
    if view.old_containers:
        return _remove_old(view)
    if records := _records(view):
        return records
    if view.hold is Hold.ENDING:
        return _wind_down(view)
    if view.assignment.desired is DesiredState.STOPPED:
        return _stand_still(view)
    if is_alive(view.container):
        return _keep_running(view)
    if view.local.stage is RunStage.BEGUN:
        if _is_outdated(view):
            return [AbandonRun("another run was asked for meanwhile")]
        return _bring_up(view)
    return _begin(view, now)


def _delete(view: InstanceView) -> list[Action]:
    why = "the instance is deleted"
    containers = [c for c in (view.container, *view.old_containers) if c is not None]
    if containers:
        is_forced = view.assignment.force or view.hold is Hold.LACKING
        return [_end_container(c, view, why, is_forced=is_forced) for c in containers]
    steps: list[Action] = []
    if view.has_namespace or view.ports:
        steps.append(RemoveNamespace(why))
    if view.has_files:
        steps.append(RemoveFiles(why))
    return steps


def _remove_old(view: InstanceView) -> list[Action]:
    why = "a replacement was asked for"
    return [_end_container(c, view, why, is_forced=False) for c in view.old_containers]


def _end_container(container: ContainerObservation, view: InstanceView, why: str, *, is_forced: bool) -> Action:
    if is_forced or container.phase not in _ALIVE:
        return RemoveContainer(why, container.container_id)
    if container.phase is ContainerPhase.PAUSED:
        return Unpause("a frozen process cannot end in order", container.container_id)
    return _stop(container, view, why)


def _stop(container: ContainerObservation, view: InstanceView, why: str) -> Stop:
    spec = view.assignment.container
    grace = 0.0 if view.assignment.force else spec.stop_grace_seconds
    if view.hold is Hold.ENDING:
        grace = grace_seconds(grace, view.assignment.lease_seconds)
    return Stop(why, container.container_id, grace, spec.stop_signal)


def _wind_down(view: InstanceView) -> list[Action]:
    """The lease ends soon: the process ends in order, and none is begun. It goes on when the lease is renewed after all."""
    why = "its lease ends, and could not be renewed"
    if view.container is not None and view.container.phase in _ALIVE:
        return [_end_container(view.container, view, why, is_forced=False)]
    if view.local.stage is RunStage.BEGUN:
        return [AbandonRun(why)]
    return []


def _let_go(view: InstanceView) -> list[Action]:
    """Nothing of it may run or be reached: a namespace answers for its addresses without any process."""
    why = "it has no lease"
    containers = (view.container, *view.old_containers)
    if alive := [container for container in containers if container is not None and is_alive(container)]:
        return [Stop(why, container.container_id, 0.0, "SIGKILL") for container in alive]
    local, found = view.local, view.container.container_id if view.container else None
    if local.stage is RunStage.STARTED:
        is_reboot = local.boot_id != view.boot_id
        return [RecordExit("its process was ended with its lease", found, is_reboot, is_lease_lost=not is_reboot)]
    if local.stage is RunStage.BEGUN:
        return [AbandonRun(why)]
    return [RemoveNamespace(why)] if view.has_namespace or view.ports else []


def _records(view: InstanceView) -> list[Action]:
    """Steps that only write down what happened."""
    local, container = view.local, view.container
    if is_alive(container):
        if local.stage is RunStage.BEGUN:
            return [RecordStart("the process of this run is there")]
        if local.stage in (RunStage.IDLE, RunStage.ENDED):
            if view.assignment.desired is DesiredState.STOPPED:
                return []  # it is stopped whoever started it
            return [BeginRun("somebody else started the process", is_restart=True)]
        return []
    if local.stage is RunStage.STARTED:
        found = container.container_id if container else None
        return [RecordExit("the process is not there any more", found, local.boot_id != view.boot_id)]
    if local.stage is RunStage.BEGUN and container is not None and _ran_in_this_run(container, local):
        return [RecordStart("the process of this run was there and has ended")]
    return []


def _ran_in_this_run(container: ContainerObservation, local: LocalState) -> bool:
    """Whether an agent that was killed in between had started the process: it must not run a second time for one
    run.
    """
    return (
        container.phase is ContainerPhase.EXITED
        and container.started_at is not None
        and container.started_at > local.begun_at
    )


def _stand_still(view: InstanceView) -> list[Action]:
    container = view.container
    if container is not None and container.phase is ContainerPhase.PAUSED:
        return [Unpause("a frozen process cannot end in order", container.container_id)]
    if container is not None and container.phase is ContainerPhase.RUNNING:
        return [_stop(container, view, "the instance shall stand still")]
    if view.local.stage is RunStage.BEGUN:
        return [AbandonRun("the instance shall stand still")]
    return _replug(view)


def _is_outdated(view: InstanceView) -> bool:
    return (
        view.local.run_request != view.assignment.run_request
        or view.local.container_generation != view.assignment.container_generation
    )


def _keep_running(view: InstanceView) -> list[Action]:
    container, assignment = view.container, view.assignment
    assert container is not None
    reason = ""
    if _is_outdated(view):
        reason = "a reboot was asked for"
    elif view.is_namespace_lost:
        reason = "its network namespace is lost, so it runs cut off"
    if reason:
        if container.phase is ContainerPhase.PAUSED:
            return [Unpause(reason, container.container_id)]
        return [_stop(container, view, reason)]
    if view.local.verdict.failure and container.phase is ContainerPhase.RUNNING:
        return [replace(_stop(container, view, f"a probe failed: {view.local.verdict.words}"), is_failure=True)]
    steps = _network_steps(view) or _ports_steps(view)
    if view.payloads != assignment.payloads:
        steps.append(PlacePayloads("another version of a secret or config is assigned"))
    limits = assignment.container.resources
    if view.local.limits is not None and view.local.limits != limits:
        steps.append(UpdateLimits("the limits were changed", container.container_id, limits))
    if view.local.hostname and view.local.hostname != assignment.container.hostname:
        steps.append(SetHostName("the instance has another name", container.container_id))
    if assignment.desired is DesiredState.PAUSED and container.phase is ContainerPhase.RUNNING:
        steps.append(Pause("the instance shall be frozen", container.container_id))
    elif assignment.desired is DesiredState.RUNNING and container.phase is ContainerPhase.PAUSED and not view.is_held:
        steps.append(Unpause("the instance shall run", container.container_id))
    return steps


def _network_steps(view: InstanceView) -> list[Action]:
    if view.missing_networks:
        return [EnsureNetwork("an instance needs it", network_id) for network_id in view.missing_networks]
    if view.unknown_networks or view.wanted_filters is None:
        return []  # its assignment is on the way: a change of the network or group wakes the instance
    if not view.has_namespace or _plugged_as(view.nics) != _plugged_as(view.assignment.nics):
        return [PrepareNamespace("the network comes before the process")]
    if view.nics != view.assignment.nics or view.filters != view.wanted_filters:
        return [ApplyFilters("its security groups are others, or allow something else")]
    return []


def _plugged_as(nics: tuple[NicAssignment, ...] | None) -> list[NicAssignment] | None:
    """What plugging makes of them: security groups come and go without it, and need not wait for their turn."""
    return None if nics is None else [replace(nic, security_groups=()) for nic in nics]


def _ports_steps(view: InstanceView) -> list[Action]:
    wanted = view.assignment.published_ports
    if view.ports == wanted:
        return []
    return [PublishPorts("published ports lead to the instance", wanted)]


def _replug(view: InstanceView) -> list[Action]:
    """For an instance without a process: what it lost of its network is free for others only when it is gone here."""
    if not view.has_namespace:
        return []
    return _network_steps(view) or _ports_steps(view)


def _bring_up(view: InstanceView) -> list[Action]:
    """The way to a process. Image and network do not need each other, nor do the container and its namespace."""
    container = view.container
    steps: list[Action] = []
    if view.payloads != view.assignment.payloads:
        steps.append(PlacePayloads("secrets and configs come before the container that mounts them"))
    if not view.has_volumes:
        steps.append(PrepareVolumes("the volumes come before the process"))
    if container is None:
        if view.has_image and not steps:
            steps.append(CreateContainer("a run needs its container"))
        elif not view.has_image:
            steps.append(Pull("the image is not known to be here", view.assignment.container.image))
    elif view.local.limits is not None and view.local.limits != view.assignment.container.resources:
        limits = view.assignment.container.resources
        steps.append(UpdateLimits("the limits were changed", container.container_id, limits))
    steps += _network_steps(view)
    if steps or container is None or view.unknown_networks or view.wanted_filters is None:
        return steps
    if not view.has_key:
        steps.append(PublishRuntimeKey("the runtime must find the namespace", container.container_id))
    steps += _ports_steps(view)
    if not steps and view.lease_wait_seconds > 0:
        return [WaitBackoff("a DHCP server outside has not answered yet", view.lease_wait_seconds)]
    return steps or [Start("all is prepared", container.container_id)]


def _begin(view: InstanceView, now: float) -> list[Action]:
    local = view.local
    if local.stage is RunStage.IDLE or _is_outdated(view):
        return _remove_spoilt(view) or [BeginRun("a run was asked for", is_restart=False)]
    is_new_spec = local.generation != view.assignment.generation
    if local.is_final and not is_new_spec:
        return _replug(view)
    if not may_restart(view):
        return _replug(view)
    if view.retry_at is not None and view.retry_at > now:
        return [WaitBackoff(f"restart back-off after {local.failures_in_row} short runs", view.retry_at - now)]
    return _remove_spoilt(view) or [BeginRun("the process ended and shall run", is_restart=True)]


def _remove_spoilt(view: InstanceView) -> list[Action]:
    """The end of a container that could not be started and never ran, so that no file is lost with it: a containerd
    that died in the middle of a start leaves half a task under its id, on which every further start fails.
    """
    container = view.container
    if container is None or container.phase is not ContainerPhase.CREATED or view.local.reason != START_FAILED:
        return []
    return [RemoveContainer("it could not be started and never ran", container.container_id)]


def may_restart(view: InstanceView) -> bool:
    """Whether the restart policy lets the agent begin another run by itself."""
    local, policy = view.local, view.assignment.restart
    if local.was_asked_to_stop:
        return True  # it ended because we stopped it (a lost namespace, a stop that was taken back)
    if policy.mode is RestartMode.NEVER:
        return False
    has_failed = bool(local.reason) or local.exit_code != 0
    if policy.mode is RestartMode.ON_FAILURE and not has_failed:
        return False
    return not is_crash_loop(view)


def is_crash_loop(view: InstanceView) -> bool:
    """Whether as many runs in a row ended soon as the policy allows restarts."""
    limit = view.assignment.restart.max_restarts
    return limit > 0 and view.local.failures_in_row > limit


def backoff_seconds(view: InstanceView) -> float:
    """How long to wait before the next run: doubles from the policy's initial to its maximum."""
    policy, failures = view.assignment.restart, view.local.failures_in_row
    if failures == 0:
        return 0.0
    return min(policy.initial_seconds * 2.0 ** min(failures - 1, 30), policy.max_seconds)

"""What is said of an instance to the control plane, from the same view that the planner sees. Pure.

Within a run states only rise: preparing, running, stopping, ended. What would make one fall (another attempt) begins
a new run first. The one exception is a process that is thawed: PAUSED back to RUNNING.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hostagent.claims.deadlines import Hold
from hostagent.domain import ContainerPhase, DesiredState, InstanceReport, InstanceState
from hostagent.journal.state import LocalState, RunStage
from hostagent.probes.plan import told_ready
from hostagent.worker.actions import Action, Pull, Start, Stop, WaitBackoff
from hostagent.worker.plan import InstanceView, is_alive, is_crash_loop, is_gone, is_plugged

LEASE_LOST = "LEASE_LOST"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the last step failed; it is tried again."""

    reason: str
    message: str
    attempts: int = 1  # that failed, one after the other


def report(
    view: InstanceView, steps: Sequence[Action], trouble: Trouble | None = None, *, pull_percent: int = 0
) -> InstanceReport:
    """The report of an instance whose next steps are `steps`; `sequence` is filled in by the outbox."""
    local, container = view.local, view.container
    state, reason, message = _state(view, steps)
    if trouble is not None and not reason:
        reason, message = trouble.reason, trouble.message
    is_running = is_alive(container) and local.stage is RunStage.STARTED
    attempts = trouble.attempts if trouble is not None and local.stage is RunStage.BEGUN else 0
    has_run_data = local.stage in (RunStage.STARTED, RunStage.ENDED)
    return InstanceReport(
        instance_id=view.assignment.instance_id,
        run=local.run,
        sequence=0,
        state=state,
        reason=reason,
        message=message,
        container_id=container.container_id if container else "",
        exit_code=local.exit_code,
        oom_killed=local.oom_killed,
        restarts=local.restarts,
        health=container.health if container is not None and is_alive(container) else "",
        started_at=local.started_at if has_run_data else None,
        finished_at=local.finished_at if local.stage is RunStage.ENDED else None,
        pull_percent=100 if view.has_image or container else pull_percent,
        generation=view.assignment.generation,
        network_generation=view.assignment.generation if is_plugged(view) else 0,
        leased=view.leased,
        ready=told_ready(view.assignment.probes, local.verdict) if is_running else None,
        probe=local.verdict.words if is_running else "",
        failures_in_row=local.failures_in_row + attempts,
    )


def _state(view: InstanceView, steps: Sequence[Action]) -> tuple[InstanceState, str, str]:
    local, container = view.local, view.container
    if view.assignment.desired is DesiredState.DELETED:
        return (InstanceState.DELETED if is_gone(view) else InstanceState.DELETING), "", ""
    if is_alive(container) and local.stage is RunStage.STARTED:
        assert container is not None
        if any(isinstance(step, Stop) for step in steps):
            if view.hold in (Hold.ENDING, Hold.LACKING):
                return (
                    InstanceState.STOPPING,
                    LEASE_LOST,
                    "its lease could not be renewed, so it is stopped before it ends",
                )
            return InstanceState.STOPPING, local.verdict.failure, local.verdict.words if local.verdict.failure else ""
        if container.phase is ContainerPhase.PAUSED:
            return InstanceState.PAUSED, "", ""
        return InstanceState.RUNNING, "", ""
    if local.stage is RunStage.BEGUN:
        return _coming_up(view, steps)
    if view.hold in (Hold.ENDING, Hold.LACKING) and view.assignment.desired is not DesiredState.STOPPED:
        if local.stage is RunStage.IDLE:
            return InstanceState.ASSIGNED, "LEASE_AWAITED", "waits for a lease of the control plane"
        return InstanceState.STOPPED, LEASE_LOST, "its lease could not be renewed; it goes on once it is given another"
    if local.stage is RunStage.ENDED:
        return _ended(view, steps)
    if view.assignment.desired is DesiredState.STOPPED:
        return InstanceState.STOPPED, "", ""
    return InstanceState.ASSIGNED, "", ""


def _coming_up(view: InstanceView, steps: Sequence[Action]) -> tuple[InstanceState, str, str]:
    if any(isinstance(step, Start) for step in steps) or is_alive(view.container):
        return InstanceState.STARTING, "", ""
    if any(isinstance(step, Pull) for step in steps):
        return InstanceState.PULLING, "", ""
    if not steps and view.unknown_networks:
        names = ", ".join(view.unknown_networks)
        return InstanceState.PREPARING, "NETWORK_NOT_ASSIGNED", f"waits for the assignment of network {names}"
    return InstanceState.PREPARING, "", ""


def _ended(view: InstanceView, steps: Sequence[Action]) -> tuple[InstanceState, str, str]:
    local = view.local
    how = local.message or f"the process ended with exit code {local.exit_code}"
    if local.oom_killed:
        how = "the kernel killed the process because it reached its memory limit"
    if view.assignment.desired is DesiredState.STOPPED or local.was_asked_to_stop:
        return InstanceState.STOPPED, "", ""
    if local.is_start_failure:
        again = "; it will be tried again" if any(isinstance(step, WaitBackoff) for step in steps) else ""
        return InstanceState.FAILED, local.reason or "FAILED", how + again
    if is_crash_loop(view):
        message = f"{local.failures_in_row} runs in a row ended soon, the last one: {how}{_printed(local)}"
        return InstanceState.FAILED, "CRASH_LOOP", message
    for step in steps:
        if isinstance(step, WaitBackoff):
            reason = local.reason or ("OOM_KILLED" if local.oom_killed else "RESTARTING")
            # The wait as such, not what is left of it: a report must not change while nothing happens.
            return InstanceState.STOPPED, reason, f"{how}; it will be started again{_printed(local)}"
    if local.oom_killed:
        return InstanceState.STOPPED, "OOM_KILLED", how + _printed(local)
    return InstanceState.STOPPED, local.reason, how + _printed(local) if local.last_lines else local.message


def _printed(local: LocalState) -> str:
    """What a run that failed has printed last, in one line."""
    return f"; it printed last: {' | '.join(local.last_lines)}" if local.last_lines else ""

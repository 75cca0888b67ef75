"""One worker per instance: looks, plans, carries out, looks again, until nothing is left to do; then it ends.

In order for each instance, side by side for different ones. Woken by assignments, engine events, the sweep and
timers, but right without any of them: each turn starts from the whole view. Errors are reported as the instance's
reason and tried again with growing delays; nothing is lost and no error ends a worker.
"""

import asyncio
import logging
import os
import random as random_module
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from hostagent.claims.deadlines import Hold
from hostagent.domain import DesiredState, InstanceAssignment, InstanceReport, NicAssignment
from hostagent.executor.executor import HOST_REBOOTED, Executor
from hostagent.executor.filters import filters_of
from hostagent.executor.host_state import HostState
from hostagent.journal.journal import Journal
from hostagent.journal.state import RunStage
from hostagent.probes.loop import Watched
from hostagent.worker import actions as do
from hostagent.worker.plan import InstanceView, backoff_seconds, is_alive, is_gone, plan
from hostagent.worker.probing import watched
from hostagent.worker.status import Trouble, report
from hostagent.worker.turns import Turns
from moorage.clock import Clock
from moorage.errors import InvalidSpec, MoorageError
from moorage.ids import InstanceId, NetworkId
from moorage.retry import Backoff, RandomFraction
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

# Creates, starts, removals and plugging. Beyond the cores, more at once is slower: 50 starts on three hosts that share
# two cores cost the engines 1.5 s of CPU at 8 a host, 1.0 s at 4.
HEAVY_AT_ONCE = max(4, min(16, os.cpu_count() or 4))
PULLS_AT_ONCE = 3
_BACKOFF = Backoff(initial=0.2, maximum=30.0)
_HEAVY = (do.CreateContainer, do.Start, do.RemoveContainer, do.PrepareNamespace, do.RemoveNamespace)
_BRINGING_UP = (
    do.Pull,
    do.CreateContainer,
    do.EnsureNetwork,
    do.PrepareNamespace,
    do.PrepareVolumes,
    do.ApplyFilters,
    do.PlacePayloads,
    do.PublishRuntimeKey,
    do.PublishPorts,
    do.Start,
)


@dataclass(slots=True)
class _Worker:
    instance_id: InstanceId
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    has_new_assignment: bool = False  # cuts a delay after an error short; an engine event does not
    failures: int = 0
    trouble: Trouble | None = None
    pull_percent: int = 0


class Reconciler:
    """Starts, wakes and ends the workers.

    Args:
        publish: takes each report; it is called often, and with equal reports too.
        watch: told at each turn which process of an instance is to be probed; None: none.
        on_gone: called when nothing of an instance is left, with its assignment.
        on_left: called when a running instance has left networks.
        hold: how an instance stands with its lease.
        boot_id: of this machine.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        state: HostState,
        executor: Executor,
        clock: Clock,
        tasks: TaskOwner,
        publish: Callable[[InstanceReport], None],
        watch: Callable[[InstanceId, Watched | None], None],
        on_gone: Callable[[InstanceAssignment], None],
        on_left: Callable[[Collection[NetworkId]], None],
        hold: Callable[[InstanceAssignment], Hold],
        boot_id: str,
        random: RandomFraction = random_module.random,
    ) -> None:
        self._journal = journal
        self._state = state
        self._executor = executor
        self._clock = clock
        self._tasks = tasks
        self._publish = publish
        self._watch = watch
        self._on_gone = on_gone
        self._on_left = on_left
        self._hold = hold
        self._boot_id = boot_id
        self._random = random
        self._workers: dict[InstanceId, _Worker] = {}
        self._retry_at: dict[InstanceId, float] = {}
        self._sweeping: set[InstanceId] = set()
        self._heavy = Turns(HEAVY_AT_ONCE)
        self._pulls = asyncio.Semaphore(PULLS_AT_ONCE)
        self._is_ready = False

    @property
    def busy(self) -> frozenset[InstanceId]:
        """Instances that have a worker now."""
        return frozenset(self._workers)

    def begin(self) -> None:
        """The host was looked at: from now on steps are taken. Wakes every instance."""
        self._is_ready = True
        for instance_id in self._journal.assignments:
            self._take_up_backoff(instance_id)
        self.wake(*self._journal.assignments, *self._state.containers)

    def sweep_away(self, instance_ids: Sequence[InstanceId]) -> None:
        """Remove these orphans; the sweep has decided that they may go."""
        self._sweeping.update(instance_ids)
        self.wake(*instance_ids, is_assignment=True)

    def wake(self, *instance_ids: InstanceId, is_assignment: bool = False) -> None:
        """Look at these instances again, now.

        Args:
            is_assignment: something new was asked for, so a delay after an error ends too.
        """
        if not self._is_ready:
            return
        # What goes comes first: what is new may be in its place.
        for instance_id in sorted(instance_ids, key=self._is_wanted):
            worker = self._workers.get(instance_id)
            if worker is None:
                worker = self._workers[instance_id] = _Worker(instance_id)
                self._tasks.spawn(self._work(worker), name=f"instance {instance_id}")
            worker.has_new_assignment |= is_assignment
            worker.woken.set()

    def has_to_start(self) -> bool:
        """Whether something shall run that has no process now."""
        return any(
            assignment.desired in (DesiredState.RUNNING, DesiredState.PAUSED)
            and not is_alive(self._state.container(instance_id, assignment.container_generation))
            for instance_id, assignment in self._journal.assignments.items()
        )

    def _is_wanted(self, instance_id: InstanceId) -> bool:
        assignment = self._journal.assignments.get(instance_id)
        return assignment is not None and assignment.desired is not DesiredState.DELETED

    def view(self, instance_id: InstanceId) -> InstanceView | None:
        """What is known of an instance now; None if it is not assigned here."""
        assignment = self._journal.assignments.get(instance_id)
        if assignment is None:
            return None
        if instance_id in self._sweeping:
            assignment = replace(assignment, desired=DesiredState.DELETED)
        state = self._state
        container = state.container(instance_id, assignment.container_generation)
        namespace = state.namespaces.get(instance_id)
        missing, unknown = self._networks_of(assignment)
        return InstanceView(
            assignment=assignment,
            local=self._journal.local(instance_id),
            boot_id=self._boot_id,
            container=container,
            old_containers=state.others(instance_id, assignment.container_generation),
            has_image=assignment.container.image in state.images,
            missing_networks=missing,
            unknown_networks=unknown,
            has_namespace=namespace is not None,
            is_namespace_lost=instance_id in state.lost_namespaces,
            nics=namespace.nics if namespace else None,
            filters=namespace.filters if namespace else None,
            wanted_filters=filters_of(assignment, self._journal.security_groups, self._journal.group_members),
            has_key=container is not None and container.container_id in state.keys,
            ports=state.ports.get(instance_id),
            has_files=instance_id in state.folders,
            payloads=state.payloads.get(instance_id, ()),
            is_held=instance_id in state.held,
            has_volumes=self._executor.volumes.is_ready(assignment),
            retry_at=self._retry_at.get(instance_id),
            lease_wait_seconds=self._executor.lease_wait_seconds(instance_id),
            leased=self._executor.leased(instance_id),
            hold=self._hold(assignment),
        )

    async def reconcile_once(self, instance_id: InstanceId) -> bool:
        """One turn: look, plan, report, carry out. Returns whether nothing is left to do."""
        return await self._turn(_Worker(instance_id))

    async def _work(self, worker: _Worker) -> None:
        try:
            while True:
                worker.woken.clear()
                is_done = await self._turn(worker)
                if is_done and not worker.woken.is_set():
                    return
        finally:
            if self._workers.get(worker.instance_id) is worker:
                del self._workers[worker.instance_id]

    async def _turn(self, worker: _Worker) -> bool:
        instance_id = worker.instance_id
        worker.has_new_assignment = False
        view = self.view(instance_id)
        if view is None:
            self._watch(instance_id, None)
            return True
        steps = plan(view, self._clock.monotonic())
        self._report(view, steps, worker)
        self._watch(instance_id, watched(view, steps))
        if view.assignment.desired is DesiredState.DELETED and is_gone(view):
            self._end(view)
            return True
        if not steps:
            return True
        if isinstance(steps[0], do.WaitBackoff):
            await self._pause(worker, steps[0].seconds)
            return False
        error = await self._carry_out(worker, view, steps)
        if error is None:
            worker.failures, worker.trouble = 0, None
        else:
            await self._failed(worker, error[0], error[1])
        return False

    def _report(self, view: InstanceView, steps: Sequence[do.Action], worker: _Worker) -> None:
        if view.assignment.instance_id not in self._journal.orphans:
            self._publish(report(view, steps, worker.trouble, pull_percent=worker.pull_percent))

    def _end(self, view: InstanceView) -> None:
        instance_id = view.assignment.instance_id
        self._retry_at.pop(instance_id, None)
        self._on_gone(view.assignment)
        if instance_id in self._journal.orphans:
            self._sweeping.discard(instance_id)
            self._journal.forget(instance_id)

    async def _carry_out(
        self, worker: _Worker, view: InstanceView, steps: Sequence[do.Action]
    ) -> tuple[do.Action, BaseException] | None:
        """Do the steps side by side. Returns the first that failed; a step that was cut short is no failure."""
        if len(steps) == 1 and not isinstance(steps[0], do.INTERRUPTIBLE):
            try:
                await self._do(worker, view, steps[0])
            except Exception as exc:  # noqa: BLE001 - handed to _failed, which reports it
                return steps[0], exc
            return None
        tasks = {
            self._tasks.spawn(self._do(worker, view, step), name=f"{type(step).__name__} {worker.instance_id}"): step
            for step in steps
        }
        try:
            await self._until_done(worker, tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for task, step in tasks.items():
            if not task.cancelled() and (error := task.exception()) is not None:
                return step, error
        return None

    async def _until_done(self, worker: _Worker, tasks: "dict[asyncio.Task[None], do.Action]") -> None:
        pending = set(tasks)
        while pending:
            waking = asyncio.ensure_future(worker.woken.wait())
            try:
                await asyncio.wait({*pending, waking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()
            pending = {task for task in pending if not task.done()}
            if worker.woken.is_set() and pending:
                worker.woken.clear()
                for task in pending:
                    if isinstance(tasks[task], do.INTERRUPTIBLE) and not self._is_still_wanted(worker, tasks[task]):
                        task.cancel()

    def _is_still_wanted(self, worker: _Worker, step: do.Action) -> bool:
        view = self.view(worker.instance_id)
        if view is None:
            return False
        steps = plan(view, self._clock.monotonic())
        self._report(view, steps, worker)
        if isinstance(step, do.Stop) and not any(is_alive(c) for c in (view.container, *view.old_containers)):
            return True  # the process has ended: the answer to the stop is on its way
        return any(_is_same(step, other) for other in steps)

    async def _do(self, worker: _Worker, view: InstanceView, step: do.Action) -> None:
        log.debug("step", extra={"instance": worker.instance_id, "step": type(step).__name__, "why": step.why})
        if isinstance(step, _HEAVY):
            async with self._heavy.take(0 if isinstance(step, do.Start) else 1):
                await self._dispatch(worker, view, step)
        elif isinstance(step, do.Pull):
            async with self._pulls:
                await self._dispatch(worker, view, step)
        else:
            await self._dispatch(worker, view, step)

    async def _dispatch(self, worker: _Worker, view: InstanceView, step: do.Action) -> None:
        executor, assignment, instance_id = self._executor, view.assignment, worker.instance_id
        match step:
            case do.BeginRun():
                await executor.begin_run(assignment, is_restart=step.is_restart)
            case do.AbandonRun():
                executor.abandon_run(instance_id)
            case do.RecordStart():
                assert view.container is not None
                executor.record_start(instance_id, view.container)
            case do.RecordExit():
                await executor.record_exit(
                    assignment,
                    step.container_id,
                    is_host_reboot=step.is_host_reboot,
                    is_lease_lost=step.is_lease_lost,
                )
                self._set_retry(instance_id, is_host_reboot=step.is_host_reboot)
            case do.Pull():
                await executor.pull(step.image, lambda percent: self._on_percent(worker, percent))
            case do.EnsureNetwork():
                await executor.ensure_network(step.network_id)
            case do.PrepareNamespace():
                await executor.prepare_namespace(assignment)
                self._tell_left(assignment, view.nics)
            case do.ApplyFilters():
                await executor.apply_filters(assignment)
            case do.PlacePayloads():
                running = view.container if is_alive(view.container) else None
                await executor.place_payloads(assignment, running)
            case do.PrepareVolumes():
                await executor.volumes.prepare(assignment)
            case do.CreateContainer():
                await executor.create_container(assignment)
            case do.PublishRuntimeKey():
                executor.publish_key(instance_id, step.container_id)
            case do.PublishPorts():
                await executor.publish_ports(assignment)
            case do.Start():
                await executor.start(assignment, step.container_id)
            case do.Stop():
                await executor.stop(
                    instance_id,
                    step.container_id,
                    grace_seconds=step.grace_seconds,
                    signal=step.signal,
                    is_failure=step.is_failure,
                )
            case do.Pause():
                await executor.pause(instance_id, step.container_id)
            case do.Unpause():
                await executor.unpause(instance_id, step.container_id)
            case do.UpdateLimits():
                await executor.update_limits(assignment, step.container_id)
            case do.SetHostName():
                await executor.set_host_name(assignment, step.container_id)
            case do.RemoveContainer():
                await executor.remove_container(instance_id, step.container_id)
            case do.RemoveNamespace():
                await executor.remove_namespace(instance_id)
            case do.RemoveFiles():
                executor.remove_files(instance_id)
            case _:
                raise AssertionError(f"no way to do {step}")

    def _tell_left(self, assignment: InstanceAssignment, before: Sequence[NicAssignment] | None) -> None:
        left = {nic.network_id for nic in before or ()} - {nic.network_id for nic in assignment.nics}
        if left:
            self._on_left(left)

    async def _failed(self, worker: _Worker, step: do.Action, error: BaseException) -> None:
        instance_id = worker.instance_id
        if isinstance(error, MoorageError):
            reason, message = error.reason, error.message
            log.warning("a step failed", extra={"instance": instance_id, "step": type(step).__name__, "reason": reason})
        else:
            reason, message = "INTERNAL", f"{type(step).__name__} failed: {error}"
            log.error("a step failed unexpectedly", exc_info=error, extra={"instance": instance_id})
        local = self._journal.local(instance_id)
        is_hopeless = isinstance(error, MoorageError) and not error.retryable
        if is_hopeless and local.stage is RunStage.BEGUN and isinstance(step, _BRINGING_UP):
            self._executor.fail_run(instance_id, reason, message, is_final=isinstance(error, InvalidSpec))
            self._set_retry(instance_id, is_host_reboot=False)
            worker.failures, worker.trouble = 0, None
            return
        worker.failures += 1
        worker.trouble = Trouble(reason, message, worker.failures)
        if (view := self.view(instance_id)) is not None:
            self._report(view, [step], worker)
        delay = min(_BACKOFF.initial * 2.0 ** min(worker.failures - 1, 20), _BACKOFF.maximum)
        # Limits below what is used may have to wait for long, and must not keep the end of the process waiting.
        is_patient = not isinstance(step, do.UpdateLimits)
        await self._pause(worker, delay * (1.0 - _BACKOFF.jitter * self._random()), only_assignments=is_patient)

    async def _pause(self, worker: _Worker, seconds: float, *, only_assignments: bool = False) -> None:
        """Wait for `seconds` or until woken."""
        if only_assignments and worker.has_new_assignment:
            return
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            while not sleeping.done():
                waking = asyncio.ensure_future(worker.woken.wait())
                try:
                    await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waking.cancel()
                if worker.woken.is_set():
                    worker.woken.clear()
                    if worker.has_new_assignment or not only_assignments:
                        return
        finally:
            sleeping.cancel()

    def _set_retry(self, instance_id: InstanceId, *, is_host_reboot: bool) -> None:
        view = self.view(instance_id)
        if view is not None and not is_host_reboot and not view.local.was_asked_to_stop:
            self._retry_at[instance_id] = self._clock.monotonic() + backoff_seconds(view)
        else:
            self._retry_at.pop(instance_id, None)

    def _take_up_backoff(self, instance_id: InstanceId) -> None:
        """A restart that an earlier agent had put off comes when it would have come, and never later than a whole back-off."""
        view = self.view(instance_id)
        if view is None or view.local.stage is not RunStage.ENDED or view.local.finished_at is None:
            return
        if view.local.was_asked_to_stop or view.local.reason == HOST_REBOOTED:
            return
        whole = backoff_seconds(view)
        passed = self._clock.now().timestamp() - view.local.finished_at
        self._retry_at[instance_id] = self._clock.monotonic() + max(0.0, whole - max(0.0, passed))

    def _on_percent(self, worker: _Worker, percent: int) -> None:
        if percent != worker.pull_percent:
            worker.pull_percent = percent
            if (view := self.view(worker.instance_id)) is not None:
                self._report(view, [do.Pull("", view.assignment.container.image)], worker)

    def _networks_of(self, assignment: InstanceAssignment) -> tuple[tuple[NetworkId, ...], tuple[NetworkId, ...]]:
        missing, unknown = [], []
        for network_id in dict.fromkeys(nic.network_id for nic in assignment.nics):
            wanted, done = self._journal.networks.get(network_id), self._state.networks.get(network_id)
            if wanted is None:
                if done is None:
                    unknown.append(network_id)
            elif done is None or done.plumbing() != wanted.plumbing():
                missing.append(network_id)
        return tuple(missing), tuple(unknown)


def _is_same(step: do.Action, other: do.Action) -> bool:
    return type(step) is type(other) and replace(step, why="") == replace(other, why="")

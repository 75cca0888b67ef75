"""One watch over each running instance that has probes: does what the plan says, and records the verdict.

The worker of an instance says at each of its turns which process is to be watched (`follow`), and is woken whenever the
verdict on it has changed. A watch is one task that sleeps until a check is due; hundreds of them cost next to nothing.
"""

import asyncio
import logging
import random as random_module
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from hostagent.journal.journal import Journal
from hostagent.journal.state import ProbeVerdict, RunStage
from hostagent.probe_domain import Probes
from hostagent.probes.checks import Checks, Target
from hostagent.probes.plan import Action, Check, Kind, Outcome, Wait, begin, begun, ended, identified, plan, probe_of
from hostagent.probes.ports import ProbeEngine, ProbeFabric
from moorage.clock import Clock
from moorage.errors import MoorageError, StoreUnavailable
from moorage.ids import InstanceId
from moorage.retry import RandomFraction
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A process that runs and shall go on, and what it is asked."""

    target: Target
    run: int
    probes: Probes


@dataclass(slots=True)
class _Watching:
    what: Watched
    task: "asyncio.Task[None]"


class ProbeKeeper:
    """Starts and ends the watches.

    Args:
        wake: has the worker of an instance look at it again.
        tasks: owns the watches and their checks.
    """

    def __init__(
        self,
        *,
        engine: ProbeEngine,
        fabric: ProbeFabric,
        journal: Journal,
        clock: Clock,
        tasks: TaskOwner,
        wake: Callable[[InstanceId], None],
        random: RandomFraction = random_module.random,
    ) -> None:
        self._engine = engine
        self._checks = Checks(engine, fabric)
        self._journal = journal
        self._clock = clock
        self._tasks = tasks
        self._wake = wake
        self._random = random
        self._watching: dict[InstanceId, _Watching] = {}

    @property
    def watched(self) -> frozenset[InstanceId]:
        """Instances that are being watched."""
        return frozenset(self._watching)

    def follow(self, instance_id: InstanceId, what: Watched | None) -> None:
        """Watch this process, and no other of the instance; None: nothing of it."""
        known = self._watching.get(instance_id)
        if known is not None:
            if known.what == what:
                return
            known.task.cancel()
            del self._watching[instance_id]
        if what is not None:
            task = self._tasks.spawn(self._watch(what), name=f"probes of {instance_id}")
            self._watching[instance_id] = _Watching(what, task)

    async def _watch(self, what: Watched) -> None:
        found = await self._process(what)
        if found is None:
            return
        before = self._journal.local(what.target.instance_id).verdict
        verdict = identified(what.probes, before, found)
        is_known = verdict == before
        watch = begin(what.probes, verdict, self._clock.monotonic(), is_known=is_known, offset=self._random())
        checks: dict[asyncio.Task[Outcome], Kind] = {}
        try:
            while await self._record(what, watch.verdict):
                actions = plan(watch, self._clock.monotonic())
                due = [action.kind for action in actions if isinstance(action, Check)]
                for kind in due:
                    watch = begun(watch, kind)
                    checks[self._start(what, kind)] = kind
                if due:
                    continue
                if not actions and not checks:
                    return  # nothing to ask, or no more
                await self._until_something_is_due(checks, next(iter(actions), None))
                for task in [task for task in checks if task.done()]:
                    watch = ended(what.probes, watch, checks.pop(task), _outcome(task), self._clock.monotonic())
        finally:
            for task in checks:
                task.cancel()
            if checks:
                await asyncio.wait(checks)

    async def _process(self, what: Watched) -> str | None:
        """What tells the process from others in the same container; None if the container is gone."""
        while True:
            try:
                seen = await self._engine.inspect(what.target.container_id)
            except MoorageError:
                await self._clock.sleep(_LOOK_AGAIN_SECONDS)
            else:
                return None if seen is None else f"{seen.pid} {seen.started_at}"

    def _start(self, what: Watched, kind: Kind) -> "asyncio.Task[Outcome]":
        probe = probe_of(what.probes, kind)
        assert probe is not None
        work = self._checks.make(probe, what.target)
        return self._tasks.spawn(work, name=f"{kind.value} probe of {what.target.instance_id}")

    async def _until_something_is_due(self, checks: "Collection[asyncio.Task[Outcome]]", action: Action | None) -> None:
        waiting: set[asyncio.Future[Any]] = set(checks)
        sleeping = None
        if isinstance(action, Wait):
            sleeping = asyncio.ensure_future(self._clock.sleep(action.seconds))
            waiting.add(sleeping)
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if sleeping is not None:
                sleeping.cancel()

    async def _record(self, what: Watched, verdict: ProbeVerdict) -> bool:
        """Keep the verdict and have it acted on; whether the process is still the one that is watched, and shall go on.

        It is durable before it is told: an agent that is killed then does not take it back.
        """
        instance_id = what.target.instance_id
        local = self._journal.local(instance_id)
        if local.run != what.run or local.stage is not RunStage.STARTED:
            return False
        if local.verdict != verdict:
            self._journal.set_local(instance_id, replace(local, verdict=verdict))
            if verdict.failure:
                log.warning(
                    "a probe has failed",
                    extra={"instance": instance_id, "reason": verdict.failure, "probe": verdict.words},
                )
            try:
                await self._journal.commit()
            except (
                StoreUnavailable
            ) as error:  # the journal's writer has told the log; what is true is told all the same
                log.debug("a verdict is not durable", extra={"instance": instance_id, "problem": error.message})
            self._wake(instance_id)
        return not verdict.failure


def _outcome(task: "asyncio.Task[Outcome]") -> Outcome:
    """What came of a check; one that ended with an error of ours says nothing, and does not end the watch."""
    error = task.exception()
    if error is not None:
        log.error("a check failed unexpectedly", exc_info=error, extra={"check": task.get_name()})
        return Outcome(None)
    return task.result()

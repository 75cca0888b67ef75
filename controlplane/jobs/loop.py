"""Wakes up on changes of jobs and their instances and when something is due, lets `plan.py` and `cron.py` decide, commits.
Level-triggered: what was missed is seen with the next look.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from controlplane.domain.instances import Instance
from controlplane.domain.jobs import CronJob, Job
from controlplane.domain.kinds import CRON_JOB, GROUP, INSTANCE, JOB
from controlplane.history import record_event
from controlplane.jobs import cron as crons
from controlplane.jobs import plan as jobs
from controlplane.order.reading import dependents_of, what_comes_first
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.cron_jobs import jobs_of, make_job
from controlplane.services.instance_making import InstanceMaking, Membership, NewInstance
from controlplane.services.jobs import ask_removal
from moorage.errors import HistoryCompacted, MoorageError
from moorage.store.base import Change, Kind, Transaction, View

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Without anything due. It also bounds how late a clock that was set forward is noticed.
_LONGEST_SLEEP_SECONDS = 20.0
#: What was refused (a quota, no address) may be free again without any of our records telling.
_REFUSED = timedelta(seconds=5)


class Jobs:
    """Owns jobs and cron jobs: the only one that makes their instances and judges them. `run` and `keep_time` are tasks of main.py's."""

    def __init__(self, context: Context, making: InstanceMaking) -> None:
        self._context = context
        self._making = making
        self._looks: dict[str, datetime] = {}  # name of a job or cron job -> when to look again
        self._is_timed = asyncio.Event()  # something came into _looks

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            _, watch = self._context.store.view_and_watch((JOB, CRON_JOB, GROUP, INSTANCE))
            async with watch:
                await self.reconcile_once()
                try:
                    async for batch in watch:
                        await self._settle(_touched(self._context.store.view(), batch.changes))
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at every job")

    async def keep_time(self) -> None:
        """Look again at what is due, until cancelled."""
        while True:
            self._is_timed.clear()
            now = self._context.clock.now()
            if due := sorted(name for name, time in self._looks.items() if time <= now):
                await self._settle(due)
            else:
                await self._sleep_until(min(self._looks.values(), default=None))

    async def reconcile_once(self) -> None:
        """One turn over every cron job and job."""
        view = self._context.store.view()
        names = [found.value.name for found in view.all(CRON_JOB)]
        await self._settle(names + [found.value.name for found in view.all(JOB)])

    async def _settle(self, names: Iterable[str]) -> None:
        """One look at each, and the time of the next."""
        for name in names:
            next_look = await (self._settle_cron(name) if "/cronJobs/" in name else self._settle_job(name))
            self._looks.pop(name, None)
            if next_look is not None:
                self._looks[name] = next_look
                self._is_timed.set()

    async def _sleep_until(self, time: datetime | None) -> None:
        seconds = _LONGEST_SLEEP_SECONDS if time is None else (time - self._context.clock.now()).total_seconds()
        # Never long: the clock may be set, and an earlier time may come up.
        sleeping = asyncio.ensure_future(self._context.clock.sleep(min(max(seconds, 0.0), _LONGEST_SLEEP_SECONDS)))
        waiting = asyncio.ensure_future(self._is_timed.wait())
        try:
            await asyncio.wait((sleeping, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waiting.cancel()

    async def _settle_job(self, name: str) -> datetime | None:
        """Decide, and carry it out in one transaction on the newest state. Where an instance is refused (a quota, no address), fewer are
        tried, so that what has room goes on, and the job says what it lacks. Returns when to look again.
        """
        job = _find(self._context.store.view(), JOB, name)
        if job is None:
            return None
        turn = self._plan_job(self._context.store.view(), job)
        if not turn.actions and turn.job == job:
            return turn.next_look
        most, refusal = jobs.LARGEST_TURN, None
        while (refused := await self._try_turn(name, most, refusal)) is not None:
            most, refusal = most // 2, refused
        if refusal is not None:
            return self._context.clock.now() + _REFUSED
        return turn.next_look

    async def _try_turn(self, name: str, most: int, refusal: MoorageError | None) -> MoorageError | None:
        """One turn with at most so many new instances. Returns why it could not be; then nothing was done."""
        try:
            await self._context.store.update(lambda tx: self._turn_job(tx, name, most, refusal))
        except MoorageError as error:
            if most == 0:
                raise
            return error
        return None

    def _plan_job(self, view: View, job: Job) -> jobs.Turn:
        members = [found.value for found in view.find(INSTANCE, "owner", job.name)]
        return jobs.plan(
            job,
            members,
            self._context.clock.now(),
            waits_for=what_comes_first(view, job.spec.depends_on, is_update=False) if job.start_time is None else "",
            is_needed=bool(dependents_of(view, job.name)),
        )

    def _turn_job(self, tx: Transaction, name: str, most: int, refusal: MoorageError | None) -> None:
        job = _find(tx, JOB, name)
        if job is None:
            return
        turn = self._plan_job(tx, job)
        after, made = turn.job, 0
        for action in turn.actions:
            match action:
                case jobs.Make():
                    if made < most:
                        after = jobs.with_made(after, action, self._make(tx, job, action))
                        made += 1
                case jobs.Remove():
                    if (instance := lookup.by_uid(tx, INSTANCE, action.instance_uid)) is not None:
                        self._making.ask_removal(tx, instance, action.why)
                case jobs.Forget():
                    tx.delete(JOB, JOB.key(job))
                    record_event(tx, self._context.clock, job, "DELETED", action.why, project=job.project)
                    return
        if not jobs.is_ended(after) and after.reason != jobs.WAITS_FOR_OTHERS:
            reason, message = (refusal.reason, refusal.message) if refusal is not None else ("", "")
            after = replace(after, reason=reason, message=message)
        if after != job:
            tx.put(JOB, after)
        if after.reason and after.reason != job.reason:
            self._tell(tx, after, after.reason, after.message, is_bad=True)
        elif jobs.is_ended(after) and not jobs.is_ended(job):
            self._tell(tx, after, after.state.name, f"{len(after.begun)} done")

    def _make(self, tx: Transaction, job: Job, action: jobs.Make) -> Instance:
        spec = job.spec.instance
        own = {
            "MOORAGE_JOB": job.id,
            "MOORAGE_JOB_INDEX": str(action.index),
            "MOORAGE_JOB_ATTEMPT": str(action.attempt),
        }
        wanted = NewInstance(
            f"{job.id[:50].rstrip('-')}-{action.index}-{self._context.new_id()[:6]}",
            job.spec.instance_labels,
            replace(spec, env={**spec.env, **own}),
            "job.spec.instance",
        )
        membership = Membership(job.name, action.index, avoid_hosts=action.avoid_hosts)
        (made,) = self._making.admit_all(tx, job.project, [wanted], membership, action.why)
        return made

    async def _settle_cron(self, name: str) -> datetime | None:
        """Decide, and carry it out on the newest state; the cursor moves with what is made, in one transaction.

        Returns when to look again.
        """
        store = self._context.store
        cron = _find(store.view(), CRON_JOB, name)
        if cron is None:
            return None
        turn = crons.plan(cron, jobs_of(store.view(), cron), self._context.clock.now())
        if turn.actions or turn.cron != cron:
            try:
                await store.update(lambda tx: self._turn_cron(tx, name))
            except MoorageError as error:  # its job's name is taken: this time gets no job, and says why
                refusal = error
                await store.update(lambda tx: self._skip(tx, name, refusal))
        return turn.next_look

    def _turn_cron(self, tx: Transaction, name: str) -> None:
        cron = _find(tx, CRON_JOB, name)
        if cron is None:
            return
        turn = crons.plan(cron, jobs_of(tx, cron), self._context.clock.now())
        for action in turn.actions:
            match action:
                case crons.MakeJob(scheduled, why):
                    make_job(
                        tx, self._context, cron, self._context.new_id(), crons.job_id(cron, scheduled), scheduled, why
                    )
                case crons.DeleteJob(job_uid, why):
                    if (job := lookup.by_uid(tx, JOB, job_uid)) is not None:
                        ask_removal(tx, self._context, job, why)
                case crons.ForgetCronJob(why):
                    tx.delete(CRON_JOB, CRON_JOB.key(cron))
                    record_event(tx, self._context.clock, cron, "DELETED", why, project=cron.project)
                    return
        if turn.cron != cron:
            tx.put(CRON_JOB, turn.cron)
        if turn.cron.reason and turn.cron.message != cron.message:
            self._tell(tx, turn.cron, turn.cron.reason, turn.cron.message, is_bad=True)

    def _skip(self, tx: Transaction, name: str, refusal: MoorageError) -> None:
        cron = _find(tx, CRON_JOB, name)
        if cron is None:
            return
        decided = crons.plan(cron, jobs_of(tx, cron), self._context.clock.now()).cron
        changed = replace(decided, last_time=cron.last_time, reason=refusal.reason, message=refusal.message)
        tx.put(CRON_JOB, changed)
        self._tell(tx, changed, refusal.reason, refusal.message, is_bad=True)

    def _tell(self, tx: Transaction, target: Job | CronJob, reason: str, message: str, *, is_bad: bool = False) -> None:
        severity = "warning" if is_bad else "normal"
        record_event(tx, self._context.clock, target, reason, message, project=target.project, severity=severity)


def _find(view: View, kind: Kind[T], name: str) -> T | None:
    _, project, _, last = name.split("/")
    found = view.get(kind, f"{project}/{last}")
    return found.value if found is not None else None


def _touched(view: View, changes: Iterable[Change]) -> list[str]:
    """Names of the cron jobs and jobs that changes can mean something to; cron jobs first."""
    about: set[str] = set()  # groups, jobs and cron jobs
    for change in changes:
        for side in (change.before, change.after):
            if side is not None:
                about.add(side.value.owner if change.kind is INSTANCE else side.value.name)
                about.add(side.value.cron_job if change.kind is JOB else "")
    about.discard("")
    waiting = {found.value.name for name in about for found in view.find(JOB, "named", name)}
    return sorted({name for name in about if "/jobs/" in name or "/cronJobs/" in name} | waiting)

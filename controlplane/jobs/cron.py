"""Which times of a cron job get a job. Pure.

`decided_until` moves in the transaction that makes the job, so that each time is decided exactly once, whenever the control plane dies.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from controlplane.domain.jobs import CronJob, Job, JobState, OverlapPolicy
from controlplane.domain.schedule import due_times, next_due, parse_schedule, parse_zone
from controlplane.jobs.plan import is_ended

DEFAULT_CATCH_UP_SECONDS = 600.0
DEFAULT_KEPT = 3


@dataclass(frozen=True, slots=True)
class MakeJob:
    """Make the job of a scheduled time."""

    scheduled_time: datetime
    why: str


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Ask for a job's removal."""

    job_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class ForgetCronJob:
    """No job is left of one that is deleted."""

    why: str


@dataclass(frozen=True, slots=True)
class CronTurn:
    """One decision: the record as it shall be, what to do, and when to look again if nothing changes."""

    cron: CronJob
    actions: tuple[MakeJob | DeleteJob | ForgetCronJob, ...] = ()
    next_look: datetime | None = None


def job_id(cron: CronJob, scheduled: datetime) -> str:
    """The last part of the name of a time's job."""
    return f"{cron.id}-{scheduled.astimezone(UTC):%Y%m%d%H%M}"


def next_time(cron: CronJob, now: datetime) -> datetime | None:
    """When it is due next; None: suspended, or never again."""
    if cron.spec.suspended or cron.is_deleting:
        return None
    return next_due(parse_schedule(cron.spec.schedule), parse_zone(cron.spec.time_zone), max(now, cron.decided_until))


def plan(cron: CronJob, jobs: Sequence[Job], now: datetime) -> CronTurn:
    """Decide.

    Args:
        jobs: every job that it made and that still has a record.
    """
    if cron.is_deleting:
        deletes = tuple(DeleteJob(job.uid, f"{cron.name} is deleted") for job in jobs if not job.is_deleting)
        return CronTurn(cron, deletes or (() if jobs else (ForgetCronJob("it is deleted"),)))
    deletes = tuple(_history(cron, jobs))
    if cron.spec.suspended:
        return CronTurn(cron, deletes)
    begin, newest, has_missed = _newest_due(cron, now)
    actions: tuple[MakeJob | DeleteJob | ForgetCronJob, ...] = ()
    if newest is not None:
        cron, actions = _decide(replace(cron, decided_until=newest), jobs, newest, has_missed)
    elif cron.pending_time is not None and not _unfinished(jobs):
        actions = (MakeJob(cron.pending_time, f"due at {_written(cron.pending_time)}, and the job before is gone"),)
        cron = replace(cron, pending_time=None, last_time=cron.pending_time, reason="", message="")
    elif has_missed:
        words = f"times up to {_written(begin)} were missed, and are too old to be caught up"
        cron = replace(cron, decided_until=begin, reason="MISSED", message=words)
    return CronTurn(cron, (*deletes, *actions), next_time(cron, now))


def _newest_due(cron: CronJob, now: datetime) -> tuple[datetime, datetime | None, bool]:
    """(since when times still count, the newest that is to be decided, whether others before it were missed)."""
    catch_up = DEFAULT_CATCH_UP_SECONDS if cron.spec.catch_up_seconds is None else cron.spec.catch_up_seconds
    schedule, zone = parse_schedule(cron.spec.schedule), parse_zone(cron.spec.time_zone)
    begin = max(cron.decided_until, now - timedelta(seconds=catch_up))
    due = [*itertools.takewhile(lambda time: time <= now, due_times(schedule, zone, begin))]
    first = next_due(schedule, zone, cron.decided_until)
    return begin, due[-1] if due else None, first is not None and first <= now and [first] != due[-1:]


def _decide(
    cron: CronJob, jobs: Sequence[Job], due: datetime, has_missed: bool
) -> tuple[CronJob, tuple[MakeJob | DeleteJob, ...]]:
    cron = replace(cron, reason="", message="")
    why = f"due at {_written(due)}" + ("; earlier times were missed and are left out" if has_missed else "")
    unfinished = _unfinished(jobs)
    policy = cron.spec.overlap
    if not unfinished or policy is OverlapPolicy.ALLOW:
        return replace(cron, last_time=due, pending_time=None), (MakeJob(due, why),)
    if policy is OverlapPolicy.REPLACE:
        deletes = tuple(
            DeleteJob(job.uid, f"{cron.name} is due again at {_written(due)}")
            for job in unfinished
            if not job.is_deleting
        )
        words = f"the job of {_written(due)} is made once {unfinished[0].name} is gone"
        return replace(cron, pending_time=due, reason="REPLACING", message=words), deletes
    words = f"{_written(due)} was left out, because {unfinished[0].name} had not ended"
    return replace(cron, reason="OVERLAP", message=words), ()


def _unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Those of which something may still be at work, also while they are being removed."""
    return sorted((job for job in jobs if not is_ended(job)), key=lambda job: job.id)


def _history(cron: CronJob, jobs: Sequence[Job]) -> list[DeleteJob]:
    found = []
    for state, kept in ((JobState.SUCCEEDED, cron.spec.kept_succeeded), (JobState.FAILED, cron.spec.kept_failed)):
        ended = sorted((job for job in jobs if job.state is state), key=lambda job: (job.create_time, job.uid))
        keep = DEFAULT_KEPT if kept is None else kept
        found += [
            DeleteJob(job.uid, f"{cron.name} keeps {keep} of its kind") for job in ended[: max(0, len(ended) - keep)]
        ]
    return found


def _written(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"

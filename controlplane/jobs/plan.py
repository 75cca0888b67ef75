"""What a job does next. Pure: its record, its instances and the time in; its next record and actions out.

Each index is tried until one instance of it ended with exit code 0. What was tried is in the job's record, in the transaction that makes
or judges an instance, so that a control plane that dies at any point goes on where it was and tries nothing twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controlplane.domain.claims import blocks_successor
from controlplane.domain.instances import DesiredState, Instance, InstanceState
from controlplane.domain.jobs import Job, JobIndex, JobSpec, JobState, is_over

WAITS_FOR_OTHERS = "WAITS_FOR_OTHERS"
DEFAULT_RETRIES = 3
DEFAULT_RETRY_DELAY_SECONDS = 5.0
LONGEST_RETRY_DELAY_SECONDS = 360.0
DEFAULT_KEEP_FINISHED_SECONDS = 3600.0
#: Ended instances of a job that are kept for their logs. More would hold addresses and room that others need.
KEPT_INSTANCES = 50
#: Instances that one turn makes at most: all that a job can have at a time.
LARGEST_TURN = 1000
#: Hosts that a try of an index stays away from, if it can: the last ones on which it failed.
_AVOIDED_HOSTS = 3


@dataclass(frozen=True, slots=True)
class Make:
    """Make an instance for an index; the loop writes it into the index."""

    index: int
    attempt: int  # from 1 on
    avoid_hosts: tuple[str, ...]  # uids
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Ask for an instance's removal."""

    instance_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is left of the job: its record goes."""

    why: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision: the record as it shall be, what to do, and when to look again if nothing changes."""

    job: Job
    actions: tuple[Make | Remove | Forget, ...] = ()
    next_look: datetime | None = None


def parallelism(spec: JobSpec) -> int:
    """Indexes at work at a time."""
    return spec.parallelism or 1


def completions(spec: JobSpec) -> int:
    """How many indexes there are."""
    return spec.completions or 1


def is_ended(job: Job) -> bool:
    """Whether it has ended, one way or the other."""
    return job.finish_time is not None


def plan(job: Job, members: Sequence[Instance], now: datetime, *, waits_for: str = "", is_needed: bool = False) -> Turn:
    """Decide.

    Args:
        members: every instance that it owns, also those that are being removed.
        waits_for: what must come first and is not so yet; it does not begin before.
        is_needed: others depend on it, so that it is kept.
    """
    if job.is_deleting:
        return _deletion(job, members, "the job is deleted")
    if is_ended(job):
        return _after_the_end(job, members, now, is_needed)
    if waits_for and job.start_time is None:
        return Turn(replace(job, reason=WAITS_FOR_OTHERS, message=waits_for))
    if job.reason == WAITS_FOR_OTHERS:
        job = replace(job, reason="", message="")
    job = _judged(job, {member.uid: member for member in members}, now)
    if job.start_time is None:
        job = replace(job, start_time=now)
    if is_ended(job := _ended(job, now)):
        return _after_the_end(job, members, now, is_needed)
    makes = _makes(job, now)
    state = JobState.RUNNING if makes or job.begun else JobState.PENDING
    return Turn(replace(job, state=state), (*_surplus(job, members), *makes), _next_look(job, now))


def _judged(job: Job, members: Mapping[str, Instance], now: datetime) -> Job:
    """With each index that is at work judged by its instance."""
    return replace(
        job,
        begun=tuple(
            _judge(job.spec, index, members.get(index.instance_uid), now) if index.instance_uid else index
            for index in job.begun
        ),
    )


def _judge(spec: JobSpec, index: JobIndex, member: Instance | None, now: datetime) -> JobIndex:
    if index.state is not JobState.RUNNING:
        return index
    if member is None:
        return _lost(spec, index, f"{index.instance} was removed before it had ended", now)
    observed = member.observed
    if observed.state is InstanceState.STOPPED and observed.exit_code == 0:
        return replace(index, state=JobState.SUCCEEDED, exit_code=0, message="")
    if member.given_up:
        if spec.never_twice or not blocks_successor(member):
            return _lost(spec, index, f"its host was lost: {member.given_up}", now)
        return replace(index, message="waits until what it claims is free for certain")
    if member.desired is DesiredState.DELETED:
        return index  # until nothing of it is left
    if is_over(member):
        failed = replace(
            index,
            exit_code=observed.exit_code,
            avoid_hosts=(*(uid for uid in index.avoid_hosts if uid != member.host_uid), member.host_uid)[
                -_AVOIDED_HOSTS:
            ],
        )
        return _failed(spec, failed, _words(member), now)
    return replace(index, message="") if index.message and not index.failures else index


def _words(member: Instance) -> str:
    """Why an instance's end is a failure."""
    observed = member.observed
    where = f"{member.name} on hosts/{member.host}" if member.host else member.name
    if observed.oom_killed:
        return f"{where} ran out of memory"
    if observed.exit_code is not None:
        return f"{where} ended with exit code {observed.exit_code}"
    return f"{where}: {observed.message or observed.reason or 'did not start'}"


def _lost(spec: JobSpec, index: JobIndex, why: str, now: datetime) -> JobIndex:
    """An instance of which nobody knows whether it did its work."""
    if spec.never_twice:
        return replace(
            index, state=JobState.FAILED, message=f"{why}; it may have done its work, and must not be tried twice"
        )
    return _failed(spec, index, why, now)


def _failed(spec: JobSpec, index: JobIndex, why: str, now: datetime) -> JobIndex:
    failures = index.failures + 1
    index = replace(index, failures=failures, message=why)
    if failures > (DEFAULT_RETRIES if spec.retries is None else spec.retries):
        return replace(index, state=JobState.FAILED)
    delay = (spec.retry_delay_seconds or DEFAULT_RETRY_DELAY_SECONDS) * 2.0 ** min(failures - 1, 20)
    wait = timedelta(seconds=min(delay, LONGEST_RETRY_DELAY_SECONDS))
    return replace(index, state=JobState.PENDING, instance_uid="", instance="", next_time=now + wait)


def _ended(job: Job, now: datetime) -> Job:
    """With its end, if this is it."""
    failed = [index for index in job.begun if index.state is JobState.FAILED]
    if failed:
        first = failed[0]
        tries = f"after {first.attempts} {'try' if first.attempts == 1 else 'tries'}"
        words = f"index {first.index} failed {tries}: {first.message}"
        return replace(job, state=JobState.FAILED, reason="RETRIES_EXHAUSTED", message=words, finish_time=now)
    if sum(index.state is JobState.SUCCEEDED for index in job.begun) == completions(job.spec):
        return replace(job, state=JobState.SUCCEEDED, reason="", message="", finish_time=now)
    limit = job.spec.active_deadline_seconds
    if limit and job.start_time is not None and now >= job.start_time + timedelta(seconds=limit):
        words = f"it had not ended {limit:g} s after its start"
        return replace(job, state=JobState.FAILED, reason="DEADLINE_EXCEEDED", message=words, finish_time=now)
    return job


def _makes(job: Job, now: datetime) -> tuple[Make, ...]:
    free = parallelism(job.spec) - sum(index.state is JobState.RUNNING for index in job.begun)
    found = [
        Make(index.index, index.attempts + 1, index.avoid_hosts, f"again, because {index.message}")
        for index in job.begun
        if index.state is JobState.PENDING and (index.next_time is None or index.next_time <= now)
    ]
    begun = {index.index for index in job.begun}
    fresh = (number for number in range(completions(job.spec)) if number not in begun)
    for number in fresh:
        if len(found) >= free:
            break
        found.append(Make(number, 1, (), f"index {number} of {job.name}"))
    return tuple(found[: max(free, 0)])


def with_made(job: Job, make: Make, instance: Instance) -> Job:
    """The record once an action's instance was made: in the same transaction."""
    old = next((index for index in job.begun if index.index == make.index), None)
    base = old or JobIndex(make.index, JobState.RUNNING)
    new = replace(
        base,
        state=JobState.RUNNING,
        instance_uid=instance.uid,
        instance=instance.name,
        attempts=make.attempt,
        next_time=None,
    )
    others = (index for index in job.begun if index.index != make.index)
    return replace(job, begun=tuple(sorted((*others, new), key=lambda index: index.index)))


def _next_look(job: Job, now: datetime) -> datetime | None:
    times = [index.next_time for index in job.begun if index.next_time is not None]
    if job.spec.active_deadline_seconds and job.start_time is not None:
        times.append(job.start_time + timedelta(seconds=job.spec.active_deadline_seconds))
    # What is overdue waits for a free place, which comes with a change.
    return min((time for time in times if time > now), default=None)


def _after_the_end(job: Job, members: Sequence[Instance], now: datetime, is_needed: bool) -> Turn:
    """What still runs of a failed job is removed; what ended is kept for its logs for a while."""
    staying = [member for member in members if member.desired is not DesiredState.DELETED]
    at_work = [member for member in staying if not is_over(member)]
    removes = [Remove(member.uid, f"{job.name} has ended: {job.message or job.state.name}") for member in at_work]
    assert job.finish_time is not None
    keep = job.spec.keep_finished_seconds
    if is_needed or (job.cron_uid and keep is None):
        end = None  # those that need it decide, or the cron job's history
    else:
        end = job.finish_time + timedelta(seconds=DEFAULT_KEEP_FINISHED_SECONDS if keep is None else keep)
    if end is not None and now >= end:
        return _deletion(job, members, "it was kept as long as it shall be")
    return Turn(job, (*removes, *_surplus(job, members)), end)


def _surplus(job: Job, members: Sequence[Instance]) -> list[Remove]:
    """The oldest of those that ended, beyond as many as are kept for their logs."""
    at_work = {index.instance_uid for index in job.begun if index.state is JobState.RUNNING}
    ended = [m for m in members if m.desired is not DesiredState.DELETED and is_over(m) and m.uid not in at_work]
    ended.sort(key=lambda member: (member.create_time, member.uid))
    return [
        Remove(m.uid, f"the newest {KEPT_INSTANCES} are kept") for m in ended[: max(0, len(ended) - KEPT_INSTANCES)]
    ]


def _deletion(job: Job, members: Sequence[Instance], why: str) -> Turn:
    job = replace(job, is_deleting=True, state=JobState.DELETING)
    if not members:
        return Turn(job, (Forget(why),))
    return Turn(job, tuple(Remove(m.uid, why) for m in members if m.desired is not DesiredState.DELETED))

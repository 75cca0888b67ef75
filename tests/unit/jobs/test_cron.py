"""Which times of a cron job get a job."""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.jobs import CronJob, CronJobSpec, Job, JobSpec, JobState, OverlapPolicy
from controlplane.jobs.cron import DeleteJob, ForgetCronJob, MakeJob, job_id, plan
from tests.unit.jobs import values as v

EVERY_MINUTE = CronJobSpec("* * * * *", job=JobSpec())
MINUTE = timedelta(minutes=1)
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def made(cron: CronJob, scheduled: datetime, state: JobState = JobState.RUNNING) -> Job:
    ended = scheduled if state in (JobState.SUCCEEDED, JobState.FAILED) else None
    return Job(
        f"u{scheduled:%H%M}",
        "p",
        job_id(cron, scheduled),
        scheduled,
        cron.spec.job,
        cron_uid=cron.uid,
        scheduled_time=scheduled,
        state=state,
        finish_time=ended,
    )


def test_due() -> None:
    cron = v.cron(EVERY_MINUTE)
    assert not plan(cron, (), v.NOW).actions
    assert plan(cron, (), v.NOW).next_look == NOON + MINUTE
    turn = plan(cron, (), NOON + MINUTE)
    assert [action.scheduled_time for action in turn.actions if isinstance(action, MakeJob)] == [NOON + MINUTE]
    assert not plan(turn.cron, (), NOON + MINUTE).actions


def test_of_missed_times_the_newest_if_it_is_not_too_old() -> None:
    cron = v.cron(replace(EVERY_MINUTE, catch_up_seconds=120))
    turn = plan(cron, (), NOON + 90 * MINUTE + timedelta(seconds=20))
    (action,) = turn.actions
    assert isinstance(action, MakeJob)
    assert action.scheduled_time == NOON + 90 * MINUTE
    assert "missed" in action.why

    daily = v.cron(CronJobSpec("0 13 * * *", catch_up_seconds=120))
    late = plan(daily, (), NOON + 90 * MINUTE)
    assert not late.actions
    assert late.cron.reason == "MISSED"
    assert late.next_look == datetime(2026, 11, 26, 13, 0, tzinfo=UTC)


def test_overlap() -> None:
    due = NOON + MINUTE
    for policy, count, reason in (
        (OverlapPolicy.UNSPECIFIED, 0, "OVERLAP"),
        (OverlapPolicy.ALLOW, 1, ""),
        (OverlapPolicy.REPLACE, 0, "REPLACING"),
    ):
        cron = v.cron(replace(EVERY_MINUTE, overlap=policy))
        turn = plan(cron, [made(cron, NOON)], due)
        assert sum(isinstance(action, MakeJob) for action in turn.actions) == count
        assert turn.cron.reason == reason


def test_replacing_waits_until_the_one_before_is_gone() -> None:
    cron = v.cron(replace(EVERY_MINUTE, overlap=OverlapPolicy.REPLACE))
    old = made(cron, NOON)
    turn = plan(cron, [old], NOON + MINUTE)
    assert isinstance(turn.actions[0], DeleteJob)
    going = replace(old, is_deleting=True, state=JobState.DELETING)
    assert not plan(turn.cron, [going], NOON + MINUTE).actions
    later = plan(turn.cron, (), NOON + MINUTE)
    assert [a.scheduled_time for a in later.actions if isinstance(a, MakeJob)] == [NOON + MINUTE]
    assert not plan(later.cron, [made(cron, NOON + MINUTE)], NOON + MINUTE).actions


def test_suspended_and_deleted() -> None:
    cron = v.cron(replace(EVERY_MINUTE, suspended=True))
    assert plan(cron, (), NOON + MINUTE).actions == ()
    gone = replace(cron, is_deleting=True)
    assert isinstance(plan(gone, [made(cron, NOON)], NOON).actions[0], DeleteJob)
    assert isinstance(plan(gone, (), NOON).actions[0], ForgetCronJob)


def test_history() -> None:
    cron = v.cron(replace(EVERY_MINUTE, kept_succeeded=1))
    jobs = [made(cron, NOON - n * MINUTE, JobState.SUCCEEDED) for n in range(3)]
    jobs += [made(cron, NOON - n * MINUTE, JobState.FAILED) for n in range(5, 7)]
    deleted = {action.job_uid for action in plan(cron, jobs, v.NOW).actions if isinstance(action, DeleteJob)}
    assert deleted == {"u1159", "u1158"}


@given(st.sampled_from(OverlapPolicy), st.integers(0, 10**9))
def test_each_time_gets_at_most_one_job_and_none_is_skipped_without_a_reason(policy: OverlapPolicy, seed: int) -> None:
    """The loop dies before or after any commit, and is away for any time."""
    lot = random.Random(seed)
    cron = v.cron(replace(EVERY_MINUTE, overlap=policy))
    now, jobs = v.NOW, dict[str, Job]()
    times: Counter[datetime] = Counter()
    for _ in range(100):
        now += timedelta(seconds=lot.choice((1, 7, 60, 60, 3600)))
        turn = plan(cron, list(jobs.values()), now)
        if lot.random() < 0.2:
            continue  # died before it committed
        for action in turn.actions:
            if isinstance(action, MakeJob):
                times[action.scheduled_time] += 1
                new = made(cron, action.scheduled_time)
                jobs[new.uid] = new
            elif isinstance(action, DeleteJob):
                jobs[action.job_uid] = replace(jobs[action.job_uid], is_deleting=True)
        cron = turn.cron
        unfinished = sum(job.finish_time is None for job in jobs.values())
        assert policy is OverlapPolicy.ALLOW or unfinished <= 1
        for uid, job in list(jobs.items()):
            if job.is_deleting and lot.random() < 0.5:
                del jobs[uid]
            elif job.finish_time is None and lot.random() < 0.3:
                jobs[uid] = replace(job, state=JobState.SUCCEEDED, finish_time=now)
    assert set(times.values()) <= {1}
    assert times or cron.reason

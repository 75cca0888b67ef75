"""Jobs and cron jobs on real hosts, through `moor` and through the API."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from cli.dev.fleet import Fleet
from moorage.errors import NotFound, NotReady
from moorage.v1 import groups_pb2, jobs_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support.plane import Plane, shell, until

SUCCEEDED, FAILED = jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED


async def run(plane: Plane, job_id: str, script: str, **fields: object) -> jobs_pb2.Job:
    """Make a job and wait for its end."""
    spec = jobs_pb2.JobSpec(instance=plane.spec(command=shell(script)), **fields)  # type: ignore[arg-type]
    request = jobs_pb2.CreateJobRequest(parent=plane.project, job_id=job_id, job=jobs_pb2.Job(spec=spec))
    made = await plane.client.jobs.CreateJob(request)
    return await plane.client.wait_job(made.name, 60)


@pytest.fixture
async def jobs(plane: Plane) -> AsyncIterator[Plane]:
    """The API; what a test makes of jobs goes with it."""
    yield plane
    for cron in (
        await plane.client.cron_jobs.ListCronJobs(jobs_pb2.ListCronJobsRequest(parent=plane.project))
    ).cron_jobs:
        await plane.client.cron_jobs.DeleteCronJob(jobs_pb2.DeleteCronJobRequest(name=cron.name))
    listing = jobs_pb2.ListJobsRequest(parent=plane.project)
    for job in (await plane.client.jobs.ListJobs(listing)).jobs:
        await plane.client.jobs.DeleteJob(jobs_pb2.DeleteJobRequest(name=job.name))

    async def is_empty() -> bool:
        return not (await plane.client.jobs.ListJobs(listing)).jobs

    await until(is_empty, what="no jobs")


async def test_each_index_is_done_and_a_failure_is_tried_again(jobs: Plane) -> None:
    script = (
        'echo "index $MOORAGE_JOB_INDEX"; [ "$MOORAGE_JOB_INDEX" != 1 ] || [ "$MOORAGE_JOB_ATTEMPT" = 2 ] || exit 7'
    )
    ended = await run(jobs, "parts", script, completions=3, parallelism=3, retry_delay={"nanos": 100_000_000})
    assert ended.status.state == SUCCEEDED, ended
    assert [(one.index, one.attempts) for one in ended.status.indexes] == [(0, 1), (1, 2), (2, 1)]
    assert ended.status.failed == 1


async def test_what_fails_for_good_says_how(jobs: Plane, fleet: Fleet) -> None:
    ended = await run(jobs, "wrong", "echo no such table >&2; exit 3", retries=0)
    assert ended.status.state == FAILED
    assert ended.status.reason == "RETRIES_EXHAUSTED"
    assert "exit code 3" in ended.status.message
    with pytest.raises(NotFound):
        await jobs.client.wait_job(jobs.name("jobs", "never"), 5)


async def test_groups_and_jobs_begin_and_stop_in_order(jobs: Plane) -> None:
    """A database, then the job that prepares it, then what needs both; and away again."""

    def group(depends_on: Sequence[str]) -> groups_pb2.Group:
        return groups_pb2.Group(
            spec=groups_pb2.GroupSpec(
                replicas=2,
                instance=jobs.spec(),
                depends_on=[groups_pb2.Dependency(target=target) for target in depends_on],
            )
        )

    async def make(group_id: str, *depends_on: str) -> None:
        request = groups_pb2.CreateGroupRequest(parent=jobs.project, group_id=group_id, group=group(depends_on))
        await jobs.client.groups.CreateGroup(request)

    await make("db")
    spec = jobs_pb2.JobSpec(instance=jobs.spec(command=shell("true")), depends_on=[groups_pb2.Dependency(target="db")])
    await jobs.client.jobs.CreateJob(
        jobs_pb2.CreateJobRequest(parent=jobs.project, job_id="migrate", job=jobs_pb2.Job(spec=spec))
    )
    await make("web", "jobs/migrate")
    await jobs.client.wait_group(jobs.name("groups", "web"), 60)
    listing = pb.ListInstancesRequest(parent=jobs.project)
    started = {
        one.status.owner.rpartition("/")[2]: one.status.start_time.ToNanoseconds()
        for one in (await jobs.client.instances.ListInstances(listing)).instances
    }
    assert sorted(started, key=lambda owner: started[owner]) == ["db", "migrate", "web"]
    with pytest.raises(NotReady, match="comes first"):
        await jobs.client.groups.DeleteGroup(groups_pb2.DeleteGroupRequest(name=jobs.name("groups", "db")))
    request = groups_pb2.DeleteGroupRequest(name=jobs.name("groups", "db"), with_dependents=True)
    await jobs.client.groups.DeleteGroup(request)
    await jobs.client.wait_group_gone(jobs.name("groups", "db"), 60)
    assert not (await jobs.client.groups.ListGroups(groups_pb2.ListGroupsRequest(parent=jobs.project))).groups


async def test_a_cron_job_runs_by_the_clock_and_by_hand(jobs: Plane) -> None:
    spec = jobs_pb2.CronJobSpec(schedule="* * * * *", job=jobs_pb2.JobSpec(instance=jobs.spec(command=shell("date"))))
    request = jobs_pb2.CreateCronJobRequest(
        parent=jobs.project, cron_job_id="tick", cron_job=jobs_pb2.CronJob(spec=spec)
    )
    made = await jobs.client.cron_jobs.CreateCronJob(request)
    by_hand = await jobs.client.cron_jobs.RunCronJob(jobs_pb2.RunCronJobRequest(name=made.name))
    assert (await jobs.client.wait_job(by_hand.name, 30)).status.state == SUCCEEDED

    async def scheduled() -> list[jobs_pb2.Job]:
        found = await jobs.client.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent=jobs.project))
        return [one for one in found.jobs if one.status.HasField("scheduled_time")]

    (first, *_) = await until(scheduled, what="a job by the clock", within_seconds=65)
    assert first.status.scheduled_time.ToDatetime(UTC).second == 0
    assert first.create_time.ToDatetime(UTC) >= first.status.scheduled_time.ToDatetime(UTC)
    assert (await jobs.client.wait_job(first.name, 30)).status.state == SUCCEEDED
    assert made.status.next_time.ToDatetime(UTC) > datetime(2026, 1, 1, tzinfo=UTC)

"""Jobs and cron jobs over a store: what the services admit, and what the loop commits."""

import asyncio
from dataclasses import replace
from datetime import UTC, timedelta

import pytest

from controlplane.access.quota import Quota
from controlplane.domain.containers import RestartMode, RestartPolicy
from controlplane.domain.instances import Instance, InstanceSpec, InstanceState, Observed
from controlplane.domain.jobs import CronJob, CronJobSpec, Job, JobSpec, JobState, OverlapPolicy
from controlplane.domain.kinds import CRON_JOB, INSTANCE, JOB, PROJECT
from controlplane.jobs.loop import Jobs
from controlplane.services.instance_claims import release
from controlplane.services.paging import PageRequest
from moorage.errors import InvalidSpec, NotReady
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World

WEB = InstanceSpec(template="web")
ONCE = JobSpec(instance=WEB)


@pytest.fixture
def loop(world: World) -> Jobs:
    return Jobs(world.context, world.making)


def members(world: World, job_id: str = "work") -> list[Instance]:
    found = world.store.view().find(INSTANCE, "owner", f"projects/{P}/jobs/{job_id}")
    return sorted((one.value for one in found), key=lambda one: (one.slot, one.create_time, one.uid))


def job(world: World, job_id: str = "work") -> Job:
    return world.jobs.get(P, job_id)


async def end(world: World, instance: Instance, exit_code: int) -> None:
    """Its host says that its process has ended."""
    seen = replace(
        instance, host="h1", host_uid="uid-h1", observed=Observed(InstanceState.STOPPED, exit_code=exit_code)
    )
    await world.store.update(lambda tx: tx.put(INSTANCE, seen))


async def forget(world: World, *instances: Instance) -> None:
    """Their hosts say that nothing of them is left."""

    def write(tx: Transaction) -> None:
        for instance in instances:
            release(tx, instance, world.clock.now())

    await world.store.update(write)


async def test_from_create_to_the_end_and_away(world: World, loop: Jobs) -> None:
    await world.jobs.create(P, "work", {}, replace(ONCE, completions=2, instance_labels={"app": "w"}))
    await loop.reconcile_once()
    (first,) = members(world)
    assert first.effective.env["MOORAGE_JOB_INDEX"] == "0"
    assert first.effective.restart.mode is RestartMode.NEVER
    assert first.labels == {"app": "w"}
    await end(world, first, 0)
    await loop.reconcile_once()
    await end(world, members(world)[1], 0)
    await loop.reconcile_once()
    assert job(world).state is JobState.SUCCEEDED
    assert job(world).finish_time == world.clock.now()
    await world.jobs.delete(P, "work")
    await loop.reconcile_once()
    assert job(world).state is JobState.DELETING
    await forget(world, *members(world))
    await loop.reconcile_once()
    assert not world.store.view().count(JOB)
    assert "DELETED" in world.reasons()


async def test_a_retry_stays_away_from_where_it_failed(world: World, loop: Jobs) -> None:
    await world.jobs.create(P, "work", {}, ONCE)
    await loop.reconcile_once()
    await end(world, members(world)[0], 1)
    await loop.reconcile_once()
    assert len(members(world)) == 1
    world.clock.advance(5)
    await loop.reconcile_once()
    again = members(world)[1]
    assert again.avoid_hosts == ("uid-h1",)
    assert again.effective.env["MOORAGE_JOB_ATTEMPT"] == "2"


async def test_what_the_quota_allows_runs_and_the_rest_is_told(world: World, loop: Jobs) -> None:
    await world.jobs.create(P, "work", {}, replace(ONCE, completions=4, parallelism=4))
    project = world.projects.get(P)
    limited = replace(project, quota=Quota(instances=1))
    await world.store.update(lambda tx: tx.put(PROJECT, limited))
    await loop.reconcile_once()
    assert len(members(world)) == 1
    assert job(world).reason == "QUOTA_EXCEEDED"
    await world.store.update(lambda tx: tx.put(PROJECT, replace(world.projects.get(P), quota=Quota())))
    await loop.reconcile_once()
    assert len(members(world)) == 4
    assert job(world).reason == ""


async def test_users_cannot_start_its_instances_again(world: World, loop: Jobs) -> None:
    await world.jobs.create(P, "work", {}, ONCE)
    await loop.reconcile_once()
    (one,) = members(world)
    for change in (world.instances.start, world.instances.stop, world.instances.reboot):
        with pytest.raises(NotReady) as refused:
            await change(P, one.id)
        assert refused.value.reason == "INSTANCE_OWNED"


async def test_bad_fields_all_at_once(world: World) -> None:
    spec = JobSpec(
        instance=InstanceSpec("web", restart=RestartPolicy(RestartMode.ALWAYS), env={"MOORAGE_JOB_INDEX": "7"}),
        completions=-1,
        parallelism=2000,
        never_twice=True,
        retries=2,
    )
    cron = CronJobSpec("61 * * * *", "Mars/Olympus", catch_up_seconds=1, job=spec)
    with pytest.raises(InvalidSpec) as refused:
        await world.cron_jobs.create(P, "tick", {}, cron)
    reasons = {(v.field.removeprefix("cron_job.spec."), v.reason) for v in refused.value.violations}
    assert reasons == {
        ("schedule", "SCHEDULE_INVALID"),
        ("time_zone", "TIME_ZONE_UNKNOWN"),
        ("catch_up", "OUT_OF_RANGE"),
        ("job.instance.restart.mode", "NOT_ALLOWED"),
        ("job.instance.env[MOORAGE_JOB_INDEX]", "NOT_ALLOWED"),
        ("job.completions", "OUT_OF_RANGE"),
        ("job.parallelism", "OUT_OF_RANGE"),
        ("job.never_twice", "NOT_ALLOWED"),
    }
    assert not world.store.view().count(CRON_JOB)


async def test_filters(world: World) -> None:
    await world.jobs.create(P, "a", {"app": "x"}, ONCE)
    await world.jobs.create(P, "b", {}, ONCE)
    for text, names in (("labels.app=x", ["a"]), ("state=JOB_STATE_PENDING", ["a", "b"]), ("cron_job=c", [])):
        assert [found.value.id for found in world.jobs.list(P, PageRequest(filter=text)).items] == names


async def cron(world: World, schedule: str = "*/10 * * * *", **fields: object) -> CronJob:
    spec = CronJobSpec(schedule, job=ONCE, job_labels={"of": "tick"}, **fields)  # type: ignore[arg-type]
    return await world.cron_jobs.create(P, "tick", {}, spec)


def jobs_of(world: World) -> list[str]:
    return [found.value.id for found in world.store.view().all(JOB)]


async def test_a_time_gets_its_job_and_a_new_control_plane_makes_no_second(world: World, loop: Jobs) -> None:
    await cron(world)
    await loop.reconcile_once()
    assert not jobs_of(world)
    world.clock.advance(600)
    await loop.reconcile_once()
    (name,) = jobs_of(world)
    made = job(world, name)
    assert made.labels == {"of": "tick"}
    assert made.scheduled_time is not None
    assert name == f"tick-{made.scheduled_time:%Y%m%d%H%M}"
    await Jobs(world.context, world.making).reconcile_once()
    assert jobs_of(world) == [name]
    assert len(members(world, name)) == 1


async def test_of_times_that_were_missed_the_newest_is_caught_up(world: World) -> None:
    await cron(world, "* * * * *")
    world.clock.advance(300)
    await Jobs(world.context, world.making).reconcile_once()
    assert len(jobs_of(world)) == 1
    assert world.cron_jobs.get(P, "tick").last_time == world.clock.now().replace(second=0, microsecond=0)


async def test_a_taken_name_is_told_and_the_schedule_goes_on(world: World, loop: Jobs) -> None:
    made = await cron(world)
    due = made.create_time.replace(second=0, microsecond=0)
    due += timedelta(minutes=10 - due.minute % 10)
    await world.jobs.create(P, f"tick-{due.astimezone(UTC):%Y%m%d%H%M}", {}, ONCE)
    world.clock.advance(600)
    await loop.reconcile_once()
    assert world.cron_jobs.get(P, "tick").reason == "ALREADY_EXISTS"
    world.clock.advance(600)
    await loop.reconcile_once()
    assert len(jobs_of(world)) == 2
    assert world.cron_jobs.get(P, "tick").reason == ""


async def test_suspended_times_are_not_caught_up(world: World, loop: Jobs) -> None:
    await cron(world, suspended=True)
    world.clock.advance(900)
    await world.cron_jobs.update(P, "tick", spec_fields={"suspended": False})
    await loop.reconcile_once()
    assert not jobs_of(world)


async def test_run_by_hand_and_deleted_with_its_jobs(world: World, loop: Jobs) -> None:
    await cron(world, suspended=True, overlap=OverlapPolicy.FORBID)
    one = await world.cron_jobs.run(P, "tick", request_key="u/RunCronJob/1", body=b"x")
    same = await world.cron_jobs.run(P, "tick", request_key="u/RunCronJob/1", body=b"x")
    assert one.name == same.name
    await loop.reconcile_once()
    await world.cron_jobs.delete(P, "tick")
    for _ in range(4):
        await loop.reconcile_once()
    assert not jobs_of(world)
    assert not world.store.view().count(CRON_JOB)


async def test_the_clock_wakes_it(world: World, loop: Jobs) -> None:
    """Both tasks run as in the program; the clock alone makes the job."""
    await cron(world)
    tasks = [asyncio.ensure_future(loop.run()), asyncio.ensure_future(loop.keep_time())]
    try:
        async with asyncio.timeout(5):
            while not jobs_of(world):
                world.clock.advance(20)
                await asyncio.sleep(0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

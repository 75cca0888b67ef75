"""Jobs, cron jobs and their instances, for tests of the plans."""

from dataclasses import replace
from datetime import UTC, datetime

from controlplane.domain.instances import Instance, InstanceSpec, InstanceState, Observed
from controlplane.domain.jobs import CronJob, CronJobSpec, Job, JobSpec

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
_ONCE = JobSpec()


def job(spec: JobSpec = _ONCE, **changes: object) -> Job:
    """A job that nothing was made of yet."""
    return replace(Job("j", "p", "work", NOW, spec), **changes)  # type: ignore[arg-type]


def cron(spec: CronJobSpec, decided_until: datetime = NOW) -> CronJob:
    """A cron job whose times up to one are decided."""
    return CronJob("c", "p", "tick", NOW, spec, decided_until)


def member(uid: str, owner: str, index: int) -> Instance:
    """An instance of a job that was just made."""
    return Instance(
        uid,
        "p",
        uid,
        NOW,
        InstanceSpec(),
        InstanceSpec(),
        template_uid="t",
        image="i@d",
        platforms=(),
        owner=owner,
        slot=index,
        host_uid="h1",
        host="h1",
    )


def ended(instance: Instance, exit_code: int) -> Instance:
    """The same when its process has ended."""
    return replace(instance, observed=Observed(InstanceState.STOPPED, exit_code=exit_code))

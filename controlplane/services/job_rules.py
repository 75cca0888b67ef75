"""Field rules of jobs and cron jobs: everything that can be judged without looking at stored objects, all of it at once."""

from collections.abc import Callable, Iterator

from controlplane.domain.containers import RestartMode
from controlplane.domain.jobs import CronJobSpec, JobSpec
from controlplane.domain.names import check_id, check_labels
from controlplane.domain.schedule import parse_schedule, parse_zone
from controlplane.services import instance_rules
from moorage.errors import FieldViolation

LARGEST_COMPLETIONS = 1000
#: Names of instances end in an index and a few letters, those of a cron job's jobs in a time, and are as long as any at most.
LONGEST_JOB_ID = 63
LONGEST_CRON_JOB_ID = 50
#: What is less could be missed because a machine is busy.
SHORTEST_CATCH_UP_SECONDS = 60.0
LONGEST_CATCH_UP_SECONDS = 7 * 24 * 3600.0
_LARGEST_RETRIES = 100
_LARGEST_KEPT = 100
_LONGEST_SECONDS = 366 * 24 * 3600.0
#: Written into each instance's env.
OWN_ENV = ("MOORAGE_JOB", "MOORAGE_JOB_INDEX", "MOORAGE_JOB_ATTEMPT")

_JobCheck = Callable[[JobSpec, str], Iterator[FieldViolation]]


def check_job_spec(spec: JobSpec, field: str) -> list[FieldViolation]:
    """Every violation, in the order of the fields."""
    return [violation for check in _JOB_CHECKS for violation in check(spec, field)]


def check_cron_job_id(cron_job_id: str, field: str) -> list[FieldViolation]:
    """Nothing, or what is wrong with the last part of a new cron job's name."""
    found = check_id(cron_job_id, field)
    if not found and len(cron_job_id) > LONGEST_CRON_JOB_ID:
        text = f"must be at most {LONGEST_CRON_JOB_ID} characters: names of its jobs are made of it"
        found.append(FieldViolation(field, text, "NAME_INVALID"))
    return found


def check_cron_job_spec(spec: CronJobSpec, field: str) -> list[FieldViolation]:
    """Every violation, in the order of the fields."""
    return [*_schedule(spec, field), *_cron_limits(spec, field), *check_job_spec(spec.job, f"{field}.job")]


def _instance(spec: JobSpec, field: str) -> Iterator[FieldViolation]:
    where = f"{field}.instance"
    yield from instance_rules.check_spec(spec.instance, where)
    if spec.instance.restart.mode not in (RestartMode.UNSPECIFIED, RestartMode.NEVER):
        text = "must be RESTART_MODE_NEVER: it is the job that tries again (retries), also on another host"
        yield FieldViolation(f"{where}.restart.mode", text, "NOT_ALLOWED")
    if spec.instance.delete_protection:
        text = "is for instances that no job looks after; leave it out"
        yield FieldViolation(f"{where}.delete_protection", text, "NOT_ALLOWED")
    for name in OWN_ENV:
        if name in spec.instance.env:
            yield FieldViolation(f"{where}.env[{name}]", "is written by the job itself; leave it out", "NOT_ALLOWED")
    yield from check_labels(dict(spec.instance_labels), f"{field}.instance_labels")


def _limits(spec: JobSpec, field: str) -> Iterator[FieldViolation]:
    for name, value, most in (
        ("completions", spec.completions, LARGEST_COMPLETIONS),
        ("parallelism", spec.parallelism, LARGEST_COMPLETIONS),
        ("retries", spec.retries or 0, _LARGEST_RETRIES),
    ):
        if not 0 <= value <= most:
            yield FieldViolation(f"{field}.{name}", f"must be between 0 and {most}", "OUT_OF_RANGE")
    if spec.never_twice and spec.retries:
        text = "cannot be together with retries: an instance that failed may have done its work in part"
        yield FieldViolation(f"{field}.never_twice", text, "NOT_ALLOWED")
    for name, seconds in (
        ("retry_delay", spec.retry_delay_seconds),
        ("active_deadline", spec.active_deadline_seconds),
        ("keep_finished", spec.keep_finished_seconds or 0.0),
    ):
        if not 0 <= seconds <= _LONGEST_SECONDS:
            yield FieldViolation(f"{field}.{name}", "must be between 0 and one year", "OUT_OF_RANGE")


def _schedule(spec: CronJobSpec, field: str) -> Iterator[FieldViolation]:
    try:
        parse_schedule(spec.schedule)
    except ValueError as error:
        yield FieldViolation(f"{field}.schedule", str(error), "SCHEDULE_INVALID")
    try:
        parse_zone(spec.time_zone)
    except ValueError as error:
        yield FieldViolation(f"{field}.time_zone", str(error), "TIME_ZONE_UNKNOWN")


def _cron_limits(spec: CronJobSpec, field: str) -> Iterator[FieldViolation]:
    catch_up = spec.catch_up_seconds
    if catch_up is not None and not SHORTEST_CATCH_UP_SECONDS <= catch_up <= LONGEST_CATCH_UP_SECONDS:
        yield FieldViolation(f"{field}.catch_up", "must be between 1 minute and 7 days", "OUT_OF_RANGE")
    yield from check_labels(dict(spec.job_labels), f"{field}.job_labels")
    for name, value in (("kept_succeeded", spec.kept_succeeded), ("kept_failed", spec.kept_failed)):
        if not 0 <= (value or 0) <= _LARGEST_KEPT:
            yield FieldViolation(f"{field}.{name}", f"must be between 0 and {_LARGEST_KEPT}", "OUT_OF_RANGE")


_JOB_CHECKS: tuple[_JobCheck, ...] = (_instance, _limits)

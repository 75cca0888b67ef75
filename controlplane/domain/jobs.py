"""Jobs and cron jobs: mirrors protos/moorage/v1/jobs.proto. What an instance of a job is, is in `instances.py`."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.groups import Dependency
from controlplane.domain.instances import Instance, InstanceSpec, InstanceState


class JobState(enum.Enum):
    """Where a job stands, or one index of it."""

    PENDING = 100
    RUNNING = 200
    SUCCEEDED = 300
    FAILED = 400
    DELETING = 500


class OverlapPolicy(enum.Enum):
    """What happens when a cron job is due while a job of it has not ended."""

    UNSPECIFIED = 0
    FORBID = 1
    ALLOW = 2
    REPLACE = 3


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the user asks of a job. Defaults are in the comments of the proto; `controlplane/jobs/plan.py` works them in."""

    instance: InstanceSpec = InstanceSpec()
    instance_labels: Mapping[str, str] = field(default_factory=dict)
    completions: int = 0
    parallelism: int = 0
    retries: int | None = None
    retry_delay_seconds: float = 0.0
    active_deadline_seconds: float = 0.0  # 0: none
    keep_finished_seconds: float | None = None
    never_twice: bool = False
    depends_on: tuple[Dependency, ...] = ()


@dataclass(frozen=True, slots=True)
class JobIndex:
    """One index that was begun: kept here, because its instances can vanish."""

    index: int
    state: JobState
    instance_uid: str = ""  # the newest; empty: between two tries
    instance: str = ""  # its full name
    attempts: int = 0
    failures: int = 0
    exit_code: int | None = None  # of the last try that ended
    message: str = ""  # why the last try failed
    next_time: datetime | None = None  # when it is tried again
    avoid_hosts: tuple[str, ...] = ()  # uids of hosts on which it failed


@dataclass(frozen=True, slots=True)
class Job:
    """Work that is done once. Its instances' `owner` is its name, and their slot its index."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: JobSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1
    cron_job: str = ""  # projects/{project}/cronJobs/{cron_job} that made it
    cron_uid: str = ""
    scheduled_time: datetime | None = None
    state: JobState = JobState.PENDING
    reason: str = ""
    message: str = ""
    start_time: datetime | None = None
    finish_time: datetime | None = None
    begun: tuple[JobIndex, ...] = ()  # indexes, in order
    is_deleting: bool = False

    @property
    def name(self) -> str:
        """projects/{project}/jobs/{job}."""
        return f"projects/{self.project}/jobs/{self.id}"


def is_of_job(instance: Instance) -> bool:
    """Whether a job made it."""
    return "/jobs/" in instance.owner


def is_over(instance: Instance) -> bool:
    """Whether a job's instance has done what it will ever do: it is never started again, and kept for its logs only."""
    return is_of_job(instance) and instance.observed.state in (InstanceState.STOPPED, InstanceState.FAILED)


@dataclass(frozen=True, slots=True)
class CronJobSpec:
    """When, and what."""

    schedule: str = ""
    time_zone: str = ""
    overlap: OverlapPolicy = OverlapPolicy.UNSPECIFIED
    catch_up_seconds: float | None = None
    suspended: bool = False
    job: JobSpec = JobSpec()
    job_labels: Mapping[str, str] = field(default_factory=dict)
    kept_succeeded: int | None = None
    kept_failed: int | None = None


@dataclass(frozen=True, slots=True)
class CronJob:
    """Makes a job at each time of a schedule."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: CronJobSpec
    decided_until: datetime  # of each time up to this one it is decided, and recorded, whether it gets a job
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1
    pending_time: datetime | None = None  # gets its job once the one that it replaces is gone
    last_time: datetime | None = None
    reason: str = ""
    message: str = ""
    is_deleting: bool = False

    @property
    def name(self) -> str:
        """projects/{project}/cronJobs/{cron_job}."""
        return f"projects/{self.project}/cronJobs/{self.id}"

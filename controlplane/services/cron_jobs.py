"""Cron jobs: asked for, changed, run by hand and deleted. What they do by the clock is decided in `controlplane/jobs/cron.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from controlplane.domain.jobs import CronJob, CronJobSpec, Job, JobSpec
from controlplane.domain.kinds import CRON_JOB, JOB
from controlplane.domain.names import check_labels, parse_child
from controlplane.domain.projects import Project
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dependencies import resolved
from controlplane.services.dry_run import commit
from controlplane.services.instance_claims import InstanceClaims
from controlplane.services.job_rules import check_cron_job_id, check_cron_job_spec
from controlplane.services.jobs import admitted_job, put_job
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from moorage.errors import AlreadyExists, InvalidSpec, NotReady
from moorage.store.base import Transaction, View

_FIELD = "cron_job.spec"


class CronJobService:
    """What callers can do with cron jobs."""

    def __init__(self, context: Context, claims: InstanceClaims) -> None:
        self._context = context
        self._claims = claims

    async def create(
        self,
        project_id: str,
        cron_job_id: str,
        labels: Mapping[str, str],
        spec: CronJobSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> CronJob:
        """Make a cron job; the first time that counts is the first after now.

        Raises:
            InvalidSpec (SCHEDULE_INVALID, TIME_ZONE_UNKNOWN and others), AlreadyExists, NotFound (template, network), QuotaExceeded,
            NotReady (TEMPLATE_NOT_READY).
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> CronJob:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.cron_job(tx, *parse_child(names[0], "cronJobs"))
            project = lookup.project(tx, project_id)
            violations = check_cron_job_id(cron_job_id, "cron_job_id") + check_labels(dict(labels), "cron_job.labels")
            violations += check_cron_job_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            name = f"projects/{project_id}/cronJobs/{cron_job_id}"
            if tx.get(CRON_JOB, f"{project_id}/{cron_job_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            full = replace(spec, job=self._admitted(tx, project, spec.job))
            now = self._context.clock.now()
            cron = CronJob(uid, project_id, cron_job_id, now, full, now, labels=dict(labels))
            tx.put(CRON_JOB, cron)
            record_event(tx, self._context.clock, cron, "CREATED", _describe(full), project=project_id)
            if request_key:
                lookup.remember(tx, request_key, body, (cron.name,), now)
            return cron

        return await commit(self._context.store, make, validate_only=validate_only)

    def _admitted(self, tx: Transaction, project: Project, spec: JobSpec) -> JobSpec:
        full = admitted_job(tx, self._claims, project, spec, f"{_FIELD}.job")
        found = resolved(tx, project.id, "", spec.depends_on, f"{_FIELD}.job.depends_on")
        return replace(full, depends_on=found)

    def get(self, project_id: str, cron_job_id: str) -> CronJob:
        """One cron job. Raises NotFound."""
        return lookup.cron_job(self._context.store.view(), project_id, cron_job_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[CronJob]:
        """A page of a project's cron jobs; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            CRON_JOB,
            request,
            scope=f"cron jobs of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda c, name: label_field(c.labels, name),
            admits=(lambda c: c.project in visible) if every and visible is not None else None,
        )

    def now(self) -> datetime:
        """The time by which schedules are read."""
        return self._context.clock.now()

    def active(self, cron: CronJob) -> Sequence[str]:
        """Names of its jobs that have not ended, in order."""
        return sorted(job.name for job in jobs_of(self._context.store.view(), cron) if job.finish_time is None)

    async def update(
        self,
        project_id: str,
        cron_job_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        spec_fields: Mapping[str, object] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> CronJob:
        """Change labels or fields of the spec, each as a whole. Times that a new schedule, or one that was suspended, had before now do not
        count. Raises as `create`, VersionConflict, NotReady (CRON_JOB_DELETING).
        """
        changes = dict(spec_fields or {})

        def change(tx: Transaction) -> CronJob:
            cron = lookup.cron_job(tx, project_id, cron_job_id)
            lookup.check_etag(cron, etag, cron.name)
            _refuse_deleted(cron)
            spec: CronJobSpec = replace(cron.spec, **changes)  # type: ignore[arg-type]
            new_labels = dict(cron.labels if labels is None else labels)
            violations = check_labels(new_labels, "cron_job.labels") + check_cron_job_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            project = lookup.project(tx, project_id)
            spec = replace(spec, job=self._admitted(tx, project, spec.job))
            changed = replace(cron, spec=spec, labels=new_labels, generation=cron.generation + 1)
            if _clock_of(spec) != _clock_of(cron.spec):
                changed = replace(changed, decided_until=self._context.clock.now())
            tx.put(CRON_JOB, changed)
            if spec != cron.spec:
                record_event(tx, self._context.clock, changed, "UPDATE", _describe(spec), project=project_id)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, cron_job_id: str, *, etag: str = "") -> None:
        """Ask for the removal of a cron job with its jobs. Raises NotFound, VersionConflict."""

        def remove(tx: Transaction) -> None:
            cron = lookup.cron_job(tx, project_id, cron_job_id)
            lookup.check_etag(cron, etag, cron.name)
            if cron.is_deleting:
                return
            tx.put(CRON_JOB, replace(cron, is_deleting=True, generation=cron.generation + 1))
            record_event(tx, self._context.clock, cron, "DELETING", "asked for", project=project_id)

        await self._context.store.update(remove)

    async def run(self, project_id: str, cron_job_id: str, *, request_key: str = "", body: bytes = b"") -> Job:
        """Make a job of it now, beside its schedule. Raises NotFound, NotReady (CRON_JOB_DELETING)."""
        uid = self._context.new_id()

        def make(tx: Transaction) -> Job:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.job(tx, *parse_child(names[0], "jobs"))
            cron = lookup.cron_job(tx, project_id, cron_job_id)
            _refuse_deleted(cron)
            job = make_job(tx, self._context, cron, uid, f"{cron.id}-{uid[:6]}", None, "asked for")
            if request_key:
                lookup.remember(tx, request_key, body, (job.name,), self._context.clock.now())
            return job

        return await self._context.store.update(make)


def jobs_of(view: View, cron: CronJob) -> list[Job]:
    """Every job that it made and that still has a record."""
    return [found.value for found in view.find(JOB, "cron_job", cron.uid)]


def make_job(
    tx: Transaction, context: Context, cron: CronJob, uid: str, job_id: str, scheduled: datetime | None, why: str
) -> Job:
    """Make a job of a cron job. Raises AlreadyExists."""
    job = Job(
        uid,
        cron.project,
        job_id,
        context.clock.now(),
        cron.spec.job,
        labels=dict(cron.spec.job_labels),
        cron_job=cron.name,
        cron_uid=cron.uid,
        scheduled_time=scheduled,
    )
    put_job(tx, context, job, why)
    return job


def _refuse_deleted(cron: CronJob) -> None:
    if cron.is_deleting:
        raise NotReady(f"{cron.name} is being deleted", reason="CRON_JOB_DELETING", metadata={"name": cron.name})


def _clock_of(spec: CronJobSpec) -> tuple[str, str, bool]:
    return spec.schedule, spec.time_zone, spec.suspended


def _describe(spec: CronJobSpec) -> str:
    return f"{spec.schedule} {spec.time_zone or 'UTC'}" + (", suspended" if spec.suspended else "")

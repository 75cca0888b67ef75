"""Jobs: asked for, changed and deleted. What they do is decided in `controlplane/jobs/`, which follows the records."""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.domain.containers import RestartMode
from controlplane.domain.jobs import Job, JobSpec
from controlplane.domain.kinds import JOB
from controlplane.domain.names import check_id, check_labels, parse_child
from controlplane.domain.projects import Project
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dependencies import refuse_needed, resolved
from controlplane.services.dry_run import commit
from controlplane.services.instance_claims import InstanceClaims
from controlplane.services.job_rules import check_job_spec
from controlplane.services.member_admission import admit_members
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from moorage.errors import AlreadyExists, InvalidSpec, NotReady
from moorage.store.base import Transaction

_FIELD = "job.spec"


class JobService:
    """What callers can do with jobs."""

    def __init__(self, context: Context, claims: InstanceClaims) -> None:
        self._context = context
        self._claims = claims

    async def create(
        self,
        project_id: str,
        job_id: str,
        labels: Mapping[str, str],
        spec: JobSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> Job:
        """Make a job's record; its instances follow.

        Args:
            job_id: empty: made from the template's.
        Raises:
            InvalidSpec, AlreadyExists, NotFound (template, network), QuotaExceeded, NotReady (TEMPLATE_NOT_READY).
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> Job:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.job(tx, *parse_child(names[0], "jobs"))
            project = lookup.project(tx, project_id)
            violations = check_labels(dict(labels), "job.labels") + check_job_spec(spec, _FIELD)
            if job_id:
                violations = check_id(job_id, "job_id") + violations
            if violations:
                raise InvalidSpec(violations)
            full = admitted_job(tx, self._claims, project, spec, _FIELD)
            own_id = job_id or f"{full.instance.template.rpartition('/')[2][:50].rstrip('-')}-{uid[:6]}"
            job = Job(uid, project_id, own_id, self._context.clock.now(), full, labels=dict(labels))
            found = resolved(tx, project_id, job.name, spec.depends_on, f"{_FIELD}.depends_on")
            job = replace(job, spec=replace(full, depends_on=found))
            put_job(tx, self._context, job, f"from {full.instance.template}")
            if request_key:
                lookup.remember(tx, request_key, body, (job.name,), self._context.clock.now())
            return job

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, job_id: str) -> Job:
        """One job. Raises NotFound."""
        return lookup.job(self._context.store.view(), project_id, job_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Job]:
        """A page of a project's jobs; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            JOB,
            request,
            scope=f"jobs of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=_filter_field,
            names=("state", "cron_job"),
            admits=(lambda j: j.project in visible) if every and visible is not None else None,
        )

    async def update(
        self,
        project_id: str,
        job_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        spec_fields: Mapping[str, object] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Job:
        """Change labels, parallelism or how long it is kept. Raises NotFound, InvalidSpec, VersionConflict, NotReady (JOB_DELETING)."""
        changes = dict(spec_fields or {})

        def change(tx: Transaction) -> Job:
            job = lookup.job(tx, project_id, job_id)
            lookup.check_etag(job, etag, job.name)
            refuse_deleted(job)
            spec: JobSpec = replace(job.spec, **changes)  # type: ignore[arg-type]
            new_labels = dict(job.labels if labels is None else labels)
            violations = check_labels(new_labels, "job.labels") + check_job_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            changed = replace(job, spec=spec, labels=new_labels, generation=job.generation + 1)
            tx.put(JOB, changed)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, job_id: str, *, etag: str = "") -> None:
        """Ask for a job's removal. Raises NotFound, VersionConflict, NotReady (DEPENDED_ON)."""

        def remove(tx: Transaction) -> None:
            job = lookup.job(tx, project_id, job_id)
            lookup.check_etag(job, etag, job.name)
            refuse_needed(tx, job.name)
            ask_removal(tx, self._context, job, "asked for")

        await self._context.store.update(remove)


def admitted_job(tx: Transaction, claims: InstanceClaims, project: Project, spec: JobSpec, field: str) -> JobSpec:
    """The spec with full names and without what is left to guess. Raises as `admit_members`."""
    at_a_time = min(spec.parallelism or 1, spec.completions or 1)
    instance = admit_members(tx, claims, project, spec.instance, f"{field}.instance", at_a_time)
    return replace(spec, instance=replace(instance, restart=replace(instance.restart, mode=RestartMode.NEVER)))


def put_job(tx: Transaction, context: Context, job: Job, why: str) -> None:
    """Store a new job. Raises AlreadyExists."""
    if tx.get(JOB, JOB.key(job)) is not None:
        raise AlreadyExists(f"{job.name} exists; choose another name", metadata={"name": job.name})
    tx.put(JOB, job)
    record_event(tx, context.clock, job, "CREATED", why, project=job.project)


def ask_removal(tx: Transaction, context: Context, job: Job, why: str) -> None:
    """Send a job away: its record goes once nothing is left of its instances."""
    if job.is_deleting:
        return
    tx.put(JOB, replace(job, is_deleting=True, generation=job.generation + 1))
    record_event(tx, context.clock, job, "DELETING", why, project=job.project)


def refuse_deleted(job: Job) -> None:
    """Raises NotReady (JOB_DELETING)."""
    if job.is_deleting:
        raise NotReady(f"{job.name} is being deleted", reason="JOB_DELETING", metadata={"name": job.name})


def _filter_field(job: Job, name: str) -> str | None:
    if name == "state":
        return f"JOB_STATE_{job.state.name}"
    return job.cron_job if name == "cron_job" else label_field(job.labels, name)

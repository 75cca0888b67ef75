"""Templates and the operations that make them: the records. The work itself is in `controlplane/templates`.

A template whose image could not be had is gone again, as if it had never been asked for; its operation keeps the error and the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controlplane.access.quota import Quota, charge
from controlplane.domain.containers import ContainerDefaults, HealthCheck
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.kinds import INSTANCE, OPERATION, PROJECT, TEMPLATE
from controlplane.domain.names import check_id, check_labels
from controlplane.domain.operations import HostProgress, Operation, OperationError, OperationState
from controlplane.domain.templates import Template, TemplateSource, TemplateState, TemplateStatus
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.group_uses import groups_needing
from controlplane.services.instance_rules import check_spec
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec, MoorageError, NotReady
from moorage.store.base import Transaction

LARGEST_LOG = 256 * 1024  # of an operation, in characters; the end is kept


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """What a create asks for."""

    template_id: str
    source: TemplateSource
    description: str
    labels: Mapping[str, str]
    defaults: ContainerDefaults


@dataclass(frozen=True, slots=True)
class MadeImage:
    """The image of a template, in the platform's registry."""

    digest: str
    size_bytes: int
    platforms: tuple[str, ...]
    defaults: ContainerDefaults
    built_on: str = ""


class TemplateService:
    """Records of templates and their operations."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        wanted: NewTemplate,
        created_by: str,
        *,
        is_upload: bool = False,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> tuple[Operation, bool]:
        """Record a template that is on its way.

        Returns: the operation, and whether it is new, so that its work must be begun.
        Raises:
            InvalidSpec, NotFound (project, snapshot's instance), AlreadyExists, NotReady, QuotaExceeded.
        """
        uid, operation_uid = self._context.new_id(), self._context.new_id()

        def make(tx: Transaction) -> tuple[Operation, bool]:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                key = f"{project_id}/{names[0].rpartition('/')[2]}"
                return lookup.require(tx, OPERATION, key, names[0]), False
            project = lookup.project(tx, project_id)
            violations = _check(wanted, is_upload)
            if violations:
                raise InvalidSpec(violations)
            name = f"projects/{project_id}/templates/{wanted.template_id}"
            if tx.get(TEMPLATE, f"{project_id}/{wanted.template_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name or delete it", metadata={"name": name})
            if wanted.source.snapshot is not None:
                _require_container(tx, project_id, wanted.source.snapshot.instance)
            now = self._context.clock.now()
            operation = Operation(operation_uid, project_id, "register", name, now, created_by, phase="waiting")
            template = Template(
                uid,
                project_id,
                wanted.template_id,
                now,
                wanted.source,
                f"{project.uid}/{uid}",
                wanted.description,
                dict(wanted.labels),
                wanted.defaults,
                status=TemplateStatus(TemplateState.PENDING, "its image is on its way", operation=operation.name),
            )
            usage = charge(project.quota, project.usage, Quota(templates=1))
            if not validate_only:
                tx.put(PROJECT, replace(project, usage=usage))
                tx.put(TEMPLATE, template)
                tx.put(OPERATION, operation)
                if request_key:
                    lookup.remember(tx, request_key, body, (operation.name,), now)
            return operation, not validate_only

        return await self._context.store.update(make)

    def template_of(self, operation: Operation) -> Template | None:
        """The template that the operation makes, while there is one."""
        found = self._context.store.view().get(TEMPLATE, f"{operation.project}/{operation.target.rpartition('/')[2]}")
        if found is None or found.value.status.operation != operation.name:
            return None
        return found.value

    async def progress(
        self,
        operation: Operation,
        phase: str,
        percent: int,
        done_bytes: int,
        total_bytes: int,
        log: str = "",
        hosts: Mapping[str, HostProgress] | None = None,
    ) -> None:
        """Say how far an operation is; percent never falls and stays below 100."""

        def apply(tx: Transaction) -> None:
            found = tx.get(OPERATION, OPERATION.key(operation))
            if found is None or found.value.state is not OperationState.RUNNING:
                return
            known = found.value
            tx.put(
                OPERATION,
                replace(
                    known,
                    phase=phase,
                    percent=max(known.percent, min(percent, 99)),
                    done_bytes=done_bytes,
                    total_bytes=total_bytes,
                    log=(known.log + log)[-LARGEST_LOG:],
                    hosts={**known.hosts, **(hosts or {})},
                ),
            )

        await self._context.store.update(apply)

    async def succeed(self, operation: Operation, image: MadeImage, log: str = "") -> bool:
        """The image is in the registry: the template is ready. Returns False when nobody wants it any more."""

        def apply(tx: Transaction) -> bool:
            template = self._pending(tx, operation)
            found = tx.get(OPERATION, OPERATION.key(operation))
            if template is None or found is None or found.value.state is not OperationState.RUNNING:
                return False
            status = TemplateStatus(
                TemplateState.READY,
                "",
                image.digest,
                image.size_bytes,
                image.platforms,
                operation.name,
                image.defaults,
                image.built_on,
            )
            ready = replace(template, source=_without_secrets(template.source), status=status)
            tx.put(TEMPLATE, ready)
            done = replace(
                found.value,
                state=OperationState.SUCCEEDED,
                phase="done",
                percent=100,
                end_time=self._context.clock.now(),
                log=(found.value.log + log)[-LARGEST_LOG:],
            )
            tx.put(OPERATION, done)
            record_event(tx, self._context.clock, ready, "READY", image.digest, project=ready.project)
            return True

        return await self._context.store.update(apply)

    async def fail(self, operation: Operation, error: MoorageError, log: str = "", *, cancelled: bool = False) -> None:
        """The image could not be had: the operation keeps why, the template goes."""

        def apply(tx: Transaction) -> None:
            found = tx.get(OPERATION, OPERATION.key(operation))
            if found is None or found.value.state is not OperationState.RUNNING:
                return
            failed = replace(
                found.value,
                state=OperationState.CANCELLED if cancelled else OperationState.FAILED,
                end_time=self._context.clock.now(),
                failure=OperationError(type(error).__name__, error.reason, error.message),
                log=(found.value.log + log)[-LARGEST_LOG:],
            )
            tx.put(OPERATION, failed)
            template = self._pending(tx, operation)
            if template is not None:
                _forget(tx, template)
                record_event(
                    tx,
                    self._context.clock,
                    template,
                    "REGISTRATION_FAILED",
                    error.message,
                    project=template.project,
                    severity="warning",
                )

        await self._context.store.update(apply)

    def _pending(self, tx: Transaction, operation: Operation) -> Template | None:
        found = tx.get(TEMPLATE, f"{operation.project}/{operation.target.rpartition('/')[2]}")
        if found is None or found.value.status.operation != operation.name:
            return None
        return found.value if found.value.status.state is TemplateState.PENDING else None

    def get(self, project_id: str, template_id: str) -> Template:
        """One template. Raises NotFound."""
        return lookup.template(self._context.store.view(), project_id, template_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Template]:
        """A page of a project's templates; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            TEMPLATE,
            request,
            scope=f"templates of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda t, name: t.status.state.name if name == "state" else label_field(t.labels, name),
            names=("state",),
            admits=(lambda t: t.project in visible) if every and visible is not None else None,
        )

    async def update(
        self,
        project_id: str,
        template_id: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        defaults: ContainerDefaults | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Template:
        """Change what new instances get. Raises NotFound, InvalidSpec, VersionConflict."""

        def change(tx: Transaction) -> Template:
            template = lookup.template(tx, project_id, template_id)
            lookup.check_etag(template, etag, template.name)
            changed = replace(
                template,
                description=template.description if description is None else description,
                labels=dict(template.labels if labels is None else labels),
                defaults=template.defaults if defaults is None else defaults,
                generation=template.generation + 1,
            )
            violations = check_labels(dict(changed.labels), "template.labels") + _check_defaults(changed.defaults)
            if violations:
                raise InvalidSpec(violations)
            if not validate_only:
                tx.put(TEMPLATE, changed)
            return changed

        return await self._context.store.update(change)

    async def delete(self, project_id: str, template_id: str, *, etag: str = "") -> Template:
        """Begin the removal of a template that no instance or group uses; `forget` ends it once its space is free.

        Raises:
            NotFound, NotReady (TEMPLATE_IN_USE), VersionConflict.
        """

        def change(tx: Transaction) -> Template:
            template = lookup.template(tx, project_id, template_id)
            lookup.check_etag(template, etag, template.name)
            users = tx.find(INSTANCE, "template", template.uid)
            if users:
                raise NotReady(
                    f"{template.name} is used by {len(users)} instances, such as {users[0].value.name}; delete them first",
                    reason="TEMPLATE_IN_USE",
                    metadata={"instances": str(len(users))},
                )
            groups = groups_needing(tx, project_id, lambda spec: spec.template == template.name)
            if groups:
                raise NotReady(
                    f"members of {groups[0]} are made from {template.name}; change or delete the group first",
                    reason="TEMPLATE_IN_USE",
                    metadata={"groups": str(len(groups))},
                )
            if template.status.state is TemplateState.PENDING:
                raise NotReady(
                    f"{template.name} is being registered; cancel {template.status.operation} first",
                    reason="TEMPLATE_NOT_READY",
                )
            status = replace(template.status, state=TemplateState.DELETING, message="its space is being freed")
            changed = replace(template, status=status, generation=template.generation + 1)
            tx.put(TEMPLATE, changed)
            return changed

        return await self._context.store.update(change)

    async def forget(self, template: Template) -> None:
        """The template's image is gone from the registry."""

        def remove(tx: Transaction) -> None:
            found = lookup.by_uid(tx, TEMPLATE, template.uid)
            if found is not None:
                _forget(tx, found)
                record_event(tx, self._context.clock, found, "DELETED", "asked for", project=found.project)

        await self._context.store.update(remove)


def _forget(tx: Transaction, template: Template) -> None:
    found = tx.get(PROJECT, template.project)
    if found is not None:
        tx.put(PROJECT, replace(found.value, usage=found.value.usage - Quota(templates=1)))
    tx.delete(TEMPLATE, TEMPLATE.key(template))


def _without_secrets(source: TemplateSource) -> TemplateSource:
    """The password has done its work once the image is here."""
    if source.repository is not None and source.repository.password:
        return replace(source, repository=replace(source.repository, password=""))
    return source


def _require_container(tx: Transaction, project_id: str, name: str) -> None:
    instance_id = name.rpartition("/")[2]
    instance = lookup.instance(tx, project_id, instance_id)
    if not instance.observed.container_id:
        raise NotReady(f"{instance.name} has no container yet", reason="NO_CONTAINER")


def _check(wanted: NewTemplate, is_upload: bool) -> list[FieldViolation]:
    found = check_id(wanted.template_id, "template_id") + check_labels(dict(wanted.labels), "template.labels")
    source = wanted.source
    given = [s for s in (source.repository, source.dockerfile, source.tar, source.snapshot) if s is not None]
    if len(given) != 1:
        found.append(FieldViolation("template.source", "exactly one source is needed", "REQUIRED"))
    if source.repository is not None and not source.repository.reference:
        found.append(FieldViolation("template.source.repository.reference", "is required", "REQUIRED"))
    if source.tar is not None and not is_upload and not source.tar.url:
        found.append(FieldViolation("template.source.tar.url", "is required, or use UploadTemplate", "REQUIRED"))
    if (
        source.dockerfile is not None
        and not is_upload
        and not (source.dockerfile.inline or source.dockerfile.context_url)
    ):
        found.append(
            FieldViolation("template.source.dockerfile", "needs inline, context_url or UploadTemplate", "REQUIRED")
        )
    if source.dockerfile is not None and (source.dockerfile.memory_bytes < 0 or source.dockerfile.cpu_millis < 0):
        found.append(FieldViolation("template.source.dockerfile", "limits must not be negative", "OUT_OF_RANGE"))
    if source.snapshot is not None and not source.snapshot.instance:
        found.append(FieldViolation("template.source.snapshot.instance", "is required", "REQUIRED"))
    return found + _check_defaults(wanted.defaults)


def _check_defaults(defaults: ContainerDefaults) -> list[FieldViolation]:
    """The rules of an instance's own fields hold for its template's as well."""
    spec = InstanceSpec(
        template="-",
        command=defaults.command,
        entrypoint=defaults.entrypoint,
        env=defaults.env,
        resources=defaults.resources,
        user=defaults.user,
        workdir=defaults.workdir,
    )
    found = check_spec(spec, "template.defaults")
    for index, port in enumerate(defaults.ports):
        number, _, protocol = port.partition("/")
        if not number.isdigit() or not 1 <= int(number) <= 65535 or protocol not in ("", "tcp", "udp"):
            found.append(
                FieldViolation(f"template.defaults.ports[{index}]", f"{port!r} is no port like 80/tcp", "INVALID")
            )
    check: HealthCheck | None = defaults.health_check
    if check is not None and min(check.interval_seconds, check.timeout_seconds, check.start_period_seconds) < 0:
        found.append(FieldViolation("template.defaults.health_check", "times must not be negative", "OUT_OF_RANGE"))
    return found

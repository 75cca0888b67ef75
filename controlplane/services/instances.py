"""Instances: admitted, started, stopped and deleted, each in one transaction with what they hold and an event.

What they hold is in `instance_claims.py`, whether they may in `instance_admission.py`, what can be changed in `instance_changes.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from controlplane.domain.groups import is_member
from controlplane.domain.instances import DesiredState, Instance, InstanceState
from controlplane.domain.kinds import INSTANCE
from controlplane.domain.names import parse_child
from controlplane.history import record_event
from controlplane.scheduler.explain import explain
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.instance_admission import (
    refuse_deleted,
    refuse_of_job,
    refuse_of_router,
    refuse_owned,
)
from controlplane.services.instance_making import InstanceMaking, NewInstance
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.protection import refuse_protected
from controlplane.services.undelete import purge_time_of
from moorage.errors import InvalidSpec, NotReady
from moorage.store.base import Transaction, View

LARGEST_BATCH = 1000


class InstanceService:
    """What callers can do with instances."""

    def __init__(self, context: Context, making: InstanceMaking) -> None:
        self._context = context
        self._making = making

    async def create(
        self,
        project_id: str,
        wanted: Sequence[NewInstance],
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> list[Instance]:
        """Admit all or none of them.

        Args:
            request_key: user, method and request id; a known one answers with what it made. Empty: no memory.
            body: the request, to tell a retry from another request under the same id.
            validate_only: change nothing; the result holds an explanation of where each would go.
        Raises:
            InvalidSpec, NotFound (project, template, network), AlreadyExists, NotReady (TEMPLATE_NOT_READY),
            QuotaExceeded, Exhausted (ADDRESSES_EXHAUSTED).
        """
        if len(wanted) > LARGEST_BATCH:
            raise InvalidSpec.of("requests", f"at most {LARGEST_BATCH} at a time", "OUT_OF_RANGE")

        def admit(tx: Transaction) -> list[Instance]:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return [_by_name(tx, name) for name in names]
            made = self._making.admit_all(tx, project_id, list(wanted))
            if validate_only:
                return explain(tx, made, self._context.clock.now())
            if request_key:
                lookup.remember(tx, request_key, body, tuple(i.name for i in made), self._context.clock.now())
            return made

        return await commit(self._context.store, admit, validate_only=validate_only)

    def get(self, project_id: str, instance_id: str) -> Instance:
        """One instance. Raises NotFound."""
        return lookup.instance(self._context.store.view(), project_id, instance_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Instance]:
        """A page of a project's instances; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        if not every:
            lookup.project(self._context.store.view(), project_id)
        return list_page(
            self._context.store.view(),
            INSTANCE,
            request,
            scope=f"instances of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=_filter_field,
            names=("state", "host", "template", "desired_state", "reason", "group"),
            admits=(lambda i: i.project in visible) if every and visible is not None else None,
        )

    async def delete(
        self, project_id: str, instance_ids: Sequence[str], *, etag: str = "", force: bool = False, now: bool = False
    ) -> None:
        """Ask for the removal of all or none. Addresses are free once the host says that the container is gone. Without `force`, one that
        is behind a balancer goes when its connections have ended, or its `drain` is over. The group of a member makes another.

        In a project with an undelete window one that nothing looks after stands still and is kept, unless `now`.

        Raises:
            NotFound, VersionConflict, InvalidSpec (more than LARGEST_BATCH), NotReady (INSTANCE_OWNED, DELETE_PROTECTED).
        """
        if len(instance_ids) > LARGEST_BATCH:
            raise InvalidSpec.of("names", f"at most {LARGEST_BATCH} at a time", "OUT_OF_RANGE")

        def ask(tx: Transaction) -> None:
            for instance_id in dict.fromkeys(instance_ids):
                instance = lookup.instance(tx, project_id, instance_id)
                lookup.check_etag(instance, etag, instance.name)
                refuse_of_router(instance)
                command = f"moor instance update {instance.id} --no-delete-protection"
                refuse_protected(instance.name, is_protected=instance.spec.delete_protection, command=command)
                why = f"asked for; {instance.owner} makes another" if is_member(instance) else "asked for"
                time, is_owned = self._context.clock.now(), bool(instance.owner)
                purge_time = purge_time_of(tx, project_id, time, at_once=now or is_owned)
                if purge_time is not None and instance.host_uid:
                    self._making.keep(tx, instance, purge_time, force=force)
                elif force or (now and instance.purge_time is not None):
                    self._making.ask_removal(tx, instance, why, force=force)
                else:
                    self._making.ask_leave(tx, instance, why)

        await self._context.store.update(ask)

    async def start(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Start a stopped or failed instance; one that runs is left alone. Raises NotFound, NotReady, VersionConflict."""

        def change(instance: Instance) -> Instance:
            refuse_of_job(instance)
            if instance.desired is DesiredState.PAUSED:
                raise NotReady(f"{instance.name} is paused; unpause it", reason="INSTANCE_PAUSED")
            runs = instance.desired is DesiredState.RUNNING and instance.observed.state < InstanceState.STOPPING
            if runs:
                return instance
            return replace(instance, desired=DesiredState.RUNNING, run_request=instance.run_request + 1)

        return await self._change(project_id, instance_id, etag, "START", change)

    async def stop(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Stop the process and keep the container. Raises NotFound, NotReady, VersionConflict."""

        def change(instance: Instance) -> Instance:
            refuse_owned(instance)
            return replace(instance, desired=DesiredState.STOPPED)

        return await self._change(project_id, instance_id, etag, "STOP", change)

    async def reboot(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Stop and start: same container, files and addresses. Raises NotFound, NotReady, VersionConflict."""

        def change(instance: Instance) -> Instance:
            refuse_of_job(instance)
            return replace(instance, desired=DesiredState.RUNNING, run_request=instance.run_request + 1)

        return await self._change(project_id, instance_id, etag, "REBOOT", change)

    async def pause(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Freeze the processes. Raises NotReady unless it runs; NotFound, VersionConflict."""

        def change(instance: Instance) -> Instance:
            refuse_owned(instance)
            if instance.desired is DesiredState.PAUSED:
                return instance
            if instance.observed.state is not InstanceState.RUNNING:
                raise NotReady(
                    f"{instance.name} is {instance.observed.state.name}; only a running instance can be paused",
                    reason="INSTANCE_NOT_RUNNING",
                )
            return replace(instance, desired=DesiredState.PAUSED)

        return await self._change(project_id, instance_id, etag, "PAUSE", change)

    async def unpause(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Thaw the processes. Raises NotReady unless it is paused; NotFound, VersionConflict."""

        def change(instance: Instance) -> Instance:
            if instance.desired is not DesiredState.PAUSED:
                raise NotReady(f"{instance.name} is not paused", reason="INSTANCE_NOT_PAUSED")
            return replace(instance, desired=DesiredState.RUNNING)

        return await self._change(project_id, instance_id, etag, "UNPAUSE", change)

    async def _change(
        self, project_id: str, instance_id: str, etag: str, verb: str, change: Callable[[Instance], Instance]
    ) -> Instance:
        def apply(tx: Transaction) -> Instance:
            instance = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(instance, etag, instance.name)
            refuse_deleted(instance)
            changed = change(instance)
            if changed == instance:
                return instance
            changed = replace(changed, generation=instance.generation + 1)
            tx.put(INSTANCE, changed)
            record_event(tx, self._context.clock, instance, verb, "asked for", project=project_id)
            return changed

        return await self._context.store.update(apply)


def _by_name(view: View, name: str) -> Instance:
    project_id, instance_id = parse_child(name, "instances")
    return lookup.instance(view, project_id, instance_id)


def _filter_field(instance: Instance, name: str) -> str | None:
    match name:
        case "state":
            return instance.observed.state.name
        case "reason":
            return instance.observed.reason
        case "desired_state":
            return instance.desired.name
        case "host":
            return f"hosts/{instance.host}" if instance.host else ""
        case "template":
            return instance.spec.template
        case "group":
            return instance.owner if is_member(instance) else ""
    return label_field(instance.labels, name)

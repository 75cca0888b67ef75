"""Operations and history, as callers read them."""

from controlplane.domain.kinds import AUDIT_EVENT, EVENT, OPERATION
from controlplane.domain.operations import AuditEvent, Event, Operation, OperationState
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.paging import Page, PageRequest, list_page
from moorage.errors import NotReady
from moorage.store.base import Transaction


class OperationService:
    """Reads operations, waits for them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, project_id: str, operation_id: str) -> Operation:
        """One operation. Raises NotFound."""
        name = f"projects/{project_id}/operations/{operation_id}"
        return lookup.require(self._context.store.view(), OPERATION, f"{project_id}/{operation_id}", name)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Operation]:
        """A page of a project's operations; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            OPERATION,
            request,
            scope=f"operations of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda o, name: {"state": o.state.name, "target": o.target, "verb": o.verb}.get(name),
            names=("state", "target", "verb"),
            admits=(lambda o: o.project in visible) if every and visible is not None else None,
        )

    async def wait(self, project_id: str, operation_id: str) -> Operation:
        """The operation once it has ended; the caller bounds the time. Raises NotFound."""
        view, watch = self._context.store.view_and_watch((OPERATION,))
        name = f"projects/{project_id}/operations/{operation_id}"
        key = f"{project_id}/{operation_id}"
        async with watch:
            operation = lookup.require(view, OPERATION, key, name)
            if operation.state is not OperationState.RUNNING:
                return operation
            async for batch in watch:
                for change in batch.changes:
                    if change.key == key and change.after is not None:
                        operation = change.after.value
                if operation.state is not OperationState.RUNNING:
                    return operation
        return operation

    async def require_running(self, project_id: str, operation_id: str) -> Operation:
        """The operation. Raises NotReady (OPERATION_ENDED) when it has ended, NotFound."""

        def read(tx: Transaction) -> Operation:
            name = f"projects/{project_id}/operations/{operation_id}"
            operation = lookup.require(tx, OPERATION, f"{project_id}/{operation_id}", name)
            if operation.state is not OperationState.RUNNING:
                raise NotReady(f"{name} has ended: {operation.state.name}", reason="OPERATION_ENDED")
            return operation

        return await self._context.store.update(read)


class EventService:
    """Reads events and the audit trail."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Event]:
        """Oldest first. "" lists those of hosts and the fleet, "-" those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            EVENT,
            request,
            scope=f"events of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda e, name: {"target": e.target, "reason": e.reason, "severity": e.severity}.get(name),
            names=("target", "reason", "severity"),
            admits=(lambda e: e.project in visible) if every and visible is not None else None,
        )

    def audit(self, request: PageRequest) -> Page[AuditEvent]:
        """Oldest first."""
        return list_page(
            self._context.store.view(),
            AUDIT_EVENT,
            request,
            scope="auditEvents",
            fields=lambda e, name: {"user": e.user, "method": e.method, "code": e.code, "target": e.target}.get(name),
            names=("user", "method", "code", "target"),
        )

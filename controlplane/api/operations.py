"""OperationService and EventService."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from controlplane.api import convert, requests
from controlplane.domain.names import parse_child
from controlplane.domain.operations import Operation
from controlplane.services.operations import EventService, OperationService
from moorage.errors import InvalidSpec
from moorage.v1 import events_pb2, events_pb2_grpc, operations_pb2, operations_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_WAIT_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 600.0


class OperationServicer(operations_pb2_grpc.OperationServiceServicer):
    """Long work. `cancel` stops the work of a running operation."""

    def __init__(self, operations: OperationService, cancel: Callable[[Operation], Awaitable[None]]) -> None:
        self._operations = operations
        self._cancel = cancel

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: _Context
    ) -> operations_pb2.Operation:
        return convert.operation(self._operations.get(*parse_child(request.name, "operations")))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: _Context
    ) -> operations_pb2.ListOperationsResponse:
        page = self._operations.list(requests.parent_of(request), requests.page(request), requests.visible())
        return operations_pb2.ListOperationsResponse(
            operations=[convert.operation(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: _Context
    ) -> operations_pb2.Operation:
        seconds = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else _DEFAULT_WAIT_SECONDS
        if not 0 <= seconds <= _LONGEST_WAIT_SECONDS:
            raise InvalidSpec.of("timeout", "must be between 0 and 10 minutes", "OUT_OF_RANGE")
        project_id, operation_id = parse_child(request.name, "operations")
        try:
            async with asyncio.timeout(seconds):
                return convert.operation(await self._operations.wait(project_id, operation_id))
        except TimeoutError:
            return convert.operation(self._operations.get(project_id, operation_id))

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: _Context
    ) -> operations_pb2.Operation:
        project_id, operation_id = parse_child(request.name, "operations")
        await self._cancel(await self._operations.require_running(project_id, operation_id))
        return convert.operation(self._operations.get(project_id, operation_id))


class EventServicer(events_pb2_grpc.EventServiceServicer):
    """What happened."""

    def __init__(self, events: EventService) -> None:
        self._events = events

    async def ListEvents(
        self, request: events_pb2.ListEventsRequest, context: _Context
    ) -> events_pb2.ListEventsResponse:
        project_id = "" if request.parent == "-" else requests.parent_of(request)
        page = self._events.list(project_id, requests.page(request), requests.visible())
        return events_pb2.ListEventsResponse(
            events=[convert.event(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def ListAuditEvents(
        self, request: events_pb2.ListAuditEventsRequest, context: _Context
    ) -> events_pb2.ListAuditEventsResponse:
        page = self._events.audit(requests.page(request))
        return events_pb2.ListAuditEventsResponse(
            audit_events=[convert.audit_event(item.value) for item in page.items],
            next_page_token=page.next_page_token,
        )

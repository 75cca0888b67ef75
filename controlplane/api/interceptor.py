"""What happens around every call: who is it, may they, what went wrong, and a line in the audit trail.

Order: authenticate, find the rule, read the project from the (first) request, authorise; only then does a handler see the call. So
the answer to one who may not never depends on whether an object exists.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from controlplane.access.permissions import rule_for
from controlplane.access.roles import AgentCaller, Caller
from controlplane.access.rules import Access, Rule, authorize, project_of_request
from controlplane.api.caller import CURRENT
from controlplane.api.errors import code_name, for_trailers, status_of
from controlplane.domain.kinds import AUDIT_EVENT, HOST
from controlplane.domain.operations import AuditEvent
from controlplane.history import time_id
from controlplane.services import lookup
from controlplane.services.access import AccessService
from controlplane.services.context import Context
from moorage import logs
from moorage.errors import InvalidSpec, MoorageError, Unauthenticated
from moorage.store.base import Store

log = logging.getLogger(__name__)

_Handler = Any  # grpc.RpcMethodHandler is generic only in its type stubs
_Identify = Callable[["grpc.aio.ServicerContext[Any, Any]"], "Caller | AgentCaller | None"]
_HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
_READING = ("Get", "List", "Plan", "Query", "Wait", "Watch", "Stream", "Check", "ServerReflection")


def users(access: AccessService) -> _Identify:
    """Callers of the API: by the key in `authorization`; none at all for one without a key."""

    def identify(context: "grpc.aio.ServicerContext[Any, Any]") -> Caller | None:
        header = _metadata(context, "authorization")
        return access.authenticate(header) if header is not None else None

    return identify


def agents(store: Store) -> _Identify:
    """Callers of the agents' port: by the certificate that the TLS handshake has proven, while its host is not removed."""

    def identify(context: "grpc.aio.ServicerContext[Any, Any]") -> AgentCaller:
        names = list(context.auth_context().get("x509_common_name", ()))
        if len(names) != 1:
            raise Unauthenticated("only a host's certificate opens this", reason="CERTIFICATE_MISSING")
        host_uid = names[0].decode()
        if lookup.by_uid(store.view(), HOST, host_uid) is None:
            raise Unauthenticated("this host was removed; join it anew", reason="HOST_REMOVED")
        return AgentCaller(host_uid)

    return identify


def _metadata(context: "grpc.aio.ServicerContext[Any, Any]", name: str) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode(errors="replace")
    return None


class Gate(grpc.aio.ServerInterceptor):
    """One for each port; `identify` says how its callers prove who they are."""

    def __init__(self, context: Context, identify: _Identify, *, is_audited: bool) -> None:
        self._context = context
        self._identify = identify
        self._is_audited = is_audited

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler; an unknown method keeps gRPC's own answer."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        call = _Guarded(self, method, handler)
        options = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(call.stream_stream, **options)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(call.stream_unary, **options)
        if handler.response_streaming:
            if method == _HEALTH_WATCH:
                return handler  # it writes by itself instead of being a generator; it is public and changes nothing
            return grpc.unary_stream_rpc_method_handler(call.unary_stream, **options)
        return grpc.unary_unary_rpc_method_handler(call.unary_unary, **options)

    def authenticate(self, context: "grpc.aio.ServicerContext[Any, Any]", rule: Rule) -> Caller | AgentCaller | None:
        """Who calls. A public method does not look at credentials, so that a stale key does not close it."""
        return None if rule.access is Access.PUBLIC else self._identify(context)

    async def audit(
        self,
        method: str,
        request: Any,
        caller: Caller | AgentCaller | None,
        status: status_pb2.Status | None,
        peer: str,
    ) -> None:
        """Keep a mutating call of a known user, whether it was allowed or not."""
        if not self._is_audited or not isinstance(caller, Caller):
            return
        verb = method.rpartition("/")[2]
        if verb.startswith(_READING) or getattr(request, "validate_only", False):
            return
        code = "OK" if status is None else code_name(status)
        event = AuditEvent(
            time_id(), self._context.clock.now(), caller.user, caller.key_id, method, target_of(request), code, peer
        )
        await self._context.store.update(lambda tx: tx.put(AUDIT_EVENT, event))


class _Guarded:
    """The handlers of one call, with everything around them."""

    def __init__(self, gate: Gate, method: str, handler: _Handler) -> None:
        self._gate = gate
        self._method = method
        # grpc types the handlers of both its servers as those of the synchronous one.
        self._handler: Any = handler

    def _admit(self, context: "grpc.aio.ServicerContext[Any, Any]", request: Any) -> Caller | AgentCaller | None:
        rule = rule_for(self._method)
        caller = self._gate.authenticate(context, rule)
        CURRENT.set(caller)
        if caller is None:
            authorize(rule, None, None)  # before the request is looked at: strangers learn nothing from it
            return None
        authorize(rule, caller, project_of_request(rule, request))
        return caller

    def _caller_of(self, context: "grpc.aio.ServicerContext[Any, Any]") -> Caller | AgentCaller | None:
        """For streams: authenticated before the first message is waited for."""
        rule = rule_for(self._method)
        caller = self._gate.authenticate(context, rule)
        if caller is None:
            authorize(rule, None, None)
        CURRENT.set(caller)
        return caller

    async def unary_unary(self, request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        with logs.bind(trace_id=_trace_of(context)):
            try:
                self._admit(context, request)
                response = await self._handler.unary_unary(request, context)
            except Exception as error:
                await self._fail(context, request, error)
                raise
            await self._gate.audit(self._method, request, CURRENT.get(), None, context.peer())
            return response

    async def unary_stream(self, request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[Any]:
        trace = _trace_of(context)
        try:
            self._admit(context, request)
            await self._gate.audit(self._method, request, CURRENT.get(), None, context.peer())
            async for response in _traced(self._handler.unary_stream(request, context), trace):
                yield response
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            with logs.bind(trace_id=trace):
                await self._fail(context, request, error)

    async def stream_unary(self, requests: AsyncIterator[Any], context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        with logs.bind(trace_id=_trace_of(context)):
            first = None
            try:
                first, rest = await self._first(requests, context)
                response = await self._handler.stream_unary(rest, context)
            except Exception as error:
                await self._fail(context, first, error)
                raise
            await self._gate.audit(self._method, first, CURRENT.get(), None, context.peer())
            return response

    async def stream_stream(
        self, requests: AsyncIterator[Any], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[Any]:
        trace = _trace_of(context)
        first = None
        try:
            first, rest = await self._first(requests, context)
            await self._gate.audit(self._method, first, CURRENT.get(), None, context.peer())
            async for response in _traced(self._handler.stream_stream(rest, context), trace):
                yield response
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            with logs.bind(trace_id=trace):
                await self._fail(context, first, error)

    async def _first(
        self, requests: AsyncIterator[Any], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> tuple[Any, AsyncIterator[Any]]:
        """The first message, by which the call is judged, and all of them again."""
        self._caller_of(context)
        iterator = aiter(requests)
        try:
            first = await anext(iterator)
        except StopAsyncIteration:
            raise InvalidSpec.of("", "the stream ended before its first message", "REQUIRED") from None
        self._admit(context, first)

        async def all_requests() -> AsyncIterator[Any]:
            yield first
            async for request in iterator:
                yield request

        return first, all_requests()

    async def _fail(self, context: "grpc.aio.ServicerContext[Any, Any]", request: Any, error: Exception) -> None:
        """Answer with the error's status. Ends the call by raising, as grpc's abort does."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        status = status_of(error)
        if isinstance(error, MoorageError):
            log.info("%s refused: %s (%s)", self._method, error.message, error.reason)
        if status.code not in (code_pb2.INTERNAL, code_pb2.UNAVAILABLE):
            await self._gate.audit(self._method, request, CURRENT.get(), status, context.peer())
        abort: Any = context  # its type lacks abort_with_status
        await abort.abort_with_status(rpc_status.to_status(for_trailers(status)))


def target_of(request: Any) -> str:
    """The object that a request is about, for people who read the audit trail."""
    if request is None:
        return ""
    for path in (
        "name",
        "instance.name",
        "network.name",
        "template.name",
        "host.name",
        "project.name",
        "zone.name",
        "secret.name",
        "config.name",
    ):
        value = _read(request, path)
        if value:
            return value
    for path in ("secret.name", "config.name", "start.name", "target.name", "member.name", "create.parent"):
        value = _read(request, path)
        if value:
            return value
    parent = _read(request, "parent")
    ids = [n for n in request.DESCRIPTOR.fields_by_name if n.endswith("_id") and n != "request_id"]
    own = next((value for n in ids if (value := _read(request, n))), "")
    return f"{parent}/{own}" if parent and own else parent or own


def _read(message: Any, path: str) -> str:
    for part in path.split("."):
        if not isinstance(message, Message) or part not in message.DESCRIPTOR.fields_by_name:
            return ""
        message = getattr(message, part)
    return message if isinstance(message, str) else ""


def _trace_of(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    return (_metadata(context, "x-trace-id") or secrets.token_hex(8))[:64]


async def _traced(responses: AsyncIterator[Any], trace: str) -> AsyncIterator[Any]:
    """The same, each step with its lines in the log marked. Not around the whole: a generator may be closed by another task."""
    while True:
        with logs.bind(trace_id=trace):
            try:
                response = await anext(responses)
            except StopAsyncIteration:
                return
        yield response

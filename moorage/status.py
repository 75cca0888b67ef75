"""Errors as google.rpc.Status and back: the only table between our classes and gRPC's codes, for all programs.

Whoever reads a status gets the class that the other side raised. Nothing is sent or logged here.
"""

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from moorage import errors

DOMAIN = "moorage"
DETAILS_KEY = "grpc-status-details-bin"
_RETRY_SECONDS = 1

#: The first class that an error is an instance of decides its code.
TABLE: tuple[tuple[type[errors.MoorageError], int], ...] = (
    (errors.InvalidSpec, code_pb2.INVALID_ARGUMENT),
    (errors.NotFound, code_pb2.NOT_FOUND),
    (errors.AlreadyExists, code_pb2.ALREADY_EXISTS),
    (errors.VersionConflict, code_pb2.ABORTED),
    (errors.NotReady, code_pb2.FAILED_PRECONDITION),
    (errors.Exhausted, code_pb2.RESOURCE_EXHAUSTED),
    (errors.Unauthenticated, code_pb2.UNAUTHENTICATED),
    (errors.Forbidden, code_pb2.PERMISSION_DENIED),
    (errors.Unavailable, code_pb2.UNAVAILABLE),
    (errors.HistoryCompacted, code_pb2.OUT_OF_RANGE),
    (errors.DeadlineExceeded, code_pb2.DEADLINE_EXCEEDED),
)
# What a server of another kind, or the transport, may answer besides.
_CLASS_OF_CODE: dict[int, type[errors.MoorageError]] = {
    **{code: kind for kind, code in TABLE},
    code_pb2.UNIMPLEMENTED: errors.NotSupported,
    code_pb2.CANCELLED: errors.NotReady,
}
# One code stands for several classes; these reasons tell them apart.
_CLASS_OF_REASON: dict[str, type[errors.MoorageError]] = {
    kind.default_reason: kind
    for kind in (errors.NotSupported, errors.QuotaExceeded, errors.EngineUnavailable, errors.StoreUnavailable)
}

Status = Any  # google.rpc.Status; its package ships no types


def status_of(error: errors.MoorageError) -> Status:
    """The status that tells of an error, with every detail."""
    code = next((code for kind, code in TABLE if isinstance(error, kind)), code_pb2.INTERNAL)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if isinstance(error, errors.InvalidSpec):
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.problem, reason=violation.reason)
        details.append(bad)
    if isinstance(error, errors.QuotaExceeded):
        quota = error_details_pb2.QuotaFailure()
        for name in error.metadata.get("resources", "").split(","):
            quota.violations.add(subject=name, description=error.message)
        details.append(quota)
    if error.retryable and code == code_pb2.UNAVAILABLE:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(_RETRY_SECONDS)
        details.append(retry)
    return status_pb2.Status(code=code, message=error.message, details=[packed(detail) for detail in details])


def packed(message: Message) -> any_pb2.Any:
    """The message as a detail of a status."""
    item = any_pb2.Any()
    item.Pack(message)
    return item


def error_from_status(status: Status, *, trace_id: str = "") -> errors.MoorageError:
    """The error that a google.rpc.Status stands for, as in `Operation.error`.

    Its metadata is that of the ErrorInfo, with `retry_delay_seconds` (RetryInfo) and `trace_id` where they are known.
    """
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    retry = error_details_pb2.RetryInfo()
    found = {
        part.DESCRIPTOR.full_name
        for part in (info, bad_request, quota, retry)
        for d in status.details
        if d.Unpack(part)
    }
    metadata = dict(info.metadata)
    if retry.DESCRIPTOR.full_name in found:
        metadata.setdefault("retry_delay_seconds", f"{retry.retry_delay.ToTimedelta().total_seconds():g}")
    if trace_id:
        metadata.setdefault("trace_id", trace_id)
    reason: str | None = info.reason or None
    message: str = status.message
    if status.code == code_pb2.INVALID_ARGUMENT:
        violations = [
            errors.FieldViolation(v.field, v.description, v.reason or "INVALID") for v in bad_request.field_violations
        ]
        return errors.InvalidSpec(violations, message=message or None, reason=reason, metadata=metadata)
    cls = _CLASS_OF_CODE.get(status.code, errors.Internal)
    specific = _CLASS_OF_REASON.get(reason or "")
    if specific is not None and issubclass(specific, cls):
        cls = specific
    elif cls is errors.Exhausted and quota.violations:
        cls = errors.QuotaExceeded
    if not message and quota.violations:
        message = "; ".join(v.description for v in quota.violations)
    return cls(message or cls.default_reason, reason=reason, metadata=metadata)


def error_from_rpc(error: grpc.aio.AioRpcError, *, address: str = "", trace_id: str = "") -> errors.MoorageError:
    """The error that a failed call stands for. Without details of ours it was the transport, or a stranger's server."""
    code = error.code()
    trailing: Any = error.trailing_metadata()  # the stubs' word for an item of it is no tuple
    for key, value in trailing or ():
        if key == DETAILS_KEY:
            return error_from_status(status_pb2.Status.FromString(value), trace_id=trace_id)
    status = status_pb2.Status(code=code.value[0], message=error.details() or "")
    translated = error_from_status(status, trace_id=trace_id)
    if code is grpc.StatusCode.UNAVAILABLE and address:
        translated.message = _unreachable(address, translated.message)
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        server = f"the server at {address}" if address else "the server"
        translated.message = f"{server} does not know this call; is it a Moorage control plane of this version?"
    elif code is grpc.StatusCode.CANCELLED:
        translated.reason = "CANCELLED"
    translated.args = (translated.message,)
    return translated


def _unreachable(address: str, details: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details:
        return f"the certificate of {address} is not signed by the authority that was given; check the CA file"
    cause = details.rsplit(": ", 1)[-1] if "failed to connect" in details else details
    return f"cannot reach the control plane at {address}; check the address and that it runs ({cause})"

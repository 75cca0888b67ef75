"""The only table from error classes to gRPC statuses, with their details in google.rpc's own messages."""

import logging
import secrets

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from moorage import errors

log = logging.getLogger(__name__)

DOMAIN = "moorage"
_RETRY_SECONDS = 1
# An error travels in HTTP/2 trailers, which clients bound at 8 KiB: the message percent-encoded, and all of it in base64.
_MESSAGE_BYTES = 800
_DETAIL_BYTES = 2800
_VALUE_BYTES = 200

#: The first class that an error is an instance of decides.
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


def status_of(error: BaseException) -> status_pb2.Status:
    """What the caller is told. Of an error that nobody expected, only a reference that finds it in our log."""
    if not isinstance(error, errors.MoorageError):
        reference = secrets.token_hex(4)
        log.error("unexpected error, reference %s", reference, exc_info=error)
        error = errors.Internal(
            f"something went wrong here; report reference {reference}", metadata={"reference": reference}
        )
    code = next((code for kind, code in TABLE if isinstance(error, kind)), code_pb2.INTERNAL)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if isinstance(error, errors.InvalidSpec):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.problem, reason=v.reason)
                    for v in error.violations
                ]
            )
        )
    if isinstance(error, errors.QuotaExceeded):
        details.append(
            error_details_pb2.QuotaFailure(
                violations=[
                    error_details_pb2.QuotaFailure.Violation(subject=name, description=error.message)
                    for name in error.metadata.get("resources", "").split(",")
                ]
            )
        )
    if error.retryable and code == code_pb2.UNAVAILABLE:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(_RETRY_SECONDS)
        details.append(retry)
    return status_pb2.Status(code=code, message=error.message, details=[_packed(detail) for detail in details])


def for_trailers(status: status_pb2.Status) -> status_pb2.Status:
    """The same status, small enough to arrive: long texts are cut, and bad fields beyond what fits are only counted."""
    room, left_out = _DETAIL_BYTES, 0
    details = []
    for item in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if item.Unpack(info):
            for key, value in info.metadata.items():
                info.metadata[key] = _cut(value, _VALUE_BYTES)
            item = _packed(info)
        elif item.ByteSize() > room and item.Unpack(bad):
            fitting = []
            size = 0
            for violation in bad.field_violations:
                violation.field = _cut(violation.field, _VALUE_BYTES)
                violation.description = _cut(violation.description, _VALUE_BYTES)
                size += violation.ByteSize() + 4
                if size > room:
                    break
                fitting.append(violation)
            left_out = len(bad.field_violations) - len(fitting)
            item = _packed(error_details_pb2.BadRequest(field_violations=fitting))
        if item.ByteSize() <= _DETAIL_BYTES:
            room -= item.ByteSize()
            details.append(item)
    message = _cut(status.message, _MESSAGE_BYTES) + (f" (and {left_out} more fields)" if left_out else "")
    return status_pb2.Status(code=status.code, message=message, details=details)


def _packed(message: Message) -> any_pb2.Any:
    item = any_pb2.Any()
    item.Pack(message)
    return item


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore") + "..."


def error_of(status: status_pb2.Status) -> errors.MoorageError:
    """The error that an agent's status tells of; the inverse for what agents send as a value."""
    kind = next((kind for kind, code in TABLE if code == status.code), errors.Internal)
    reason, metadata = None, {}
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason or None, dict(info.metadata)
    if kind is errors.InvalidSpec:
        violation = errors.FieldViolation("", status.message, reason or "INVALID")
        return errors.InvalidSpec([violation], message=status.message, reason=reason, metadata=metadata)
    return kind(status.message, reason=reason, metadata=metadata)


def code_name(status: status_pb2.Status) -> str:
    """Such as NOT_FOUND."""
    return str(code_pb2.Code.Name(status.code))

"""Our errors as google.rpc.Status, for what the agent sends inside messages (ends of side streams, failed tasks)."""

from google.rpc import code_pb2, error_details_pb2, status_pb2

from moorage import errors
from moorage.client import ERROR_DOMAIN

_CODES: tuple[tuple[type[errors.MoorageError], int], ...] = (
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


def status_of(error: errors.MoorageError) -> status_pb2.Status:
    """The status that `moorage.client.error_from_status` turns back into the same error."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    status = status_pb2.Status(code=code, message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if isinstance(error, errors.InvalidSpec):
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.problem, reason=violation.reason)
        status.details.add().Pack(bad)
    return status

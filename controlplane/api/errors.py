"""What callers are told of errors: those of ours in full, unexpected ones by a reference, and all of it small enough to arrive."""

import logging
import secrets

from google.rpc import code_pb2, error_details_pb2, status_pb2

from moorage import errors
from moorage.status import packed
from moorage.status import status_of as status_of_ours

log = logging.getLogger(__name__)

# An error travels in HTTP/2 trailers, which clients bound at 8 KiB: the message percent-encoded, and all of it in base64.
_MESSAGE_BYTES = 800
_DETAIL_BYTES = 2800
_VALUE_BYTES = 200


def status_of(error: BaseException) -> status_pb2.Status:
    """What the caller is told. Of an error that nobody expected, only a reference that finds it in our log."""
    if not isinstance(error, errors.MoorageError):
        reference = secrets.token_hex(4)
        log.error("unexpected error, reference %s", reference, exc_info=error)
        error = errors.Internal(
            f"something went wrong here; report reference {reference}", metadata={"reference": reference}
        )
    return status_of_ours(error)


def for_trailers(status: status_pb2.Status) -> status_pb2.Status:
    """The same status, small enough to arrive: long texts are cut, and bad fields beyond what fits are only counted."""
    room, left_out = _DETAIL_BYTES, 0
    details = []
    for item in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if item.Unpack(info):
            for key, value in info.metadata.items():
                info.metadata[key] = _cut(value, _VALUE_BYTES)
            item = packed(info)
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
            item = packed(error_details_pb2.BadRequest(field_violations=fitting))
        if item.ByteSize() <= _DETAIL_BYTES:
            room -= item.ByteSize()
            details.append(item)
    message = _cut(status.message, _MESSAGE_BYTES) + (f" (and {left_out} more fields)" if left_out else "")
    return status_pb2.Status(code=status.code, message=message, details=details)


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore") + "..."


def code_name(status: status_pb2.Status) -> str:
    """Such as NOT_FOUND."""
    return str(code_pb2.Code.Name(status.code))

"""Small readings of requests that several servicers share."""

from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from controlplane.access.rules import visible_projects
from controlplane.api.caller import current_user
from controlplane.domain.names import parse_parent
from controlplane.services.paging import PageRequest
from moorage import protoconv
from moorage.errors import InvalidSpec

T = TypeVar("T")

_LONGEST_SECONDS = 315_576_000_000


def page(request: Any) -> PageRequest:
    """page_size, page_token and, where there is one, filter."""
    return PageRequest(request.page_size, request.page_token, getattr(request, "filter", ""))


def parent_of(request: Any) -> str:
    """The project of `parent`; "-" for all."""
    return parse_parent(request.parent)


def visible() -> frozenset[str] | None:
    """Projects that the caller may read; None: all."""
    return visible_projects(current_user())


def read(record_type: type[T], message: Message, field: str) -> T:
    """The record that mirrors a part of the request.

    Raises:
        InvalidSpec: it holds an enum's number that this version does not know.
    """
    try:
        return protoconv.from_proto(record_type, message)
    except ValueError as error:
        raise InvalidSpec.of(field, str(error), "VALUE_UNKNOWN") from error


def time_of(message: Any, field: str) -> datetime:
    """A time of the request. Raises InvalidSpec for one that no calendar has."""
    try:
        return protoconv.time_of(message)
    except (ValueError, OverflowError) as error:
        raise InvalidSpec.of(field, "is no time", "OUT_OF_RANGE") from error


def seconds_of(message: Duration, field: str) -> float:
    """A duration of the request. Raises InvalidSpec beyond the 10,000 years that the type allows."""
    if abs(message.seconds) > _LONGEST_SECONDS:
        raise InvalidSpec.of(field, "is too long", "OUT_OF_RANGE")
    return message.ToNanoseconds() / 1e9


def retry(method: str, request: Any) -> dict[str, Any]:
    """`request_key` and `body` for a service's create, by which a retried request is known."""
    if not request.request_id:
        return {}
    user = current_user().user
    return {
        "request_key": f"{user}/{method}/{request.request_id}",
        "body": request.SerializeToString(deterministic=True),
    }

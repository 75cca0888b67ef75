"""Small readings of requests that several servicers share."""

from typing import Any

from controlplane.access.rules import visible_projects
from controlplane.api.caller import current_user
from controlplane.domain.names import parse_parent
from controlplane.services.paging import PageRequest


def page(request: Any) -> PageRequest:
    """page_size, page_token and, where there is one, filter."""
    return PageRequest(request.page_size, request.page_token, getattr(request, "filter", ""))


def parent_of(request: Any) -> str:
    """The project of `parent`; "-" for all."""
    return parse_parent(request.parent)


def visible() -> frozenset[str] | None:
    """Projects that the caller may read; None: all."""
    return visible_projects(current_user())


def retry(method: str, request: Any) -> dict[str, Any]:
    """`request_key` and `body` for a service's create, by which a retried request is known."""
    if not request.request_id:
        return {}
    user = current_user().user
    return {
        "request_key": f"{user}/{method}/{request.request_id}",
        "body": request.SerializeToString(deterministic=True),
    }

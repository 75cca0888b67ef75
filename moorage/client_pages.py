"""Listing in pages, as a program wants it: every object, one after the other.

It knows only the fields that every List call has, so it serves each of them and needs no generated code.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")


class PagedRequest(Protocol):
    """A List request."""

    page_token: str

    def CopyFrom(self, other: Any) -> None: ...  # noqa: N802  protobuf's name


class PagedResponse(Protocol):
    """A List response."""

    @property
    def next_page_token(self) -> str: ...


async def paginate(
    call: Callable[[Any], Awaitable[Any]], request: PagedRequest, pick: Callable[[Any], Iterable[_T]]
) -> AsyncIterator[_T]:
    """Every object of every page: `paginate(client.hosts.ListHosts, ListHostsRequest(), lambda page: page.hosts)`.

    Raises:
        MoorageError: what the call raises.
    """
    page_request = type(request)()
    page_request.CopyFrom(request)
    while True:
        page = await call(page_request)
        for item in pick(page):
            yield item
        if not page.next_page_token:
            return
        page_request.page_token = page.next_page_token

"""Pages of a listing: bounded sizes, tokens that only fit the query they came from, and filter terms.

A token says where the next page begins (the last key of this one), so objects that come or go meanwhile shift nothing.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from moorage.errors import FieldViolation, InvalidSpec
from moorage.store.base import Kind, Versioned, View

T = TypeVar("T")

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000

#: Name of a filter term to the value of a record; None: the record has none.
Fields = Callable[[T, str], str | None]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What the caller asked for."""

    page_size: int = 0
    page_token: str = ""
    filter: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page, and where the next begins."""

    items: tuple[Versioned[T], ...]
    next_page_token: str
    revision: int


def list_page(
    view: View,
    kind: Kind[T],
    request: PageRequest,
    *,
    scope: str,
    prefix: str = "",
    fields: Fields[T] | None = None,
    names: Iterable[str] = (),
    admits: Callable[[T], bool] | None = None,
) -> Page[T]:
    """One page of records in order of key.

    Args:
        scope: what the listing is of (collection and parent); a token of another scope or filter is refused.
        prefix: keys that the listing is limited to.
        fields: reads the value that a filter term is compared with.
        names: filter terms that this noun knows, besides `labels.KEY`.
        admits: leaves out what the caller may not see.
    Raises:
        InvalidSpec: page_size, page_token or filter.
    """
    size = _page_size(request.page_size)
    terms = parse_filter(request.filter, names, has_labels=fields is not None)
    query = hashlib.sha256(json.dumps([scope, prefix, request.filter]).encode()).hexdigest()[:16]
    after = _token_key(request.page_token, query) if request.page_token else ""
    found: list[Versioned[T]] = []
    while True:
        batch = view.range(kind, after, max(size, DEFAULT_PAGE), prefix)
        for item in batch:
            key = kind.key(item.value)
            if len(found) == size:
                return Page(tuple(found), _token(kind.key(found[-1].value), query), view.revision)
            after = key
            if admits is not None and not admits(item.value):
                continue
            if fields is not None and not all(_matches(fields(item.value, name), value) for name, value in terms):
                continue
            found.append(item)
        if len(batch) < max(size, DEFAULT_PAGE):
            return Page(tuple(found), "", view.revision)


def page_of(items: Mapping[str, T], request: PageRequest, scope: str) -> tuple[list[T], str]:
    """One page of what was computed, in order of key, and the token of the next one.

    Raises:
        InvalidSpec: page_size or page_token.
    """
    size = _page_size(request.page_size)
    query = hashlib.sha256(scope.encode()).hexdigest()[:16]
    after = _token_key(request.page_token, query) if request.page_token else ""
    keys = sorted(key for key in items if key > after)
    token = _token(keys[size - 1], query) if len(keys) > size else ""
    return [items[key] for key in keys[:size]], token


def parse_filter(text: str, names: Iterable[str], *, has_labels: bool = True) -> list[tuple[str, str]]:
    """Terms `name=value` joined by spaces.

    Raises:
        InvalidSpec: a term that is none, or whose name this noun does not have.
    """
    known = set(names)
    terms = []
    for term in text.split():
        name, equals, value = term.partition("=")
        if not equals or not (name in known or (has_labels and name.startswith("labels."))):
            hint = ", ".join([*sorted(known), *(["labels.KEY"] if has_labels else [])]) or "none: this has no filter"
            raise InvalidSpec(
                [FieldViolation("filter", f"{term!r} is not NAME=VALUE with a NAME of {hint}", "FILTER_INVALID")]
            )
        terms.append((name, value))
    return terms


def label_field(labels: Mapping[str, str], name: str) -> str | None:
    """The value of a `labels.KEY` term."""
    return labels.get(name.removeprefix("labels."))


def _matches(actual: str | None, wanted: str) -> bool:
    return actual is not None and actual == wanted


def _page_size(size: int) -> int:
    if size < 0:
        raise InvalidSpec.of("page_size", "must not be negative", "OUT_OF_RANGE")
    return min(size or DEFAULT_PAGE, LARGEST_PAGE)


def _token(key: str, query: str) -> str:
    return base64.urlsafe_b64encode(f"{query}:{key}".encode()).decode()


def _token_key(token: str, query: str) -> str:
    try:
        found, _, key = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except (binascii.Error, ValueError):
        found, key = "", ""
    if found != query:
        raise InvalidSpec.of("page_token", "is not one of this query; list again without it", "PAGE_TOKEN_INVALID")
    return key

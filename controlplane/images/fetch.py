"""Fetches a URL that a user gave (a tar, a Dockerfile, a build context) without becoming their way into our networks.

The address rules are `controlplane.registry.addresses`'; here are those of the URL itself and of time and size.
Redirects are followed by hand, so that each hop passes all of them again.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from controlplane.registry.addresses import AddressPolicy, forbidden, guarded_session, is_forbidden
from moorage.errors import DeadlineExceeded, InvalidSpec, MoorageError, NotFound, Unavailable

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024
_MAX_URL_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of one fetch. `total_seconds` counts waiting for the server, not for whoever takes the bytes."""

    max_bytes: int = 8 * 1024**3
    total_seconds: float = 3600.0
    connect_seconds: float = 10.0
    silence_seconds: float = 30.0
    max_redirects: int = 5


async def fetch_url(
    url: str,
    *,
    limits: FetchLimits,
    allow: AddressPolicy,
    resolver: AbstractResolver | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[bytes]:
    """Stream what a URL gives.

    Args:
        allow: which addresses may be connected to.
        resolver: how names become addresses; None for the system's way.

    Raises:
        InvalidSpec: URL_FORBIDDEN (scheme, address, user name in it), URL_TOO_LARGE, URL_UNREADABLE (refused there).
        NotFound: URL_NOT_FOUND.
        Unavailable: URL_UNREACHABLE.
        DeadlineExceeded: URL_TIMEOUT.
    """
    check_url(url)
    clock = _Clock(limits.total_seconds)
    async with guarded_session(allow, resolver=resolver, ssl_context=ssl_context) as session:
        async with contextlib.AsyncExitStack() as stack:
            try:
                answer = await _open(session, url, limits, clock)
                stack.callback(answer.close)
                if answer.content_length is not None and answer.content_length > limits.max_bytes:
                    raise _too_large(limits)
                received = 0
                while chunk := await clock.run(answer.content.read(_CHUNK_BYTES)):
                    received += len(chunk)
                    if received > limits.max_bytes:
                        raise _too_large(limits)
                    yield chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                raise _failed(url, exc) from exc


def check_url(url: str, field: str = "url") -> None:
    """The rules that need no network. Raises InvalidSpec (URL_FORBIDDEN)."""

    def refuse(problem: str) -> InvalidSpec:
        return InvalidSpec.of(field, problem, "URL_FORBIDDEN")

    if len(url) > _MAX_URL_LENGTH or not url.isprintable() or " " in url:
        raise refuse(f"is longer than {_MAX_URL_LENGTH} characters or has blanks or control characters in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise refuse(f"is no URL: {exc}") from exc
    if parts.scheme not in ("http", "https"):
        raise refuse("must begin with https:// or http://")
    if not parts.hostname or port == 0:
        raise refuse("has no host or no proper port")
    if parts.username is not None or parts.password is not None:
        raise refuse("has a user name or password in it, which would end up in logs; not supported")


async def _open(
    session: aiohttp.ClientSession, url: str, limits: FetchLimits, clock: "_Clock"
) -> aiohttp.ClientResponse:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_seconds, sock_read=limits.silence_seconds)
    for _ in range(limits.max_redirects + 1):
        # No compression on the way: the limit is on bytes as they are, and a layer above unpacks with limits of its
        # own.
        answer = await clock.run(
            session.get(url, allow_redirects=False, timeout=timeout, headers={"Accept-Encoding": "identity"})
        )
        if answer.status in (301, 302, 303, 307, 308):
            target = urljoin(url, answer.headers.get("Location", ""))
            answer.close()
            check_url(target)
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
                raise InvalidSpec.of("url", "redirects from https to http", "URL_FORBIDDEN")
            url = target
            continue
        if answer.status == 200:
            return answer
        answer.close()
        raise _refused(answer.status)
    raise InvalidSpec.of("url", f"redirects more than {limits.max_redirects} times", "URL_FORBIDDEN")


class _Clock:
    """Adds up the time spent waiting for the server, whatever the consumer does in between."""

    def __init__(self, budget_seconds: float) -> None:
        self._left = budget_seconds

    async def run(self, waiting: Awaitable[T]) -> T:
        """Wait within what is left. Raises TimeoutError."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                return await waiting
        finally:
            self._left -= time.monotonic() - began


def _refused(status: int) -> MoorageError:
    if status in (404, 410):
        return NotFound(f"the server of the URL answered {status}: there is nothing there", reason="URL_NOT_FOUND")
    if status == 429 or status >= 500:
        return Unavailable(f"the server of the URL answered {status}; try again later", reason="URL_UNREACHABLE")
    return InvalidSpec.of("url", f"its server answered {status}", "URL_UNREADABLE")


def _too_large(limits: FetchLimits) -> InvalidSpec:
    return InvalidSpec.of("url", f"gives more than {limits.max_bytes} bytes", "URL_TOO_LARGE")


def _failed(url: str, exc: BaseException) -> MoorageError:
    if is_forbidden(exc):
        return forbidden()
    if isinstance(exc, aiohttp.InvalidURL):
        return InvalidSpec.of("url", "has no proper host", "URL_FORBIDDEN")
    host = urlsplit(url).hostname
    if isinstance(exc, TimeoutError):
        return DeadlineExceeded(f"{host} took longer than allowed", reason="URL_TIMEOUT")
    return Unavailable(f"{host} cannot be reached: {type(exc).__name__}", reason="URL_UNREACHABLE")

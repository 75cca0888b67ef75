"""How a client proves who it is to a registry: with tokens that we sign, or by answering a foreign registry's
challenge."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from controlplane.registry.addresses import forbidden, is_forbidden
from controlplane.registry.tokens import Grant
from moorage.errors import Unauthenticated, Unavailable

_MAX_ANSWER_BYTES = 256 * 1024
_DEFAULT_LIFETIME_SECONDS = 60.0  # the token specification's, where the server names none
_EARLY_SECONDS = 20.0
_OWN_TOKEN_SECONDS = 60.0
_PARAMETER = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password (or access token) for a registry."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, ...)"  # a password must not reach a log through a traceback

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Authenticator(Protocol):
    """What `RegistryClient` asks before a request and after a 401."""

    async def header(self, grants: tuple[Grant, ...]) -> str | None:
        """The Authorization header for a request that needs these grants; None to send none."""
        ...

    async def challenged(self, challenges: Sequence[str], grants: tuple[Grant, ...]) -> bool:
        """The registry said 401 with these WWW-Authenticate headers: whether another attempt makes sense now.

        Raises:
            Unauthenticated: it makes none, and the reason is known (REGISTRY_AUTH).
        """
        ...


class IssuedTokens:
    """For the platform's own registry: tokens come from a callback, not from a realm."""

    def __init__(self, issue: Callable[[tuple[Grant, ...]], Awaitable[str]]) -> None:
        """Args: issue: returns a token for the grants that lives for two minutes or more."""
        self._issue = issue
        self._cache: dict[tuple[Grant, ...], tuple[float, str]] = {}

    async def header(self, grants: tuple[Grant, ...]) -> str | None:
        """See `Authenticator`."""
        cached = self._cache.get(grants)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        if len(self._cache) > 256:
            self._cache.clear()
        header = f"Bearer {await self._issue(grants)}"
        self._cache[grants] = (time.monotonic() + _OWN_TOKEN_SECONDS, header)
        return header

    async def challenged(self, challenges: Sequence[str], grants: tuple[Grant, ...]) -> bool:
        """See `Authenticator`. Worth another attempt only when the token came from the cache (the key may be new)."""
        return self._cache.pop(grants, None) is not None


class ChallengeAuth:
    """For foreign registries: none, basic, or the bearer-token flow, whichever the registry asks for.

    The realm (where the token is fetched, and where our user's password goes) is named by the registry, hence by
    whoever answers for it. So it is followed only over https, where the name's certificate says who listens; over
    plain http only when it is the registry's own origin, which already sees all that we send. Another host is allowed
    over https, because real registries need it (docker.io's realm is auth.docker.io).
    """

    def __init__(
        self, session: aiohttp.ClientSession, *, base_url: str, credentials: Credentials | None = None
    ) -> None:
        """Args: base_url: the registry's, to compare a realm with."""
        self._session = session
        self._origin = _origin(base_url)
        self._credentials = credentials
        self._use_basic = False
        self._tokens: dict[tuple[Grant, ...], tuple[float, str]] = {}
        self._fetching = asyncio.Lock()

    async def header(self, grants: tuple[Grant, ...]) -> str | None:
        """See `Authenticator`."""
        if self._use_basic and self._credentials is not None:
            return self._credentials.basic
        cached = self._tokens.get(grants)
        return cached[1] if cached is not None and cached[0] > time.monotonic() else None

    async def challenged(self, challenges: Sequence[str], grants: tuple[Grant, ...]) -> bool:
        """See `Authenticator`."""
        sent = await self.header(grants)
        schemes = {challenge.split(" ", 1)[0].lower(): challenge for challenge in challenges}
        if "bearer" in schemes:
            self._tokens.pop(grants, None)
            async with self._fetching:
                if await self.header(grants) is None:
                    await self._fetch(_parameters(schemes["bearer"]), grants)
            return True
        if "basic" in schemes and self._credentials is not None and sent is None:
            self._use_basic = True
            return True
        return False

    async def _fetch(self, parameters: dict[str, str], grants: tuple[Grant, ...]) -> None:
        realm = parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.username is not None or not (
            (parts.scheme == "https" and parts.hostname) or (parts.scheme == "http" and _origin(realm) == self._origin)
        ):
            raise Unauthenticated(
                "the registry wants credentials sent to an address that is neither https nor its own; not done",
                reason="REGISTRY_AUTH",
            )
        query = [("service", parameters["service"])] if "service" in parameters else []
        for grant in grants:
            query.append(("scope", f"repository:{grant.repository}:{','.join(sorted(grant.actions))}"))
        headers = {"Authorization": self._credentials.basic} if self._credentials is not None else {}
        try:
            async with self._session.get(realm, params=query, headers=headers, allow_redirects=False) as answer:
                body = await answer.content.read(_MAX_ANSWER_BYTES)
                while len(body) < _MAX_ANSWER_BYTES and (more := await answer.content.read(_MAX_ANSWER_BYTES)):
                    body += more
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if is_forbidden(exc):
                raise forbidden("reference") from exc
            raise Unavailable(
                f"the registry's token server {parts.hostname} cannot be reached: {type(exc).__name__}",
                reason="REGISTRY_UNREACHABLE",
            ) from exc
        if status in (400, 401, 403):
            raise Unauthenticated(
                "the registry's token server refused the credentials"
                if self._credentials
                else "the registry wants credentials for this repository, and the project has none for it",
                reason="REGISTRY_AUTH",
            )
        if status != 200:
            raise Unavailable(f"the registry's token server answered {status}", reason="REGISTRY_UNREACHABLE")
        try:
            document = json.loads(body)
            token = document.get("token") or document.get("access_token")
            lifetime = float(document.get("expires_in") or _DEFAULT_LIFETIME_SECONDS)
        except (ValueError, AttributeError, TypeError) as exc:
            raise Unavailable("the registry's token server answered nonsense", reason="REGISTRY_UNREACHABLE") from exc
        if not isinstance(token, str) or not token or not token.isprintable():
            raise Unavailable("the registry's token server gave no token", reason="REGISTRY_UNREACHABLE")
        until = time.monotonic() + max(5.0, min(lifetime, 3600.0) - _EARLY_SECONDS)
        self._tokens[grants] = (until, f"Bearer {token}")


def _parameters(challenge: str) -> dict[str, str]:
    found = {}
    for name, quoted, plain in _PARAMETER.findall(challenge):
        found[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
    return found


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default

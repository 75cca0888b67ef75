"""A registry that somebody else runs, at an address of the configuration, used like the one that we run ourselves.

Its operator has it believe our tokens (docs/operations.md says how). We never restart it, and never collect its
garbage: we delete manifests, and the space comes back when its operator collects.

Invariant: a registry that is away, or does not believe us yet, does not keep the control plane from starting.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp

from controlplane.registry.auth import IssuedTokens
from controlplane.registry.client import RegistryClient
from controlplane.registry.names import check_repository
from controlplane.registry.tokens import Grant, RegistryTokens
from moorage.clock import Clock
from moorage.errors import MoorageError, Unauthenticated, Unavailable
from moorage.retry import Backoff
from moorage.tasks import TaskOwner

_log = logging.getLogger(__name__)

_TOKEN_LIFETIME = timedelta(minutes=10)
_PING_SECONDS = 5.0
_BACKOFF = Backoff(initial=1.0, maximum=60.0)


class ExternalRegistry:
    """Has the methods of `ManagedRegistry` that importing and forgetting images need."""

    def __init__(
        self, url: str, *, trust: ssl.SSLContext, tokens: RegistryTokens, clock: Clock, backoff: Backoff = _BACKOFF
    ) -> None:
        """Args:
        url: `https://host[:port]`.
        trust: who may have signed its certificate.
        backoff: how often it is asked while it does not answer.
        """
        self.url = url
        self._trust = trust
        self._tokens = tokens
        self._clock = clock
        self._backoff = backoff
        self._tasks = TaskOwner("external registry")
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Ask once whether it takes our tokens. If not, the log says so, and it is asked again until it does."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._trust))
        if not await self._is_ready():
            self._tasks.spawn(self._until_ready(), name="ask the registry")

    async def stop(self) -> None:
        """Close connections. May be called twice, and without a start."""
        await self._tasks.close()
        if self._session is not None:
            await self._session.close()

    async def check(self) -> None:
        """Return when it answers and takes our tokens.

        Raises:
            Unavailable: REGISTRY_UNREACHABLE, it does not answer within five seconds.
            Unauthenticated: REGISTRY_AUTH, it does not believe our tokens.
        """
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._client(attempts=1).ping()
        except TimeoutError as error:
            raise Unavailable(
                f"the registry {self.url} did not answer within {_PING_SECONDS:g} s", reason="REGISTRY_UNREACHABLE"
            ) from error

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Nothing to hold: whoever collects its garbage keeps writers away by its own means (read-only mode)."""
        yield

    async def forget(self, repository: str, digest: str | None) -> None:
        """Delete an image by digest, and what tags of the repository name. What is gone already is no error.

        What an import that broke off has left without a tag stays: a registry lists no such manifests.

        Raises:
            InvalidSpec: not a repository name or digest; or the registry has deleting turned off.
            Unavailable, Unauthenticated: like every call.
        """
        client = self._client()
        check_repository(repository)
        if digest:
            await client.delete_image(repository, digest)
        for found in await client.tagged(repository):
            await client.delete_image(repository, found)

    async def _issue(self, grants: tuple[Grant, ...]) -> str:
        return self._tokens.issue("controlplane", grants, _TOKEN_LIFETIME.total_seconds(), self._clock.now())

    def _client(self, *, attempts: int = 4) -> RegistryClient:
        if self._session is None:
            raise Unavailable("the registry's connections are not open yet", reason="REGISTRY_UNREACHABLE")
        return RegistryClient(self.url, session=self._session, auth=IssuedTokens(self._issue), attempts=attempts)

    async def _until_ready(self) -> None:
        for delay in self._backoff.delays():
            await self._clock.sleep(delay)
            if await self._is_ready():
                return

    async def _is_ready(self) -> bool:
        try:
            await self.check()
        except Unauthenticated as error:
            _log.warning("%s; does its auth.token section name our registry-tokens.crt? %s", self.url, error)
            return False
        except MoorageError as error:
            _log.warning("no image can be imported or pulled now: %s", error)
            return False
        _log.info("the registry %s answers and takes our tokens", self.url)
        return True

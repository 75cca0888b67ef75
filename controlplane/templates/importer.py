"""Brings images into the platform's registry without Docker: from other registries, and from tars."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import aiohttp

from controlplane.domain.containers import ContainerDefaults, HealthCheck
from controlplane.domain.templates import RepositorySource, TarSource
from controlplane.images.copy import copy_image
from controlplane.images.fetch import FetchLimits, fetch_url
from controlplane.images.model import ImageConfig, ImportedImage, ProgressCallback
from controlplane.images.reference import parse_reference, registry_url
from controlplane.images.snapshot import clean_snapshot
from controlplane.images.tar import import_tar
from controlplane.registry.addresses import AddressPolicy, guarded_session
from controlplane.registry.auth import ChallengeAuth, Credentials, IssuedTokens
from controlplane.registry.client import RegistryClient
from controlplane.registry.names import Reference
from controlplane.registry.tokens import Grant, RegistryTokens
from controlplane.services.templates import MadeImage
from moorage.clock import Clock
from moorage.errors import InvalidSpec

DEFAULT_PLATFORM = "linux/amd64"
_TOKEN_LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """Where the control plane connects to on a user's word.

    Attributes:
        denied: CIDRs never connected to besides loopback and link-local, such as the network between hosts.
        allowed: CIDRs that are allowed all the same (a site's own registry).
        plain_http: registries (host:port) that may be spoken to without TLS.
    """

    denied: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    plain_http: tuple[str, ...] = ()

    def policy(self) -> AddressPolicy:
        """The same as addresses."""
        return AddressPolicy(
            denied=tuple(ipaddress.ip_network(text) for text in self.denied),
            allowed=tuple(ipaddress.ip_network(text) for text in self.allowed),
            allow_private=True,
        )


class Registry(Protocol):
    """The platform's registry: one that we run, or one of the operator's."""

    url: str

    def writing(self) -> AbstractAsyncContextManager[None]:
        """Hold this around everything between the first blob and the manifest of a push."""
        ...

    async def forget(self, repository: str, digest: str | None) -> None:
        """Delete a repository's image, or (None) whatever can be found of one that was never finished."""
        ...


class Importer:
    """Holds the connection to the platform's registry. `writing()` of the registry keeps collections away meanwhile."""

    def __init__(
        self,
        registry: Registry,
        tokens: RegistryTokens,
        clock: Clock,
        session: aiohttp.ClientSession,
        rules: OutboundRules,
    ) -> None:
        self._registry = registry
        self._tokens = tokens
        self._clock = clock
        self._rules = rules
        self._client = RegistryClient(registry.url, session=session, auth=IssuedTokens(self._issue))

    async def _issue(self, grants: tuple[Grant, ...]) -> str:
        return self._tokens.issue("controlplane", grants, _TOKEN_LIFETIME.total_seconds(), self._clock.now())

    async def from_repository(
        self, source: RepositorySource, repository: str, platforms: tuple[str, ...], progress: ProgressCallback
    ) -> MadeImage:
        """Copy an image, for `platforms` (none: all that it offers).

        Raises:
            InvalidSpec (REFERENCE_INVALID, IMAGE_INVALID, IMAGE_PLATFORM, ...), NotFound (IMAGE_NOT_FOUND), Unauthenticated,
            Unavailable (REGISTRY_UNREACHABLE).
        """
        reference = parse_reference(source.reference, "template.source.repository.reference")
        if source.plain_http and reference.registry not in self._rules.plain_http:
            raise InvalidSpec.of(
                "template.source.repository.plain_http",
                f"{reference.registry} is not among the registries that the control plane's configuration lets be spoken "
                "to without TLS (plain_http_registries)",
                "PLAIN_HTTP_REFUSED",
            )
        url = registry_url(reference.registry, plain_http=self._rules.plain_http)
        credentials = Credentials(source.username, source.password) if source.username else None
        async with guarded_session(self._rules.policy()) as session:
            auth = ChallengeAuth(session, base_url=url, credentials=credentials)
            foreign = RegistryClient(url, session=session, auth=auth)
            async with self._registry.writing():
                image = await copy_image(
                    foreign,
                    reference,
                    self._client,
                    repository,
                    platforms=platforms or None,
                    prefer=platforms[0] if platforms else DEFAULT_PLATFORM,
                    progress=progress,
                )
        return made(image)

    async def from_tar(
        self, stream: AsyncIterator[bytes], source: TarSource, repository: str, progress: ProgressCallback
    ) -> MadeImage:
        """Store what a tar holds. Raises InvalidSpec (NOT_A_TAR, TAR_TRUNCATED, TAR_UNSAFE_NAME, ...), Exhausted."""
        async with self._registry.writing():
            image = await import_tar(
                stream, self._client, repository, progress=progress, platform=source.platform or DEFAULT_PLATFORM
            )
        return made(image)

    def fetch(self, url: str) -> AsyncIterator[bytes]:
        """What an address gives. Raises InvalidSpec (URL_FORBIDDEN, URL_TOO_LARGE), NotFound, Unavailable."""
        return fetch_url(url, limits=FetchLimits(), allow=self._rules.policy())

    def writing(self) -> AbstractAsyncContextManager[None]:
        """Hold this while a host may push; no garbage is collected meanwhile."""
        return self._registry.writing()

    async def pushed(self, repository: str, tag: str, built_on: str, *, is_snapshot: bool = False) -> MadeImage:
        """What a host has pushed under a tag, checked like any other image."""
        async with self._registry.writing():
            if is_snapshot:
                manifest = await clean_snapshot(self._client, repository, tag)
            else:
                manifest = await self._client.get_manifest(repository, tag)
            reference = Reference(self._registry.url.partition("//")[2], repository, None, manifest.digest)
            image = await copy_image(self._client, reference, self._client, repository)
        return made(image, built_on)

    async def forget(self, repository: str, digest: str | None) -> None:
        """Delete everything that a template had. None: its image was never finished."""
        await self._registry.forget(repository, digest)


def made(image: ImportedImage, built_on: str = "") -> MadeImage:
    """The image as its template tells of it."""
    return MadeImage(image.digest, image.size_bytes, image.platforms, _defaults(image.config), built_on)


def _defaults(config: ImageConfig) -> ContainerDefaults:
    check = config.healthcheck
    return ContainerDefaults(
        command=config.command,
        entrypoint=config.entrypoint or None,
        env=dict(item.partition("=")[::2] for item in config.env),
        ports=config.exposed_ports,
        health_check=None
        if check is None
        else HealthCheck(
            check.test, check.interval_seconds, check.timeout_seconds, check.start_period_seconds, check.retries
        ),
        user=config.user,
        workdir=config.workdir,
    )

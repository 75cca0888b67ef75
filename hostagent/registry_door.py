"""Opens this host's loopback registry proxy once the control plane has told where the platform's registry is.

Which images may pass is asked of the journal for each request, so an image that is taken away from this host cannot
be read any more.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from hostagent.enroll import IdentityStore
from hostagent.images.proxy import PUSH, RegistryProxy, TokenFor
from hostagent.journal.journal import Journal
from moorage.errors import Forbidden, Unavailable


class RegistryDoor:
    """One proxy at a time, on one port."""

    def __init__(self, port: int, store: IdentityStore, journal: Journal, token_for: TokenFor) -> None:
        self._port = port
        self._store = store
        self._journal = journal
        self._token_for = token_for
        self._proxy: RegistryProxy | None = None
        self._opened_for: tuple[str, str, bytes] | None = None
        self._bases: list[str] = []
        self._pushed_to: list[str] = []

    async def open(self, registry_url: str, registry_ca_pem: str) -> None:
        """Lead to this registry from now on, with the certificate that the host has now.

        Args:
            registry_ca_pem: who may have signed the registry's certificate; empty: whom the system trusts.

        Raises:
            OSError: the port is taken.
            ValueError: not an https address.
        """
        wanted = (registry_url, registry_ca_pem, self._store.identity().cert_pem)
        if self._proxy is not None and self._opened_for == wanted:
            return
        await self.close()
        context = ssl.create_default_context(cadata=registry_ca_pem or None)
        context.load_cert_chain(self._store.folder / "host.pem")
        proxy = RegistryProxy(
            listen_port=self._port,
            upstream_url=registry_url,
            ssl_context=context,
            token_for=self._token,
            assigned=self._assigned,
        )
        await proxy.start()
        self._proxy, self._opened_for = proxy, wanted

    async def refresh(self) -> None:
        """Use the certificate that the host has now, after it was renewed."""
        if self._opened_for is not None:
            await self.open(*self._opened_for[:2])

    async def close(self) -> None:
        """Stop listening."""
        proxy, self._proxy, self._opened_for = self._proxy, None, None
        if proxy is not None:
            await proxy.stop()

    @contextmanager
    def grant_push(self, repository: str) -> Iterator[None]:
        """Let the engine push to a repository for a while.

        Raises:
            Unavailable: the proxy is not open.
        """
        if self._proxy is None:
            raise Unavailable("the platform's registry is not known yet", reason="REGISTRY_UNREACHABLE")
        self._pushed_to.append(repository)
        try:
            with self._proxy.grant_push(repository):
                yield
        finally:
            self._pushed_to.remove(repository)

    @contextmanager
    def grant_pull(self, image: str) -> Iterator[None]:
        """Let the engine read an image (repository@digest) that no instance here has: the base of a build."""
        self._bases.append(image)
        try:
            yield
        finally:
            self._bases.remove(image)

    async def _token(self, repository: str, actions: frozenset[str]) -> str:
        if repository in self._pushed_to and actions != PUSH:
            return await token_beside_push(self._token_for, repository, actions)
        return await self._token_for(repository, actions)

    def _assigned(self, repository: str) -> set[str]:
        """Digests of a repository that this host may read: of its instances, and bases of its builds."""
        own = f"127.0.0.1:{self._port}/{repository}@"
        images = (assignment.container.image for assignment in self._journal.assignments.values())
        found = {image.removeprefix(own) for image in images if image.startswith(own)}
        base = f"{repository}@"
        return found | {image.removeprefix(base) for image in self._bases if image.startswith(base)}


async def token_beside_push(token_for: TokenFor, repository: str, actions: frozenset[str]) -> str:
    """A token for reading a repository that is pushed to at the same time.

    A push also reads (which layers are there?), and only the right to push lets a host read what is none of its instances' images. But a
    build that a control plane of before began may still hold its grant: its right to push is gone then, and an instance made of the new
    build's image must be pulled all the same.
    """
    try:
        return await token_for(repository, PUSH)
    except Forbidden:
        return await token_for(repository, actions)

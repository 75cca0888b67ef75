"""Builds and snapshots: an image made by this host's engine, pushed to the platform's registry, and then removed here.

The push goes through the agent's own loopback proxy, which lets it pass only while a grant for that one repository
is held.
"""

import asyncio
import io
import tarfile
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hostagent.domain import ContainerObservation
from hostagent.engine.context import context_file, read_dockerfile
from hostagent.engine.values import ImageObservation, PullProgress
from hostagent.executor.dockerfile_bases import rewrite_bases
from moorage.errors import InvalidSpec, NotSupported
from moorage.ids import ContainerId

DEFAULT_TIMEOUT_SECONDS = 1800.0
_REWRITTEN = ".moorage.Dockerfile"

OnProgress = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """A build; mirrors the message BuildTask."""

    repository: str
    tag: str
    dockerfile: str = ""
    path: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    memory_bytes: int = 0
    cpu_millis: int = 0
    egress: bool = False
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    base_images: Mapping[str, str] = field(default_factory=dict)


class ImageEngine(Protocol):
    """What making images needs of the engine."""

    async def build(
        self,
        context: AsyncIterable[bytes] | Path,
        *,
        dockerfile: str = "Dockerfile",
        tag: str = "",
        build_args: Mapping[str, str] | None = None,
        target: str = "",
        memory_bytes: int = 0,
        cpu_millis: int = 0,
        network: str = "none",
        timeout_seconds: float = 600.0,
        on_output: Callable[[str], None] | None = None,
    ) -> str: ...
    async def commit(
        self,
        container_id: str,
        repository: str,
        tag: str,
        *,
        pause: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> str: ...
    async def push(self, image: str, on_progress: OnProgress | None = None) -> str: ...
    async def pull(self, image: str, on_progress: OnProgress | None = None) -> None: ...
    async def inspect(self, id_or_name: str) -> ContainerObservation | None: ...
    async def inspect_image(self, image: str) -> ImageObservation | None: ...
    async def remove_image(self, image: str, *, force: bool = False) -> None: ...


class Door(Protocol):
    """The way to the platform's registry."""

    def grant_push(self, repository: str) -> AbstractContextManager[None]: ...
    def grant_pull(self, image: str) -> AbstractContextManager[None]: ...


class ImageMaker:
    """Makes images and pushes them.

    Args:
        registry: host:port under which the engine reaches the platform's registry.
        on_pulled: told each base image that was fetched.
    """

    def __init__(self, engine: ImageEngine, door: Door, registry: str, *, on_pulled: Callable[[str], None]) -> None:
        self._engine = engine
        self._door = door
        self._registry = registry
        self._on_pulled = on_pulled

    async def build(
        self,
        order: BuildOrder,
        context: AsyncIterable[bytes] | None,
        *,
        on_output: Callable[[str], None],
        on_push: OnProgress,
    ) -> None:
        """Build and push.

        Raises:
            NotSupported: EGRESS_NOT_SUPPORTED, or what the engine's builder lacks.
            InvalidSpec: the Dockerfile or its context is wrong, or the build failed; the output has been handed on.
            DeadlineExceeded, Exhausted: time or output limit.
        """
        if order.egress:
            raise NotSupported(
                "builds on this host have no network; put what they need into the context or a base image",
                reason="EGRESS_NOT_SUPPORTED",
            )
        image = f"{self._registry}/{order.repository}:{order.tag}"
        bases = {name: f"{self._registry}/{pinned}" for name, pinned in order.base_images.items()}
        for name, pinned in order.base_images.items():
            if await self._engine.inspect_image(bases[name]) is None:
                with self._door.grant_pull(pinned):
                    await self._engine.pull(bases[name])
                self._on_pulled(bases[name])
        async with _prepared(order, context, bases) as (path, dockerfile):
            await self._engine.build(
                path,
                dockerfile=dockerfile,
                tag=image,
                build_args={key: bases.get(value, value) for key, value in order.build_args.items()},
                target=order.target,
                memory_bytes=order.memory_bytes,
                cpu_millis=order.cpu_millis,
                network="none",
                timeout_seconds=order.timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
                on_output=on_output,
            )
        await self._push(order.repository, image, on_push)

    async def snapshot(
        self, container_id: ContainerId, repository: str, tag: str, *, pause: bool, on_push: OnProgress
    ) -> None:
        """Commit a container's files and push them. What we marked the container with does not stay on the image."""
        found = await self._engine.inspect(container_id)
        labels = {label: "" for label in (found.labels if found else {}) if label.startswith("moorage.")}
        name = f"{self._registry}/{repository}"
        await self._engine.commit(container_id, name, tag, pause=pause, labels=labels)
        await self._push(repository, f"{name}:{tag}", on_push)

    async def _push(self, repository: str, image: str, on_push: OnProgress) -> None:
        try:
            with self._door.grant_push(repository):
                await self._engine.push(image, on_push)
        finally:
            await self._engine.remove_image(image)


@asynccontextmanager
async def _prepared(
    order: BuildOrder, context: AsyncIterable[bytes] | None, bases: Mapping[str, str]
) -> AsyncIterator[tuple[Path, str]]:
    """The context as a file, with base images put in, and the name of the Dockerfile in it."""
    if context is None and not order.dockerfile:
        raise InvalidSpec.of("dockerfile", "neither a Dockerfile nor a context was given", "DOCKERFILE_MISSING")
    async with context_file(context if context is not None else _nothing()) as path:
        name = order.path or "Dockerfile"
        if context is None or order.dockerfile:
            text = order.dockerfile
        else:
            text = await asyncio.to_thread(read_dockerfile, path, name)
        rewritten = rewrite_bases(text, bases)
        if context is not None and rewritten == text and not order.dockerfile:
            yield path, name
            return
        with tempfile.NamedTemporaryFile(prefix="moorage-build-", suffix=".tar") as target:
            source = path if context is not None else None
            await asyncio.to_thread(_with_file, source, Path(target.name), _REWRITTEN, rewritten.encode())
            yield Path(target.name), _REWRITTEN


async def _nothing() -> AsyncIterator[bytes]:
    for piece in list[bytes]():
        yield piece


def _with_file(source: Path | None, target: Path, name: str, data: bytes) -> None:
    """Copy a tar, member by member and without unpacking, and add one file."""
    try:
        with tarfile.open(target, "w") as into:
            if source is not None:
                with tarfile.open(source, "r:*") as archive:
                    for member in archive:
                        into.addfile(member, archive.extractfile(member) if member.isreg() else None)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            into.addfile(entry, io.BytesIO(data))
    except (tarfile.TarError, EOFError) as exc:
        raise InvalidSpec.of("context", f"is no whole tar: {exc}", "TAR_INVALID") from exc

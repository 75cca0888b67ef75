"""Stores an image, from wherever it comes, in one repository of the platform's registry.

Everything is checked before the first byte is sent (labels, platforms, shape), and manifests go last: children before
the index that names them. So a push that ends in the middle leaves unreferenced blobs for the collector, never half
an image.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from controlplane.images.model import ImageConfig, ImportedImage, Progress, ProgressCallback, parse_image_config
from controlplane.registry.client import RegistryClient
from controlplane.registry.manifests import (
    CONFIG_TYPES,
    UNKNOWN_PLATFORM,
    Descriptor,
    Manifest,
    invalid,
    load_object,
    make_index,
    platform_text,
    require_image,
)
from controlplane.registry.streams import closing

DEFAULT_PLATFORM = "linux/amd64"

# Enough to hide a round trip; more would only hold more connections and memory.
_PARALLEL_BLOBS = 3


class ImageSource(Protocol):
    """Where an image's parts come from: another registry, or an archive."""

    async def manifest(self, descriptor: Descriptor) -> Manifest:
        """A child of an index."""
        ...

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        """A configuration, in memory."""
        ...

    def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """A layer, from its start."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """One image of an index, or the image itself."""

    manifest: Manifest
    config_bytes: bytes
    platform: str | None
    config: ImageConfig | None


def platform_matches(wanted: str, offered: str) -> bool:
    """Whether an offered platform is what was asked for: without a variant, any variant will do."""
    return offered == wanted or offered.startswith(wanted + "/")


async def push_image(
    source: ImageSource,
    manifest: Manifest,
    target: RegistryClient,
    repository: str,
    *,
    platforms: Sequence[str] | None,
    prefer: str = DEFAULT_PLATFORM,
    progress: ProgressCallback,
    mount_from: str | None = None,
) -> ImportedImage:
    """Check an image and store it.

    Args:
        platforms: keep only these; None keeps the index as it is, digest and all. One that remains alone is stored
        without an
            index around it.
        prefer: whose configuration is returned where there are several.
        mount_from: a repository of the target that may hold some of the blobs.

    Raises:
        InvalidSpec: IMAGE_INVALID, IMAGE_LABEL_RESERVED, or IMAGE_PLATFORM (none that was asked for is there).
        NotFound, Unauthenticated, Unavailable: from source or target.
    """
    manifest, parts = await _gather(source, manifest, platforms)
    blobs: dict[str, Descriptor] = {}
    for part in parts:
        for descriptor in (part.manifest.config, *part.manifest.layers):
            if descriptor is not None:
                blobs[descriptor.digest] = descriptor
    total = sum(descriptor.size for descriptor in blobs.values())
    await _upload(source, blobs, parts, target, repository, total, progress, mount_from)
    for part in parts:
        await target.put_manifest(repository, part.manifest)
    size = total + sum(len(part.manifest.raw) for part in parts)
    if manifest.is_index:
        await target.put_manifest(repository, manifest)
        size += len(manifest.raw)
    progress(Progress("done", total, total))
    runnable = [part for part in parts if part.config is not None and part.platform]
    preferred = next((part for part in runnable if platform_matches(prefer, part.platform or "")), runnable[0])
    return ImportedImage(
        digest=manifest.digest,
        media_type=manifest.media_type,
        size_bytes=size,
        platforms=tuple(dict.fromkeys(part.platform for part in runnable if part.platform)),
        config=preferred.config or ImageConfig(),
    )


async def _gather(
    source: ImageSource, manifest: Manifest, platforms: Sequence[str] | None
) -> tuple[Manifest, list[_Part]]:
    require_image(manifest)
    if not manifest.is_index:
        part = await _part(source, manifest, None)
        if platforms is not None and not _wanted(part.platform, platforms):
            raise _no_platform(platforms, [part.platform])
        return manifest, [part]
    children = manifest.children
    if platforms is not None:
        children = tuple(child for child in children if _wanted(child.platform, platforms))
        if not children:
            raise _no_platform(platforms, [child.platform for child in manifest.children])
    parts = []
    for child in children:
        found = await source.manifest(child)
        if found.digest != child.digest or len(found.raw) != child.size:
            raise invalid(f"its index and its manifest {child.digest} do not agree")
        if found.is_index:
            raise invalid("its index lists another index")
        parts.append(await _part(source, found, child.platform))
    if not any(part.config is not None for part in parts):
        raise invalid("its index lists no image that can be run")
    if len(children) != len(manifest.children):
        manifest = parts[0].manifest if len(parts) == 1 else make_index(children, manifest.media_type)
    return manifest, parts


async def _part(source: ImageSource, manifest: Manifest, platform: str | None) -> _Part:
    if manifest.config is None:
        raise invalid("its manifest has no configuration")
    data = await source.small_blob(manifest.config)
    # Signatures and provenance ride along in an index as "unknown/unknown"; they are kept, and never run.
    if platform == UNKNOWN_PLATFORM or manifest.config.media_type not in CONFIG_TYPES:
        return _Part(manifest, data, None, None)
    document = load_object(data, "image configuration")
    own = platform_text(document)
    if own is None:
        raise invalid("its configuration names no platform (os and architecture)")
    _check_layers(document, manifest)
    return _Part(manifest, data, platform or own, parse_image_config(document))


def _check_layers(document: Mapping[str, Any], manifest: Manifest) -> None:
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, Mapping) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(manifest.layers):
        raise invalid("its configuration and its manifest do not name the same number of layers")


async def _upload(
    source: ImageSource,
    blobs: Mapping[str, Descriptor],
    parts: Sequence[_Part],
    target: RegistryClient,
    repository: str,
    total: int,
    progress: ProgressCallback,
    mount_from: str | None,
) -> None:
    in_memory = {part.manifest.config.digest: part.config_bytes for part in parts if part.manifest.config is not None}
    sent = dict.fromkeys(blobs, 0)
    gate = asyncio.Semaphore(_PARALLEL_BLOBS)

    def tell(digest: str, count: int) -> None:
        sent[digest] = count
        progress(Progress("uploading", sum(sent.values()), total))

    async def content(descriptor: Descriptor) -> AsyncIterator[bytes]:
        done = 0
        if descriptor.digest in in_memory:
            yield in_memory[descriptor.digest]
            return
        async with closing(source.blob(descriptor)) as chunks:
            async for chunk in chunks:
                yield chunk
                done += len(chunk)
                tell(descriptor.digest, done)

    async def send(descriptor: Descriptor) -> None:
        async with gate:
            await target.upload_blob(
                repository, descriptor.digest, descriptor.size, lambda: content(descriptor), mount_from=mount_from
            )
            tell(descriptor.digest, descriptor.size)

    tasks = [asyncio.create_task(send(blob), name=f"push-{blob.digest[7:19]}") for blob in blobs.values()]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _wanted(platform: str | None, platforms: Sequence[str]) -> bool:
    return platform is not None and any(platform_matches(wanted, platform) for wanted in platforms)


def _no_platform(wanted: Sequence[str], offered: Sequence[str | None]) -> Exception:
    names = ", ".join(sorted({name for name in offered if name and name != UNKNOWN_PLATFORM})) or "none"
    error = invalid(f"it is not there for {', '.join(wanted)}; it is for {names}")
    error.reason = "IMAGE_PLATFORM"
    return error

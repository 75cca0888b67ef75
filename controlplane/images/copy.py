"""Pulls an image from any v2 registry into the platform's, so that hosts never depend on the foreign one again."""

from collections.abc import AsyncIterator, Sequence

from controlplane.images.model import ImportedImage, ProgressCallback, no_progress
from controlplane.images.push import DEFAULT_PLATFORM, push_image
from controlplane.registry.client import RegistryClient
from controlplane.registry.manifests import Descriptor, Manifest
from controlplane.registry.names import Reference


async def copy_image(
    source: RegistryClient,
    reference: Reference,
    target: RegistryClient,
    repository: str,
    *,
    platforms: Sequence[str] | None = None,
    prefer: str = DEFAULT_PLATFORM,
    progress: ProgressCallback = no_progress,
    mount_from: str | None = None,
) -> ImportedImage:
    """Copy an image, byte for byte: with `platforms` None its digest stays what it was.

    Blobs flow from one registry to the other; no more than a few chunks are held. Both ends check each digest.

    Args:
        platforms: keep only these (`linux/amd64`; without a variant, any matches). An index that loses members gets
        another
            digest, and one that is left with a single image is stored as that image.
        mount_from: a repository of the target that may hold blobs of it already.

    Raises:
        NotFound: IMAGE_NOT_FOUND. Unauthenticated: REGISTRY_AUTH. Unavailable: REGISTRY_UNREACHABLE.
        InvalidSpec: IMAGE_INVALID (Docker's schema 1 is refused by that name), IMAGE_LABEL_RESERVED, IMAGE_PLATFORM.
    """
    manifest = await source.get_manifest(reference.repository, reference.target)
    return await push_image(
        _RegistrySource(source, reference.repository),
        manifest,
        target,
        repository,
        platforms=platforms,
        prefer=prefer,
        progress=progress,
        mount_from=mount_from,
    )


class _RegistrySource:
    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._repository = repository

    async def manifest(self, descriptor: Descriptor) -> Manifest:
        return await self._client.get_manifest(self._repository, descriptor.digest)

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        return await self._client.get_small_blob(self._repository, descriptor)

    def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        return self._client.get_blob(self._repository, descriptor.digest, descriptor.size)

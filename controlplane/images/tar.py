"""An uploaded tar becomes an image: what `docker save` wrote, an OCI layout, or a root file system.

A root file system is anything that is neither of the others. It becomes one layer, compressed so that the same
archive gives the same digest: importing twice costs no space and changes nothing. Images in an OCI layout keep their
digests; older `docker save` archives hold no manifest, so one is made, with layers compressed in the same way.
"""

import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from controlplane.images.archive import (
    BLOCK_BYTES,
    Archive,
    Member,
    TarLimits,
    compression_of,
    decompressed,
    open_archive,
    open_spool,
    stream_range,
    write_all,
)
from controlplane.images.model import ImportedImage, ProgressCallback, no_progress, parse_image_config
from controlplane.images.push import DEFAULT_PLATFORM, push_image
from controlplane.images.threads import Worker, in_thread
from controlplane.registry.client import RegistryClient
from controlplane.registry.manifests import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    dump_json,
    invalid,
    load_object,
    make_index,
    parse_manifest,
    sha256_digest,
)
from moorage.errors import InvalidSpec

_GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_COMPRESSION_LEVEL = 6
_REFERENCE_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


async def import_tar(
    stream: AsyncIterator[bytes],
    target: RegistryClient,
    repository: str,
    *,
    limits: TarLimits | None = None,
    progress: ProgressCallback = no_progress,
    platform: str = DEFAULT_PLATFORM,
    command: Sequence[str] = ("/bin/sh",),
    select: str | None = None,
) -> ImportedImage:
    """Store the image that an uploaded tar holds (plain, gzip, bzip2, xz or zstd).

    Args:
        platform: `os/architecture[/variant]` that a root file system is for; and which platform's configuration is
        returned
            where an archive holds several.
        command: the default command of a root file system.
        select: which image to take where an archive holds several, by one of its names.

    Raises:
        InvalidSpec: NOT_A_TAR, TAR_TRUNCATED, TAR_UNSAFE_NAME, TAR_TOO_LARGE, IMAGE_INVALID, IMAGE_LABEL_RESERVED.
        Exhausted: no room for the temporary files (DISK_FULL).
        Unavailable, Unauthenticated: the registry.
    """
    limits = limits or TarLimits()
    archive = await open_archive(stream, limits, progress)
    made: list[BinaryIO] = [archive.file]
    try:
        source = _ArchiveSource(archive)
        manifest = await _recognise(archive, source, limits, progress, platform, command, select, made)
        return await push_image(
            source, manifest, target, repository, platforms=None, prefer=platform, progress=progress
        )
    finally:
        for file in made:
            file.close()


async def _recognise(
    archive: Archive,
    source: "_ArchiveSource",
    limits: TarLimits,
    progress: ProgressCallback,
    platform: str,
    command: Sequence[str],
    select: str | None,
    made: list[BinaryIO],
) -> Manifest:
    if archive.find("oci-layout") is not None and (index := archive.find("index.json")) is not None:
        return _choose_from_layout(archive, source, archive.read(index, MAX_MANIFEST_BYTES), select)
    saved = archive.find("manifest.json")
    if saved is not None and saved.size <= MAX_MANIFEST_BYTES:
        entries = _saved_images(archive.read(saved, MAX_MANIFEST_BYTES))
        if entries is not None:
            entry = _choose_saved(entries, select)
            return await _convert_saved(archive, source, entry, limits, progress, made)
    if archive.count == 0:
        raise InvalidSpec.of("tar", "has no members: an image needs at least a program", "IMAGE_INVALID")
    return await _convert_root(archive, source, limits, progress, platform, command, made)


class _ArchiveSource:
    """Parts of an image by digest: where they lie in which file, or their bytes where we made them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._places: dict[str, tuple[BinaryIO, int, int]] = {}
        self._bytes: dict[str, bytes] = {}

    def add_range(self, digest: str, file: BinaryIO, offset: int, size: int) -> None:
        self._places[digest] = (file, offset, size)

    def add_bytes(self, data: bytes) -> str:
        digest = sha256_digest(data)
        self._bytes[digest] = data
        return digest

    def place(self, digest: str) -> tuple[BinaryIO, int, int] | None:
        if digest in self._places:
            return self._places[digest]
        algorithm, _, value = digest.partition(":")
        member = self._archive.find(f"blobs/{algorithm}/{value}")
        return None if member is None else (self._archive.file, member.offset, member.size)

    async def manifest(self, descriptor: Descriptor) -> Manifest:
        return parse_manifest(await self.small_blob(descriptor), descriptor.media_type)

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest in self._bytes:
            return self._bytes[descriptor.digest]
        file, offset, size = self._known_place(descriptor)
        if size > MAX_CONFIG_BYTES:
            raise invalid(f"its blob {descriptor.digest} is larger than {MAX_CONFIG_BYTES} bytes")
        data = os.pread(file.fileno(), size, offset)
        if sha256_digest(data) != descriptor.digest:
            raise invalid(f"its blob {descriptor.digest} has another content than its name says")
        return data

    async def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        # The registry computes the digest of what arrives and refuses a wrong one: not done twice.
        file, offset, size = self._known_place(descriptor)
        async for chunk in stream_range(file, offset, size):
            yield chunk

    def _known_place(self, descriptor: Descriptor) -> tuple[BinaryIO, int, int]:
        place = self.place(descriptor.digest)
        if place is None:
            raise invalid(f"the archive lacks the blob {descriptor.digest}")
        if place[2] != descriptor.size:
            raise invalid(f"its blob {descriptor.digest} has another size than its manifest says")
        return place


def _choose_from_layout(archive: Archive, source: _ArchiveSource, index: bytes, select: str | None) -> Manifest:
    top = parse_manifest(index, OCI_INDEX)
    if not top.is_index:
        raise invalid("its index.json is no index")
    names = {child.digest: _layout_names(child) for child in top.children}
    children = [child for child in top.children if select is None or select in names[child.digest]]
    if len({child.digest for child in children}) != 1:
        raise _ambiguous([name for child in top.children for name in names[child.digest]], select)
    place = source.place(children[0].digest)
    if place is None:
        raise invalid(f"the archive lacks the manifest {children[0].digest}")
    file, offset, size = place
    if size > MAX_MANIFEST_BYTES:
        raise invalid(f"its manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    manifest = parse_manifest(os.pread(file.fileno(), size, offset), children[0].media_type)
    if manifest.digest != children[0].digest:
        raise invalid(f"its manifest {children[0].digest} has another content than its name says")
    if not manifest.is_index:
        return manifest
    # Docker's containerd store saves the whole index, but only the blobs of the platforms that were pulled.
    present = tuple(child for child in manifest.children if _is_complete(archive, source, child))
    if not present:
        raise invalid("the archive holds none of the platforms that its index lists")
    if len(present) == len(manifest.children):
        return manifest
    if len(present) == 1:
        found = source.place(present[0].digest)
        assert found is not None
        return parse_manifest(os.pread(found[0].fileno(), found[2], found[1]), present[0].media_type)
    return make_index(present, manifest.media_type)


def _is_complete(archive: Archive, source: _ArchiveSource, child: Descriptor) -> bool:
    place = source.place(child.digest)
    if place is None or place[2] > MAX_MANIFEST_BYTES:
        return False
    manifest = parse_manifest(os.pread(archive.file.fileno(), place[2], place[1]), child.media_type)
    parts = [part for part in (manifest.config, *manifest.layers) if part is not None]
    return all(source.place(part.digest) is not None for part in parts)


def _layout_names(child: Descriptor) -> list[str]:
    annotations = (child.raw or {}).get("annotations")
    if not isinstance(annotations, Mapping):
        return []
    return [str(annotations[name]) for name in _REFERENCE_NAMES if name in annotations]


def _saved_images(data: bytes) -> list[dict[str, Any]] | None:
    """The entries of a `docker save` archive's manifest.json; None when the file is something else of that name."""
    try:
        document = load_object(b'{"entries":' + data + b"}", "manifest.json")["entries"]
    except InvalidSpec:
        return None
    if not isinstance(document, list) or not document:
        return None
    for entry in document:
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            return None
        layers = entry.get("Layers")
        if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
            return None
    return document


def _choose_saved(entries: list[dict[str, Any]], select: str | None) -> dict[str, Any]:
    def names(entry: dict[str, Any]) -> list[str]:
        return [str(name) for name in entry.get("RepoTags") or []]

    chosen = [entry for entry in entries if select is None or select in names(entry)]
    if len(chosen) != 1:
        raise _ambiguous([name for entry in entries for name in names(entry)], select)
    return chosen[0]


def _ambiguous(names: Sequence[str], select: str | None) -> InvalidSpec:
    known = ", ".join(dict.fromkeys(names)) or "none of them named"
    if select is not None:
        return invalid(f"the archive has no single image {select!r}; it has: {known}")
    return invalid(f"the archive holds several images ({known}): save one, or say which")


@dataclass(frozen=True, slots=True)
class _Layer:
    descriptor: Descriptor
    diff_id: str


async def _convert_saved(
    archive: Archive,
    source: _ArchiveSource,
    entry: Mapping[str, Any],
    limits: TarLimits,
    progress: ProgressCallback,
    made: list[BinaryIO],
) -> Manifest:
    member = archive.find(entry["Config"])
    if member is None:
        raise invalid(f"the archive lacks the configuration {entry['Config']!r}")
    config_bytes = archive.read(member, MAX_CONFIG_BYTES)
    config = load_object(config_bytes, "image configuration")
    parse_image_config(config)  # before the work of compressing
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(entry["Layers"]):
        raise invalid("its configuration and its manifest do not name the same number of layers")
    layers: dict[int, _Layer] = {}
    descriptors = []
    for name, diff_id in zip(entry["Layers"], diff_ids, strict=True):
        found = archive.find(name)
        if found is None:
            raise invalid(f"the archive lacks the layer {name!r}")
        layer = layers.get(found.offset)
        if layer is None:
            layer = await _layer_of(archive, found, source, limits, progress, made)
            layers[found.offset] = layer
        if layer.diff_id != diff_id:
            raise invalid(f"its layer {name!r} has another content than its configuration says")
        descriptors.append(layer.descriptor)
    return _make_manifest(source, config_bytes, descriptors)


async def _layer_of(
    archive: Archive,
    member: Member,
    source: _ArchiveSource,
    limits: TarLimits,
    progress: ProgressCallback,
    made: list[BinaryIO],
) -> _Layer:
    compression = compression_of(os.pread(archive.file.fileno(), 8, member.offset))
    if compression is None:
        return await _compress(archive.chunks(member.offset, member.size), member.size, source, limits, progress, made)
    if compression != "gzip":
        raise invalid(f"it has a layer compressed with {compression}, which this form of archive does not allow")

    def measure(worker: Worker) -> tuple[str, str]:
        packed, plain = hashlib.sha256(), hashlib.sha256()

        def chunks() -> Iterator[bytes]:
            for chunk in archive.chunks(member.offset, member.size):
                packed.update(chunk)
                worker.step(len(chunk))
                yield chunk

        size = 0
        for chunk in decompressed(chunks(), "gzip"):
            plain.update(chunk)
            size += len(chunk)
            if size > limits.max_unpacked_bytes:
                raise InvalidSpec.of("tar", "a layer unpacks to more than is allowed", "TAR_TOO_LARGE")
        return f"sha256:{packed.hexdigest()}", f"sha256:{plain.hexdigest()}"

    digest, diff_id = await in_thread(measure, progress=progress, phase="reading", total_bytes=member.size)
    source.add_range(digest, archive.file, member.offset, member.size)
    return _Layer(Descriptor(_GZIP_LAYER, digest, member.size), diff_id)


async def _convert_root(
    archive: Archive,
    source: _ArchiveSource,
    limits: TarLimits,
    progress: ProgressCallback,
    platform: str,
    command: Sequence[str],
    made: list[BinaryIO],
) -> Manifest:
    def content() -> Iterator[bytes]:
        # Up to the end mark, then exactly one mark: padding differs between programs and days, content does not.
        yield from archive.chunks(0, archive.end)
        yield bytes(2 * BLOCK_BYTES)

    layer = await _compress(content(), archive.end + 2 * BLOCK_BYTES, source, limits, progress, made)
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    if not system or not architecture:
        raise InvalidSpec.of("platform", f"{platform!r} is not os/architecture[/variant]", "IMAGE_PLATFORM")
    # No time and no author in it: they would give each import another digest.
    config: dict[str, Any] = {
        "os": system,
        "architecture": architecture,
        "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "imported from a root file system"}],
    }
    if variant:
        config["variant"] = variant
    return _make_manifest(source, dump_json(config), [layer.descriptor])


async def _compress(
    chunks: Iterator[bytes],
    size: int,
    source: _ArchiveSource,
    limits: TarLimits,
    progress: ProgressCallback,
    made: list[BinaryIO],
) -> _Layer:
    file = open_spool(limits)
    made.append(file)

    def work(worker: Worker) -> _Layer:
        plain, packed = hashlib.sha256(), hashlib.sha256()
        written = 0

        def keep(data: bytes) -> None:
            nonlocal written
            if data:
                packed.update(data)
                write_all(file, data)
                written += len(data)

        # zlib's own gzip header has no time and no name in it: nothing but the content decides the digest.
        compressor = zlib.compressobj(_COMPRESSION_LEVEL, wbits=31)
        for chunk in chunks:
            plain.update(chunk)
            keep(compressor.compress(chunk))
            worker.step(len(chunk))
        keep(compressor.flush())
        descriptor = Descriptor(_GZIP_LAYER, f"sha256:{packed.hexdigest()}", written)
        return _Layer(descriptor, f"sha256:{plain.hexdigest()}")

    layer = await in_thread(work, progress=progress, phase="compressing", total_bytes=size)
    source.add_range(layer.descriptor.digest, file, 0, layer.descriptor.size)
    return layer


def _make_manifest(source: _ArchiveSource, config: bytes, layers: Sequence[Descriptor]) -> Manifest:
    digest = source.add_bytes(config)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest, "size": len(config)},
        "layers": [{"mediaType": one.media_type, "digest": one.digest, "size": one.size} for one in layers],
    }
    return parse_manifest(dump_json(document))

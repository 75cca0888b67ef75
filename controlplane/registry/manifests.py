"""Manifests, indexes and descriptors: what a registry stores beside plain bytes, parsed and checked.

Values in, values out. A manifest comes from a stranger: every field that is used is checked, and one that can be read
in two ways (layers *and* manifests) is refused, since the engine might choose the other reading.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.registry.names import is_digest
from moorage.errors import InvalidSpec

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"

IMAGE_TYPES = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEX_TYPES = frozenset({DOCKER_LIST, OCI_INDEX})
CONFIG_TYPES = frozenset({DOCKER_CONFIG, OCI_CONFIG})
ACCEPT = ", ".join([OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST])

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"

# distribution refuses larger ones.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_LAYERS = 512
MAX_CHILDREN = 256

# What build tools put in an index for what is no image (signatures, provenance).
UNKNOWN_PLATFORM = "unknown/unknown"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to content: what it is, its digest, its size in bytes, and for an index's child its platform (or
    None)."""

    media_type: str
    digest: str
    size: int
    platform: str | None = None
    raw: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest: of an image (`config` and `layers` set) or an index (`children` set)."""

    raw: bytes
    media_type: str
    digest: str
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    children: tuple[Descriptor, ...]

    @property
    def is_index(self) -> bool:
        """Whether this lists images of several platforms."""
        return self.media_type in INDEX_TYPES


def invalid(problem: str) -> InvalidSpec:
    """The error of this package for an image that is not as it should be."""
    return InvalidSpec.of("image", problem, "IMAGE_INVALID")


def sha256_digest(data: bytes) -> str:
    """The digest of bytes in memory, as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def matches_digest(data: bytes, digest: str) -> bool:
    """Whether the bytes have that digest (sha256 or sha512)."""
    algorithm, _, expected = digest.partition(":")
    return hashlib.new(algorithm, data).hexdigest() == expected


def platform_text(value: object) -> str | None:
    """`os/architecture[/variant]` of an OCI platform object or image configuration; None when a part is missing."""
    if not isinstance(value, Mapping):
        return None
    system, architecture, variant = value.get("os"), value.get("architecture"), value.get("variant")
    if not isinstance(system, str) or not isinstance(architecture, str) or not system or not architecture:
        return None
    text = f"{system}/{architecture}"
    return f"{text}/{variant}" if isinstance(variant, str) and variant else text


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object of a stranger.

    Raises:
        InvalidSpec: not JSON, or not an object (IMAGE_INVALID).
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise invalid(f"the {what} is not JSON") from exc
    if not isinstance(value, dict):
        raise invalid(f"the {what} is not a JSON object")
    return value


def parse_manifest(raw: bytes, content_type: str | None = None) -> Manifest:
    """Parse and check a manifest or index.

    Args:
        content_type: what the registry said; used only where the document does not name its type (OCI allows that).

    Raises:
        InvalidSpec: not an image or index that can be run here (IMAGE_INVALID).
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise invalid(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    document = load_object(raw, "manifest")
    told = (content_type or "").partition(";")[0].strip()
    if document.get("schemaVersion") == 1 or told.startswith(_SCHEMA_1):
        raise invalid("it is in Docker's old format (schema 1), which engines no longer run; push it again")
    if document.get("schemaVersion") != 2:
        raise invalid("its manifest has no schemaVersion 2")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise invalid("its manifest is an image and an index at once")
    media_type = document.get("mediaType") or told
    if media_type not in IMAGE_TYPES | INDEX_TYPES:
        media_type = OCI_INDEX if "manifests" in document else OCI_MANIFEST if "layers" in document else media_type
    digest = sha256_digest(raw)
    if media_type in INDEX_TYPES:
        return Manifest(raw, media_type, digest, None, (), _children(document))
    if media_type not in IMAGE_TYPES:
        raise invalid(f"it is of the unknown type {media_type!r}")
    config = _descriptor(document.get("config"), "config")
    if config.size > MAX_CONFIG_BYTES:
        raise invalid(f"its configuration is larger than {MAX_CONFIG_BYTES} bytes")
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise invalid(f"its manifest lists no layers, or more than {MAX_LAYERS}")
    return Manifest(raw, media_type, digest, config, tuple(_descriptor(layer, "layer") for layer in layers), ())


def require_image(manifest: Manifest) -> None:
    """Raises InvalidSpec when a manifest is of something else that registries also store (a chart, a signature)."""
    if not manifest.is_index and (manifest.config is None or manifest.config.media_type not in CONFIG_TYPES):
        what = manifest.config.media_type if manifest.config is not None else "nothing known"
        raise invalid(f"it is not a container image but {what}")


def _children(document: Mapping[str, Any]) -> tuple[Descriptor, ...]:
    manifests = document.get("manifests")
    if not isinstance(manifests, list) or not 0 < len(manifests) <= MAX_CHILDREN:
        raise invalid(f"its index lists no images, or more than {MAX_CHILDREN}")
    return tuple(_descriptor(child, "index entry") for child in manifests)


def _descriptor(value: object, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise invalid(f"its manifest has no proper {what}")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str) or not is_digest(digest):
        raise invalid(f"a {what} of its manifest has no type or no digest")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise invalid(f"a {what} of its manifest has no size")
    if what == "layer" and ("nondistributable" in media_type or ".foreign." in media_type):
        raise invalid("it has layers that may not be copied (a Windows base); choose a Linux platform")
    return Descriptor(media_type, digest, size, platform_text(value.get("platform")), value)


def dump_json(document: Mapping[str, Any]) -> bytes:
    """JSON bytes that are the same for the same content, since a digest is taken of them."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def make_index(children: tuple[Descriptor, ...], media_type: str) -> Manifest:
    """An index of its own for a choice of another index's children."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [dict(child.raw or {}) for child in children],
    }
    return parse_manifest(dump_json(document))

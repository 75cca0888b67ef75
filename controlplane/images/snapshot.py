"""Takes the platform's own marks out of a snapshot: the engine copies a container's labels into the image that it commits.

An image that carries such labels is refused everywhere else, because agents know their own containers by them.
"""

import json
import logging
from typing import Any

from controlplane.images.model import RESERVED_LABEL_PREFIX
from controlplane.registry.client import RegistryClient
from controlplane.registry.manifests import Manifest, load_object, parse_manifest
from moorage.errors import MoorageError

log = logging.getLogger(__name__)


async def clean_snapshot(client: RegistryClient, repository: str, tag: str) -> Manifest:
    """Store the image under `tag` again without what only its container had. Returns the new manifest.

    Raises:
        InvalidSpec: what the host pushed is no image (IMAGE_INVALID).
        Unavailable: the registry.
    """
    manifest = await client.get_manifest(repository, tag)
    if manifest.config is None:
        return manifest
    config = load_object(await client.get_small_blob(repository, manifest.config), "image configuration")
    cleaned = without_container(config)
    if cleaned == config:
        return manifest
    data = json.dumps(cleaned, separators=(",", ":")).encode()
    digest = await client.upload_bytes(repository, data)
    document = load_object(manifest.raw, "manifest")
    document["config"] = {**document["config"], "digest": digest, "size": len(data)}
    new = parse_manifest(json.dumps(document).encode(), manifest.media_type)
    await client.put_manifest(repository, new, tag)
    try:
        # Without a tag nobody would find it again, and it would keep its layers for ever.
        await client.delete_manifest(repository, manifest.digest)
    except MoorageError as error:
        log.warning("the snapshot as it was pushed stays in %s: %s", repository, error)
    return new


def without_container(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the container's marks: reserved labels, its host name, the engine's note of it."""
    found = {key: value for key, value in config.items() if key not in ("container", "container_config")}
    inner = dict(found.get("config") or {})
    labels = {k: v for k, v in (inner.get("Labels") or {}).items() if not k.lower().startswith(RESERVED_LABEL_PREFIX)}
    inner["Labels"] = labels or None
    for name in ("Hostname", "Domainname"):
        if name in inner:
            inner[name] = ""
    found["config"] = inner
    return found

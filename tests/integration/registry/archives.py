"""Makes the archives that users bring: root file systems, `docker save`, OCI layouts."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def tar_bytes(files: Mapping[str, bytes], *, mtime: int = 0) -> bytes:
    """A tar with these regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = mtime
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def stream(data: bytes, chunk: int = 65536) -> AsyncIterator[bytes]:
    """Bytes as an upload."""
    for start in range(0, len(data), chunk):
        yield data[start : start + chunk]


def sha256(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_config(layers: list[bytes], *, labels: Mapping[str, str] | None = None, arch: str = "amd64") -> bytes:
    """An image configuration for these uncompressed layers."""
    document: dict[str, Any] = {
        "os": "linux",
        "architecture": arch,
        "config": {
            "Entrypoint": ["/bin/app"],
            "Cmd": ["serve"],
            "Env": ["A=1", "B=2"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "WorkingDir": "/srv",
            "User": "1000:1000",
            "Labels": dict(labels or {"team": "blue"}),
            "Volumes": {"/data": {}},
            "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 3},
        },
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
    }
    return json.dumps(document).encode()


def docker_save(layers: list[bytes], config: bytes, *, tags: tuple[str, ...] = ("app:1",)) -> bytes:
    """What `docker save` wrote before Docker 25: a manifest.json, a configuration, layer.tar files."""
    config_name = sha256(config)[7:] + ".json"
    names = [f"{index:064x}/layer.tar" for index in range(len(layers))]
    entries = [{"Config": config_name, "RepoTags": list(tags), "Layers": names}]
    files = dict(zip(names, layers, strict=True))
    return tar_bytes({**files, config_name: config, "manifest.json": json.dumps(entries).encode()})


def image_blobs(layers: list[bytes], config: bytes) -> tuple[bytes, dict[str, bytes]]:
    """A manifest with gzip layers, and all blobs by digest (the manifest's too)."""
    packed = [gzip.compress(layer, mtime=0) for layer in layers]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": sha256(layer),
                    "size": len(layer),
                }
                for layer in packed
            ],
        }
    ).encode()
    blobs = {sha256(blob): blob for blob in [config, manifest, *packed]}
    return manifest, blobs


def index_document(manifests: Mapping[str, bytes], *, names: tuple[str, ...] = ()) -> bytes:
    """An index of manifests by platform; `names` become reference annotations, in order."""
    entries: list[dict[str, Any]] = []
    for position, (platform, manifest) in enumerate(manifests.items()):
        system, architecture = platform.split("/")
        entry: dict[str, Any] = {
            "mediaType": OCI_MANIFEST,
            "digest": sha256(manifest),
            "size": len(manifest),
            "platform": {"os": system, "architecture": architecture},
        }
        if position < len(names):
            entry["annotations"] = {"org.opencontainers.image.ref.name": names[position]}
        entries.append(entry)
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def oci_layout(index: bytes, blobs: Mapping[str, bytes]) -> bytes:
    """An OCI image layout in a tar."""
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    files |= {f"blobs/sha256/{digest[7:]}": blob for digest, blob in blobs.items()}
    return tar_bytes(files)

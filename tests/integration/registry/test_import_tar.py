"""Archives of users become images in a real registry."""

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.images.model import Progress
from controlplane.images.tar import import_tar
from controlplane.registry.client import RegistryClient
from controlplane.registry.names import Reference
from moorage.errors import InvalidSpec
from tests.integration.registry import archives as a

LAYERS = [a.tar_bytes({"bin/app": b"#!/bin/sh\n"}), a.tar_bytes({"etc/app.conf": b"x=1\n" * 1000})]


async def test_root_file_system_becomes_one_layer_with_the_same_digest_each_time(client: RegistryClient) -> None:
    data = a.tar_bytes({"./bin/sh": b"shell", "./etc/passwd": b"root:x:0:0::/:/bin/sh\n"})
    seen: list[Progress] = []
    first = await import_tar(a.stream(data), client, "p1/t1", progress=seen.append, platform="linux/arm64/v8")
    again = await import_tar(a.stream(data + bytes(10240)), client, "p1/t2", platform="linux/arm64/v8")
    assert first.digest == again.digest
    assert first.platforms == ("linux/arm64/v8",)
    assert first.config.command == ("/bin/sh",)
    assert {p.phase for p in seen} >= {"receiving", "compressing", "uploading", "done"}
    resolved = await client.resolve(Reference("x", "p1/t1", digest=first.digest))
    assert resolved.platforms == ("linux/arm64/v8",)
    manifest = await client.get_manifest("p1/t1", first.digest)
    layer = b"".join([c async for c in client.get_blob("p1/t1", manifest.layers[0].digest)])
    content = gzip.decompress(layer)
    assert data.startswith(content)
    assert content.endswith(bytes(1024))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
async def test_compressed_archives_give_the_image_of_the_plain_one(client: RegistryClient, pack) -> None:  # type: ignore[no-untyped-def]
    data = a.tar_bytes({"file": os.urandom(3_000_000), "zeros": bytes(5_000_000)})
    plain = await import_tar(a.stream(data), client, "p1/plain")
    packed = await import_tar(a.stream(pack(data)), client, "p1/packed")
    assert packed.digest == plain.digest
    with pytest.raises(InvalidSpec) as caught:
        await import_tar(a.stream(pack(data)[:-20000]), client, "p1/cut")
    assert caught.value.reason == "TAR_TRUNCATED"


async def test_zstd_archives_are_taken_where_the_program_is_there(client: RegistryClient) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd program")
    data = a.tar_bytes({"file": os.urandom(300_000)})
    packed = subprocess.run(["zstd", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    plain = await import_tar(a.stream(data), client, "p1/plain")
    assert (await import_tar(a.stream(packed), client, "p1/zstd")).digest == plain.digest
    with pytest.raises(InvalidSpec) as caught:
        await import_tar(a.stream(packed[:-20000]), client, "p1/cut")
    assert caught.value.reason == "TAR_TRUNCATED"


async def test_docker_save_keeps_layers_and_configuration(client: RegistryClient) -> None:
    config = a.image_config(LAYERS)
    image = await import_tar(a.stream(a.docker_save(LAYERS, config)), client, "p1/saved")
    assert image.config.entrypoint == ("/bin/app",)
    assert image.config.command == ("serve",)
    assert image.config.env == ("A=1", "B=2")
    assert image.config.exposed_ports == ("53/udp", "80/tcp")
    assert image.config.workdir == "/srv"
    assert image.config.user == "1000:1000"
    assert image.config.volumes == ("/data",)
    assert image.config.stop_signal == "SIGINT"
    assert image.config.labels == {"team": "blue"}
    assert image.config.healthcheck is not None
    assert image.config.healthcheck.interval_seconds == 5.0
    manifest = await client.get_manifest("p1/saved", image.digest)
    assert manifest.config is not None
    assert manifest.config.digest == a.sha256(config)
    assert len(manifest.layers) == 2


async def test_docker_save_with_a_wrong_layer_is_refused(client: RegistryClient) -> None:
    config = a.image_config([LAYERS[1], LAYERS[0]])
    with pytest.raises(InvalidSpec) as caught:
        await import_tar(a.stream(a.docker_save(LAYERS, config)), client, "p1/wrong")
    assert caught.value.reason == "IMAGE_INVALID"


async def test_oci_layout_keeps_its_digest(client: RegistryClient) -> None:
    manifest, blobs = a.image_blobs(LAYERS, a.image_config(LAYERS))
    data = a.oci_layout(a.index_document({"linux/amd64": manifest}), blobs)
    image = await import_tar(a.stream(data), client, "p1/oci")
    assert image.digest == a.sha256(manifest)
    assert image.platforms == ("linux/amd64",)
    assert image.size_bytes == sum(len(blob) for blob in blobs.values())


async def test_oci_layout_of_several_platforms_keeps_what_is_there(client: RegistryClient) -> None:
    amd, amd_blobs = a.image_blobs(LAYERS, a.image_config(LAYERS))
    arm, arm_blobs = a.image_blobs(LAYERS[:1], a.image_config(LAYERS[:1], arch="arm64"))
    inner = a.index_document({"linux/amd64": amd, "linux/arm64": arm})
    outer = (
        f'{{"schemaVersion":2,"manifests":[{{"mediaType":"{a.OCI_INDEX}","digest":"{a.sha256(inner)}",'
        f'"size":{len(inner)}}}]}}'
    ).encode()
    whole = a.oci_layout(outer, {**amd_blobs, **arm_blobs, a.sha256(inner): inner})
    image = await import_tar(a.stream(whole), client, "p1/multi")
    assert image.digest == a.sha256(inner)
    assert image.platforms == ("linux/amd64", "linux/arm64")
    part = a.oci_layout(outer, {**amd_blobs, a.sha256(inner): inner})
    image = await import_tar(a.stream(part), client, "p1/part")
    assert image.digest == a.sha256(amd)
    assert image.platforms == ("linux/amd64",)


async def test_several_images_need_a_choice(client: RegistryClient) -> None:
    one, one_blobs = a.image_blobs(LAYERS, a.image_config(LAYERS))
    two, two_blobs = a.image_blobs(LAYERS[:1], a.image_config(LAYERS[:1], arch="arm64"))
    index = a.index_document({"linux/amd64": one, "linux/arm64": two}, names=("one", "two"))
    data = a.oci_layout(index, {**one_blobs, **two_blobs})
    with pytest.raises(InvalidSpec, match="one, two"):
        await import_tar(a.stream(data), client, "p1/choice")
    assert (await import_tar(a.stream(data), client, "p1/choice", select="two")).digest == a.sha256(two)


async def test_labels_of_ours_are_refused_before_anything_is_stored(client: RegistryClient) -> None:
    config = a.image_config(LAYERS, labels={"moorage.instance": "forged"})
    manifest, blobs = a.image_blobs(LAYERS, config)
    layout = a.oci_layout(a.index_document({"linux/amd64": manifest}), blobs)
    for data in (a.docker_save(LAYERS, config), layout):
        with pytest.raises(InvalidSpec) as caught:
            await import_tar(a.stream(data), client, "p1/forged")
        assert caught.value.reason == "IMAGE_LABEL_RESERVED"
    assert not await client.has_blob("p1/forged", a.sha256(config))


async def test_a_blob_that_lies_about_its_digest_is_refused(client: RegistryClient) -> None:
    manifest, blobs = a.image_blobs(LAYERS, a.image_config(LAYERS))
    layer = next(digest for digest, blob in blobs.items() if blob[:2] == b"\x1f\x8b")
    blobs[layer] = blobs[layer][:-1] + b"!"
    with pytest.raises(InvalidSpec) as caught:
        await import_tar(a.stream(a.oci_layout(a.index_document({"linux/amd64": manifest}), blobs)), client, "p1/lie")
    assert caught.value.reason == "IMAGE_INVALID"


def peak_memory_mb() -> float:
    """The largest resident set since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


async def test_memory_does_not_grow_with_the_archive(client: RegistryClient) -> None:
    size, chunk = 80_000_000, os.urandom(500_000) + bytes(500_000)

    async def upload() -> AsyncIterator[bytes]:
        info = tarfile.TarInfo("big")
        info.size = size
        yield info.tobuf()
        for _ in range(size // len(chunk)):
            yield chunk
        yield bytes(1024 + (-size) % 512)

    await import_tar(a.stream(a.tar_bytes({"warm": b"up"})), client, "p1/warm")
    Path("/proc/self/clear_refs").write_text("5")
    before, began = peak_memory_mb(), time.monotonic()
    await import_tar(upload(), client, "p1/big")
    print(f"80 MB tar: {time.monotonic() - began:.2f} s, peak memory {before:.0f} -> {peak_memory_mb():.0f} MB")
    assert peak_memory_mb() - before < 25

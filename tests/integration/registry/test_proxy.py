"""The agent's loopback proxy in front of a real registry."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from controlplane.images.model import ImportedImage
from controlplane.images.tar import import_tar
from controlplane.registry.client import RegistryClient
from controlplane.registry.manifests import Descriptor
from controlplane.registry.names import Reference
from hostagent.images.proxy import RegistryProxy
from moorage.errors import NotFound, Unauthenticated, Unavailable
from tests.integration.registry import archives as a
from tests.integration.registry.bed import RegistryBed

REPOSITORY = "p1/web"
LAYERS = [a.tar_bytes({"bin/app": os.urandom(700_000)}), a.tar_bytes({"etc/x": b"1"})]


@dataclass
class Door:
    """A proxy, and a plain client that speaks to it as the engine does."""

    proxy: RegistryProxy
    engine: RegistryClient
    http: aiohttp.ClientSession
    url: str
    allowed: set[tuple[str, str]]
    issued: list[tuple[str, frozenset[str]]]


@pytest.fixture
async def door(bed: RegistryBed) -> AsyncIterator[Door]:
    allowed: set[tuple[str, str]] = set()
    issued: list[tuple[str, frozenset[str]]] = []

    async def token_for(repository: str, actions: frozenset[str]) -> str:
        issued.append((repository, actions))
        return await bed.token_for(repository, actions)

    proxy = RegistryProxy(
        listen_port=0,
        upstream_url=bed.registry.url,
        ssl_context=bed.ssl_context,
        token_for=token_for,
        assigned=lambda repository: {reference for owner, reference in allowed if owner == repository},
    )
    url = f"http://127.0.0.1:{await proxy.start()}"
    try:
        async with aiohttp.ClientSession() as session:
            yield Door(proxy, RegistryClient(url, session=session, attempts=1), session, url, allowed, issued)
    finally:
        await proxy.stop()


@pytest.fixture
async def image(client: RegistryClient) -> ImportedImage:
    manifest, blobs = a.image_blobs(LAYERS, a.image_config(LAYERS))
    layout = a.oci_layout(a.index_document({"linux/amd64": manifest}), blobs)
    return await import_tar(a.stream(layout), client, REPOSITORY)


async def pull(client: RegistryClient, repository: str, target: str) -> int:
    """What an engine does: manifest, configuration, layers. Returns the bytes of the blobs."""
    manifest = await client.get_manifest(repository, target)
    assert manifest.config is not None
    total = 0
    for blob in (manifest.config, *manifest.layers):
        total += sum([len(c) async for c in client.get_blob(repository, blob.digest, blob.size)])
    return total


async def test_only_what_is_assigned_can_be_pulled(door: Door, image: ImportedImage) -> None:
    await door.engine.ping()
    with pytest.raises(NotFound):
        await door.engine.get_manifest(REPOSITORY, image.digest)
    door.allowed.add((REPOSITORY, image.digest))
    assert await pull(door.engine, REPOSITORY, image.digest) > 700_000
    assert door.issued == [(REPOSITORY, frozenset({"pull"}))]
    door.allowed.clear()  # taken away: its layers go with it
    layer = a.sha256(a.image_config(LAYERS))
    with pytest.raises(NotFound):
        await door.engine.get_small_blob(REPOSITORY, Descriptor("application/octet-stream", layer, 1000))


async def test_layers_pass_although_the_manifest_did_not(door: Door, image: ImportedImage) -> None:
    """An engine keeps the manifest of a pull that broke off, so a proxy that began since then never sees it."""
    config = a.sha256(a.image_config(LAYERS))
    async with door.http.get(f"{door.url}/v2/{REPOSITORY}/blobs/{config}") as answer:
        assert answer.status == 404
    door.allowed.add((REPOSITORY, image.digest))
    async with door.http.get(f"{door.url}/v2/{REPOSITORY}/blobs/{config}", headers={"Range": "bytes=0-9"}) as answer:
        assert answer.status == 206
        assert len(await answer.read()) == 10
    async with door.http.get(f"{door.url}/v2/{REPOSITORY}/blobs/sha256:{'0' * 64}") as answer:
        assert answer.status == 404


async def test_pushing_needs_a_grant(door: Door, image: ImportedImage, client: RegistryClient) -> None:
    data = b"layer" * 100_000
    with pytest.raises(Unauthenticated):
        await door.engine.upload_bytes("p1/built", data)
    with door.proxy.grant_push("p1/built"):
        pushed = await import_tar(a.stream(a.docker_save(LAYERS, a.image_config(LAYERS))), door.engine, "p1/built")
        assert await pull(door.engine, "p1/built", pushed.digest) > 700_000
        with pytest.raises(Unauthenticated):
            await door.engine.upload_bytes("p1/other", data)
    with pytest.raises(Unauthenticated):
        await door.engine.upload_bytes("p1/built", data)
    assert (await client.resolve(Reference("", "p1/built", digest=pushed.digest))).platforms == ("linux/amd64",)


async def test_chunked_upload_as_docker_does_it(door: Door, client: RegistryClient) -> None:
    data = os.urandom(300_000)
    with door.proxy.grant_push("p1/built"):
        async with door.http.post(f"{door.url}/v2/p1/built/blobs/uploads/") as answer:
            assert answer.status == 202
            location = answer.headers["Location"]
        assert location.startswith(door.url)

        async def body() -> AsyncIterator[bytes]:
            yield data[:100_000]
            yield data[100_000:]

        async with door.http.patch(location, data=body()) as answer:
            assert answer.status == 202
            location = answer.headers["Location"]
        async with door.http.put(location, params={"digest": a.sha256(data)}) as answer:
            assert answer.status == 201
    assert await client.has_blob("p1/built", a.sha256(data))


async def test_mounting_from_another_repository_does_not_get_past_the_rules(door: Door, image: ImportedImage) -> None:
    config = a.sha256(a.image_config(LAYERS))
    with door.proxy.grant_push("p1/built"):
        query = {"mount": config, "from": REPOSITORY}
        async with door.http.post(f"{door.url}/v2/p1/built/blobs/uploads/", params=query) as answer:
            assert answer.status == 202
        async with door.http.get(f"{door.url}/v2/p1/built/blobs/{config}") as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/_catalog", 404),
        ("GET", f"/v2/{REPOSITORY}/tags/list", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v2/p1/..%2Fweb/manifests/latest", 404),
        ("DELETE", f"/v2/{REPOSITORY}/manifests/latest", 403),
        ("PUT", f"/v2/{REPOSITORY}/manifests/latest", 403),
    ],
)
async def test_everything_else_is_refused(door: Door, method: str, path: str, status: int) -> None:
    async with door.http.request(method, URL(door.url + path, encoded=True)) as answer:
        assert answer.status == status


async def test_several_accept_lines_all_count(door: Door, image: ImportedImage) -> None:
    door.allowed.add((REPOSITORY, image.digest))
    accept = CIMultiDict(
        [("Accept", "application/vnd.docker.distribution.manifest.v2+json"), ("Accept", a.OCI_MANIFEST)]
    )
    async with door.http.get(f"{door.url}/v2/{REPOSITORY}/manifests/{image.digest}", headers=accept) as answer:
        assert answer.status == 200


async def test_a_foreign_host_header_is_refused(door: Door) -> None:
    async with door.http.get(f"{door.url}/v2/", headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403


async def test_registry_away_is_said_quickly_and_heals(door: Door, bed: RegistryBed, image: ImportedImage) -> None:
    door.allowed.add((REPOSITORY, image.digest))
    await bed.registry.stop()
    with pytest.raises(Unavailable):
        async with asyncio.timeout(30):
            await door.engine.get_manifest(REPOSITORY, image.digest)
    await bed.registry.start()
    assert await pull(door.engine, REPOSITORY, image.digest) > 700_000


async def test_control_plane_away_is_unavailable_not_denied(bed: RegistryBed) -> None:
    async def token_for(repository: str, actions: frozenset[str]) -> str:
        raise Unavailable("the control plane is away")

    proxy = RegistryProxy(
        listen_port=0,
        upstream_url=bed.registry.url,
        ssl_context=bed.ssl_context,
        token_for=token_for,
        assigned=lambda repository: {"x"},
    )
    port = await proxy.start()
    try:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(Unavailable):
                await RegistryClient(f"http://127.0.0.1:{port}", session=session, attempts=1).get_manifest("p1/a", "x")
    finally:
        await proxy.stop()

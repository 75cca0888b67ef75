"""Copying from a foreign registry into a real one of ours, and the client's manners."""

import os
from collections.abc import AsyncIterator

import aiohttp
import pytest

from controlplane.images.copy import copy_image
from controlplane.images.model import ImportedImage, Progress
from controlplane.registry.addresses import AddressPolicy, guarded_session
from controlplane.registry.auth import ChallengeAuth, Credentials
from controlplane.registry.client import RegistryClient
from controlplane.registry.names import Reference
from moorage.errors import InvalidSpec, MoorageError, NotFound, Unauthenticated, Unavailable
from tests.integration.registry import archives as a
from tests.integration.registry.foreign import Foreign, foreign_registry

LAYERS = [a.tar_bytes({"bin/app": os.urandom(400_000)}), a.tar_bytes({"etc/x": b"1"})]
IMAGE = Reference("foreign", "team/app", tag="1")


@pytest.fixture
async def foreign() -> AsyncIterator[Foreign]:
    async with foreign_registry() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def client_of(foreign: Foreign, http: aiohttp.ClientSession, credentials: Credentials | None = None) -> RegistryClient:
    auth = ChallengeAuth(http, base_url=foreign.url, credentials=credentials)
    return RegistryClient(foreign.url, session=http, auth=auth, backoff_seconds=0.01)


async def copied(
    foreign: Foreign, http: aiohttp.ClientSession, target: RegistryClient, **options: object
) -> ImportedImage:
    return await copy_image(client_of(foreign, http), IMAGE, target, "p1/app", **options)  # type: ignore[arg-type]


async def test_an_image_keeps_its_digest(foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient) -> None:
    manifest = foreign.add_image("1", layers=LAYERS, config=a.image_config(LAYERS))
    seen: list[Progress] = []
    image = await copied(foreign, http, client, progress=seen.append)
    assert image.digest == a.sha256(manifest)
    assert image.platforms == ("linux/amd64",)
    assert image.config.entrypoint == ("/bin/app",)
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)
    assert seen[-1].done_bytes == seen[-1].total_bytes > 400_000
    requests = len(foreign.seen)
    await copied(foreign, http, client)
    assert len(foreign.seen) == requests + 2  # manifest and configuration; the layers are there


async def test_the_same_blobs_are_mounted_not_sent_again(
    foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient
) -> None:
    foreign.add_image("1", layers=LAYERS, config=a.image_config(LAYERS))
    await copied(foreign, http, client)
    foreign.seen.clear()
    source = client_of(foreign, http)
    image = await copy_image(source, IMAGE, client, "p2/app", mount_from="p1/app")
    assert (await client.get_manifest("p2/app", image.digest)).digest == image.digest
    blobs = {path for path, _ in foreign.seen if "/blobs/" in path}
    assert blobs == {f"/v2/team/app/blobs/{a.sha256(a.image_config(LAYERS))}"}


async def test_indexes(foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient) -> None:
    amd = foreign.add_image(layers=LAYERS, config=a.image_config(LAYERS))
    arm = foreign.add_image(layers=LAYERS[:1], config=a.image_config(LAYERS[:1], arch="arm64"))
    proof = foreign.add_image(layers=LAYERS[1:], config=b"{}")
    index = a.index_document({"linux/amd64": amd, "linux/arm64": arm, "unknown/unknown": proof})
    foreign.manifests["1"] = (a.OCI_INDEX, index)
    resolved = await client_of(foreign, http).resolve(IMAGE)
    assert resolved.digest == a.sha256(index)
    whole = await copied(foreign, http, client)
    assert whole.digest == a.sha256(index)
    assert whole.platforms == ("linux/amd64", "linux/arm64")
    one = await copied(foreign, http, client, platforms=["linux/arm64"])
    assert one.digest == a.sha256(arm)
    assert one.platforms == ("linux/arm64",)
    two = await copied(foreign, http, client, platforms=["linux/arm64", "linux/amd64"], prefer="linux/arm64")
    assert two.digest not in (whole.digest, one.digest)
    assert two.platforms == ("linux/amd64", "linux/arm64")
    with pytest.raises(InvalidSpec, match="it is for linux/amd64, linux/arm64") as caught:
        await copied(foreign, http, client, platforms=["linux/s390x"])
    assert caught.value.reason == "IMAGE_PLATFORM"


async def test_credentials_basic_and_bearer(
    foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient
) -> None:
    foreign.add_image("1", layers=LAYERS, config=a.image_config(LAYERS))
    for kind in ("basic", "bearer"):
        foreign.auth = kind
        source = client_of(foreign, http, Credentials("user", "secret"))
        assert (await copy_image(source, IMAGE, client, f"p1/{kind}")).platforms == ("linux/amd64",)
        for credentials in (None, Credentials("user", "wrong")):
            with pytest.raises(Unauthenticated) as caught:
                await client_of(foreign, http, credentials).get_manifest("team/app", "1")
            assert caught.value.reason == "REGISTRY_AUTH"
            assert "wrong" not in str(caught.value)


async def test_a_realm_elsewhere_over_http_gets_no_password(foreign: Foreign, http: aiohttp.ClientSession) -> None:
    foreign.auth = "bearer"
    async with foreign_registry() as thief:
        for realm in (f"{thief.url}/token", "file:///etc/passwd", "https://u:p@example.com/token", "nonsense"):
            foreign.realm = realm
            with pytest.raises(Unauthenticated):
                await client_of(foreign, http, Credentials("user", "secret")).get_manifest("team/app", "1")
        assert thief.seen == []


async def test_storage_elsewhere_does_not_see_the_token(foreign: Foreign, http: aiohttp.ClientSession) -> None:
    foreign.add_image("1", layers=LAYERS, config=a.image_config(LAYERS))
    foreign.auth = "bearer"
    async with foreign_registry() as storage:
        storage.blobs = foreign.blobs
        foreign.storage = storage.url
        digest = a.sha256(a.image_config(LAYERS))
        source = client_of(foreign, http, Credentials("user", "secret"))
        data = b"".join([chunk async for chunk in source.get_blob("team/app", digest)])
        assert data == a.image_config(LAYERS)
        assert storage.seen == [(f"/storage/{digest}", "")]


async def test_moods_are_waited_out_and_death_is_not(foreign: Foreign, http: aiohttp.ClientSession) -> None:
    foreign.add_image("1", layers=LAYERS, config=a.image_config(LAYERS))
    foreign.failures = [429, 503, 500]
    await client_of(foreign, http).get_manifest("team/app", "1")
    foreign.failures = [503] * 10
    with pytest.raises(Unavailable) as caught:
        await client_of(foreign, http).get_manifest("team/app", "1")
    assert caught.value.reason == "REGISTRY_UNREACHABLE"
    assert len(foreign.failures) == 6
    nobody = RegistryClient("http://127.0.0.1:1", session=http, attempts=2, backoff_seconds=0.01)
    with pytest.raises(Unavailable):
        await nobody.ping()


async def test_lies_are_noticed(foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient) -> None:
    manifest = foreign.add_image("1", layers=LAYERS, config=a.image_config(LAYERS))
    layer = next(d for d, blob in foreign.blobs.items() if blob[:2] == b"\x1f\x8b")
    true = foreign.blobs[layer]
    for lie in (true[:-1] + b"!", true + b"more", true[:-10]):
        foreign.blobs[layer] = lie
        with pytest.raises(InvalidSpec) as caught:
            await copied(foreign, http, client)
        assert caught.value.reason == "IMAGE_INVALID"
    assert not await client.has_blob("p1/app", layer)
    with pytest.raises(NotFound):
        await client.get_manifest("p1/app", a.sha256(manifest))
    foreign.manifests[a.sha256(b"other")] = (a.OCI_MANIFEST, manifest)
    with pytest.raises(InvalidSpec, match="does not have the digest"):
        await client_of(foreign, http).get_manifest("team/app", a.sha256(b"other"))


SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@pytest.mark.parametrize(
    ("media_type", "document", "match"),
    [
        (SCHEMA_1, b'{"schemaVersion":1,"name":"a"}', "schema 1"),
        (SCHEMA_1, b'{"schemaVersion":2}', "schema 1"),
        (a.OCI_MANIFEST, b"<html>", "not JSON"),
        (a.OCI_MANIFEST, b"[]", "not a JSON object"),
        (a.OCI_MANIFEST, b'{"schemaVersion":2,"layers":[],"manifests":[]}', "an image and an index at once"),
        (a.OCI_MANIFEST, b'{"schemaVersion":2,"layers":[]}', "no proper config"),
        (a.OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}', "lists no images"),
        (a.OCI_MANIFEST, b"[" * 100_000, "not JSON"),
    ],
)
async def test_what_is_no_image_is_refused_by_name(
    foreign: Foreign,
    http: aiohttp.ClientSession,
    client: RegistryClient,
    media_type: str,
    document: bytes,
    match: str,
) -> None:
    foreign.manifests["1"] = (media_type, document)
    with pytest.raises(InvalidSpec, match=match) as caught:
        await copied(foreign, http, client)
    assert caught.value.reason == "IMAGE_INVALID"


async def test_a_chart_is_not_an_image(foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient) -> None:
    manifest = foreign.add_image(layers=LAYERS, config=a.image_config(LAYERS))
    chart = manifest.replace(b"application/vnd.oci.image.config.v1+json", b"application/vnd.cncf.helm.config.v1+json")
    foreign.manifests["1"] = (a.OCI_MANIFEST, chart)
    for work in (copied(foreign, http, client), client_of(foreign, http).resolve(IMAGE)):
        with pytest.raises(InvalidSpec, match="helm"):
            await work


async def test_what_is_not_there(foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient) -> None:
    for one in (client_of(foreign, http), client):
        with pytest.raises(NotFound) as caught:
            await one.resolve(IMAGE)
        assert caught.value.reason == "IMAGE_NOT_FOUND"


async def test_a_registry_at_a_forbidden_address_is_not_asked(foreign: Foreign) -> None:
    async with guarded_session(AddressPolicy()) as session:
        for url in (foreign.url, "http://169.254.169.254"):
            registry = RegistryClient(url, session=session, attempts=3)
            with pytest.raises(MoorageError) as caught:
                await registry.ping()
            assert caught.value.reason == "URL_FORBIDDEN"
    assert foreign.seen == []


async def test_labels_of_ours_are_refused(
    foreign: Foreign, http: aiohttp.ClientSession, client: RegistryClient
) -> None:
    foreign.add_image("1", layers=LAYERS, config=a.image_config(LAYERS, labels={"Moorage.nonce": "x"}))
    with pytest.raises(InvalidSpec) as caught:
        await copied(foreign, http, client)
    assert caught.value.reason == "IMAGE_LABEL_RESERVED"

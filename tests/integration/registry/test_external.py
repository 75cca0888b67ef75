"""A registry that somebody else runs, configured as docs/operations.md says: import, delete, pull through a host's proxy."""

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from controlplane import keys
from controlplane.domain.kinds import TEMPLATE
from controlplane.domain.templates import Template, TemplateState
from controlplane.images.snapshot import clean_snapshot
from controlplane.images.tar import import_tar
from controlplane.registry.client import RegistryClient
from controlplane.registry.external import ExternalRegistry
from controlplane.registry.managed import PROGRAM
from controlplane.registry.manifests import parse_manifest
from hostagent.enroll import IdentityStore, Membership
from hostagent.journal.journal import Journal
from hostagent.registry_door import RegistryDoor
from moorage.clock import ManualClock
from moorage.errors import NotFound, Unauthenticated, Unavailable
from moorage.tls import Identity
from moorage.v1 import templates_pb2, templates_pb2_grpc
from tests.integration.registry import archives as a
from tests.integration.registry.bed import RegistryBed, now, require_registry
from tests.support.controlplane import Plane, bearer, hello, running
from tests.support.free_ports import free_ports

LAYERS = [a.tar_bytes({"bin/app": b"x" * 300_000}), a.tar_bytes({"etc/x": b"1"})]
OPERATIONS = Path(__file__).resolve().parents[3] / "docs/operations.md"


@dataclass
class OperatorsRegistry:
    """A docker-registry whose configuration is the document's, with a certificate that the hosts' authority never signed."""

    bed: RegistryBed
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.bed.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return self.bed.ssl_context

    async def start(self, token_trust_pem: bytes) -> None:
        """Returns when it answers."""
        folder = self.bed.folder
        section = OPERATIONS.read_text().partition("## Use a registry of your own\n")[2]
        document: dict[str, Any] = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])
        bundle = folder / "copied-registry-tokens.crt"
        bundle.write_bytes(token_trust_pem)
        document["version"] = "0.1"
        document["auth"]["token"]["rootcertbundle"] = str(bundle)
        document["storage"]["filesystem"] = {"rootdirectory": str(folder / "operators-storage")}
        document["http"] = {
            "addr": f"127.0.0.1:{self.bed.port}",
            "tls": {"certificate": str(self.bed.certificate_file), "key": str(self.bed.key_file)},
        }
        configuration = folder / "operators-registry.yml"
        configuration.write_text(yaml.safe_dump(document))
        log = (folder / "operators-registry.log").open("wb")
        program = shutil.which(PROGRAM)
        assert program is not None
        with log:
            self.process = await asyncio.create_subprocess_exec(
                program, "serve", str(configuration), stdout=log, stderr=log
            )
        async with asyncio.timeout(10):
            while not self._listens():
                assert self.process.returncode is None, (folder / "operators-registry.log").read_text()
                await asyncio.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.bed.port)) == 0

    async def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def operators(tmp_path: Path) -> AsyncIterator[OperatorsRegistry]:
    """Not started yet."""
    require_registry()
    registry = OperatorsRegistry(RegistryBed(tmp_path))
    try:
        yield registry
    finally:
        await registry.stop()


@contextlib.asynccontextmanager
async def external(operators: OperatorsRegistry, clock: ManualClock) -> AsyncIterator[ExternalRegistry]:
    """The control plane's side of it."""
    registry = ExternalRegistry(operators.url, trust=operators.trust, tokens=operators.bed.tokens, clock=clock)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()


@contextlib.asynccontextmanager
async def client_of(operators: OperatorsRegistry) -> AsyncIterator[RegistryClient]:
    """A client with every permission."""
    async with operators.bed.new_session() as session:
        yield operators.bed.new_client(session)


async def test_one_that_is_away_is_asked_again(operators: OperatorsRegistry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="controlplane.registry.external")
    clock = ManualClock(now())
    async with external(operators, clock) as registry:
        with pytest.raises(Unavailable) as caught:
            await registry.check()
        assert caught.value.reason == "REGISTRY_UNREACHABLE"
        await operators.start(operators.bed.tokens.trust_bundle_pem)
        await _until_logged(clock, caplog, "answers and takes our tokens")


async def _until_logged(clock: ManualClock, caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(10):
        while text not in caplog.text:
            clock.advance(1)  # not far: tokens carry its time
            await asyncio.sleep(0.05)


async def test_one_that_does_not_believe_us_says_so(
    operators: OperatorsRegistry, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = RegistryBed(tmp_path_factory.mktemp("stranger"))
    await operators.start(stranger.tokens.trust_bundle_pem)
    async with external(operators, ManualClock(now())) as registry:
        with pytest.raises(Unauthenticated) as caught:
            await registry.check()
        assert caught.value.reason == "REGISTRY_AUTH"
        assert "registry-tokens.crt" in caplog.text


async def test_forgetting_deletes_the_image_its_children_and_what_tags_name(operators: OperatorsRegistry) -> None:
    await operators.start(operators.bed.tokens.trust_bundle_pem)
    layers = [a.tar_bytes({"x": b"1"})]
    manifests: dict[str, bytes] = {}
    blobs: dict[str, bytes] = {}
    for arch in ("amd64", "arm64"):
        manifest, parts = a.image_blobs(layers, a.image_config(layers, arch=arch))
        manifests[f"linux/{arch}"] = manifest
        blobs |= parts
    async with external(operators, ManualClock(now())) as registry, client_of(operators) as client:
        await registry.forget("p1/never", None)
        await registry.forget("p1/never", a.sha256(b"never"))
        inner = a.index_document(manifests)
        outer = {"mediaType": a.OCI_INDEX, "digest": a.sha256(inner), "size": len(inner)}
        index = json.dumps({"schemaVersion": 2, "manifests": [outer]}).encode()
        layout = a.oci_layout(index, {**blobs, a.sha256(inner): inner})
        multi = await import_tar(a.stream(layout), client, "p1/multi")
        other = await import_tar(a.stream(a.tar_bytes({"y": b"2"})), client, "p1/multi")
        keep = await import_tar(a.stream(a.tar_bytes({"x": b"1"})), client, "p1/keep")
        await client.put_manifest("p1/multi", await client.get_manifest("p1/multi", other.digest), "made")
        await registry.forget("p1/multi", multi.digest)
        for digest in (multi.digest, other.digest, *(a.sha256(manifest) for manifest in manifests.values())):
            with pytest.raises(NotFound):
                await client.get_manifest("p1/multi", digest)
        assert (await client.get_manifest("p1/keep", keep.digest)).digest == keep.digest
        await registry.forget("p1/multi", multi.digest)  # again is no error


async def test_a_snapshot_leaves_no_manifest_that_nobody_finds_again(operators: OperatorsRegistry) -> None:
    await operators.start(operators.bed.tokens.trust_bundle_pem)
    layers = [a.tar_bytes({"x": b"1"})]
    config = a.image_config(layers, labels={"moorage.instance": "i1", "team": "blue"})
    manifest, blobs = a.image_blobs(layers, config)
    async with external(operators, ManualClock(now())) as registry, client_of(operators) as client:
        for digest, data in blobs.items():
            if digest != a.sha256(manifest):
                assert await client.upload_bytes("p1/snap", data) == digest
        await client.put_manifest("p1/snap", parse_manifest(manifest, a.OCI_MANIFEST), "made")
        cleaned = await clean_snapshot(client, "p1/snap", "made")
        with pytest.raises(NotFound):
            await client.get_manifest("p1/snap", a.sha256(manifest))
        assert await client.tagged("p1/snap") == (cleaned.digest,)
        await registry.forget("p1/snap", None)
        assert await client.tagged("p1/snap") == ()


async def test_a_control_plane_with_a_registry_that_somebody_else_runs(
    operators: OperatorsRegistry, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="controlplane.registry.external")
    folder = tmp_path_factory.mktemp("keys")
    settings = {"registry_url": operators.url, "registry_ca_file": str(operators.bed.certificate_file)}
    async with running(folder, settings=settings) as plane:  # nothing listens at the address yet
        await operators.start((plane.data_dir / "registry-tokens.crt").read_bytes())
        await _until_logged(plane.clock, caplog, "answers and takes our tokens")
        operators.bed.tokens = keys.registry_tokens(folder)
        repository, digest = await _register(plane, a.docker_save(LAYERS, a.image_config(LAYERS)))
        await _pull_as_a_host(plane, operators.bed, tmp_path_factory.mktemp("host"), repository, digest)

        await _templates(plane).DeleteTemplate(
            templates_pb2.DeleteTemplateRequest(name="projects/default/templates/web"), metadata=bearer(plane.admin_key)
        )
        await plane.eventually(lambda: plane.store.view().get(TEMPLATE, "default/web") is None)
        async with client_of(operators) as client:
            with pytest.raises(NotFound):
                await client.get_manifest(repository, digest)


def _templates(plane: Plane) -> Any:
    return templates_pb2_grpc.TemplateServiceStub(plane.channel())


async def _register(plane: Plane, archive: bytes) -> tuple[str, str]:
    """A template `web` of a tar; its repository and digest."""
    template = templates_pb2.Template(source=templates_pb2.TemplateSource(tar=templates_pb2.TarSource()))
    create = templates_pb2.CreateTemplateRequest(parent="projects/default", template_id="web", template=template)

    async def upload() -> AsyncIterator[templates_pb2.UploadTemplateRequest]:
        yield templates_pb2.UploadTemplateRequest(create=create)
        yield templates_pb2.UploadTemplateRequest(chunk=archive)

    await _templates(plane).UploadTemplate(upload(), metadata=bearer(plane.admin_key))

    def record() -> Template:
        found = plane.store.view().get(TEMPLATE, "default/web")
        assert found is not None
        return found.value

    await plane.eventually(lambda: record().status.state is not TemplateState.PENDING)
    assert record().status.state is TemplateState.READY, record().status
    return record().repository, record().status.digest


async def _pull_as_a_host(plane: Plane, bed: RegistryBed, folder: Path, repository: str, digest: str) -> None:
    """Join, open the loopback proxy with what the welcome says, and read the image as an engine does."""
    agent = await plane.agent("h1")
    call = plane.agent_stub(agent).Session(_staying_open([hello()]))
    welcome = (await call.read()).welcome
    call.cancel()
    assert welcome.registry_url == f"https://127.0.0.1:{bed.port}"
    assert welcome.registry_ca_pem == bed.certificate_file.read_text()

    store = IdentityStore(folder)
    identity = Identity(agent.certificate_pem, agent.key_pem)
    store.save(Membership(f"hosts/{agent.name}", agent.uid, (plane.agent_address,)), identity, plane.authority.cert_pem)
    journal = Journal.open(folder, now=0.0)
    [port] = free_ports(1)
    door = RegistryDoor(port, store, journal, bed.token_for)
    try:
        async with aiohttp.ClientSession() as session:
            engine = RegistryClient(f"http://127.0.0.1:{port}", session=session, attempts=1)
            with door.grant_pull(f"{repository}@{digest}"):
                await door.open(welcome.registry_url, welcome.registry_ca_pem)
                manifest = await engine.get_manifest(repository, digest)
                read = [
                    sum([len(c) async for c in engine.get_blob(repository, b.digest, b.size)]) for b in manifest.layers
                ]
                assert read == [layer.size for layer in manifest.layers]
                # Neither the hosts' authority nor the system has signed this registry's certificate.
                for other in (plane.authority.cert_pem.decode(), ""):
                    await door.open(welcome.registry_url, other)
                    with pytest.raises(Unavailable):
                        await engine.get_manifest(repository, digest)
    finally:
        await door.close()
        journal.close()


async def _staying_open(messages: list[Any]) -> AsyncIterator[Any]:
    """A request stream that stays open."""
    for message in messages:
        yield message
    await asyncio.Event().wait()

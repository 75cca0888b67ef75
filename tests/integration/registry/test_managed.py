"""The registry as a child: start, kills, leftovers, collection."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from controlplane.images.tar import import_tar
from controlplane.registry.client import RegistryClient
from controlplane.registry.process import start_time
from moorage.errors import Internal, NotFound, NotReady, Unavailable
from tests.integration.registry import archives as a
from tests.integration.registry.bed import RegistryBed, require_registry


async def until(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    """Poll until true, or fail."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (other processes set no Event)
            await asyncio.sleep(0.02)


def storage_bytes(bed: RegistryBed) -> int:
    root = bed.folder / "registry" / "storage"
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


async def test_it_comes_back_after_kill_9_with_its_images(bed: RegistryBed, client: RegistryClient) -> None:
    image = await import_tar(a.stream(a.tar_bytes({"x": b"1"})), client, "p1/t1")
    first = bed.registry.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: bed.registry.pid not in (None, first))
    assert (await client.get_manifest("p1/t1", image.digest)).digest == image.digest
    assert bed.registry.restarts == 1


async def test_one_that_hangs_is_killed_and_started_anew(tmp_path: Path) -> None:
    require_registry()
    registry = RegistryBed(tmp_path).new_registry(check_period_seconds=0.2)
    await registry.start()
    try:
        first = registry.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await until(lambda: registry.restarts == 1 and registry.pid not in (None, first))
    finally:
        await registry.stop()


async def test_requests_without_a_good_token_are_refused(bed: RegistryBed) -> None:
    async with bed.new_session() as session:
        token = await bed.token_for("p1/t1", frozenset({"pull"}))
        for headers, path, status in (
            ({}, "/v2/", 401),
            ({}, "/v2/p1/t1/manifests/latest", 401),
            ({"Authorization": "Bearer x.y.z"}, "/v2/", 401),
            ({"Authorization": f"Bearer {token}"}, "/v2/", 200),
            ({"Authorization": f"Bearer {token}"}, "/v2/p1/t1/manifests/latest", 404),
            ({"Authorization": f"Bearer {token}"}, "/v2/p1/t2/manifests/latest", 401),
        ):
            async with session.get(bed.registry.url + path, headers=headers) as answer:
                assert answer.status == status, (headers, path)
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post(f"{bed.registry.url}/v2/p1/t1/blobs/uploads/", headers=headers) as answer:
            assert answer.status == 401


async def test_collection_frees_what_was_deleted_and_keeps_the_rest(bed: RegistryBed, client: RegistryClient) -> None:
    keep = await import_tar(a.stream(a.tar_bytes({"keep": os.urandom(500_000)})), client, "p1/keep")
    data = a.tar_bytes({"drop": os.urandom(5_000_000)})
    drop = await import_tar(a.stream(data), client, "p1/drop")
    await client.delete_image("p1/drop", drop.digest)
    await client.delete_image("p1/drop", drop.digest)  # again is no error
    report = await bed.registry.collect_garbage()
    print(f"collection: {report}")
    assert report.freed_bytes > 4_900_000
    assert report.unreachable_seconds < 5
    assert storage_bytes(bed) < 600_000
    assert (await client.get_manifest("p1/keep", keep.digest)).digest == keep.digest
    with pytest.raises(NotFound):
        await client.get_manifest("p1/drop", drop.digest)
    again = await import_tar(a.stream(data), client, "p1/drop")
    assert again.digest == drop.digest
    manifest = await client.get_manifest("p1/drop", drop.digest)
    assert sum([len(c) async for c in client.get_blob("p1/drop", manifest.layers[0].digest)]) > 4_900_000


async def test_collection_keeps_the_children_of_an_index(bed: RegistryBed, client: RegistryClient) -> None:
    layers = [a.tar_bytes({"x": os.urandom(100_000)})]
    manifests: dict[str, bytes] = {}
    blobs: dict[str, bytes] = {}
    for arch in ("amd64", "arm64"):
        manifest, parts = a.image_blobs(layers, a.image_config(layers, arch=arch))
        manifests[f"linux/{arch}"] = manifest
        blobs |= parts
    inner = a.index_document(manifests)
    outer = f'{{"mediaType":"{a.OCI_INDEX}","digest":"{a.sha256(inner)}","size":{len(inner)}}}'
    layout = a.oci_layout(f'{{"schemaVersion":2,"manifests":[{outer}]}}'.encode(), {**blobs, a.sha256(inner): inner})
    image = await import_tar(a.stream(layout), client, "p1/multi")
    assert image.digest == a.sha256(inner)
    await bed.registry.collect_garbage()
    for digest in (image.digest, *(a.sha256(manifest) for manifest in manifests.values())):
        await client.get_manifest("p1/multi", digest)
    for digest in blobs:
        if digest not in {a.sha256(manifest) for manifest in manifests.values()}:
            assert await client.has_blob("p1/multi", digest)
    await client.delete_image("p1/multi", image.digest)
    await bed.registry.collect_garbage()
    assert storage_bytes(bed) < 5_000


async def test_a_failed_collection_leaves_a_running_registry(bed: RegistryBed, client: RegistryClient) -> None:
    image = await import_tar(a.stream(a.tar_bytes({"x": b"1"})), client, "p1/t1")
    link = next((bed.folder / "registry/storage/docker/registry/v2/repositories/p1/t1/_manifests").rglob("link"))
    link.write_text("damaged")
    with pytest.raises(Internal, match="collection failed"):
        await bed.registry.collect_garbage()
    link.write_text(image.digest)
    assert (await client.get_manifest("p1/t1", image.digest)).digest == image.digest
    await client.upload_bytes("p1/t1", b"and it can be written to")


async def test_a_repository_can_be_forgotten_whole(bed: RegistryBed, client: RegistryClient) -> None:
    image = await import_tar(a.stream(a.tar_bytes({"drop": os.urandom(1_000_000)})), client, "p1/drop")
    report = await bed.registry.collect_garbage(forget=["p1/drop", "p1/never-there"])
    assert report.freed_bytes > 990_000
    with pytest.raises(NotFound):
        await client.get_manifest("p1/drop", image.digest)
    assert not (bed.folder / "registry/storage/docker/registry/v2/repositories/p1").exists()


async def test_collection_waits_for_writers_and_writers_for_it(bed: RegistryBed, client: RegistryClient) -> None:
    data = b"half an image" * 1000
    async with bed.registry.writing():
        await client.upload_bytes("p1/half", data)
        collecting = asyncio.create_task(bed.registry.collect_garbage())
        done, _ = await asyncio.wait({collecting}, timeout=0.3)
        assert not done
        assert await client.has_blob("p1/half", a.sha256(data))
    await collecting
    assert not await client.has_blob("p1/half", a.sha256(data))
    async with bed.registry.writing():  # and they may write again
        await client.upload_bytes("p1/half", data)


async def test_a_second_control_plane_on_the_same_folder_is_refused(bed: RegistryBed) -> None:
    with pytest.raises(NotReady) as caught:
        await bed.new_registry().start()
    assert caught.value.reason == "DATA_DIR_IN_USE"
    assert bed.registry.pid is not None


async def test_a_taken_port_is_said(bed: RegistryBed, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = RegistryBed(tmp_path / "other", port=bed.port)
    with pytest.raises(Unavailable, match="address already in use"):
        await other.registry.start()


async def test_a_certificate_is_read_again_at_restart(bed: RegistryBed, client: RegistryClient) -> None:
    before = bed.registry.pid
    await bed.registry.restart()
    assert bed.registry.pid != before
    await client.ping()


PARENT = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from tests.integration.registry.bed import RegistryBed

    async def main():
        bed = RegistryBed(Path(sys.argv[1]), port=int(sys.argv[2]))
        await bed.registry.start()
        print(bed.registry.pid, flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
    """
)


async def start_control_plane(bed: RegistryBed) -> tuple[asyncio.subprocess.Process, int]:
    """A process that runs the bed's registry, as a control plane does; and the registry's pid."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(bed.folder), str(bed.port), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


async def test_the_registry_dies_with_a_killed_control_plane(tmp_path: Path) -> None:
    require_registry()
    process, child = await start_control_plane(RegistryBed(tmp_path))
    assert start_time(child) is not None
    process.kill()
    await process.wait()
    await until(lambda: start_time(child) is None)


async def test_a_leftover_that_did_not_die_is_ended_by_the_next_start(tmp_path: Path) -> None:
    require_registry()
    bed = RegistryBed(tmp_path)
    process, child = await start_control_plane(bed)
    os.kill(child, signal.SIGSTOP)  # it cannot act on the signal that the kernel sends at its parent's death
    process.kill()
    await process.wait()
    assert start_time(child) is not None
    await bed.registry.start()
    try:
        assert start_time(child) is None
        assert bed.registry.pid not in (None, child)
    finally:
        await bed.registry.stop()


async def test_a_pid_that_belongs_to_another_program_now_is_left_alone(tmp_path: Path) -> None:
    require_registry()
    bed = RegistryBed(tmp_path)
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "registry.pid").write_text(f'{{"pid": {os.getpid()}, "start": "another boot:1"}}')
    await bed.registry.start()  # would have ended this very test otherwise
    await bed.registry.stop()

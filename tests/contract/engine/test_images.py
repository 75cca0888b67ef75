"""Images and files in containers, on the fake and on a real engine with a registry."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Mapping

import pytest

from hostagent.engine.values import PullProgress
from moorage.errors import DeadlineExceeded, Exhausted, InvalidSpec, NotFound, NotReady, NotSupported, Unavailable
from tests.contract.engine.conftest import FAILS, Bench
from tests.integration.engine_bed import BASE_IMAGE


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


async def stream(data: bytes) -> AsyncIterator[bytes]:
    """Bytes in small pieces, as they come from a network."""
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


async def test_what_an_image_says_of_itself(bench: Bench) -> None:
    seen = await bench.engine.inspect_image(BASE_IMAGE)
    assert seen is not None
    assert seen.image_id.startswith("sha256:")
    assert seen.platform.startswith("linux/")
    assert seen.size_bytes > 0
    assert seen.repo_tags == (BASE_IMAGE,)
    assert seen.repo_digests == ()
    assert await bench.engine.inspect_image(seen.image_id) == seen
    assert seen.image_id in {image.image_id for image in await bench.engine.list_images()}


async def test_an_image_that_is_not_here(bench: Bench) -> None:
    assert await bench.engine.inspect_image("nobody/has:this") is None
    with pytest.raises(NotFound) as caught:
        await bench.engine.image_labels("nobody/has:this")
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    with pytest.raises(NotFound):
        await bench.engine.tag("nobody/has:this", "a:b")
    await bench.engine.remove_image("nobody/has:this")  # it is gone: nothing happens


async def test_push_and_pull_by_digest(bench: Bench) -> None:
    engine = bench.engine
    name = f"{bench.registry}/suite/app"
    await engine.tag(BASE_IMAGE, f"{name}:1")
    pushed: list[PullProgress] = []
    digest = await engine.push(f"{name}:1", pushed.append)
    assert digest.startswith("sha256:")
    assert pushed[-1].phase == "DONE"
    await engine.remove_image(f"{name}:1")
    assert await engine.inspect_image(f"{name}:1") is None

    pulled: list[PullProgress] = []
    await engine.pull(f"{name}@{digest}", pulled.append)
    seen = await engine.inspect_image(f"{name}@{digest}")
    assert seen is not None
    assert f"{name}@{digest}" in seen.repo_digests
    assert (pulled[-1].phase, pulled[-1].percent) == ("DONE", 100)
    assert [step.percent for step in pulled] == sorted(step.percent for step in pulled)
    await engine.remove_image(f"{name}@{digest}")


async def test_pulls_at_once_are_one(bench: Bench) -> None:
    name = f"{bench.registry}/suite/shared:1"
    await bench.engine.tag(BASE_IMAGE, name)
    await bench.engine.push(name)
    await bench.engine.remove_image(name)
    progress: list[list[PullProgress]] = [[] for _ in range(4)]
    await asyncio.gather(*(bench.engine.pull(name, listener.append) for listener in progress))
    assert all(steps[-1].phase == "DONE" for steps in progress)
    if bench.fake:
        assert bench.fake.pulls_started == [name]
    await bench.engine.remove_image(name)


async def test_a_pull_that_cannot_be(bench: Bench) -> None:
    with pytest.raises(NotFound) as missing:
        await bench.engine.pull(f"{bench.registry}/suite/nothing:1")
    assert missing.value.reason == "IMAGE_NOT_FOUND"
    if bench.fake:
        bench.fake.registry_is_down = True
    with pytest.raises(Unavailable) as unreachable:
        await bench.engine.pull("127.0.0.1:1/suite/app:1")
    assert unreachable.value.reason == "REGISTRY_UNREACHABLE"
    assert unreachable.value.retryable


async def test_an_image_in_use_stays(bench: Bench) -> None:
    container_id = await bench.run("user", FAILS)
    await bench.ended(container_id)
    with pytest.raises(NotReady) as caught:
        await bench.engine.remove_image(BASE_IMAGE)
    assert caught.value.reason == "IMAGE_IN_USE"


async def test_import_save_and_load(bench: Bench) -> None:
    engine = bench.engine
    image_id = await engine.import_rootfs("suite/imported:1", stream(tar({"hello": b"x" * 5000})))
    seen = await engine.inspect_image("suite/imported:1")
    assert seen is not None
    assert seen.image_id == image_id
    saved = b"".join([chunk async for chunk in engine.save("suite/imported:1")])
    await engine.remove_image("suite/imported:1")
    assert len(await engine.load(stream(saved))) == 1
    with pytest.raises(InvalidSpec) as caught:
        await engine.load(stream(b"this is no tar" * 1000))
    assert caught.value.reason == "TAR_INVALID"
    await engine.remove_image("suite/imported:1")


async def test_files_go_in_and_out(bench: Bench) -> None:
    engine = bench.engine
    container_id = await bench.engine.create(bench.spec("files"), runtime="")
    big = bytes(range(256)) * 4096
    await engine.copy_in(container_id, "/tmp", stream(tar({"a.txt": b"hello", "big.bin": big})))
    out = b"".join([chunk async for chunk in engine.copy_out(container_id, "/tmp/big.bin")])
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        assert archive.getnames() == ["big.bin"]
        content = archive.extractfile("big.bin")
        assert content is not None
        assert content.read() == big
    for wrong in (
        engine.copy_in(container_id, "/no/such/folder", stream(tar({"a": b""}))),
        anext(aiter(engine.copy_out(container_id, "/no/such/file"))),
    ):
        with pytest.raises(NotFound) as caught:
            await wrong
        assert caught.value.reason == "PATH_NOT_FOUND"
    with pytest.raises(InvalidSpec) as broken:
        await engine.copy_in(container_id, "/tmp", stream(b"this is no tar" * 1000))
    assert broken.value.reason == "TAR_INVALID"


async def test_commit_makes_an_image(bench: Bench) -> None:
    container_id = await bench.run("snapshot")
    image_id = await bench.engine.commit(container_id, "suite/snapshot", "1", labels={"suite": "", "more": "yes"})
    seen = await bench.engine.inspect_image("suite/snapshot:1")
    assert seen is not None
    assert seen.image_id == image_id
    assert seen.labels == {"suite": "", "more": "yes"}
    await bench.engine.remove_image("suite/snapshot:1")


async def test_build(bench: Bench) -> None:
    text = (
        f"FROM {BASE_IMAGE}\nARG WHO=nobody\nCOPY greeting /greeting\n"
        "RUN test $WHO = me && ! ping -c1 -W1 192.0.2.1  # no network\n"
    )
    context = tar({"docker/Dockerfile": text.encode(), "greeting": b"hello"})
    log: list[str] = []
    image_id = await bench.engine.build(
        stream(context),
        dockerfile="docker/Dockerfile",
        tag="suite/built:1",
        build_args={"WHO": "me"},
        labels={"made": "here"},
        memory_bytes=64 << 20,
        cpu_millis=500,
        on_output=log.append,
    )
    seen = await bench.engine.inspect_image("suite/built:1")
    assert seen is not None
    assert seen.image_id == image_id
    assert seen.labels == {"made": "here"}
    assert "COPY greeting" in "".join(log)
    await bench.engine.remove_image("suite/built:1")


async def test_a_build_that_fails_keeps_its_log(bench: Bench) -> None:
    context = tar({"Dockerfile": f"FROM {BASE_IMAGE}\nRUN false\n".encode()})
    with pytest.raises(InvalidSpec) as caught:
        await bench.engine.build(stream(context))
    assert caught.value.reason == "BUILD_FAILED"
    assert "RUN false" in caught.value.metadata["log_tail"]


@pytest.mark.parametrize(
    ("files", "error", "reason"),
    [
        ({"Dockerfile": b"FROM x\nRUN --mount=type=cache,target=/c true\n"}, NotSupported, "BUILDKIT_NEEDED"),
        ({"other": b""}, NotFound, "DOCKERFILE_NOT_FOUND"),
        ({"../Dockerfile": b"FROM x\n"}, InvalidSpec, "TAR_INVALID"),
        ({"Dockerfile": b"FROM x\n", "/etc/passwd": b""}, InvalidSpec, "TAR_INVALID"),
    ],
)
async def test_a_context_that_cannot_be_built(
    bench: Bench, files: Mapping[str, bytes], error: type[NotSupported | NotFound | InvalidSpec], reason: str
) -> None:
    with pytest.raises(error) as caught:
        await bench.engine.build(stream(tar(files)))
    assert caught.value.reason == reason


async def test_a_context_that_is_cut_off(bench: Bench) -> None:
    whole = tar({"Dockerfile": b"FROM x\n", "big": b"x" * 100_000})
    for broken in (whole[:50_000], b"no tar at all" * 100, b""):
        with pytest.raises(InvalidSpec) as caught:
            await bench.engine.build(stream(broken))
        assert caught.value.reason == "TAR_INVALID"


async def test_a_build_is_bounded(bench: Bench) -> None:
    if bench.fake:
        pytest.skip("the fake does not run build steps")
    slow = tar({"Dockerfile": f"FROM {BASE_IMAGE}\nRUN sleep 60\n".encode()})
    with pytest.raises(DeadlineExceeded):
        await bench.engine.build(stream(slow), timeout_seconds=1)
    loud = tar({"Dockerfile": f"FROM {BASE_IMAGE}\nRUN yes\n".encode()})
    with pytest.raises(Exhausted) as caught:
        await bench.engine.build(stream(loud), output_limit_bytes=100_000)
    assert caught.value.reason == "BUILD_OUTPUT_LIMIT"

    async def nothing_runs() -> bool:
        return not await bench.engine.list()

    await bench.until(nothing_runs)  # the engine has stopped both


async def test_disk_usage_and_cache(bench: Bench) -> None:
    usage = await bench.engine.disk_usage()
    assert usage.images_bytes > 0
    assert await bench.engine.prune_build_cache(unused_for_seconds=3600) >= 0

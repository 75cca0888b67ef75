"""Volumes on real hosts: files outlive containers and instances, and nothing but the word of the control plane removes them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import NotFound, NotReady
from moorage.v1 import instances_pb2
from moorage.v1 import volumes_pb2 as pb
from tests.e2e.conftest import moor
from tests.support.plane import RUNNING, Plane, shell, until


async def volume(plane: Plane, name: str) -> pb.Volume:
    """A volume as it is now."""
    return await plane.client.volumes.GetVolume(pb.GetVolumeRequest(name=f"{plane.project}/volumes/{name}"))


def folder(hosts: list[Host], found: pb.Volume) -> Path:
    """Where the files of a volume are that is of its first incarnation."""
    (host,) = [one for one in hosts if one.name == found.status.host.removeprefix("hosts/")]
    return host.plan.agent_data / "volumes" / f"{found.uid}-1" / "data"


async def test_files_outlive_their_instances(plane: Plane, fleet: Fleet, hosts: list[Host]) -> None:
    moor(fleet, "volume", "create", "data", "--owner", "1000", "--mode", "0770")
    run = ("run", "-d", "-v", "data:/data", "-v", "data/sub:/sub:ro")
    moor(fleet, *run, "--name", "one", "web", "sh", "-c", "echo kept >/data/file; sleep 1000")
    made = await volume(plane, "data")
    assert made.status.host
    files = folder(hosts, made)
    await until(lambda: _is_there(files / "file"), what="the first file")
    status = files.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1000, 1000, 0o770)
    assert (files / "sub").is_dir()
    assert "kept" in moor(fleet, "exec", "one", "--", "cat", "/data/file")
    with pytest.raises(NotReady) as refused:
        await plane.client.volumes.DeleteVolume(pb.DeleteVolumeRequest(name=made.name))
    assert refused.value.reason == "VOLUME_IN_USE"
    moor(fleet, "instance", "replace", "one")
    assert "kept" in moor(fleet, "exec", "one", "--", "cat", "/data/file")
    moor(fleet, "rm", "one")
    assert (files / "file").read_text() == "kept\n"
    moor(fleet, *run, "--name", "two", "web", "sleep", "1000")
    assert "kept" in moor(fleet, "exec", "two", "--", "cat", "/data/file")
    moor(fleet, "rm", "two")

    async def is_measured() -> bool:
        return (await volume(plane, "data")).status.used_bytes > 0

    await until(is_measured, what="its size")
    moor(fleet, "volume", "rm", "data")

    async def is_forgotten() -> bool:
        try:
            await volume(plane, "data")
        except NotFound:
            return True
        return False

    await until(is_forgotten, what="the end of the volume")
    assert not files.parent.exists()


async def test_a_backup_brings_back_what_was_there(plane: Plane, fleet: Fleet, tmp_path: Path) -> None:
    moor(fleet, "volume", "create", "data")
    make = "mkdir -p /data/a && head -c 3000000 /dev/urandom >/data/a/big && ln -s big /data/a/link"
    script = f"test -e /data/b || test -L /data/a/link || ({make}); sleep 1000"
    moor(fleet, "run", "-d", "--name", "one", "-v", "data:/data", "web", "sh", "-c", script)
    digest = "cd /data && find . | sort && cat a/big | md5sum && readlink a/link"

    async def is_written() -> str:
        return moor(fleet, "exec", "one", "--", "sh", "-c", f"test -L /data/a/link && {digest}")

    before = await until(is_written, what="its files", ignore=(AssertionError, CalledProcessError))
    tar = await backup(plane, "data")
    with pytest.raises(NotReady) as refused:
        await restore(plane, "data", tar)
    assert refused.value.reason == "VOLUME_IN_USE"
    moor(fleet, "exec", "one", "--", "sh", "-c", "rm -r /data/a; echo else >/data/b")
    moor(fleet, "stop", "one")
    await restore(plane, "data", tar)
    moor(fleet, "start", "one")
    after = moor(fleet, "exec", "one", "--", "sh", "-c", digest)
    assert after == before


async def test_a_snapshot_and_a_clone_on_another_host(plane: Plane, fleet: Fleet) -> None:
    moor(fleet, "volume", "create", "data", "--host", "h1")
    run = ("run", "-d", "-v", "data:/data", "web", "sh", "-c")
    moor(fleet, *run[:2], "--name", "one", *run[2:], "test -e /data/file || echo first >/data/file; sleep 1000")
    read = ("--", "cat", "/data/file")
    await until(_reads(fleet, "one", "first"), what="its file", ignore=CalledProcessError)
    moor(fleet, "volume", "snapshot", "create", "data", "s1")
    moor(fleet, "exec", "one", "--", "sh", "-c", "echo second >/data/file")
    moor(fleet, "volume", "create", "far", "--from", "data", "--host", "h2")
    moor(fleet, "run", "-d", "--name", "two", "-v", "far:/data", "web", "sleep", "1000")
    assert "second" in moor(fleet, "exec", "two", *read)
    moor(fleet, "stop", "one")
    moor(fleet, "volume", "snapshot", "restore", "data", "s1")
    moor(fleet, "start", "one")
    assert "first" in moor(fleet, "exec", "one", *read)
    moor(fleet, "volume", "create", "near", "--from", "data/s1")
    moor(fleet, "run", "-d", "--name", "three", "-v", "near:/data", "web", "sleep", "1000")
    assert "first" in moor(fleet, "exec", "three", *read)
    moor(fleet, "volume", "snapshot", "rm", "data", "s1")


async def test_a_limited_volume_is_full_when_it_is_full(plane: Plane, fleet: Fleet) -> None:
    moor(fleet, "volume", "create", "small", "--size", "16Mi")
    moor(fleet, "run", "-d", "--name", "one", "-v", "small:/data", "web", "sleep", "1000")
    fill = "dd if=/dev/zero of=/data/big bs=1M count=30 2>&1 || true"
    assert "No space left" in moor(fleet, "exec", "one", "--", "sh", "-c", fill)
    moor(fleet, "exec", "one", "--", "sh", "-c", "rm /data/big; echo kept >/data/file")
    moor(fleet, "instance", "replace", "one")
    assert "kept" in moor(fleet, "exec", "one", "--", "cat", "/data/file")
    moor(fleet, "rm", "one")
    moor(fleet, "volume", "rm", "small")

    async def is_forgotten() -> bool:
        return not (await plane.client.volumes.ListVolumes(pb.ListVolumesRequest(parent=plane.project))).volumes

    await until(is_forgotten, what="the end of the volume")


@pytest.fixture
async def whole(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet; whatever is missing of it after the test is started again."""
    yield fleet
    await fleet.up()


async def test_a_slot_keeps_its_volume_and_loses_it_only_as_declared(plane: Plane, whole: Fleet) -> None:
    script = "test -e /data/file || cat /proc/sys/kernel/random/uuid >/data/file; trap 'exit 0' TERM; sleep 1000 & wait"
    slot_volume = "data:/data,on-host-loss=replace,removal=with-owner"
    moor(whole, "group", "create", "db", "web", "-r", "1", "--slot-volume", slot_volume, "--wait", "--", *shell(script))

    async def runs(not_on: str = "", revision: int = 1) -> list[instances_pb2.Instance]:
        return [
            found
            for found in (await plane.instances()).values()
            if found.status.state == RUNNING
            and found.desired_state == instances_pb2.DESIRED_STATE_RUNNING
            and found.status.host != not_on
            and found.status.revision >= revision
        ]

    (first,) = await until(runs, what="the first member")
    assert instances_pb2.CLAIM_VOLUME in first.status.claims
    read = ("--", "cat", "/data/file")
    written = moor(whole, "exec", first.name.rpartition("/")[2], *read)
    moor(whole, "group", "update", "db", "-e", "A=B")
    (second,) = await until(lambda: runs(revision=2), what="its successor", within_seconds=60)
    assert second.status.host == first.status.host
    assert moor(whole, "exec", second.name.rpartition("/")[2], *read) == written
    lost = second.status.host
    await whole.power_off(lost.removeprefix("hosts/"))
    (third,) = await until(lambda: runs(not_on=lost), what="one elsewhere", within_seconds=90)
    assert moor(whole, "exec", third.name.rpartition("/")[2], *read) != written
    assert "BEGUN_ANEW" in moor(whole, "events", "-o", "json")
    await whole.up()
    moor(whole, "group", "rm", "db")

    async def is_forgotten() -> bool:
        return not (await plane.client.volumes.ListVolumes(pb.ListVolumesRequest(parent=plane.project))).volumes

    await until(is_forgotten, what="the end of both copies", within_seconds=60)


def _reads(fleet: Fleet, instance: str, text: str) -> Callable[[], Awaitable[bool]]:
    async def does_read() -> bool:
        return text in moor(fleet, "exec", instance, "--", "cat", "/data/file")

    return does_read


async def backup(plane: Plane, name: str) -> bytes:
    request = pb.BackupVolumeRequest(name=f"{plane.project}/volumes/{name}")
    return b"".join([response.chunk async for response in plane.client.volumes.BackupVolume(request)])


async def restore(plane: Plane, name: str, tar: bytes) -> None:
    async def messages() -> AsyncIterator[pb.RestoreVolumeRequest]:
        yield pb.RestoreVolumeRequest(start=pb.RestoreVolumeStart(name=f"{plane.project}/volumes/{name}"))
        for start in range(0, len(tar), 500_000):
            yield pb.RestoreVolumeRequest(chunk=tar[start : start + 500_000])

    await plane.client.volumes.RestoreVolume(messages())


async def _is_there(path: Path) -> bool:
    return path.exists()

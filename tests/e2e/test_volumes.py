"""Volumes on real hosts: files outlive containers and instances, and nothing but the word of the control plane removes them."""

from pathlib import Path

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import NotFound, NotReady
from moorage.v1 import volumes_pb2 as pb
from tests.e2e.conftest import moor
from tests.support.plane import Plane, until


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


async def _is_there(path: Path) -> bool:
    return path.exists()

"""A deleted instance comes back with its files and addresses, a volume with its files; what nobody wants back goes in time."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf import field_mask_pb2

from cli.dev.host import Host
from moorage.errors import NotFound
from moorage.v1 import instances_pb2 as pb
from moorage.v1 import projects_pb2, volumes_pb2
from tests.support import onhost
from tests.support.plane import PROJECT, Plane, until


async def set_window(plane: Plane, seconds: int) -> None:
    project = projects_pb2.Project(name=PROJECT)
    project.undelete_window.seconds = seconds
    mask = field_mask_pb2.FieldMask(paths=["undelete_window"])
    await plane.client.projects.UpdateProject(projects_pb2.UpdateProjectRequest(project=project, update_mask=mask))


@pytest.fixture
async def keeping(plane: Plane) -> AsyncIterator[Plane]:
    """A project that keeps what is deleted for an hour; none does afterwards."""
    await set_window(plane, 3600)
    yield plane
    await set_window(plane, 0)


async def test_files_addresses_and_container_come_back(keeping: Plane, hosts: list[Host]) -> None:
    made = (await keeping.run({"web": keeping.spec(host=1)}))["web"]
    await keeping.exec("web", ["/bin/sh", "-c", "echo precious > /file"])
    await keeping.client.instances.DeleteInstance(pb.DeleteInstanceRequest(name=made.name))

    async def stands_still() -> bool:
        return (await keeping.get("web")).status.state == pb.INSTANCE_STATE_STOPPED

    await until(stands_still, what="its end")
    found = await keeping.get("web")
    assert (found.status.reason, found.status.HasField("purge_time")) == ("KEPT", True)
    assert [one.is_running for one in await onhost.containers(hosts[0]) if one.instance == made.uid] == [False]
    await keeping.client.instances.UndeleteInstance(pb.UndeleteInstanceRequest(name=made.name))

    async def runs() -> bool:
        status = (await keeping.get("web")).status
        return (status.state, status.run, status.reason) == (pb.INSTANCE_STATE_RUNNING, 2, "")

    await until(runs, what="it runs again")
    back = await keeping.get("web")
    assert (back.uid, back.status.container_id) == (made.uid, made.status.container_id)
    assert list(back.status.nics[0].addresses) == list(made.status.nics[0].addresses)
    _, said = await keeping.exec("web", ["/bin/cat", "/file"])
    assert said == "precious\n"


async def test_time_is_up(keeping: Plane, hosts: list[Host]) -> None:
    await set_window(keeping, 2)
    made = (await keeping.run({"gone": keeping.spec(host=1)}))["gone"]
    await keeping.client.instances.DeleteInstance(pb.DeleteInstanceRequest(name=made.name))

    async def is_gone() -> bool:
        try:
            await keeping.get("gone")
        except NotFound:
            return True
        return False

    await until(is_gone, what="the end of the window")
    assert not [one for one in await onhost.containers(hosts[0]) if one.instance == made.uid]


async def test_a_volume_keeps_its_files(keeping: Plane) -> None:
    volumes = keeping.client.volumes
    create = volumes_pb2.CreateVolumeRequest(parent=PROJECT, volume_id="kept", volume=volumes_pb2.Volume())
    await volumes.CreateVolume(create)
    spec = keeping.spec(host=1, volumes=[volumes_pb2.VolumeMount(volume="kept", target="/data")])
    await keeping.run({"user": spec})
    await keeping.exec("user", ["/bin/sh", "-c", "echo precious > /data/file"])
    name = f"{PROJECT}/volumes/kept"
    end = pb.DeleteInstanceRequest(name=keeping.name("instances", "user"), now=True)
    await keeping.client.instances.DeleteInstance(end)

    async def is_free() -> bool:
        return not (await volumes.GetVolume(volumes_pb2.GetVolumeRequest(name=name))).status.instances

    await until(is_free, what="its user's end")
    await volumes.DeleteVolume(volumes_pb2.DeleteVolumeRequest(name=name))
    found = await volumes.UndeleteVolume(volumes_pb2.UndeleteVolumeRequest(name=name))
    assert found.status.state == volumes_pb2.VOLUME_STATE_READY
    await keeping.run({"user": spec})
    _, said = await keeping.exec("user", ["/bin/cat", "/data/file"])
    assert said == "precious\n"
    await keeping.client.instances.DeleteInstance(end)
    await until(is_free, what="its user's end")
    await volumes.DeleteVolume(volumes_pb2.DeleteVolumeRequest(name=name, now=True))

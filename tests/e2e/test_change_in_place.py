"""What changes while an instance runs: limits, and its name, in the process, in DNS and in balancers' eyes; without a new process."""

import contextlib
import json

import pytest
from google.protobuf import field_mask_pb2

from cli.dev.host import Host
from moorage.errors import NotFound, NotReady
from moorage.v1 import common_pb2
from moorage.v1 import instances_pb2 as pb
from tests.e2e.test_names import addresses, look_up
from tests.support.plane import Plane, until

MIB = 1 << 20


async def update(plane: Plane, name: str, spec: pb.InstanceSpec, *paths: str) -> pb.Instance:
    mask = field_mask_pb2.FieldMask(paths=[f"spec.{path}" for path in paths])
    return await plane.client.instances.UpdateInstance(
        pb.UpdateInstanceRequest(instance=pb.Instance(name=plane.name("instances", name), spec=spec), update_mask=mask)
    )


async def test_a_new_name_is_everywhere_and_the_process_is_the_same(plane: Plane, hosts: list[Host]) -> None:
    await plane.network("lan")
    made = await plane.run({"asks": plane.spec(host=1, networks=["lan"]), "old": plane.spec(host=2, networks=["lan"])})
    request = pb.RenameInstanceRequest(name=made["old"].name, new_instance_id="new")
    renamed = await plane.client.instances.RenameInstance(request)
    assert (renamed.uid, renamed.status.run) == (made["old"].uid, 1)

    async def is_found() -> bool:
        new = await look_up(hosts[0], made["asks"], "new.lan.internal")
        return new == {addresses(made["old"])[0]} and not await look_up(hosts[0], made["asks"], "old.lan.internal")

    async def is_called() -> bool:
        _, said = await plane.exec("new", ["/bin/sh", "-c", "hostname; cat /etc/hostname"])
        return said.split() == ["new", "new"]

    await until(is_found, what="the new name in DNS, and not the old one")
    await until(is_called, what="the new name in the process")
    assert (await plane.get("new")).status.run == 1
    with pytest.raises(NotFound):
        await plane.get("old")
    await plane.client.instances.RebootInstance(pb.RebootInstanceRequest(name=renamed.name))

    async def is_called_after_its_next_start() -> bool:
        with contextlib.suppress(NotReady):
            return (await plane.get("new")).status.run == 2 and await is_called()
        return False

    await until(is_called_after_its_next_start, what="the new name after a start")


async def test_limits_change_and_one_below_what_is_used_waits(plane: Plane, hosts: list[Host]) -> None:
    spec = plane.spec(host=1)
    spec.resources.memory_bytes = 256 * MIB
    made = (await plane.run({"big": spec}))["big"]
    # Files of /dev/shm are memory that the kernel cannot drop.
    await plane.exec("big", ["/bin/sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=48 2>/dev/null"])
    small = pb.InstanceSpec(resources=common_pb2.Resources(memory_bytes=16 * MIB, cpu_millis=300))
    await update(plane, "big", small, "resources")

    async def is_told() -> bool:
        return (await plane.get("big")).status.reason == "MEMORY_IN_USE"

    await until(is_told, what="the reason")
    await plane.exec("big", ["/bin/rm", "/dev/shm/x"])

    async def is_done() -> bool:
        return (await plane.get("big")).status.reason == ""

    await until(is_done, what="the new limits", within_seconds=60)
    found = json.loads(await hosts[0].docker("inspect", made.status.container_id))[0]["HostConfig"]
    assert (found["Memory"], found["CpuQuota"]) == (16 * MIB, 30_000)
    assert (await plane.get("big")).status.run == 1

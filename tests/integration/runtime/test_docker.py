"""Network before process, with a real Docker Engine: the container finds itself in the namespace, or does not start."""

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import APIError
from docker.models.containers import Container

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, PublishedPort, Subnet
from hostagent.netlink import namespaces
from hostagent.netlink.fabric import LinuxFabric
from hostagent.runtime.wrapper import RuntimeKeys, install
from moorage.ids import ContainerId, InstanceId, NetworkId
from tests.integration.engine_bed import BASE_IMAGE, EngineBed, require_engine

pytestmark = [pytest.mark.root, pytest.mark.docker]
NET, ONE = NetworkId("naaaaaaaaa"), InstanceId("iaaaaaaaaa")
NETWORK = NetworkAssignment(
    NET,
    "front",
    NetworkKind.ISOLATED,
    (Subnet("10.1.0.0/24", "10.1.0.1"), Subnet("fd00:1::/64", "fd00:1::1")),
    1450,
    vni=42,
)
NIC = NicAssignment(NET, "eth0", "02:00:00:00:00:05", ("10.1.0.5/24", "fd00:1::5/64"), ("10.1.0.1", "fd00:1::1"))


@dataclass
class Machine:
    """An engine with the wrapper as a runtime, and a fabric in the engine's network namespace."""

    client: docker.DockerClient
    fabric: LinuxFabric
    keys: RuntimeKeys
    host: Path

    def fetch(self, where: Path, address: str) -> str:
        """The page on port 8080, asked for from inside a namespace."""
        root, fd = namespaces.HostNamespace.capture(), os.open(where, os.O_RDONLY)
        with namespaces.entered(root, fd):
            client = socket.socket()
        os.close(fd)
        os.close(root.fd)
        with client:
            client.settimeout(5.0)
            client.connect((address, 8080))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while part := client.recv(4096):
                answer += part
        return answer.decode().rsplit("\r\n", 1)[1].strip()

    def create(self, command: list[str]) -> Container:
        return self.client.containers.create(BASE_IMAGE, command, network_disabled=True, runtime="moorage")


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    """Started in the order of a real host: folders, engine, agent."""
    require_engine()
    folder = Path(tempfile.mkdtemp(prefix="mt-net-"))
    namespaces.prepare_folder(folder / "netns")
    install(folder / "wrapper", run_dir=folder, real_runtime="runc")
    root = namespaces.HostNamespace.capture()
    fabric = LinuxFabric(run_dir=folder, underlay_address="127.0.0.1")
    try:
        with EngineBed(runtimes={"moorage": {"path": str(folder / "wrapper")}}) as bed:
            fd = os.open(f"/proc/{bed.namespace_pid}/ns/net", os.O_RDONLY)
            with namespaces.entered(root, fd):
                await fabric.start()
            client = docker.DockerClient(base_url=bed.url)
            try:
                yield Machine(client, fabric, RuntimeKeys(folder), Path(f"/proc/{bed.namespace_pid}/ns/net"))
            finally:
                for container in client.containers.list(all=True):
                    container.remove(force=True)
                client.close()
                await fabric.destroy_all()
                await fabric.close()
                os.close(fd)
    finally:
        os.close(root.fd)
        shutil.rmtree(folder, ignore_errors=True)


async def test_first_instruction_sees_its_network(machine: Machine) -> None:
    await machine.fabric.ensure_network(NETWORK)
    path = await machine.fabric.ensure_instance(ONE, [NIC], {NET: NETWORK})
    script = "ip -o addr; ip route; ip -6 route; ls -iL /proc/self/ns/net"
    container = await asyncio.to_thread(machine.create, ["sh", "-c", script])
    machine.keys.publish(ContainerId(str(container.id)), path)
    start = time.perf_counter()
    await asyncio.to_thread(container.start)
    print(f"start {1000 * (time.perf_counter() - start):.0f} ms")
    assert (await asyncio.to_thread(container.wait))["StatusCode"] == 0
    said = (await asyncio.to_thread(container.logs)).decode()
    assert str(path.stat().st_ino) in said
    for expected in ("10.1.0.5/24", "fd00:1::5/64", "default via 10.1.0.1", "default via fd00:1::1"):
        assert expected in said
    # again, in the same namespace
    await asyncio.to_thread(container.start)
    assert (await asyncio.to_thread(container.wait))["StatusCode"] == 0
    again = (await asyncio.to_thread(container.logs)).decode()
    assert again.count("10.1.0.5/24") == 2 * said.count("10.1.0.5/24")


async def test_without_a_namespace_it_does_not_start(machine: Machine) -> None:
    container = await asyncio.to_thread(machine.create, ["true"])
    with pytest.raises(APIError, match="no network namespace is published"):
        await asyncio.to_thread(container.start)


async def test_published_port_reaches_the_container(machine: Machine) -> None:
    await machine.fabric.ensure_network(NETWORK)
    path = await machine.fabric.ensure_instance(ONE, [NIC], {NET: NETWORK})
    command = ["sh", "-c", "echo hello >/tmp/index.html; exec httpd -f -p 80 -h /tmp"]
    container = await asyncio.to_thread(machine.create, command)
    machine.keys.publish(ContainerId(str(container.id)), path)
    await machine.fabric.publish_ports(ONE, [PublishedPort(8080, 80)], [NIC])
    await asyncio.to_thread(container.start)
    other = NicAssignment(NET, "eth0", "02:00:00:00:00:06", ("10.1.0.6/24",), ("10.1.0.1",))
    two = InstanceId("ibbbbbbbbb")
    namespace = await machine.fabric.ensure_instance(two, [other], {NET: NETWORK})
    for where, address in ((machine.host, "127.0.0.1"), (namespace, "169.254.128.0")):
        assert await asyncio.to_thread(machine.fetch, where, address) == "hello"
    result = await asyncio.to_thread(container.exec_run, ["ip", "-o", "addr"])
    assert b"10.1.0.5/24" in result.output

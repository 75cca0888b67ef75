"""A whole agent over an engine, a network and a control plane in memory."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostagent.agent import Agent, World
from hostagent.facts import Site
from hostagent.journal.journal import Journal
from hostagent.secret_files import SecretFiles
from moorage.clock import SystemClock
from moorage.v1 import agent_pb2, common_pb2, instances_pb2, networks_pb2
from tests.fakes.engine import FakeEngine
from tests.unit.hostagent.fakes import FakeControlPlane, FakeDoor, FakeFabric, FakeKeys

IMAGE = "p/app@sha256:" + "a" * 64
PULLED_IMAGE = f"127.0.0.1:5577/{IMAGE}"


@dataclass
class Host:
    """One machine: what stays when its agent dies."""

    data_dir: Path
    control_plane: FakeControlPlane
    engine: FakeEngine = field(default_factory=FakeEngine)
    fabric: FakeFabric = field(default_factory=FakeFabric)
    keys: FakeKeys = field(default_factory=FakeKeys)
    door: FakeDoor = field(default_factory=FakeDoor)
    boot_id: str = "boot-1"
    agent: Agent | None = None
    failures: list[str] = field(default_factory=list)

    async def start_agent(self) -> Agent:
        world = World(
            engine=self.engine,
            fabric=self.fabric,
            keys=self.keys,
            secrets=SecretFiles(self.data_dir / "secrets"),
            clock=SystemClock(),
            data_dir=self.data_dir,
            run_dir=self.data_dir / "run",
            boot_id=self.boot_id,
            site=Site("192.0.2.1", 4789, 5577),
        )
        journal = Journal.open(self.data_dir, now=time.time())
        self.agent = Agent(
            world,
            journal,
            connect=self.control_plane.connect,
            door=self.door,
            on_failure=lambda name, error: self.failures.append(f"{name}: {error!r}"),
        )
        await self.agent.start()
        return self.agent

    async def stop_agent(self) -> None:
        assert self.agent is not None
        await self.agent.close()
        self.agent = None

    async def reboot(self) -> None:
        """The machine goes down and comes up: processes and namespaces are gone, containers and files are not."""
        for container in list(self.engine.containers.values()):
            if container.observe().phase.value == "running":
                self.engine.finish(container.spec.name, 255)
        self.fabric.instances.clear()
        self.fabric.networks.clear()
        self.fabric.ports.clear()
        self.keys.links.clear()
        self.boot_id = "boot-2"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    control_plane = FakeControlPlane()
    await control_plane.start()
    host = Host(tmp_path, control_plane)
    host.engine.add_image(PULLED_IMAGE)
    yield host
    if host.agent is not None:
        await host.stop_agent()
    await control_plane.stop()
    assert host.failures == []


def network(network_id: str = "n1", **fields: object) -> agent_pb2.NetworkAssignment:
    return agent_pb2.NetworkAssignment(
        network_id=network_id,
        name="default",
        kind=networks_pb2.NETWORK_KIND_ISOLATED,
        subnets=[networks_pb2.Subnet(cidr="10.1.0.0/24", gateway="10.1.0.1")],
        mtu=1450,
        vni=100,
        **fields,
    )


def instance(instance_id: str = "i1", number: int = 5, **fields: object) -> agent_pb2.InstanceAssignment:
    values: dict[str, object] = {
        "instance_id": instance_id,
        "name": f"web-{instance_id}",
        "project": "p",
        "generation": 1,
        "run_request": 1,
        "container_generation": 1,
        "desired": instances_pb2.DESIRED_STATE_RUNNING,
        "image": IMAGE,
        "spec": instances_pb2.InstanceSpec(
            command=["serve"],
            published_ports=[common_pb2.PublishedPort(host_port=8080 + number, container_port=80)],
        ),
        "nics": [
            agent_pb2.NicAssignment(
                network_id="n1",
                name="eth0",
                mac=f"02:00:00:00:00:{number:02x}",
                addresses=[f"10.1.0.{number}/24"],
                gateways=["10.1.0.1"],
            )
        ],
    }
    return agent_pb2.InstanceAssignment(**{**values, **fields})

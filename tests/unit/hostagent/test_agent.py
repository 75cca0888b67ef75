"""The agent as a whole: what is assigned comes up, is reported, survives, and goes."""

from moorage.v1 import instances_pb2 as pb
from tests.unit.hostagent.conftest import Host, instance, network


async def test_an_assigned_instance_runs_and_is_reported(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    (container,) = host.engine.containers.values()
    assert container.spec.labels["moorage.instance"] == "i1"
    assert host.keys.links[container.observe().container_id].name == "i-i1"
    assert host.fabric.ports["i1"][0].host_port == 8085
    report = host.control_plane.reports["i1"]
    assert (report.run, report.generation, report.container_id) == (1, 1, container.observe().container_id)
    hosts = (host.data_dir / "instances/i1/hosts").read_text()
    assert "10.1.0.5\tweb-i1\n" in hosts


async def test_a_deleted_instance_leaves_nothing(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.change(instance(desired=pb.DESIRED_STATE_DELETED, generation=2))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_DELETED)
    assert not host.engine.containers
    assert not host.fabric.instances
    assert not host.fabric.ports
    assert not host.keys.links
    assert not (host.data_dir / "instances/i1").exists()
    host.control_plane.change(forgotten_instances=["i1"], removed_networks=["n1"])
    await host.control_plane.until(lambda: not host.fabric.networks)
    assert host.agent is not None
    assert not host.agent.journal.assignments

"""The agent as a whole: what is assigned comes up, is reported, survives, and goes."""

import asyncio

import pytest

from hostagent.domain import ContainerSpec
from moorage.errors import Internal, InvalidSpec, Unavailable
from moorage.ids import InstanceId, NetworkId
from moorage.v1 import agent_pb2, common_pb2, security_groups_pb2
from moorage.v1 import instances_pb2 as pb
from tests.fakes.engine import FakeEngine
from tests.unit.hostagent.conftest import PULLED_IMAGE, Host, instance, network
from tests.unit.hostagent.fakes import FakeFabric


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


async def test_networks_come_and_go_while_an_instance_runs(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    files = host.data_dir / "instances/i1/hosts"
    before = dict(host.engine.containers)

    def is_plugged(generation: int) -> bool:
        return host.control_plane.reports["i1"].network_generation == generation

    more = agent_pb2.NicAssignment(network_id="n2", name="eth1", mac="02:00:00:00:01:05", addresses=["10.2.0.5/24"])
    first = instance().nics[0]
    host.control_plane.change(instance(generation=2, nics=[first, more]), networks=[network("n2")])
    await host.control_plane.until(lambda: is_plugged(2))
    assert [nic.name for nic in host.fabric.instances[InstanceId("i1")]] == ["eth0", "eth1"]
    await host.control_plane.until(lambda: "10.2.0.5\tweb-i1\n" in files.read_text())
    host.control_plane.change(instance(generation=3, nics=[more]), removed_networks=["n1"])
    await host.control_plane.until(lambda: is_plugged(3))
    await host.control_plane.until(lambda: set(host.fabric.networks) == {"n2"})
    await host.control_plane.until(lambda: "10.1.0.5" not in files.read_text())
    assert dict(host.engine.containers) == before


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
    journal = host.agent.journal if host.agent is not None else None
    await host.control_plane.until(lambda: journal is not None and not journal.assignments)


async def test_a_new_agent_adopts_what_runs(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    before = list(host.engine.containers)
    await host.stop_agent()
    host.control_plane.reports.clear()
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=1)
    assert list(host.engine.containers) == before
    assert host.control_plane.hellos[1].epoch > host.control_plane.hellos[0].epoch
    assert host.control_plane.hellos[1].host_nonce == host.control_plane.hellos[0].host_nonce


async def test_a_process_that_ended_while_the_agent_was_away_is_told_and_started_again(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    (container,) = host.engine.containers.values()
    await host.stop_agent()
    host.engine.finish(container.spec.name, 7)
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2)
    report = host.control_plane.reports["i1"]
    assert (report.exit_code, report.restarts) == (7, 1)


async def test_after_a_host_reboot_the_journal_is_enough(host: Host) -> None:
    host.control_plane.set_complete([instance(), instance("i2", 6)], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await host.control_plane.until_state("i2", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.change(instance("i2", 6, generation=2, desired=pb.DESIRED_STATE_STOPPED))
    await host.control_plane.until_state("i2", pb.INSTANCE_STATE_STOPPED)
    await host.stop_agent()
    await host.control_plane.stop()
    await host.reboot()
    agent = await host.start_agent()
    await host.control_plane.until(
        lambda: [c.phase.value for c in host.engine.containers.values() if c.phase.value == "running"] == ["running"]
    )
    assert set(host.fabric.instances) == {"i1"}
    assert agent.outbox.latest["i1"].run == 2
    await host.control_plane.start()
    host.control_plane.set_complete(
        [instance(), instance("i2", 6, generation=2, desired=pb.DESIRED_STATE_STOPPED)], [network()]
    )
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2, seconds=15)


async def test_a_control_plane_that_goes_away_stops_nothing(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await host.control_plane.stop()
    host.engine.finish(next(iter(host.engine.containers.values())).spec.name, 1)
    await host.control_plane.until(
        lambda: host.agent is not None and host.agent.journal.local(InstanceId("i1")).run == 2
    )
    await host.control_plane.start()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2, seconds=15)


async def test_a_gap_in_the_changes_begins_a_new_session(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.sequence += 5
    host.control_plane.change(instance("i2", 6))
    await host.control_plane.until(lambda: len(host.control_plane.hellos) == 2)


async def test_a_lower_term_is_not_obeyed(host: Host) -> None:
    host.control_plane.term = 5
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.term = 4
    host.control_plane.set_complete([], [])
    host.control_plane.end_session()
    await host.control_plane.until(lambda: len(host.control_plane.hellos) >= 3)
    assert host.agent is not None
    assert not host.agent.journal.orphans


async def test_the_brake_holds_a_large_sweep_until_an_operator_releases_it(host: Host) -> None:
    instances = [instance(f"i{number}", number) for number in range(1, 6)]
    host.control_plane.set_complete(instances, [network()])
    agent = await host.start_agent()
    for number in range(1, 6):
        await host.control_plane.until_state(f"i{number}", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.set_complete(instances[:3], [network()])
    host.control_plane.send_complete()
    await host.control_plane.until(lambda: len(agent.journal.orphans) == 2)
    await agent.sweeper.sweep_once()
    await host.control_plane.until(lambda: bool(host.control_plane.heartbeats[-1].sweep_brake))
    assert {item.kind for item in host.control_plane.heartbeats[-1].quarantined} == {"container"}
    assert len(host.engine.containers) == 5
    host.control_plane.send(agent_pb2.SessionResponse(release_sweep_brake=True))
    await host.control_plane.until(lambda: len(host.engine.containers) == 3)
    await host.control_plane.until(lambda: not agent.journal.orphans)


async def test_one_orphan_is_swept_away(host: Host) -> None:
    host.control_plane.set_complete([instance("i1", 1), instance("i2", 2)], [network()])
    agent = await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await host.control_plane.until_state("i2", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.set_complete([instance("i1", 1)], [network()])
    host.control_plane.send_complete()
    await host.control_plane.until(lambda: len(agent.journal.orphans) == 1)
    await agent.sweeper.sweep_once()
    await host.control_plane.until(lambda: len(host.engine.containers) == 1)
    assert set(host.fabric.instances) == {"i1"}


async def test_another_store_holds_back_every_removal(host: Host) -> None:
    host.control_plane.set_complete([instance("i1", 1)], [network()])
    agent = await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.store_id = "store-2"
    host.control_plane.set_complete([], [])
    host.control_plane.end_session()
    await host.control_plane.until(lambda: len(agent.journal.orphans) == 1)
    await agent.sweeper.sweep_once()
    assert "store" in agent.sweeper.brake
    assert len(host.engine.containers) == 1


async def test_a_store_that_was_put_back_holds_back_every_removal(host: Host) -> None:
    """Its id is the same, and its revision may be higher by now: only the control plane can tell, and does."""
    host.control_plane.set_complete([instance("i1", 1)], [network()])
    agent = await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.history_lost = True
    host.control_plane.revision += 100
    host.control_plane.set_complete([], [])
    host.control_plane.end_session()
    await host.control_plane.until(lambda: len(agent.journal.orphans) == 1)
    await agent.sweeper.sweep_once()
    assert "put back to an earlier state" in agent.sweeper.brake
    assert len(host.engine.containers) == 1


async def test_a_container_with_our_label_and_a_foreign_nonce_is_shown_and_left_alone(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    spec = ContainerSpec(
        name="forged",
        image=PULLED_IMAGE,
        labels={"moorage.instance": "i1", "moorage.nonce": "x", "moorage.generation": "1"},
    )
    await host.engine.start(await host.engine.create(spec, runtime=""))
    agent = await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await agent.sweeper.sweep_once()
    forged = host.engine.container("forged").container_id
    await host.control_plane.until(lambda: [q.id for q in host.control_plane.heartbeats[-1].quarantined] == [forged])
    host.control_plane.change(instance(desired=pb.DESIRED_STATE_DELETED, generation=2))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_DELETED)
    assert [c.spec.name for c in host.engine.containers.values()] == ["forged"]


async def test_an_image_with_reserved_labels_is_refused(host: Host) -> None:
    host.engine.add_image(PULLED_IMAGE, labels={"moorage.instance": "i9"})
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_FAILED)
    assert host.control_plane.reports["i1"].reason == "IMAGE_LABEL_RESERVED"
    assert not host.engine.containers


async def test_a_failing_step_is_told_and_tried_again(host: Host) -> None:
    host.fabric.faults["ensure_network"] = [Unavailable("no netlink today", reason="NETLINK_BUSY")] * 2
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    assert "NETLINK_BUSY" in {report.reason for report in host.control_plane.history}
    assert host.control_plane.reports["i1"].reason == ""


async def test_a_memory_limit_below_what_is_used_is_told_and_waits_for_the_next_start(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    (container,) = host.engine.containers.values()
    spec = pb.InstanceSpec(command=["serve"], resources=common_pb2.Resources(memory_bytes=1 << 19, cpu_millis=500))
    host.control_plane.change(instance(generation=2, spec=spec))
    await host.control_plane.until(lambda: host.control_plane.reports["i1"].reason == "MEMORY_IN_USE")
    report = host.control_plane.reports["i1"]
    assert (report.state, report.run) == (pb.INSTANCE_STATE_RUNNING, 1)
    assert "1Mi of memory, more than its new limit of 512Ki" in report.message
    assert container.resources.memory_bytes == 0
    host.engine.finish(container.spec.name, 1)
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2)
    assert container.resources.memory_bytes == 1 << 19
    assert host.control_plane.reports["i1"].reason == ""


async def test_what_a_failed_plug_may_have_left_is_taken_away(host: Host) -> None:
    """The fabric has made something and failed: a deletion removes it, and going back to what was before repairs it."""
    host.control_plane.set_complete([instance(), instance("i2", 6)], [network()])
    host.fabric.faults["ensure_instance"] = [Unavailable("half way", reason="NETLINK_BUSY")] * 2
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await host.control_plane.until_state("i2", pb.INSTANCE_STATE_RUNNING)
    more = agent_pb2.NicAssignment(network_id="n1", name="eth1", mac="02:00:00:00:01:05", addresses=["10.1.0.77/24"])
    host.fabric.faults["ensure_instance"] = [Unavailable("half way", reason="NETLINK_BUSY")]
    host.control_plane.change(instance(generation=2, nics=[instance().nics[0], more]))
    await host.control_plane.until(lambda: not host.fabric.faults["ensure_instance"])
    host.fabric.instances[InstanceId("i1")] = ()  # as if the failed call had changed it
    host.control_plane.change(instance(generation=3))
    await host.control_plane.until(lambda: host.control_plane.reports["i1"].network_generation == 3)
    assert [nic.name for nic in host.fabric.instances[InstanceId("i1")]] == ["eth0"]


async def test_a_command_that_cannot_run_fails_with_its_reason(host: Host) -> None:
    host.engine.fail_next("start", InvalidSpec.of("command", "no such file", "START_REFUSED"))
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_FAILED)
    assert host.control_plane.reports["i1"].reason == "START_REFUSED"
    host.control_plane.change(instance(generation=2, run_request=2))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2)


async def test_an_engine_that_goes_away_is_followed_again(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.engine.go_down()
    await host.control_plane.until(
        lambda: any(c.reason == "ENGINE_DOWN" for c in host.control_plane.heartbeats[-1].conditions)
    )
    host.engine.come_back()
    await host.control_plane.until(lambda: not host.control_plane.heartbeats[-1].conditions)
    host.engine.finish(next(iter(host.engine.containers.values())).spec.name, 3)
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2)


async def test_peers_stand_in_the_hosts_file_in_place(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    path = host.data_dir / "instances/i1/hosts"
    inode = path.stat().st_ino
    peer = agent_pb2.Peer(mac="02:00:00:00:00:99", addresses=["10.1.0.99"], host_address="192.0.2.9", names=["db"])
    update = agent_pb2.PeerUpdate(network_id="n1", upserted=[peer])
    host.control_plane.change(instance("i2", 6), peer_updates=[update])
    await host.control_plane.until(lambda: "10.1.0.99\tdb\n" in path.read_text() and "web-i2" in path.read_text())
    assert host.fabric.peers["n1"]["02:00:00:00:00:99"].host_port == 4789
    host.control_plane.change(
        instance("i2", 6, generation=2, desired=pb.DESIRED_STATE_DELETED),
        peer_updates=[agent_pb2.PeerUpdate(network_id="n1", removed=[peer.mac])],
    )
    await host.control_plane.until(lambda: "db" not in path.read_text() and "web-i2" not in path.read_text())
    assert path.stat().st_ino == inode
    assert not host.fabric.peers["n1"]


def filtered(instance_id: str = "i1", number: int = 5, **fields: object) -> agent_pb2.InstanceAssignment:
    """An instance whose interface carries the group g1."""
    message = instance(instance_id, number, **fields)
    message.nics[0].security_groups.append("g1")
    return message


def security_group(*rules: security_groups_pb2.SecurityRule) -> agent_pb2.SecurityGroupAssignment:
    return agent_pb2.SecurityGroupAssignment(group_id="g1", name="web", rules=rules)


async def test_security_groups_filter_before_the_process_runs_and_follow_every_change(host: Host) -> None:
    rule = security_groups_pb2.SecurityRule(direction=security_groups_pb2.SECURITY_DIRECTION_IN, group="g2")
    complete = host.control_plane.set_complete([filtered()], [network()])
    complete.security_groups.append(security_group(rule))
    complete.group_members.add(group_id="g2", network_id="n1", added=["10.1.0.6"])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)

    def members() -> tuple[str, ...]:
        (one,) = host.fabric.filters[InstanceId("i1")]
        return one.members[0].addresses if one.members else ()

    assert members() == ("10.1.0.6",)
    update = agent_pb2.GroupMembersUpdate(group_id="g2", network_id="n1", added=["10.1.0.7"], removed=["10.1.0.6"])
    host.control_plane.change(group_members=[update])
    await host.control_plane.until(lambda: members() == ("10.1.0.7",))
    await host.stop_agent()
    await host.control_plane.stop()
    host.fabric.filters.clear()
    await host.start_agent()
    await host.control_plane.until(lambda: InstanceId("i1") in host.fabric.filters)
    assert members() == ("10.1.0.7",), "of the journal, without a control plane"
    await host.control_plane.start()
    await host.control_plane.until(lambda: members() == ("10.1.0.6",))
    host.control_plane.change(security_groups=[security_group()])
    await host.control_plane.until(lambda: host.fabric.filters[InstanceId("i1")][0].groups[0].rules == ())
    host.control_plane.change(instance(generation=2), removed_security_groups=["g1"])
    await host.control_plane.until(lambda: host.fabric.filters[InstanceId("i1")] == ())


async def test_an_instance_whose_group_is_not_known_does_not_run_unfiltered(host: Host) -> None:
    host.control_plane.set_complete([filtered()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_PREPARING)
    assert host.fabric.instances == {}
    host.control_plane.change(security_groups=[security_group()])
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    assert [one.interface for one in host.fabric.filters[InstanceId("i1")]] == ["eth0"]


async def test_a_change_that_the_kernel_refuses_is_tried_again(host: Host) -> None:
    complete = host.control_plane.set_complete([filtered()], [network()])
    complete.security_groups.append(security_group())
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.fabric.faults["filter_instance"] = [Internal("nftables refused a batch", reason="NFT_REFUSED")]
    rule = security_groups_pb2.SecurityRule(direction=security_groups_pb2.SECURITY_DIRECTION_IN)
    host.control_plane.change(security_groups=[security_group(rule)])
    await host.control_plane.until(lambda: len(host.fabric.filters[InstanceId("i1")][0].groups[0].rules) == 1)
    assert host.control_plane.reports["i1"].state == pb.INSTANCE_STATE_RUNNING


class UnstoppableEngine(FakeEngine):
    """An engine whose containers take for ever to end in order."""

    async def stop(self, container_id: str, *, grace_seconds: float, signal: str = "") -> None:
        await asyncio.Event().wait()


async def test_a_new_form_of_the_assignment_cuts_a_long_stop_short(host: Host) -> None:
    host.engine = UnstoppableEngine()
    host.engine.add_image(PULLED_IMAGE)
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.change(instance(generation=2, desired=pb.DESIRED_STATE_STOPPED))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_STOPPING)
    host.control_plane.change(instance(generation=3, desired=pb.DESIRED_STATE_DELETED, force=True))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_DELETED)


async def test_a_control_plane_that_is_not_there_yet_is_waited_for_quietly(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    await host.control_plane.stop()
    host.control_plane.set_complete([instance()], [network()])
    agent = await host.start_agent()
    with pytest.raises(Unavailable):
        await agent.session.run_once()
    await host.control_plane.start()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, seconds=15)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_process_whose_namespace_is_gone_is_started_again_in_a_new_one(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await host.stop_agent()
    host.fabric.instances.clear()
    agent = await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2)
    assert set(host.fabric.instances) == {"i1"}
    # And once more under a running agent; a sweep leaves alone what a worker is at.
    await host.control_plane.until(lambda: not agent.reconciler.busy)
    host.fabric.instances.clear()
    await agent.sweeper.sweep_once()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=3)
    await agent.sweeper.sweep_once()
    assert agent.journal.local(InstanceId("i1")).run == 3


async def test_ports_that_were_taken_away_while_the_agent_was_not_there_are_gone(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await host.stop_agent()
    spec = pb.InstanceSpec(command=["serve"])
    host.control_plane.set_complete([instance(spec=spec, generation=2)], [network()])
    await host.start_agent()
    await host.control_plane.until(lambda: host.fabric.ports["i1"] == ())
    assert host.agent is not None
    assert host.agent.journal.local(InstanceId("i1")).run == 1


async def test_a_lost_journal_costs_no_container_once_the_control_plane_names_it(host: Host) -> None:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    before = list(host.engine.containers)
    await host.stop_agent()
    for path in host.data_dir.glob("journal.db*"):
        path.unlink()
    await host.start_agent()
    await host.control_plane.until(lambda: host.control_plane.reports["i1"].run > 1_000_000)
    assert list(host.engine.containers) == before
    assert host.control_plane.reports["i1"].state == pb.INSTANCE_STATE_RUNNING


class SlowFabric(FakeFabric):
    """One whose removal of a network waits for a word."""

    def __init__(self) -> None:
        super().__init__()
        self.removal_begun, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def remove_network(self, network_id: NetworkId) -> None:
        self.removal_begun.set()
        await self.may_go_on.wait()
        await super().remove_network(network_id)


async def test_a_network_that_comes_back_while_it_is_being_removed(host: Host) -> None:
    """The new member waits for the removal, and has the network set up anew."""
    host.fabric = fabric = SlowFabric()
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.control_plane.change(instance(desired=pb.DESIRED_STATE_DELETED, generation=2))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_DELETED)
    host.control_plane.change(forgotten_instances=["i1"], removed_networks=["n1"])
    await asyncio.wait_for(fabric.removal_begun.wait(), 30)
    host.control_plane.change(instance("i2", 6), networks=[network()])
    await host.control_plane.until_state("i2", pb.INSTANCE_STATE_PREPARING)
    fabric.may_go_on.set()
    await host.control_plane.until_state("i2", pb.INSTANCE_STATE_RUNNING, run=1)
    assert list(host.fabric.networks) == ["n1"]

"""Probes in the whole agent: readiness is told, liveness restarts, and an agent that is restarted changes neither."""

import time
from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration

from hostagent.journal.state import RunStage
from moorage.ids import InstanceId
from moorage.v1 import agent_pb2, common_pb2, probes_pb2
from moorage.v1 import instances_pb2 as pb
from tests.fakes.engine import FakeProgram
from tests.unit.hostagent.conftest import Host, instance, network

_COMMAND = ("check",)
_PASSES, _FAILS = FakeProgram(exit_code=0), FakeProgram((("stdout", b"not yet\n"),), exit_code=1)


def _exec(command: tuple[str, ...] = _COMMAND, **fields: object) -> probes_pb2.Probe:
    values: dict[str, object] = {
        "exec": probes_pb2.ExecCheck(command=command),
        "period": Duration(nanos=100_000_000),
        "timeout": Duration(seconds=5),
        "failure_threshold": 2,
        "success_threshold": 1,
    }
    return probes_pb2.Probe(**{**values, **fields})  # type: ignore[arg-type]


def _probed(probes: probes_pb2.Probes, **fields: object) -> agent_pb2.InstanceAssignment:
    message = instance(**fields)
    message.spec.probes.CopyFrom(probes)
    return message


def _told(host: Host, **wanted: object) -> Callable[[], bool]:
    def said() -> bool:
        report = host.control_plane.reports.get("i1")
        return report is not None and all(getattr(report, name) == value for name, value in wanted.items())

    return said


async def test_readiness_follows_the_probe_and_restarts_nothing(host: Host) -> None:
    host.engine.programs[_COMMAND] = _FAILS
    host.control_plane.set_complete([_probed(probes_pb2.Probes(readiness=_exec()))], [network()])
    await host.start_agent()
    await host.control_plane.until(_told(host, state=pb.INSTANCE_STATE_RUNNING, ready=False))
    words = "readiness (exec check: exit code 1, not yet)"
    await host.control_plane.until(_told(host, ready=False, probe=words))
    assert host.control_plane.reports["i1"].HasField("ready")
    host.engine.programs[_COMMAND] = _PASSES
    await host.control_plane.until(_told(host, ready=True, probe=""))
    host.engine.programs[_COMMAND] = _FAILS
    await host.control_plane.until(_told(host, ready=False, probe=words))
    assert (host.control_plane.reports["i1"].run, host.control_plane.reports["i1"].restarts) == (1, 0)


async def test_liveness_restarts_with_its_reason(host: Host) -> None:
    host.engine.programs[_COMMAND] = _FAILS
    host.control_plane.set_complete([_probed(probes_pb2.Probes(liveness=_exec()))], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING, run=2)
    ended = [r for r in host.control_plane.history if r.run == 1 and r.state == pb.INSTANCE_STATE_STOPPED]
    assert {(report.reason, report.failures_in_row) for report in ended} == {("LIVENESS_FAILED", 1)}
    why = "a probe failed: liveness (exec check: exit code 1, not yet), 2 times in a row"
    assert all(report.message.startswith(why) for report in ended)
    await host.control_plane.until(lambda: host.control_plane.reports["i1"].restarts >= 2)


async def test_a_start_that_fails_its_probe_too_often_is_a_crash_loop_that_says_why(host: Host) -> None:
    host.engine.programs[_COMMAND] = _FAILS
    host.engine.programs["serve",] = FakeProgram((("stderr", b"cannot\x1b open\nthe door\n"),))
    message = _probed(probes_pb2.Probes(startup=_exec(), readiness=_exec()))
    policy = common_pb2.RestartPolicy(mode=common_pb2.RESTART_MODE_ALWAYS, max_restarts=1)
    policy.initial.FromMilliseconds(10)
    policy.max.FromMilliseconds(10)
    policy.reset_after.FromSeconds(60)
    message.spec.restart.CopyFrom(policy)
    host.control_plane.set_complete([message], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_FAILED)
    report = host.control_plane.reports["i1"]
    assert (report.reason, report.run, report.failures_in_row) == ("CRASH_LOOP", 2, 2)
    assert "startup (exec check: exit code 1, not yet), 2 times in a row" in report.message
    assert report.message.endswith("it printed last: cannot  open | the door")


async def test_an_agent_that_is_restarted_keeps_the_last_verdict(host: Host) -> None:
    host.engine.programs[_COMMAND] = _PASSES
    host.control_plane.set_complete([_probed(probes_pb2.Probes(readiness=_exec()))], [network()])
    await host.start_agent()
    await host.control_plane.until(_told(host, ready=True))
    await host.stop_agent()
    host.control_plane.history.clear()
    host.engine.programs[_COMMAND] = _FAILS
    await host.start_agent()
    await host.control_plane.until(_told(host, ready=False))
    said = [r.ready for r in host.control_plane.history if r.state == pb.INSTANCE_STATE_RUNNING]
    assert said[0] is True, "the process is the same: balancers are left alone until the probe has failed"


async def test_another_process_is_not_ready_for_what_the_last_one_was(host: Host) -> None:
    host.engine.programs[_COMMAND] = _PASSES
    host.control_plane.set_complete([_probed(probes_pb2.Probes(readiness=_exec()))], [network()])
    await host.start_agent()
    await host.control_plane.until(_told(host, ready=True))
    await host.stop_agent()
    (container,) = host.engine.containers.values()
    container.pid += 1
    host.engine.programs[_COMMAND] = _FAILS
    agent = await host.start_agent()
    await host.control_plane.until(_told(host, ready=False))
    assert agent.journal.local(InstanceId("i1")).run == 1


async def test_a_probe_that_comes_while_it_runs_takes_nothing_away_before_it_fails(host: Host) -> None:
    host.engine.programs[_COMMAND] = _PASSES
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    assert not host.control_plane.reports["i1"].HasField("ready")
    host.control_plane.history.clear()
    host.control_plane.change(_probed(probes_pb2.Probes(readiness=_exec()), generation=2))
    await host.control_plane.until(_told(host, ready=True, generation=2))
    host.engine.programs[_COMMAND] = _FAILS
    await host.control_plane.until(_told(host, ready=False))
    host.control_plane.change(instance(generation=3))
    await host.control_plane.until(lambda: not host.control_plane.reports["i1"].HasField("ready"))
    assert host.agent is not None
    assert host.agent.probes.watched == frozenset()


async def test_a_command_that_hangs_is_a_failure_and_hangs_nobody(host: Host) -> None:
    host.engine.programs[_COMMAND] = FakeProgram()
    probe = _exec(timeout=Duration(nanos=100_000_000))
    host.control_plane.set_complete([_probed(probes_pb2.Probes(readiness=probe))], [network()])
    await host.start_agent()
    await host.control_plane.until(_told(host, ready=False, probe="readiness (exec check: has not ended within 0.1 s)"))
    host.control_plane.change(instance(generation=2, desired=pb.DESIRED_STATE_DELETED))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_DELETED)


async def test_an_engine_that_is_away_fails_no_probe(host: Host) -> None:
    host.engine.programs[_COMMAND] = _PASSES
    host.control_plane.set_complete(
        [_probed(probes_pb2.Probes(liveness=_exec(failure_threshold=1), readiness=_exec()))], [network()]
    )
    agent = await host.start_agent()
    await host.control_plane.until(_told(host, ready=True))
    before = len(host.control_plane.heartbeats)
    host.engine.go_down()
    await host.control_plane.until(lambda: len(host.control_plane.heartbeats) > before + 3)
    host.engine.come_back()
    await host.control_plane.until(lambda: not host.control_plane.heartbeats[-1].conditions)
    assert agent.journal.local(InstanceId("i1")).run == 1
    assert host.control_plane.reports["i1"].ready


async def test_a_paused_instance_is_not_asked(host: Host) -> None:
    host.engine.programs[_COMMAND] = _PASSES
    probes = probes_pb2.Probes(liveness=_exec(failure_threshold=1))
    host.control_plane.set_complete([_probed(probes)], [network()])
    agent = await host.start_agent()
    await host.control_plane.until(lambda: agent.probes.watched == {"i1"})
    host.control_plane.change(_probed(probes, generation=2, desired=pb.DESIRED_STATE_PAUSED))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_PAUSED)
    assert agent.probes.watched == frozenset()
    host.control_plane.change(_probed(probes, generation=3))
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    await host.control_plane.until(lambda: agent.probes.watched == {"i1"})
    assert host.control_plane.reports["i1"].run == 1


async def test_the_back_off_is_kept_over_restarts_of_agent_and_control_plane(host: Host) -> None:
    message = instance()
    policy = common_pb2.RestartPolicy(mode=common_pb2.RESTART_MODE_ALWAYS)
    policy.initial.FromSeconds(300)
    policy.max.FromSeconds(600)
    policy.reset_after.FromSeconds(60)
    message.spec.restart.CopyFrom(policy)
    host.control_plane.set_complete([message], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    host.engine.finish(next(iter(host.engine.containers.values())).spec.name, 3)
    await host.control_plane.until(_told(host, reason="RESTARTING", failures_in_row=1))
    await host.stop_agent()
    await host.control_plane.stop()
    host.control_plane.history.clear()
    agent = await host.start_agent()
    await host.control_plane.until(lambda: agent.reconciler.view(InstanceId("i1")) is not None)
    await host.control_plane.until(lambda: "i1" in agent.reconciler.busy)
    await host.control_plane.start()
    await host.control_plane.until(lambda: bool(host.control_plane.history), seconds=20)
    assert host.control_plane.reports["i1"].reason == "RESTARTING"
    view = agent.reconciler.view(InstanceId("i1"))
    assert view is not None
    assert (view.local.run, view.local.stage, view.local.failures_in_row) == (1, RunStage.ENDED, 1)
    assert view.retry_at is not None
    assert 200 < view.retry_at - time.monotonic() <= 300

"""The planner of one instance: single decisions, and properties over random histories."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.claims.deadlines import Hold
from hostagent.domain import (
    ContainerPhase,
    DesiredState,
    InstanceState,
    LeasedNic,
    NicFilter,
    PayloadAssignment,
    Resources,
    RestartMode,
    RestartPolicy,
    SecurityGroup,
)
from hostagent.journal.state import ProbeVerdict, RunStage
from hostagent.probe_domain import Probe, Probes, TcpCheck
from hostagent.worker import actions as do
from hostagent.worker.plan import is_gone
from hostagent.worker.probing import watched
from hostagent.worker.status import Trouble, report
from tests.unit.worker.world import ALIVE, NETWORK, World, assignment


def settle(world: World, limit: int = 60) -> None:
    """Do all planned steps until nothing is left."""
    for _ in range(limit):
        steps = world.plan()
        if not steps:
            return
        for step in steps:
            world.apply(step)
    raise AssertionError(f"does not come to rest: {world.plan()}")


def running(**fields: object) -> World:
    world = World(assignment(**fields))
    settle(world)
    return world


def phase(world: World) -> ContainerPhase | None:
    container = world.containers.get(world.wanted.container_generation)
    return container.phase if container else None


def test_the_way_up_is_short_and_in_order() -> None:
    world = World()
    rounds = []
    while steps := world.plan():
        rounds.append({type(step) for step in steps})
        for step in steps:
            world.apply(step)
    assert rounds == [
        {do.BeginRun},
        {do.Pull, do.EnsureNetwork},
        {do.CreateContainer, do.PrepareNamespace},
        {do.PublishRuntimeKey, do.PublishPorts},
        {do.Start},
    ]
    assert phase(world) is ContainerPhase.RUNNING


def test_secrets_come_before_the_container_and_again_after_a_reboot_of_the_host() -> None:
    world = World(assignment(payloads=(PayloadAssignment("s", 1, "/run/secrets/s"),)))
    assert do.PlacePayloads not in [type(step) for step in world.plan()]
    settle(world)
    assert (world.starts, world.signals) == (1, 0)
    world.reboot()
    settle(world)
    assert (world.starts, world.payloads) == (2, world.wanted.payloads)


def test_another_version_is_placed_beside_the_process_or_before_the_next_start() -> None:
    world = running(payloads=(PayloadAssignment("s", 1, "/run/secrets/s"),))
    later = (PayloadAssignment("s", 2, "/run/secrets/s"),)
    world.wanted = replace(world.wanted, payloads=later, generation=2)
    assert [type(step) for step in world.plan()] == [do.PlacePayloads]
    settle(world)
    assert (world.starts, world.signals) == (1, 1)
    world.wanted = replace(world.wanted, payloads=(), generation=3, run_request=2)
    assert [type(step) for step in world.plan()] == [do.Stop]
    settle(world)
    assert (world.starts, world.signals, world.payloads) == (2, 1, ())


def test_a_reboot_keeps_the_container() -> None:
    world = running()
    before = world.containers[1].container_id
    world.wanted = replace(world.wanted, run_request=2, generation=2)
    assert [type(step) for step in world.plan()] == [do.Stop]
    settle(world)
    assert world.containers[1].container_id == before
    assert (world.starts, world.local.run, world.local.failures_in_row) == (2, 2, 0)


def test_a_replacement_removes_the_old_container_first() -> None:
    world = running()
    before = world.containers[1].container_id
    world.wanted = replace(world.wanted, run_request=2, container_generation=2, generation=2)
    settle(world)
    assert list(world.containers) == [2]
    assert world.containers[2].container_id != before
    assert phase(world) is ContainerPhase.RUNNING


def test_stopped_keeps_the_container_and_started_uses_it_again() -> None:
    world = running()
    world.wanted = replace(world.wanted, desired=DesiredState.STOPPED)
    settle(world)
    assert phase(world) is ContainerPhase.EXITED
    world.wanted = replace(world.wanted, desired=DesiredState.RUNNING, run_request=2)
    settle(world)
    assert (phase(world), world.starts) == (ContainerPhase.RUNNING, 2)


def test_pause_and_unpause() -> None:
    world = running()
    world.wanted = replace(world.wanted, desired=DesiredState.PAUSED)
    settle(world)
    assert phase(world) is ContainerPhase.PAUSED
    world.wanted = replace(world.wanted, desired=DesiredState.RUNNING)
    settle(world)
    assert (phase(world), world.starts) == (ContainerPhase.RUNNING, 1)


@pytest.mark.parametrize(
    ("mode", "code", "starts"),
    [
        (RestartMode.ALWAYS, 0, 2),
        (RestartMode.ALWAYS, 1, 2),
        (RestartMode.ON_FAILURE, 0, 1),
        (RestartMode.ON_FAILURE, 1, 2),
        (RestartMode.NEVER, 1, 1),
    ],
)
def test_the_restart_policy_decides_after_an_exit(mode: RestartMode, code: int, starts: int) -> None:
    world = running(restart=RestartPolicy(mode=mode))
    world.exit(code)
    settle(world)
    assert world.starts == starts


def test_the_back_off_doubles_up_to_its_maximum() -> None:
    world = running(restart=RestartPolicy(initial_seconds=1, max_seconds=5))
    waits = []
    for _ in range(5):
        world.exit(1)
        while steps := world.plan():
            waits += [step.seconds for step in steps if isinstance(step, do.WaitBackoff)]
            for step in steps:
                world.apply(step)
    assert waits == [1, 2, 4, 5, 5]


def test_a_crash_loop_ends_as_failed_and_a_request_begins_anew() -> None:
    world = running(restart=RestartPolicy(max_restarts=2))
    for _ in range(3):
        world.exit(1)
        settle(world)
    assert world.starts == 3
    said = report(world.view(), world.plan())
    assert (said.state, said.reason) == (InstanceState.FAILED, "CRASH_LOOP")
    world.wanted = replace(world.wanted, run_request=2)
    settle(world)
    assert world.starts == 4


def test_a_process_whose_probe_fails_is_ended_and_counts_as_a_crash() -> None:
    world = running(restart=RestartPolicy(initial_seconds=1, max_restarts=1))
    world.fail_probe()
    (step,) = world.plan()
    assert isinstance(step, do.Stop)
    assert step.is_failure
    said = report(world.view(), [step])
    assert (said.state, said.reason, said.probe) == (InstanceState.STOPPING, "LIVENESS_FAILED", "liveness (tcp 80)")
    settle(world)
    assert (world.starts, world.local.failures_in_row) == (2, 1)
    assert report(world.view(), []).failures_in_row == 1
    world.fail_probe()
    settle(world)
    said = report(world.view(), world.plan())
    assert (said.state, said.reason) == (InstanceState.FAILED, "CRASH_LOOP")
    assert "liveness (tcp 80)" in said.message


def test_a_stop_on_request_is_none_of_its_faults_though_a_probe_fails() -> None:
    world = running()
    world.fail_probe()
    world.wanted = replace(world.wanted, desired=DesiredState.STOPPED, generation=2)
    (step,) = world.plan()
    assert isinstance(step, do.Stop)
    assert not step.is_failure
    settle(world)
    assert world.local.failures_in_row == 0


def test_a_frozen_process_is_not_ended_for_its_probe() -> None:
    world = running()
    world.wanted = replace(world.wanted, desired=DesiredState.PAUSED, generation=2)
    settle(world)
    world.fail_probe()
    assert world.plan() == []


def test_a_crash_loop_tells_what_was_printed_last() -> None:
    world = running(restart=RestartPolicy(max_restarts=1))
    for _ in range(2):
        world.exit(3)
        settle(world)
    world.local = replace(world.local, last_lines=("no such table", "giving up"))
    said = report(world.view(), world.plan())
    assert said.message == (
        "2 runs in a row ended soon, the last one: the process ended with exit code 3; "
        "it printed last: no such table | giving up"
    )


def test_only_a_process_that_runs_and_shall_go_on_is_probed() -> None:
    probes = Probes(liveness=Probe(tcp=TcpCheck(80)))
    world = running(probes=probes)
    found = watched(world.view(), world.plan())
    assert found is not None
    assert (found.run, found.probes, found.target.addresses) == (1, probes, ("10.1.0.5",))
    assert watched(running().view(), []) is None, "it has no probes"
    world.fail_probe()
    assert watched(world.view(), world.plan()) is None
    for desired in (DesiredState.PAUSED, DesiredState.STOPPED, DesiredState.DELETED):
        other = running(probes=probes)
        other.wanted = replace(other.wanted, desired=desired, generation=2)
        assert watched(other.view(), other.plan()) is None
    rebooted = running(probes=probes)
    rebooted.wanted = replace(rebooted.wanted, run_request=2, generation=2)
    assert watched(rebooted.view(), rebooted.plan()) is None


def test_what_is_said_of_readiness() -> None:
    world = running(probes=Probes(readiness=Probe(tcp=TcpCheck(80))))
    assert report(world.view(), []).ready is True
    world.local = replace(world.local, verdict=ProbeVerdict(is_ready=False, words="readiness (tcp 80: refused)"))
    said = report(world.view(), [])
    assert (said.ready, said.probe) == (False, "readiness (tcp 80: refused)")
    world.exit(0)
    said = report(world.view(), [])
    assert (said.ready, said.probe) == (None, "")
    assert report(running().view(), []).ready is None


def test_attempts_to_prepare_a_run_count_as_failed_starts() -> None:
    world = World()
    for _ in range(2):
        for step in world.plan():
            world.apply(step)
    trouble = Trouble("REGISTRY_UNREACHABLE", "no route", 4)
    assert report(world.view(), world.plan(), trouble).failures_in_row == 4
    assert report(running().view(), [], trouble).failures_in_row == 0, "what runs has been prepared"


def test_a_container_that_could_not_be_started_and_never_ran_is_made_anew() -> None:
    """A containerd that died in the middle of a start leaves half a task, on which every further start fails."""
    world = World()
    steps = world.plan()
    while not isinstance(steps[0], do.Start):
        for step in steps:
            world.apply(step)
        steps = world.plan()
    spoilt = world.containers[1].container_id
    world.local = replace(
        world.local, stage=RunStage.ENDED, is_start_failure=True, reason="START_FAILED", failures_in_row=1
    )
    assert [type(step) for step in world.plan()] == [do.RemoveContainer]
    settle(world)
    assert phase(world) is ContainerPhase.RUNNING
    assert world.containers[1].container_id != spoilt


def test_a_host_reboot_is_no_crash_and_starts_at_once() -> None:
    world = running(restart=RestartPolicy(max_restarts=1))
    for _ in range(4):
        world.reboot()
        settle(world)
    assert world.starts == 5
    assert world.local.failures_in_row == 0


def test_a_run_that_an_agent_started_before_it_died_is_not_started_twice() -> None:
    world = World(assignment(restart=RestartPolicy(mode=RestartMode.NEVER)))
    while not any(isinstance(step, do.Start) for step in world.plan()):
        for step in world.plan():
            world.apply(step)
    before = world.local
    world.apply(world.plan()[0])
    world.local = before  # the record of the start was lost
    world.exit(0)
    world.restart_agent()
    settle(world)
    assert world.starts == 1


def test_changed_limits_are_set_in_place() -> None:
    world = running()
    limits = Resources(memory_bytes=1 << 26)
    world.wanted = replace(world.wanted, container=replace(world.wanted.container, resources=limits), generation=2)
    assert [type(step) for step in world.plan()] == [do.UpdateLimits]
    settle(world)
    assert world.starts == 1


def test_a_renamed_instance_gets_its_host_name_now_and_after_each_start() -> None:
    world = running()
    assert world.local.hostname == ""
    world.wanted = replace(world.wanted, container=replace(world.wanted.container, hostname="one"))
    assert world.plan() == [], "a container of an agent that did not write names down keeps its own"
    world.wanted = replace(world.wanted, container_generation=2, run_request=2)
    settle(world)
    world.wanted = replace(world.wanted, container=replace(world.wanted.container, hostname="two"), generation=2)
    assert [type(step) for step in world.plan()] == [do.SetHostName]
    starts = world.starts
    settle(world)
    assert (world.starts, world.local.hostname) == (starts, "two")
    world.exit(1)
    world.now += 100
    settle(world)
    assert (world.starts, world.local.hostname, world.local.container_hostname) == (starts + 1, "two", "one")


def test_security_groups_filter_before_the_start_and_change_in_place() -> None:
    first = NicFilter("eth0", NETWORK, ("10.1.0.5",), (SecurityGroup("g1", "web"),))
    world = World(wanted_filters=None)
    while (steps := world.plan()) and not isinstance(steps[0], do.WaitBackoff):
        for step in steps:
            world.apply(step)
    assert (world.starts, world.nics) == (0, None), "a group that is not known holds it back"
    world.wanted_filters = (first,)
    settle(world)
    assert (world.starts, world.filters) == (1, (first,))
    world.wanted_filters = (replace(first, groups=(SecurityGroup("g1", "web", deny_out=True),)),)
    assert [type(step) for step in world.plan()] == [do.ApplyFilters]
    settle(world)
    assert world.filters == world.wanted_filters
    grouped = replace(world.wanted.nics[0], security_groups=("g1",))
    world.wanted = replace(world.wanted, nics=(grouped,), generation=2)
    assert [type(step) for step in world.plan()] == [do.ApplyFilters], "nothing has to be plugged for it"
    settle(world)
    assert report(world.view(), []).network_generation == 2
    world.wanted_filters = None
    assert world.plan() == [], "what is in force stays until it is known what shall be"
    world.restart_agent()
    world.wanted_filters = (first,)
    settle(world)
    assert (world.starts, world.filters) == (1, (first,))


@pytest.mark.parametrize("desired", [DesiredState.RUNNING, DesiredState.PAUSED, DesiredState.STOPPED])
def test_interfaces_change_while_it_runs_and_while_it_does_not(desired: DesiredState) -> None:
    world = running()
    world.wanted = replace(world.wanted, desired=desired, generation=2)
    settle(world)
    before, starts = world.containers, world.starts
    nic = replace(world.wanted.nics[0], addresses=("10.1.0.9/24",))
    world.wanted = replace(world.wanted, nics=(nic,), generation=3)
    assert report(world.view(), world.plan()).network_generation == 0
    steps = []
    while planned := world.plan():
        steps += [type(step) for step in planned]
        for step in planned:
            world.apply(step)
    assert steps == [do.PrepareNamespace, do.PublishPorts], "the ports lead to the new address"
    assert report(world.view(), []).network_generation == 3
    assert (world.containers, world.starts) == (before, starts)


def test_what_an_instance_without_a_namespace_lost_is_free() -> None:
    world = World(assignment(desired=DesiredState.STOPPED))
    assert world.plan() == []
    assert report(world.view(), []).network_generation == 1
    lost = replace(running().view(), is_namespace_lost=True, has_namespace=False, ports=None)
    assert report(lost, []).network_generation == 0, "its process may still use them"


def test_the_process_waits_a_little_for_an_address_from_outside() -> None:
    world = World()
    while (steps := world.plan()) and not any(isinstance(step, do.Start) for step in steps):
        for step in steps:
            world.apply(step)
    waiting = replace(world.view(), lease_wait_seconds=7.0)
    (step,) = do_plan(waiting)
    assert isinstance(step, do.WaitBackoff)
    assert step.seconds == 7.0
    assert report(waiting, [step]).state is InstanceState.PREPARING
    given = (LeasedNic("eth0", ("10.3.0.120/24",)),)
    assert report(replace(world.view(), leased=given), []).leased == given


def test_a_forced_deletion_kills_at_once() -> None:
    world = running()
    world.wanted = replace(world.wanted, desired=DesiredState.DELETED, force=True)
    assert [type(step) for step in world.plan()] == [do.RemoveContainer]


def test_a_process_without_its_namespace_is_stopped() -> None:
    world = running()
    view = replace(world.view(), is_namespace_lost=True)
    assert [type(step) for step in do_plan(view)] == [do.Stop]


def do_plan(view: object) -> list[do.Action]:
    from hostagent.worker.plan import plan

    return plan(view, 0.0)  # type: ignore[arg-type]


def test_without_a_lease_nothing_begins_and_nothing_of_a_run_is_left_but_its_container() -> None:
    world = World(hold=Hold.LACKING)
    assert world.plan() == []
    assert report(world.view(), []).reason == "LEASE_AWAITED"
    world.hold = Hold.HELD
    settle(world)
    world.hold = Hold.LACKING
    assert [type(step) for step in world.plan()] == [do.Stop]
    settle(world)
    assert report(world.view(), []).reason == "LEASE_LOST"
    assert (len(world.containers), world.namespace) == (1, False)
    world.hold = Hold.HELD
    settle(world)
    assert (phase(world), world.starts, world.local.failures_in_row) == (ContainerPhase.RUNNING, 2, 0)


def test_a_lease_that_ends_bounds_the_grace() -> None:
    world = running(lease_seconds=9.0)
    world.hold = Hold.ENDING
    (stop,) = world.plan()
    assert isinstance(stop, do.Stop)
    assert stop.grace_seconds == 3.0
    assert report(world.view(), [stop]).reason == "LEASE_LOST"
    world.apply(stop)
    settle(world)
    assert world.starts == 1
    world.hold = Hold.HELD  # renewed after all
    settle(world)
    assert world.starts == 2


def test_one_that_the_watchdog_has_killed_is_no_crash() -> None:
    world = running(lease_seconds=9.0)
    world.hold = Hold.LACKING
    world.exit(137)
    settle(world)
    assert (world.local.failures_in_row, world.local.was_asked_to_stop) == (0, True)


CHANGES = st.sampled_from(
    [
        "stop",
        "run",
        "pause",
        "reboot",
        "replace",
        "delete",
        "exit0",
        "exit1",
        "probe",
        "agent",
        "host",
        "vanish",
        "limits",
        "ports",
        "nics",
        "held",
        "ending",
        "lacking",
    ]
)


def change(world: World, what: str) -> None:
    wanted = world.wanted
    newer = {"generation": wanted.generation + 1}
    again = {**newer, "run_request": wanted.run_request + 1}
    if wanted.desired is DesiredState.DELETED and what in ("stop", "run", "pause", "reboot", "replace"):
        return  # a deletion is never taken back
    match what:
        case "stop":
            world.wanted = replace(wanted, desired=DesiredState.STOPPED, **newer)
        case "run":
            world.wanted = replace(wanted, desired=DesiredState.RUNNING, **again)
        case "pause":
            world.wanted = replace(wanted, desired=DesiredState.PAUSED, **newer)
        case "reboot":
            world.wanted = replace(wanted, **again)
        case "replace":
            world.wanted = replace(wanted, container_generation=wanted.container_generation + 1, **again)
        case "delete":
            world.wanted = replace(wanted, desired=DesiredState.DELETED, **newer)
        case "exit0":
            world.exit(0)
        case "exit1":
            world.exit(1)
        case "probe":
            world.fail_probe()
        case "agent":
            world.restart_agent()
        case "host":
            world.reboot()
        case "vanish":
            world.containers.clear()
        case "limits":
            resources = Resources(memory_bytes=wanted.generation << 22)
            world.wanted = replace(wanted, container=replace(wanted.container, resources=resources), **newer)
        case "ports":
            world.wanted = replace(wanted, published_ports=wanted.published_ports[1:], **newer)
        case "held" | "ending" | "lacking":
            world.hold = Hold(what)
        case "nics":
            address = f"10.1.0.{wanted.generation % 200 + 6}/24"
            world.wanted = replace(wanted, nics=(replace(wanted.nics[0], addresses=(address,)),), **newer)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(CHANGES, st.integers(0, 7)), max_size=10))
def test_any_history_comes_to_rest_where_it_should(history: list[tuple[str, int]]) -> None:
    """After each change only some steps are done before the next change comes: every prefix of a plan is safe."""
    world = World()
    last_run = 0
    for what, steps_done in history:
        change(world, what)
        for _ in range(steps_done):
            steps = world.plan()
            assert steps == world.plan()  # same view, same plan
            if not steps:
                break
            world.apply(steps[0])  # one of those that may be done side by side
            assert world.local.run >= last_run
            last_run = world.local.run
    if world.hold is Hold.ENDING:
        world.hold = Hold.HELD
    if world.hold is Hold.LACKING and world.wanted.desired is not DesiredState.DELETED:
        settle(world)
        assert not any(c.phase in ALIVE for c in world.containers.values())
        assert not world.namespace
        assert not world.ports
        world.hold = Hold.HELD
    settle(world)
    assert world.plan() == []
    said = report(world.view(), [])
    match world.wanted.desired:
        case DesiredState.DELETED:
            assert is_gone(world.view())
            assert said.state is InstanceState.DELETED
        case DesiredState.STOPPED:
            assert not any(c.phase in ALIVE for c in world.containers.values())
            assert said.state is InstanceState.STOPPED
        case DesiredState.PAUSED:
            assert phase(world) is ContainerPhase.PAUSED
            assert said.state is InstanceState.PAUSED
        case DesiredState.RUNNING:
            assert phase(world) is ContainerPhase.RUNNING
            assert said.state is InstanceState.RUNNING
            assert world.local.stage is RunStage.STARTED
    assert len(world.containers) <= 1
    assert said.network_generation == world.wanted.generation, "an address that it lost is free by now"
    assert not world.namespace or world.nics == world.wanted.nics

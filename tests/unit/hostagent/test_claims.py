"""Instances that run under leases: not without one, on while it is renewed, and gone before it ends. With a real watchdog."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from hostagent.watchdog import lease_file
from moorage.v1 import instances_pb2 as pb
from tests.unit.hostagent.conftest import Host, instance, network

LEASE_SECONDS = 3
RUNNING, STOPPED = pb.INSTANCE_STATE_RUNNING, pb.INSTANCE_STATE_STOPPED


@pytest.fixture
async def claimer(host: Host) -> AsyncIterator[Host]:
    """A host with one instance that needs a lease."""
    host.control_plane.set_complete([instance(lease=Duration(seconds=LEASE_SECONDS))], [network()])
    yield host
    _signal_watchdog(host.data_dir / "run", signal.SIGKILL)


def _signal_watchdog(run_dir: Path, number: int) -> None:
    answer = lease_file.read_answer(run_dir)
    if answer is not None and lease_file.start_of(answer.pid) == answer.start:
        with contextlib.suppress(ProcessLookupError):
            os.kill(answer.pid, number)


def _reason(host: Host) -> str:
    report = host.control_plane.reports.get("i1")
    return report.reason if report is not None else ""


async def test_it_runs_while_its_lease_is_renewed(claimer: Host) -> None:
    await claimer.start_agent()
    await claimer.control_plane.until_state("i1", RUNNING)
    ends: set[int] = set()

    def is_renewed() -> bool:
        found = lease_file.read(claimer.data_dir / "run")
        assert found is not None
        ends.add(found.entries[0].end)
        return max(ends) - min(ends) > LEASE_SECONDS * 100

    await claimer.control_plane.until(is_renewed)
    assert claimer.control_plane.reports["i1"].run == 1
    assert claimer.control_plane.reports["i1"].state == RUNNING


async def test_without_a_lease_it_is_not_started(claimer: Host) -> None:
    claimer.control_plane.gives_leases = False
    await claimer.start_agent()
    await claimer.control_plane.until(lambda: _reason(claimer) == "LEASE_AWAITED")
    assert not claimer.engine.containers
    assert not claimer.fabric.instances
    claimer.control_plane.gives_leases = True
    await claimer.control_plane.until_state("i1", RUNNING)


async def test_one_that_is_not_renewed_ends_with_its_network_and_goes_on_later(claimer: Host) -> None:
    await claimer.start_agent()
    await claimer.control_plane.until_state("i1", RUNNING)
    (container,) = claimer.engine.containers.values()
    claimer.control_plane.gives_leases = False
    await claimer.control_plane.until_state("i1", STOPPED)
    assert _reason(claimer) == "LEASE_LOST"
    await claimer.control_plane.until(lambda: not claimer.fabric.instances)
    assert container in claimer.engine.containers.values(), "what it had written is kept"
    claimer.control_plane.gives_leases = True
    await claimer.control_plane.until_state("i1", RUNNING, run=2)
    assert list(claimer.engine.containers.values()) == [container]


async def test_one_whose_control_plane_is_away_is_ended(claimer: Host) -> None:
    await claimer.start_agent()
    await claimer.control_plane.until_state("i1", RUNNING)
    await claimer.control_plane.stop()
    await claimer.control_plane.until(lambda: not claimer.fabric.instances)
    assert all(c.observe().phase.value == "exited" for c in claimer.engine.containers.values())
    await claimer.control_plane.start()
    await claimer.control_plane.until_state("i1", RUNNING, run=2)


async def test_a_new_agent_goes_on_with_a_lease(claimer: Host) -> None:
    await claimer.start_agent()
    await claimer.control_plane.until_state("i1", RUNNING)
    await claimer.stop_agent()
    await claimer.start_agent()
    await claimer.control_plane.until(lambda: len(claimer.control_plane.hellos) == 2)
    await claimer.control_plane.until_state("i1", RUNNING, run=1)
    assert all(report.state <= RUNNING for report in claimer.control_plane.history)


async def test_without_a_watchdog_nothing_is_renewed_until_there_is_one(claimer: Host) -> None:
    await claimer.start_agent()
    await claimer.control_plane.until_state("i1", RUNNING)
    run_dir = claimer.data_dir / "run"
    first = lease_file.read_answer(run_dir)
    assert first is not None
    _signal_watchdog(run_dir, signal.SIGSTOP)
    await claimer.control_plane.until_state("i1", STOPPED)
    assert _reason(claimer) == "LEASE_LOST"

    def is_told() -> bool:
        beats = claimer.control_plane.heartbeats
        return bool(beats) and any(c.reason == "WATCHDOG_DOWN" for c in beats[-1].conditions)

    await claimer.control_plane.until(is_told)
    # The agent kills the one that does not answer and starts another.
    await claimer.control_plane.until_state("i1", RUNNING, run=2, seconds=30)
    second = lease_file.read_answer(run_dir)
    assert second is not None
    assert second.pid != first.pid


async def test_one_that_is_deleted_goes(claimer: Host) -> None:
    await claimer.start_agent()
    await claimer.control_plane.until_state("i1", RUNNING)
    claimer.control_plane.change(
        instance(lease=Duration(seconds=LEASE_SECONDS), desired=pb.DESIRED_STATE_DELETED, generation=2)
    )
    await claimer.control_plane.until_state("i1", pb.INSTANCE_STATE_DELETED)
    assert not claimer.engine.containers
    assert not claimer.fabric.instances

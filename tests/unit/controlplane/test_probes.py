"""Probes in the control plane: what may be asked, what is filled in, what is told, and who is ready."""

from dataclasses import replace

import pytest

from controlplane.dispatch.assignments import instance_assignment
from controlplane.domain.instances import InstanceState
from controlplane.domain.probes import ExecCheck, GrpcCheck, HttpCheck, Probe, Probes, TcpCheck
from controlplane.domain.readiness import is_ready, refuses_traffic
from controlplane.services.effective import DEFAULT_PROBE, DEFAULT_STARTUP
from moorage.errors import InvalidSpec
from tests.unit.controlplane.world import P, World, problems

_TCP = Probe(tcp=TcpCheck(80))


async def _refused(world: World, probes: Probes) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSpec) as caught:
        await world.create("a", probes=probes)
    where = "requests[0].instance.spec.probes."
    return sorted((field.removeprefix(where), reason) for field, reason in problems(caught.value))


async def test_every_bad_field_is_named_at_once(world: World) -> None:
    bad = Probes(
        startup=Probe(),
        liveness=Probe(exec=ExecCheck(()), tcp=TcpCheck(0, "nowhere"), success_threshold=2, initial_delay_seconds=-1.0),
        readiness=Probe(
            http=HttpCheck(70000, "health", {"a b": "1", "X": "1\r\nY: 2"}, host="a/b"),
            period_seconds=0.05,
            timeout_seconds=4000.0,
            failure_threshold=-1,
            success_threshold=1001,
        ),
    )
    found = await _refused(world, bad)
    assert [field.rpartition("spec.probes.")[2] for field, _ in found] == sorted(
        [
            "startup",
            "liveness",
            "liveness.exec.command",
            "liveness.tcp.port",
            "liveness.tcp.address",
            "liveness.success_threshold",
            "liveness.initial_delay",
            "readiness.http.port",
            "readiness.http.path",
            "readiness.http.host",
            "readiness.http.headers[a b]",
            "readiness.http.headers[X]",
            "readiness.period",
            "readiness.timeout",
            "readiness.failure_threshold",
            "readiness.success_threshold",
        ]
    )
    reasons = dict(found)
    assert reasons[next(f for f in reasons if f.endswith("startup"))] == "KIND_MISSING"
    assert reasons[next(f for f in reasons if f.endswith("liveness"))] == "KIND_AMBIGUOUS"


@pytest.mark.parametrize(
    "probe",
    [
        Probe(exec=ExecCheck(("pg_isready", "-q"))),
        Probe(http=HttpCheck(8080, "/health?deep=1", {"Authorization": "Bearer x"}, True, "app.example:8443", "::1")),
        Probe(tcp=TcpCheck(65535, "127.0.0.1")),
        Probe(grpc=GrpcCheck(1, "my.Service"), period_seconds=0.1, timeout_seconds=3600.0, failure_threshold=10000),
    ],
)
async def test_what_can_be_asked(world: World, probe: Probe) -> None:
    await world.create("a", probes=Probes(probe, probe, replace(probe, success_threshold=1000)))


async def test_what_is_left_open_is_filled_in_for_the_host_and_not_in_the_spec(world: World) -> None:
    readiness = Probe(http=HttpCheck(80), period_seconds=2.0)
    made = await world.create("a", probes=Probes(startup=_TCP, readiness=readiness))
    assert made.spec.probes == Probes(startup=_TCP, readiness=readiness)
    told = instance_assignment(made).spec.probes
    assert told.startup == replace(DEFAULT_STARTUP, tcp=TcpCheck(80))
    assert told.liveness is None
    assert told.readiness == replace(DEFAULT_PROBE, http=HttpCheck(80, "/"), period_seconds=2.0)
    plain = await world.create("b")
    assert instance_assignment(plain).spec.probes == Probes()


async def test_a_probe_decides_who_gets_clients_and_its_failure_is_told(world: World) -> None:
    await world.host("h1")
    made = await world.create("a", probes=Probes(readiness=_TCP))
    placed = await world.place("a", "h1")
    assert made.uid == placed.uid
    await world.report(placed, InstanceState.RUNNING, generation=1, ready=False, probe="readiness (tcp 80: refused)")
    assert not is_ready(world.get("a"))
    assert refuses_traffic(world.get("a"))
    assert "PROBE_FAILED" not in world.reasons(), "it has not been ready yet"
    await world.report(placed, InstanceState.RUNNING, generation=1, sequence=2, ready=True)
    assert is_ready(world.get("a"))
    words = "readiness (tcp 80: refused)"
    await world.report(placed, InstanceState.RUNNING, generation=1, sequence=3, ready=False, probe=words)
    assert (world.get("a").observed.probe, is_ready(world.get("a"))) == (words, False)
    assert world.reasons().count("PROBE_FAILED") == 1


async def test_probes_are_changed_while_it_runs(world: World) -> None:
    await world.host("h1")
    await world.create("a")
    placed = await world.place("a", "h1")
    await world.report(placed, InstanceState.RUNNING, generation=1)
    assert is_ready(world.get("a"))
    changed = await world.changes.update(P, "a", spec_fields={"probes": Probes(readiness=_TCP)})
    assert changed.effective.probes.readiness == replace(DEFAULT_PROBE, tcp=TcpCheck(80))
    assert is_ready(world.get("a")), "its host has not heard of the probe"
    await world.report(placed, InstanceState.RUNNING, sequence=2, generation=2, ready=False)
    assert not is_ready(world.get("a"))
    with pytest.raises(InvalidSpec):
        await world.changes.update(P, "a", spec_fields={"probes": Probes(readiness=Probe())})

"""Whether an instance is ready, and whether it fails for good on its host: from its record alone."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from controlplane.domain.containers import RestartMode, RestartPolicy
from controlplane.domain.failing import FAILED_STARTS, failing, has_ended
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec, InstanceState, Observed
from controlplane.domain.probes import Probe, Probes, TcpCheck
from controlplane.domain.readiness import is_ready, refuses_traffic

_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_PROBED = InstanceSpec(template="web", probes=Probes(readiness=Probe(tcp=TcpCheck(80))))
_PLAIN = InstanceSpec(template="web")
_UNSEEN = Observed()


def _instance(spec: InstanceSpec = _PLAIN, observed: Observed = _UNSEEN, **fields: object) -> Instance:
    made = Instance("u", "p", "i", _NOW, spec, spec, "t", "image", (), host_uid="h", observed=observed)
    return replace(made, **fields)  # type: ignore[arg-type]


def _running(ready: bool | None, health: str = "", generation: int = 1) -> Observed:
    return Observed(InstanceState.RUNNING, generation=generation, probed_ready=ready, health=health)


@pytest.mark.parametrize(
    ("spec", "ready", "health", "expected"),
    [
        (_PLAIN, None, "", True),
        (_PLAIN, None, "starting", False),
        (_PLAIN, None, "healthy", True),
        (_PLAIN, None, "unhealthy", False),
        (_PLAIN, False, "", False),  # its startup probe has not passed
        (_PROBED, True, "", True),
        (_PROBED, True, "unhealthy", True),  # the probe has the word
        (_PROBED, False, "healthy", False),
        (_PROBED, None, "healthy", False),  # an agent that knows of no probes
    ],
)
def test_who_is_ready(spec: InstanceSpec, ready: bool | None, health: str, expected: bool) -> None:
    assert is_ready(_instance(spec, _running(ready, health))) is expected


def test_a_probe_that_its_host_has_not_heard_of_takes_nothing_away() -> None:
    assert is_ready(_instance(_PROBED, _running(None, generation=1), generation=2))
    assert not is_ready(_instance(_PROBED, _running(False, generation=1), generation=2))


def test_what_stands_still_is_not_ready() -> None:
    stopped = replace(_running(True), state=InstanceState.STOPPED)
    assert not is_ready(_instance(_PROBED, stopped))


@pytest.mark.parametrize(
    ("state", "ready", "expected"),
    [
        (InstanceState.STARTING, None, False),
        (InstanceState.RUNNING, True, False),
        (InstanceState.RUNNING, False, True),
        (InstanceState.STOPPING, None, True),  # it may hang, and its port still takes connections
        (InstanceState.STOPPED, None, False),
    ],
)
def test_who_refuses_new_clients(state: InstanceState, ready: bool | None, expected: bool) -> None:
    assert refuses_traffic(_instance(_PROBED, replace(_running(ready), state=state))) is expected


def _ended(state: InstanceState, reason: str, starts: int) -> Observed:
    return Observed(state, reason, "its words", generation=1, failures_in_row=starts)


@pytest.mark.parametrize(
    ("observed", "is_same_anywhere"),
    [
        (_ended(InstanceState.FAILED, "CRASH_LOOP", 3), False),
        (_ended(InstanceState.FAILED, "START_REFUSED", 1), True),
        (_ended(InstanceState.FAILED, "IMAGE_NOT_FOUND", 1), True),
        (_ended(InstanceState.FAILED, "START_FAILED", FAILED_STARTS), False),
        (_ended(InstanceState.STOPPED, "RESTARTING", FAILED_STARTS), False),
        (_ended(InstanceState.PULLING, "REGISTRY_UNREACHABLE", FAILED_STARTS), False),
    ],
)
def test_what_fails_for_good(observed: Observed, is_same_anywhere: bool) -> None:
    found = failing(_instance(observed=observed))
    assert found is not None
    assert (found.reason, found.why) == (observed.reason, "its words")
    assert (found.starts, found.is_same_anywhere) == (observed.failures_in_row, is_same_anywhere)


@pytest.mark.parametrize(
    "instance",
    [
        _instance(observed=_ended(InstanceState.STOPPED, "RESTARTING", FAILED_STARTS - 1)),
        _instance(observed=_ended(InstanceState.RUNNING, "", 99)),
        _instance(observed=_ended(InstanceState.STARTING, "", 99)),
        _instance(observed=_ended(InstanceState.STOPPED, "", 99)),
        _instance(observed=_ended(InstanceState.PULLING, "REGISTRY_UNREACHABLE", 1)),
        _instance(observed=_ended(InstanceState.FAILED, "CRASH_LOOP", 3), desired=DesiredState.STOPPED),
        _instance(observed=_ended(InstanceState.FAILED, "CRASH_LOOP", 3), leave_time=_NOW),
        _instance(observed=_ended(InstanceState.FAILED, "CRASH_LOOP", 3), generation=2),
        _instance(observed=_ended(InstanceState.PENDING, "UNPLACEABLE", 0), host_uid=""),
    ],
)
def test_what_may_still_come_up(instance: Instance) -> None:
    assert failing(instance) is None


@pytest.mark.parametrize(
    ("mode", "state", "exit_code", "expected"),
    [
        (RestartMode.NEVER, InstanceState.STOPPED, 1, True),
        (RestartMode.NEVER, InstanceState.FAILED, None, True),
        (RestartMode.NEVER, InstanceState.RUNNING, 1, False),
        (RestartMode.ON_FAILURE, InstanceState.STOPPED, 0, True),
        (RestartMode.ON_FAILURE, InstanceState.STOPPED, 1, False),
        (RestartMode.ALWAYS, InstanceState.STOPPED, 0, False),
    ],
)
def test_what_has_ended(mode: RestartMode, state: InstanceState, exit_code: int | None, expected: bool) -> None:
    spec = replace(_PLAIN, restart=RestartPolicy(mode))
    observed = Observed(state, exit_code=exit_code, generation=1)
    assert has_ended(_instance(spec, observed)) is expected

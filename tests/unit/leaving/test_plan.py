"""When an instance that leaves may be removed."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.instances import DesiredState, Instance, InstanceState, Observed
from controlplane.domain.routers import RouterObserved
from controlplane.leaving.plan import Remove, Wait, plan
from tests.unit.routers import scenes as s

RUNS = Observed(InstanceState.RUNNING)
LEAVER = replace(s.WEB, observed=RUNS, leave_time=s.NOW, leave_revision=10)


def runs(slot: str = "1") -> Instance:
    return replace(s.member(slot), observed=RUNS)


def decide(leaver: Instance, *observed: RouterObserved, after: float = 1.0) -> Remove | Wait | None:
    """What is decided of an instance behind one router with one member, seconds after it was sent away."""
    return plan(leaver, [(s.router(observed=observed), [runs()])], s.NOW + timedelta(seconds=after))


def said(version: int, *draining: str) -> RouterObserved:
    return RouterObserved(runs().uid, running_version=version, draining=draining)


def test_who_stays_is_left_alone() -> None:
    assert decide(replace(LEAVER, leave_time=None)) is None
    assert decide(replace(LEAVER, desired=DesiredState.DELETED)) is None


def test_it_waits_for_routers_and_for_connections() -> None:
    for waits in (decide(LEAVER), decide(LEAVER, said(9)), decide(LEAVER, said(10, LEAVER.uid))):
        assert isinstance(waits, Wait)
        assert waits.until == s.NOW + timedelta(seconds=30)
    assert decide(LEAVER, said(10, "somebody-else")) == Remove("it has no connections left")


def test_its_time_is_its_own() -> None:
    short = replace(LEAVER, spec=replace(LEAVER.spec, drain_seconds=2.0))
    assert isinstance(decide(short, said(10, LEAVER.uid)), Wait)
    gone = decide(short, said(10, LEAVER.uid), after=2.0)
    assert isinstance(gone, Remove)
    assert "connections" in gone.why
    at_once = replace(LEAVER, spec=replace(LEAVER.spec, drain_seconds=0.0))
    assert isinstance(decide(at_once, after=0.0), Remove)


def test_nobody_is_waited_for_who_cannot_have_connections() -> None:
    stopped = replace(LEAVER, observed=Observed(InstanceState.STOPPED))
    assert isinstance(decide(stopped), Remove)
    assert isinstance(plan(LEAVER, [], s.NOW), Remove)
    idle = [(s.router(), [s.member()])]  # its container does not run
    assert isinstance(plan(LEAVER, idle, s.NOW), Remove)


@given(version=st.integers(0, 20), busy=st.booleans(), after=st.floats(0, 60), drain=st.floats(0, 60))
def test_never_before_routers_let_go_nor_after_its_time(version: int, busy: bool, after: float, drain: float) -> None:
    leaver = replace(LEAVER, spec=replace(LEAVER.spec, drain_seconds=drain))
    observed = said(version, *([leaver.uid] if busy else []))
    decision = decide(leaver, observed, after=after)
    is_free = version >= 10 and not busy
    assert isinstance(decision, Remove) == (is_free or timedelta(seconds=after) >= timedelta(seconds=drain))

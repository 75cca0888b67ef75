"""Which check is due, and what its outcome makes of the verdict: single decisions, and properties over any outcomes."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.journal.state import ProbeVerdict
from hostagent.probe_domain import Probe, Probes, TcpCheck
from hostagent.probes.plan import (
    Check,
    Kind,
    Outcome,
    Wait,
    Watch,
    begin,
    begun,
    ended,
    fresh_verdict,
    identified,
    plan,
    told_ready,
)

_PASS, _FAIL, _NOTHING = Outcome(True), Outcome(False, "tcp 80: connection refused"), Outcome(None)
_PROBE = Probe(tcp=TcpCheck(80), period_seconds=10.0, failure_threshold=3)
_ALL = Probes(startup=replace(_PROBE, period_seconds=1.0, failure_threshold=5), liveness=_PROBE, readiness=_PROBE)


@dataclass
class World:
    """A process under its probes, and a clock."""

    probes: Probes
    now: float = 100.0
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = begin(self.probes, fresh_verdict(self.probes), self.now, is_known=False, offset=0.5)

    def due(self) -> set[Kind]:
        return {action.kind for action in plan(self.watch, self.now) if isinstance(action, Check)}

    def wait(self) -> float:
        """Let time pass until something is due; returns how long."""
        for action in plan(self.watch, self.now):
            if isinstance(action, Wait):
                self.now += action.seconds
                return action.seconds
        return 0.0

    def do(self, outcomes: dict[Kind, Outcome]) -> set[Kind]:
        """Make the checks that are due; returns which."""
        self.wait()
        kinds = self.due()
        for kind in kinds:
            self.watch = begun(self.watch, kind)
        for kind in sorted(kinds, key=lambda kind: kind.value):
            self.watch = ended(self.probes, self.watch, kind, outcomes.get(kind, _PASS), self.now)
        return kinds

    @property
    def ready(self) -> bool | None:
        return told_ready(self.probes, self.watch.verdict)


def test_startup_holds_back_the_others() -> None:
    world = World(_ALL)
    assert world.ready is False
    for _ in range(3):
        assert world.do({Kind.STARTUP: _FAIL}) == {Kind.STARTUP}
    assert world.watch.verdict.words == "startup (tcp 80: connection refused)"
    world.do({Kind.STARTUP: _PASS})
    assert world.ready is False, "the readiness probe has not spoken"
    assert world.due() == {Kind.LIVENESS, Kind.READINESS}
    world.do({})
    assert world.ready is True
    assert world.watch.verdict.words == ""


def test_a_start_that_takes_too_long_ends_the_process() -> None:
    world = World(_ALL)
    for _ in range(5):
        assert world.watch.verdict.failure == ""
        world.do({Kind.STARTUP: _FAIL})
    assert world.watch.verdict.failure == "STARTUP_FAILED"
    assert "5 times in a row" in world.watch.verdict.words
    assert plan(world.watch, world.now) == []


def test_liveness_ends_the_process_and_readiness_does_not() -> None:
    world = World(Probes(liveness=_PROBE, readiness=_PROBE))
    world.do({})
    for _ in range(20):
        world.do({Kind.READINESS: _FAIL})
    assert (world.ready, world.watch.verdict.failure) == (False, "")
    for _ in range(12):  # readiness is asked each second meanwhile
        world.do({Kind.LIVENESS: _FAIL, Kind.READINESS: _FAIL})
    while not world.watch.verdict.failure:
        world.do({Kind.LIVENESS: _FAIL})
    assert world.watch.verdict.failure == "LIVENESS_FAILED"
    assert world.watch.verdict.words == "liveness (tcp 80: connection refused), 3 times in a row"


def test_one_failure_among_successes_changes_nothing() -> None:
    world = World(Probes(liveness=_PROBE, readiness=_PROBE))
    for _ in range(10):
        world.do({})
        world.do({Kind.LIVENESS: _FAIL, Kind.READINESS: _FAIL})
        world.do({Kind.LIVENESS: _FAIL, Kind.READINESS: _FAIL})
    assert (world.ready, world.watch.verdict.failure) == (True, "")


def test_readiness_that_is_missing_is_looked_for_each_second_for_a_minute() -> None:
    world = World(Probes(readiness=_PROBE))
    world.do({Kind.READINESS: _FAIL})
    waits = []
    for _ in range(70):
        waits.append(world.wait())
        world.do({Kind.READINESS: _FAIL})
    assert set(waits[:59]) == {1.0}
    assert set(waits[60:]) == {10.0}
    world.do({})
    assert world.ready is True
    assert world.wait() == 10.0


def test_readiness_comes_back_after_as_many_successes_as_asked_for() -> None:
    world = World(Probes(readiness=replace(_PROBE, success_threshold=3)))
    for _ in range(2):
        world.do({})
        assert world.ready is False
    world.do({})
    assert world.ready is True


def test_without_a_readiness_probe_nothing_is_said_of_it() -> None:
    world = World(Probes(liveness=_PROBE))
    assert world.ready is None
    world = World(Probes(startup=_PROBE))
    assert world.ready is False
    world.do({})
    assert world.ready is None
    assert plan(world.watch, world.now) == [], "there is nothing more to ask"


def test_an_initial_delay_is_waited_for_once() -> None:
    probes = Probes(readiness=replace(_PROBE, initial_delay_seconds=30.0))
    world = World(probes)
    assert world.wait() == 30.0
    known = begin(probes, fresh_verdict(probes), 500.0, is_known=True, offset=0.5)
    (action,) = plan(known, 500.0)
    assert isinstance(action, Wait)
    assert action.seconds == 0.5, "an agent that was restarted asks soon, and not everybody at once"


def test_words_that_change_with_each_check_are_told_now_and_then() -> None:
    world = World(Probes(readiness=_PROBE))
    told = set()
    for number in range(31):
        world.do({Kind.READINESS: Outcome(False, f"exec date: exit code 1, {number}")})
        told.add(world.watch.verdict.words)
    assert len(told) == 4, "one at once, and one each ten seconds"


def test_another_process_in_the_same_container_begins_anew() -> None:
    verdict = ProbeVerdict(process="7 1.0", is_started=True, is_ready=True)
    assert identified(_ALL, verdict, "7 1.0") == verdict
    other = identified(_ALL, verdict, "9 2.0")
    assert (other.process, other.is_started, other.is_ready) == ("9 2.0", False, False)
    fresh = fresh_verdict(_ALL)
    assert identified(_ALL, fresh, "7 1.0") == replace(fresh, process="7 1.0")


def test_a_process_that_gets_its_first_probe_while_it_runs_stays_ready_until_that_fails() -> None:
    probes = Probes(startup=_PROBE, readiness=_PROBE)
    verdict = identified(probes, ProbeVerdict(), "7 1.0")
    watch = begin(probes, verdict, 0.0, is_known=False, offset=0.0)
    assert told_ready(probes, watch.verdict) is True
    for _ in range(3):
        watch = ended(probes, begun(watch, Kind.READINESS), Kind.READINESS, _FAIL, 0.0)
    assert told_ready(probes, watch.verdict) is False


_PROBES = st.builds(
    lambda period, failures, successes, delay: Probe(
        tcp=TcpCheck(80),
        period_seconds=period,
        failure_threshold=failures,
        success_threshold=successes,
        initial_delay_seconds=delay,
    ),
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 10.0]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0.0, 5.0]),
)
_SETS = st.builds(Probes, st.none() | _PROBES, st.none() | _PROBES, st.none() | _PROBES)
_OUTCOMES = st.lists(st.fixed_dictionaries({kind: st.sampled_from([_PASS, _FAIL, _NOTHING]) for kind in Kind}))


def _trailing(seen: list[Outcome], has_passed: bool) -> int:
    """How many of the last outcomes were so, those that say nothing apart."""
    count = 0
    for outcome in reversed([one for one in seen if one.has_passed is not None]):
        if outcome.has_passed is not has_passed:
            return count
        count += 1
    return count


@given(_SETS, _OUTCOMES)
def test_the_verdict_is_what_the_outcomes_say(probes: Probes, history: list[dict[Kind, Outcome]]) -> None:
    world = World(probes)
    seen: dict[Kind, list[Outcome]] = {kind: [] for kind in Kind}
    for outcomes in history:
        before = world.watch.verdict
        assert plan(world.watch, world.now) == plan(world.watch, world.now)
        kinds = world.do(outcomes)
        for kind in kinds:
            seen[kind].append(outcomes[kind])
        verdict = world.watch.verdict
        if verdict.failure:
            assert verdict.words, "it is always said why"
        if before.failure:
            assert not kinds, "a process that shall end is asked nothing more"
            assert verdict == before
            continue
        if probes.startup is not None and not before.is_started:
            assert kinds <= {Kind.STARTUP}
        elif kinds:
            assert Kind.STARTUP not in kinds
        for kind, reason in ((Kind.STARTUP, "STARTUP_FAILED"), (Kind.LIVENESS, "LIVENESS_FAILED")):
            probe = probes.startup if kind is Kind.STARTUP else probes.liveness
            has_failed = probe is not None and _trailing(seen[kind], False) >= probe.failure_threshold
            assert (verdict.failure == reason) is has_failed
        readiness = probes.readiness
        if verdict.is_ready and not before.is_ready:
            assert readiness is not None
            assert _trailing(seen[Kind.READINESS], True) >= readiness.success_threshold
        if before.is_ready and not verdict.is_ready and not verdict.failure:
            assert readiness is not None
            assert _trailing(seen[Kind.READINESS], False) >= readiness.failure_threshold
        if verdict.is_ready and not verdict.failure and world.ready is not False:
            assert not verdict.words


@given(_SETS, _OUTCOMES, st.integers(0, 20))
def test_an_agent_that_is_restarted_changes_no_verdict(
    probes: Probes, history: list[dict[Kind, Outcome]], cut: int
) -> None:
    """Stopping after any check and watching again: what was said stays said, and the rest is asked again."""
    world = World(probes)
    for outcomes in history[:cut]:
        world.do(outcomes)
    verdict = world.watch.verdict
    again = begin(probes, verdict, world.now, is_known=True, offset=0.3)
    assert again.verdict == verdict
    if verdict.failure:
        assert plan(again, world.now) == []


@pytest.mark.parametrize("period", [0.0, 0.1, 10.0])
def test_a_check_under_way_is_not_made_twice(period: float) -> None:
    world = World(Probes(liveness=replace(_PROBE, period_seconds=period)))
    world.watch = begun(world.watch, Kind.LIVENESS)
    assert plan(world.watch, world.now + 1000.0) == []


def test_a_period_of_nothing_does_not_keep_the_host_busy() -> None:
    world = World(Probes(liveness=replace(_PROBE, period_seconds=0.0)))
    world.do({})
    assert world.wait() == pytest.approx(0.1)

"""Which check of a process is due, and what its outcome makes of the verdict. Pure: clock readings are arguments.

A watch is over one process. `plan` says what to do now, `begun` and `ended` what follows from having done it.

Rules:
- Until the startup probe has passed, no other is asked. One that has passed is never asked again for this process.
- Each probe has one check under way at most, so a target that hangs costs one connection.
- A verdict changes after as many equal outcomes in a row as the probe's threshold says. A check that could not be made
  at all (the engine is away, the namespace is being repaired) is no outcome: nobody is restarted for our trouble.
- A process that shall end is asked nothing more.
- Readiness that is missing is looked for each second for a minute: whoever waits for it should not wait for a period.
- What people are told of a failing probe changes at most every ten seconds, however its words change.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hostagent.journal.state import ProbeVerdict
from hostagent.probe_domain import Probe, Probes

_SOON_SECONDS = 1.0
_SOON_FAILURES = 60
_SHORTEST_SECONDS = 0.1
_WORDS_SECONDS = 10.0


class Kind(enum.Enum):
    """Which probe of the three."""

    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


_FAILURES = {Kind.STARTUP: "STARTUP_FAILED", Kind.LIVENESS: "LIVENESS_FAILED"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check. `has_passed` is None when it could not be made."""

    has_passed: bool | None
    words: str = ""  # of a failure: what was asked and what came of it


@dataclass(frozen=True, slots=True)
class Tally:
    """The outcomes of one probe so far. Times are monotonic seconds."""

    due: float
    passes: int = 0  # in a row
    failures: int = 0  # in a row
    is_under_way: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """One process under its probes."""

    verdict: ProbeVerdict
    tallies: Mapping[Kind, Tally] = field(default_factory=dict)  # of the probes that are asked now
    words_at: float | None = None  # when the words of the verdict were last changed


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do now."""

    why: str


@dataclass(frozen=True, slots=True)
class Check(Action):
    """Make one check of this probe."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Wait(Action):
    """Nothing is due before; ends early when a check ends."""

    seconds: float


def fresh_verdict(probes: Probes) -> ProbeVerdict:
    """Of a process that nobody has asked yet."""
    return ProbeVerdict(is_started=probes.startup is None, is_ready=probes.readiness is None)


def identified(probes: Probes, verdict: ProbeVerdict, process: str) -> ProbeVerdict:
    """The verdict on this process: what was known of it, or nothing if it is another one."""
    if verdict.process in ("", process):
        return replace(verdict, process=process)
    return replace(fresh_verdict(probes), process=process)


def begin(probes: Probes, verdict: ProbeVerdict, now: float, *, is_known: bool, offset: float) -> Watch:
    """Watch a process.

    Args:
        is_known: it was watched before (an agent was restarted, it was paused, the probes were changed): delays that
            count from its start are over.
        offset: 0 to 1, the share of a period after which the first checks of a known process are due, so that the
            instances of a host are not all asked at once.
    """
    watch = Watch(verdict)
    if _holds_back(probes, verdict):
        return _with_tallies(probes, watch, (Kind.STARTUP,), now, is_known, offset)
    return _with_tallies(probes, watch, (Kind.LIVENESS, Kind.READINESS), now, is_known, offset)


def plan(watch: Watch, now: float) -> list[Action]:
    """What to do now; nothing when there is nothing to ask, or no more."""
    if watch.verdict.failure:
        return []
    checks: list[Action] = [
        Check(f"the {kind.value} probe is due", kind)
        for kind, tally in watch.tallies.items()
        if not tally.is_under_way and tally.due <= now
    ]
    if checks:
        return checks
    waiting = [tally.due for tally in watch.tallies.values() if not tally.is_under_way]
    return [Wait("no probe is due before", min(waiting) - now)] if waiting else []


def begun(watch: Watch, kind: Kind) -> Watch:
    """A check is under way."""
    return _with_tally(watch, kind, replace(watch.tallies[kind], is_under_way=True))


def ended(probes: Probes, watch: Watch, kind: Kind, outcome: Outcome, now: float) -> Watch:
    """A check has ended."""
    probe, tally = probe_of(probes, kind), watch.tallies.get(kind)
    if probe is None or tally is None or watch.verdict.failure:
        return watch
    if outcome.has_passed is None:
        return _with_tally(watch, kind, replace(tally, is_under_way=False, due=now + _pause(probe, kind, watch)))
    passes = tally.passes + 1 if outcome.has_passed else 0
    failures = 0 if outcome.has_passed else tally.failures + 1
    watch = _with_tally(watch, kind, Tally(now, passes, failures))
    watch = _passed(probes, watch, kind, now) if outcome.has_passed else _failed(probe, watch, kind, outcome.words, now)
    if kind in watch.tallies:
        tally = replace(watch.tallies[kind], due=now + _pause(probe, kind, watch))
        watch = _with_tally(watch, kind, tally)
    return watch


def told_ready(probes: Probes, verdict: ProbeVerdict) -> bool | None:
    """What is said of a running process; None: its probes say nothing of readiness."""
    if _holds_back(probes, verdict):
        return False
    return None if probes.readiness is None else verdict.is_ready


def probe_of(probes: Probes, kind: Kind) -> Probe | None:
    """The probe of this kind."""
    return {Kind.STARTUP: probes.startup, Kind.LIVENESS: probes.liveness, Kind.READINESS: probes.readiness}[kind]


def _holds_back(probes: Probes, verdict: ProbeVerdict) -> bool:
    return probes.startup is not None and not verdict.is_started


def _with_tallies(
    probes: Probes, watch: Watch, kinds: tuple[Kind, ...], now: float, is_known: bool, offset: float
) -> Watch:
    tallies = {}
    for kind in kinds:
        probe = probe_of(probes, kind)
        if probe is not None:
            delay = offset * _pause(probe, kind, watch) if is_known else probe.initial_delay_seconds
            tallies[kind] = Tally(now + delay)
    return replace(watch, tallies=tallies)


def _with_tally(watch: Watch, kind: Kind, tally: Tally) -> Watch:
    return replace(watch, tallies={**watch.tallies, kind: tally})


def _pause(probe: Probe, kind: Kind, watch: Watch) -> float:
    """Time to the next check."""
    period = max(probe.period_seconds, _SHORTEST_SECONDS)
    tally = watch.tallies.get(kind)
    if kind is Kind.READINESS and not watch.verdict.is_ready and (tally is None or tally.failures < _SOON_FAILURES):
        return min(period, _SOON_SECONDS)
    return period


def _passed(probes: Probes, watch: Watch, kind: Kind, now: float) -> Watch:
    verdict = watch.verdict
    if kind is Kind.STARTUP:
        watch = replace(watch, verdict=replace(verdict, is_started=True, words=""), words_at=None)
        return _with_tallies(probes, watch, (Kind.LIVENESS, Kind.READINESS), now, False, 0.0)
    probe = probe_of(probes, kind)
    assert probe is not None
    if kind is Kind.READINESS and watch.tallies[kind].passes >= probe.success_threshold:
        return replace(watch, verdict=replace(verdict, is_ready=True, words=""), words_at=None)
    return watch


def _failed(probe: Probe, watch: Watch, kind: Kind, words: str, now: float) -> Watch:
    verdict = watch.verdict
    has_failed = watch.tallies[kind].failures >= probe.failure_threshold
    told = f"{kind.value} ({words})"
    if kind in _FAILURES:
        if has_failed:
            times = f", {probe.failure_threshold} times in a row" if probe.failure_threshold > 1 else ""
            verdict = replace(verdict, failure=_FAILURES[kind], words=told + times, is_ready=False)
            return replace(watch, verdict=verdict, words_at=now)
        return _telling(watch, told, now) if kind is Kind.STARTUP else watch
    if has_failed and verdict.is_ready:
        return replace(watch, verdict=replace(verdict, is_ready=False, words=told), words_at=now)
    return watch if verdict.is_ready else _telling(watch, told, now)


def _telling(watch: Watch, words: str, now: float) -> Watch:
    """With these words, unless others were told just now."""
    if watch.words_at is not None and now - watch.words_at < _WORDS_SECONDS:
        return watch
    return replace(watch, verdict=replace(watch.verdict, words=words), words_at=now)

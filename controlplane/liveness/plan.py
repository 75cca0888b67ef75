"""What becomes of hosts that are not heard: who is asked about them, and whether they are given up. Pure.

A host is given up only if nobody reaches it: neither we, nor up to five other hosts that we reach and that were asked about it. Each
question below is answered by what was seen, never by what is likely; where it cannot be answered, an operator's word is waited for:

- Is it we who cannot be reached? When more than one host and more than a third of the fleet are away at once, that is taken to be so.
  Away are also those that would have to have been heard since and were not: hosts fall silent within one heartbeat of each other.
- Is only the way between it and us broken? A neighbour that reaches it says so.
- Does anybody see it at all? Without a neighbour to ask, or without its answer, nothing is decided.

Seconds are of the control plane's monotonic clock.
"""

import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import chain, islice

from controlplane.domain.hosts import HostLinkState
from controlplane.liveness.terms import ROUND_SECONDS, LivenessTerms

NEIGHBOURS = 5
#: Of those that are asked, so many are of the host's own zone, if there are as many. Others see it over another way.
_OWN_ZONE = 3
#: Rounds that run at once: the loss of a whole zone must not make the rest of the fleet busy with questions.
_ROUNDS_AT_ONCE = 50
_REPEAT_SECONDS = 2.0
_REPEAT_ANSWERED_SECONDS = 5.0
#: Answers to older questions do not count.
_FRESH_SECONDS = 3.5
#: An agent that is silent for so long must dial again, whether or not it is lost.
SESSION_SECONDS = 10.0
DOWN_SECONDS = 40.0
#: What hosts that were not heard since we began get beside their time: agents try once a second to reach us again.
BEGIN_SECONDS = 10.0
#: Of a heartbeat period: how much later than another host one that is alive must have been heard.
_LATE = 1.25
_LOOK_SECONDS = 1.0


class Reach(Enum):
    """What a neighbour said."""

    ANSWERS = 1
    REFUSED = 2
    SILENT = 3


@dataclass(frozen=True, slots=True)
class Sight:
    """One host as it is seen now.

    Attributes:
        heard_at: when its agent was heard last; None: not since this control plane began.
        is_restarting: its agent said that it ends.
        can_be_asked: its agent has told of a port for its neighbours.
    """

    uid: str
    name: str
    link_state: HostLinkState
    heard_at: float | None
    has_session: bool
    zone: str = ""
    is_lost: bool = False
    is_restarting: bool = False
    can_be_asked: bool = True
    link_message: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """Neighbours that were asked about one host, and what those that answered said. Both by name."""

    asked_at: float
    asked: tuple[str, ...]
    answers: Mapping[str, Reach] = field(default_factory=dict)

    def is_over(self, now: float) -> bool:
        """Whether it can be counted."""
        return len(self.answers) >= len(self.asked) or now >= self.asked_at + ROUND_SECONDS


@dataclass(frozen=True, slots=True)
class SetLink:
    """Write this link state."""

    host_uid: str
    state: HostLinkState
    why: str


@dataclass(frozen=True, slots=True)
class DropSession:
    """A session that has been silent for too long."""

    host_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask these neighbours (uids) about it."""

    host_uid: str
    neighbours: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Note:
    """Write why it is away and not given up."""

    host_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Lose:
    """Give it up."""

    host_uid: str
    why: str
    evidence: tuple[str, ...]


Action = SetLink | DropSession | Ask | Note | Lose


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again if nothing happens before."""

    actions: tuple[Action, ...]
    look_at: float


def plan(
    now: float, began_at: float, sights: Sequence[Sight], rounds: Mapping[str, Round], terms: LivenessTerms
) -> Plan:
    """What to do, in order of host.

    Args:
        began_at: when this control plane began to look.
        rounds: the newest about each host, by its uid.
    """
    fleet = _Fleet(began_at, sights, terms, now)
    running = sum(1 for one in rounds.values() if not one.is_over(now))
    actions: list[Action] = []
    look_at = now + max(_LOOK_SECONDS, terms.silent_after_seconds / 2)
    for sight in sorted(sights, key=lambda sight: sight.name):
        if sight.link_state is HostLinkState.CONNECTING and not sight.has_session:
            continue  # never seen; nothing to lose
        since = fleet.since(sight)
        if fleet.is_heard(sight):
            if sight.link_state is not HostLinkState.UP:
                # It is heard again, or the end of an older session was written after the begin of this one.
                actions.append(SetLink(sight.uid, HostLinkState.UP, "its agent is heard"))
            look_at = min(look_at, since + terms.silent_after_seconds)
            continue
        away = _Away(sight, now, since, rounds.get(sight.uid), fleet, terms)
        actions += away.link()
        if sight.is_lost:
            continue
        if running < _ROUNDS_AT_ONCE and (ask := away.ask()) is not None:
            actions.append(ask)
            running += 1
        if (verdict := away.verdict()) is not None:
            actions.append(verdict)
        look_at = min([look_at, *away.looks()])
    return Plan(tuple(actions), look_at)


class _Fleet:
    """What the hosts are to each other."""

    def __init__(self, began_at: float, sights: Sequence[Sight], terms: LivenessTerms, now: float) -> None:
        self._began_at = began_at
        self._terms = terms
        self._now = now
        counted = [
            s for s in sights if not s.is_lost and (s.has_session or s.link_state is not HostLinkState.CONNECTING)
        ]
        self.size = len(counted)
        self._gone = sum(1 for s in counted if not s.has_session)
        self._heard = sorted(self.since(s) for s in counted if s.has_session)
        self._witnesses = [s for s in counted if self.is_heard(s)]

    def since(self, sight: Sight) -> float:
        """From when its silence is counted."""
        return self._began_at if sight.heard_at is None else sight.heard_at

    def is_heard(self, sight: Sight) -> bool:
        """Whether its agent is heard as it shall be."""
        return sight.has_session and self._now - self.since(sight) < self._terms.silent_after_seconds

    def away_with(self, since: float) -> int:
        """How many are away when one that was heard last at `since` is: that one, and all that were not heard after it."""
        return self._gone + bisect_left(self._heard, since + _LATE * self._terms.heartbeat_seconds)

    def are_many_silent(self) -> bool:
        """Whether so many are away by now that nothing will be decided."""
        return _is_too_many(self.size - len(self._witnesses), self.size)

    @cached_property
    def _ring(self) -> list[tuple[int, str, Sight]]:
        """Whom one can ask, in an order that has nothing to do with names: those side by side here are not so in a rack."""
        return sorted((zlib.crc32(s.uid.encode()), s.uid, s) for s in self._witnesses)

    @cached_property
    def _of_zone(self) -> Counter[str]:
        return Counter(s.zone for s in self._witnesses)

    def neighbours(self, sight: Sight) -> tuple[Sight, ...]:
        """Whom to ask about it: those after it in the ring, so that each host has others, and the same ones each time."""
        most_own = min(NEIGHBOURS, self._of_zone[sight.zone])
        most_foreign = min(NEIGHBOURS, len(self._witnesses) - self._of_zone[sight.zone])
        start = bisect_left(self._ring, (zlib.crc32(sight.uid.encode()), sight.uid))
        own: list[Sight] = []
        foreign: list[Sight] = []
        for *_, other in chain(islice(self._ring, start, None), islice(self._ring, start)):
            found = own if other.zone == sight.zone else foreign
            if len(found) < NEIGHBOURS:
                found.append(other)
            if (len(own), len(foreign)) == (most_own, most_foreign):
                break
        return tuple([*own[:_OWN_ZONE], *foreign, *own[_OWN_ZONE:]][:NEIGHBOURS])


class _Away:
    """One host that is not heard."""

    def __init__(
        self, sight: Sight, now: float, since: float, newest: Round | None, fleet: _Fleet, terms: LivenessTerms
    ) -> None:
        self._sight = sight
        self._now = now
        self._silence = now - since
        self._since = since
        self._fleet = fleet
        self._terms = terms
        self._ask_at = since + terms.silent_after_seconds
        # What was said before it fell silent, or long ago, says nothing of now.
        is_of_now = newest is not None and newest.asked_at >= max(self._ask_at, now - _FRESH_SECONDS)
        self._round = newest if is_of_now else None
        patience = terms.lost_after_seconds + (BEGIN_SECONDS if sight.heard_at is None else 0.0)
        self._lost_at = since + max(patience, terms.restart_seconds if sight.is_restarting else 0.0)

    def link(self) -> list[Action]:
        """Its link state and session."""
        sight, silence = self._sight, self._silence
        actions: list[Action] = []
        if sight.link_state is HostLinkState.UP:
            seconds = self._terms.silent_after_seconds
            why = f"nothing was heard for {seconds:g} s" if sight.has_session else "the session was lost"
            actions.append(SetLink(sight.uid, HostLinkState.DISCONNECTED, why))
        elif sight.link_state is HostLinkState.DISCONNECTED and silence > DOWN_SECONDS and not sight.is_lost:
            actions.append(SetLink(sight.uid, HostLinkState.DOWN, f"away for {DOWN_SECONDS:g} s"))
        if sight.has_session and silence > max(SESSION_SECONDS, 2 * self._terms.silent_after_seconds):
            actions.append(DropSession(sight.uid, f"no heartbeat for {silence:.0f} s"))
        return actions

    def ask(self) -> Ask | None:
        """A round, when it is time for one."""
        if not self._sight.can_be_asked or self._now < self._next_ask() or self._fleet.are_many_silent():
            return None
        if not self._neighbours:
            return None
        return Ask(self._sight.uid, tuple(one.uid for one in self._neighbours), "it is not heard; others may reach it")

    def verdict(self) -> Note | Lose | None:
        """Whether it is given up, or why not."""
        found = self._round if self._round is not None and self._round.is_over(self._now) else None
        if found is not None and (who := sorted(n for n, r in found.answers.items() if r is Reach.ANSWERS)):
            return self._note(
                f"{_names(who)} reached it: its agent lives, and only the way between it and us is broken"
            )
        if self._now < self._lost_at:
            return None
        if why := self._too_many() or self._nobody_to_ask():
            # A heartbeat that comes a little late is no reason to tell people.
            is_sure = self._now >= self._lost_at + self._terms.heartbeat_seconds
            return self._note(f"{why}; if its machine is off, say so with `moor host lost`") if is_sure else None
        if found is None:
            return None
        said = {name: found.answers[name] for name in sorted(found.answers)}
        if not said or 2 * len(said) < len(found.asked):
            return self._note("its neighbours did not say whether they reach it; they are asked again")
        why = f"not heard for {self._terms.lost_after_seconds:g} s, and none of {len(said)} neighbours reached it"
        return Lose(self._sight.uid, why, tuple(f"{name}: {_WORDS[reach]}" for name, reach in said.items()))

    def looks(self) -> list[float]:
        """When something may have changed though nothing was heard."""
        times = [self._next_ask(), self._lost_at, self._lost_at + self._terms.heartbeat_seconds]
        if self._round is not None:
            times.append(self._round.asked_at + ROUND_SECONDS)
        return [time for time in times if time > self._now]

    @cached_property
    def _neighbours(self) -> tuple[Sight, ...]:
        return self._fleet.neighbours(self._sight)

    def _next_ask(self) -> float:
        found = self._round
        if found is None:
            return self._ask_at
        is_answered = Reach.ANSWERS in found.answers.values()
        return found.asked_at + (_REPEAT_ANSWERED_SECONDS if is_answered else _REPEAT_SECONDS)

    def _too_many(self) -> str:
        if _is_too_many(self._fleet.away_with(self._since), self._fleet.size):
            return "more than a third of the fleet is away at once, so that it may be us whom nobody reaches"
        return ""

    def _nobody_to_ask(self) -> str:
        if not self._sight.can_be_asked:
            return "its agent answers no neighbours"
        return "" if self._neighbours else "there is no other host to ask about it"

    def _note(self, why: str) -> Note | None:
        return Note(self._sight.uid, why) if why != self._sight.link_message else None


_WORDS = {Reach.ANSWERS: "answers", Reach.REFUSED: "the machine is there, its agent is not", Reach.SILENT: "no answer"}


def _is_too_many(away: int, size: int) -> bool:
    return away > 1 and 3 * away > size


def _names(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"

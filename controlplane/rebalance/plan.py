"""Which member of a group would stand better on another host. Pure.

Two things are better: members of a group that share a host come apart, and the fullest host comes nearer to the others. A move never makes
one of them worse for the other's sake in a way that another move would take back: either a group is spread more evenly, or it stays as
even as it was and the fuller of both hosts becomes less full. So moves end, whatever their order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

#: Beginning of Instance.evict of those that are moved.
WHY = "the fleet is rebalanced: "
#: The scheduler is asked about so many of a turn's candidates.
MOST_CANDIDATES = 30
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class RebalanceTerms:
    """How much may be moved by itself.

    Attributes:
        at_once: moves at a time; 0: none, it is off.
        per_hour: moves within an hour.
        threshold_percent: how much fuller than another one a host must be, of what its instances can reserve of cpu or memory.
    """

    at_once: int = 0
    per_hour: int = 20
    threshold_percent: int = 20


DEFAULT_TERMS = RebalanceTerms()


@dataclass(frozen=True, slots=True)
class Load:
    """A host that takes instances: what they can reserve together, and have reserved."""

    uid: str
    id: str
    cpu_millis: int
    memory_bytes: int
    cpu_used: int = 0
    memory_used: int = 0

    @property
    def share(self) -> float:
        """Of the fuller one of cpu and memory, 0 to 1 and above."""
        return max(_share(self.cpu_used, self.cpu_millis), _share(self.memory_used, self.memory_bytes))

    def with_more(self, cpu_millis: int, memory_bytes: int) -> "Load":
        """With so much more reserved."""
        return replace(self, cpu_used=self.cpu_used + cpu_millis, memory_used=self.memory_used + memory_bytes)


def _share(used: int, total: int) -> float:
    return used / total if total else float(used > 0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member that may be moved."""

    instance_uid: str
    name: str
    group: str  # full name
    host_uid: str
    cpu_millis: int = 0
    memory_bytes: int = 0
    alike: Mapping[str, int] = field(default_factory=dict)  # members of the group by host uid


@dataclass(frozen=True, slots=True)
class Move:
    """A member that shall be made anew elsewhere."""

    instance_uid: str
    instance: str  # full name
    from_host: str  # hosts/{host}
    to_host: str  # where the scheduler would put its successor now
    why: str


@dataclass(frozen=True, slots=True)
class Gain:
    """What a move brings; more is better."""

    is_spread: bool
    amount: float
    why: str

    @property
    def rank(self) -> tuple[bool, float]:
        """For comparison."""
        return self.is_spread, self.amount


def gain(loads: Mapping[str, Load], candidate: Candidate, to_uid: str, terms: RebalanceTerms) -> Gain | None:
    """What it brings to move the candidate to that host; None: nothing."""
    here, there = loads.get(candidate.host_uid), loads.get(to_uid)
    if here is None or there is None or here.uid == there.uid:
        return None
    stay, join = candidate.alike.get(here.uid, 0), candidate.alike.get(there.uid, 0)
    if stay - join >= 2:
        why = f"{stay} members of {candidate.group} are on hosts/{here.id}, and {join or 'none'} on hosts/{there.id}"
        return Gain(True, stay - join, why)
    if stay - join < 1:
        return None
    needs = candidate.cpu_millis, candidate.memory_bytes
    after = max(here.with_more(-needs[0], -needs[1]).share, there.with_more(*needs).share)
    difference = here.share - there.share
    if difference * 100 < terms.threshold_percent or after >= here.share:
        return None
    why = f"hosts/{here.id} is {here.share:.0%} full, hosts/{there.id} {there.share:.0%}"
    return Gain(False, here.share - after, why)


def worth_asking(loads: Mapping[str, Load], candidates: Iterable[Candidate], terms: RebalanceTerms) -> list[Candidate]:
    """Those that would stand better on some host, if the scheduler let them; the best first."""
    found: list[tuple[Gain, Candidate]] = []
    for candidate in candidates:
        gains = (gain(loads, candidate, uid, terms) for uid in loads)
        best = max((one for one in gains if one is not None), key=lambda one: one.rank, default=None)
        if best is not None:
            found.append((best, candidate))
    found.sort(key=lambda item: (not item[0].is_spread, -item[0].amount, item[1].name))
    return [candidate for _, candidate in found[:MOST_CANDIDATES]]


def choose(
    loads: Mapping[str, Load], candidates: Sequence[Candidate], targets: Mapping[str, str], terms: RebalanceTerms
) -> Move | None:
    """The move that brings most; None: none brings anything.

    Args:
        targets: instance uid to uid of the host on which the scheduler would put its successor.
    """
    best: tuple[Gain, Candidate, str] | None = None
    for candidate in sorted(candidates, key=lambda one: one.name):
        to_uid = targets.get(candidate.instance_uid, "")
        found = gain(loads, candidate, to_uid, terms)
        if found is not None and (best is None or found.rank > best[0].rank):
            best = found, candidate, to_uid
    if best is None:
        return None
    what, who, to_uid = best
    return Move(who.instance_uid, who.name, f"hosts/{loads[who.host_uid].id}", f"hosts/{loads[to_uid].id}", what.why)


def after(
    loads: Mapping[str, Load], candidates: Sequence[Candidate], moved: Candidate, to_uid: str
) -> tuple[dict[str, Load], list[Candidate]]:
    """How it will be. A group has one move at a time: its other members are no candidates any more."""
    changed = dict(loads)
    changed[moved.host_uid] = changed[moved.host_uid].with_more(-moved.cpu_millis, -moved.memory_bytes)
    changed[to_uid] = changed[to_uid].with_more(moved.cpu_millis, moved.memory_bytes)
    return changed, [one for one in candidates if one.group != moved.group]


def allowance(terms: RebalanceTerms, under_way: int, begun: Sequence[datetime], now: datetime) -> int:
    """How many moves may begin now by themselves.

    Args:
        begun: when those of the last hour began.
    """
    recent = sum(now - time < _HOUR for time in begun)
    return max(0, min(terms.at_once - under_way, terms.per_hour - recent))

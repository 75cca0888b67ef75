"""Whom an instance of higher priority pushes out, when no host has room. Values in, values out.

Invariants: those that go are of lower priority than the one that comes, not protected (routers, claim holders that survive isolation,
places that are kept), not on their way out already, and no more of a group than it can do without. They are as few as can be found;
among equally many, those of the lowest priority. The place is then the newcomer's: what is kept for it counts as taken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from controlplane.scheduler.filters import FILTERS
from controlplane.scheduler.fleet import BoolColumn, Fleet
from controlplane.scheduler.placed import Placed
from controlplane.scheduler.request import PlacementRequest, ports_clash

#: What somebody else's going can mend.
MENDED = frozenset({"cpu", "memory", "host-port", "device"})
_ENOUGH = 64  # hosts that would do, after which no more are looked at


@dataclass(frozen=True, slots=True)
class Place:
    """A host, and who must go from it. Nobody: those that are leaving it already are enough."""

    row: int
    victims: tuple[Placed, ...]


@dataclass(slots=True)
class Preemption:
    """What one pass knows about who can be pushed out. `budget`: how many of a group's members it can do without; others are free."""

    fleet: Fleet
    budget: Mapping[str, int]
    _spent: dict[str, int] = field(default_factory=dict)
    _known: dict[PlacementRequest, dict[int, Place | None]] = field(default_factory=dict)

    def find(self, request: PlacementRequest, kept_row: int | None) -> Place | None:
        """The best place, if there is one. `kept_row`: the host that is kept for the instance already, which it prefers."""
        known = self._known.setdefault(request, {})
        found: list[Place] = []
        for row in self._rows(request, kept_row):
            if row not in known:
                known[row] = self._place(request, row)
            place = known[row]
            if place is not None:
                found.append(place)
                if len(found) >= _ENOUGH or (row == kept_row and not place.victims):
                    break

        def cost(place: Place) -> tuple[int, int, int, bool, int]:
            priorities = [victim.priority for victim in place.victims]
            return len(priorities), max(priorities, default=0), sum(priorities), place.row != kept_row, place.row

        return min(found, key=cost, default=None)

    def spend(self, place: Place) -> None:
        """These go; the place is taken."""
        for victim in place.victims:
            if victim.owner in self.budget:
                self._spent[victim.owner] = self._spent.get(victim.owner, 0) + 1
        if any(victim.owner in self.budget for victim in place.victims):
            self._known.clear()  # their groups have less to spare on every host
        self.forget(place.row)

    def forget(self, row: int) -> None:
        """What is on the host has changed."""
        for known in self._known.values():
            known.pop(row, None)

    def _rows(self, request: PlacementRequest, kept_row: int | None) -> Iterable[int]:
        """The hosts that nothing but a lack of room speaks against; first the one that is kept, then by how little they lack."""
        fleet = self.fleet
        fits: BoolColumn = np.ones(len(fleet.hosts), np.bool_)
        for filter_ in FILTERS:
            if filter_.name not in MENDED:
                fits &= filter_.keeps(request, fleet)
        rows = np.flatnonzero(fits)
        lacks_cpu = np.maximum(0, request.cpu_millis - (fleet.cpu_total - fleet.cpu_used)[rows])
        lacks_memory = np.maximum(0, request.memory_bytes - (fleet.memory_total - fleet.memory_used)[rows])
        lacks = lacks_cpu / max(1, request.cpu_millis) + lacks_memory / max(1, request.memory_bytes)
        ordered = [int(row) for row in rows[np.argsort(lacks, kind="stable")]]
        if kept_row is not None and fits[kept_row]:
            ordered.remove(kept_row)
            ordered.insert(0, kept_row)
        return ordered

    def _place(self, request: PlacementRequest, row: int) -> Place | None:
        here = sorted(self.fleet.on_host(row), key=lambda placed: placed.uid)
        leaving = [placed for placed in here if placed.is_leaving]
        if self._fits(request, row, leaving):
            return Place(row, ())
        can_go = [placed for placed in here if self._can_go(request, placed)]
        if not can_go:
            return None
        best: tuple[Placed, ...] | None = None
        for order in (_by_priority, _by_size):
            victims = self._fewest(request, row, leaving, sorted(can_go, key=lambda p: order(request, p)))
            if victims is not None and (best is None or _cost(victims) < _cost(best)):
                best = victims
        return None if best is None else Place(row, best)

    def _fewest(
        self, request: PlacementRequest, row: int, leaving: list[Placed], can_go: list[Placed]
    ) -> tuple[Placed, ...] | None:
        """Take them in this order until the instance fits, then let stay, from the last, whoever need not go."""
        chosen: list[Placed] = []
        spared: dict[str, int] = {}
        for placed in can_go:
            if self._fits(request, row, [*leaving, *chosen]):
                break
            if placed.owner in self.budget:
                left = self.budget[placed.owner] - self._spent.get(placed.owner, 0) - spared.get(placed.owner, 0)
                if left <= 0:
                    continue
                spared[placed.owner] = spared.get(placed.owner, 0) + 1
            chosen.append(placed)
        if not self._fits(request, row, [*leaving, *chosen]):
            return None
        for placed in sorted(chosen, key=lambda p: (-p.priority, _size(request, p), p.uid)):
            others = [other for other in chosen if other is not placed]
            if self._fits(request, row, [*leaving, *others]):
                chosen = others
        return tuple(sorted(chosen, key=lambda p: p.uid))

    def _fits(self, request: PlacementRequest, row: int, gone: list[Placed]) -> bool:
        """Whether there would be room, if those were gone."""
        fleet = self.fleet
        less = [(p.project, p.cpu_millis, p.memory_bytes) for p in gone]
        kept_cpu, kept_memory = fleet.reservations.kept_from_on(row, request.project, less)
        cpu = int(fleet.cpu_total[row] - fleet.cpu_used[row]) + sum(p.cpu_millis for p in gone) - kept_cpu
        memory = int(fleet.memory_total[row] - fleet.memory_used[row]) + sum(p.memory_bytes for p in gone) - kept_memory
        if (request.cpu_millis and cpu < request.cpu_millis) or (
            request.memory_bytes and memory < request.memory_bytes
        ):
            return False
        uids = {p.uid for p in gone}
        stay = [p for p in fleet.on_host(row) if p.uid not in uids]
        if any(ports_clash(wanted, port) for p in stay for port in p.ports for wanted in request.ports):
            return False
        return not request.devices or fleet.devices_for(row, request.devices, uids) is not None

    def _can_go(self, request: PlacementRequest, placed: Placed) -> bool:
        if placed.is_leaving or placed.is_protected or placed.priority >= request.priority:
            return False
        if self.budget.get(placed.owner, 1) - self._spent.get(placed.owner, 0) <= 0:
            return False
        # Whom it wants to be near to must stay, or it would have no place once it comes.
        return not any(
            placed.project == request.project and not term.is_soft and term.matches(placed.labels)
            for term in request.affinity
        )


def _size(request: PlacementRequest, placed: Placed) -> float:
    """How much of what is asked for its going gives."""
    cpu = min(1.0, placed.cpu_millis / request.cpu_millis) if request.cpu_millis else 0.0
    memory = min(1.0, placed.memory_bytes / request.memory_bytes) if request.memory_bytes else 0.0
    in_the_way = any(ports_clash(wanted, port) for port in placed.ports for wanted in request.ports)
    return cpu + memory + (2.0 if in_the_way else 0.0) + (2.0 if request.devices and placed.devices else 0.0)


def _by_priority(request: PlacementRequest, placed: Placed) -> tuple[float, float, str]:
    return placed.priority, -_size(request, placed), placed.uid


def _by_size(request: PlacementRequest, placed: Placed) -> tuple[float, float, str]:
    return -_size(request, placed), placed.priority, placed.uid


def _cost(victims: tuple[Placed, ...]) -> tuple[int, int, int]:
    priorities = [victim.priority for victim in victims]
    return len(victims), max(priorities, default=0), sum(priorities)

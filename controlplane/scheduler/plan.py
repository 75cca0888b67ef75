"""Places pending instances on hosts. Values in, values out: no clock, no chance, no I/O.

Invariants: no host is given more than it has, no host port twice; an instance's result does not depend on the order in which the
hosts are stored, nor on whether the plan is carried out at once or in parts: those that were pending first are placed first. What
filters say of equal requests is asked once, and again only where a placement of the same plan could have changed the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from controlplane.domain.instances import FilterResult, HostScore, PlacementExplanation
from controlplane.scheduler import scores
from controlplane.scheduler.filters import FILTERS
from controlplane.scheduler.fleet import BoolColumn, Fleet, Placed
from controlplane.scheduler.request import PlacementRequest

EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Assign:
    """Put the instance there."""

    instance_uid: str
    host_uid: str
    host: str
    why: PlacementExplanation


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No host fits; `why` names each filter and how many hosts it took."""

    instance_uid: str
    why: PlacementExplanation


Decision = Assign | Unplaceable


def plan(pending: Sequence[tuple[str, PlacementRequest]], fleet: Fleet, now: datetime) -> list[Decision]:
    """One decision for each (instance uid, request), in order. `fleet` is as it was afterwards."""
    static: dict[PlacementRequest, Mapping[str, BoolColumn]] = {}
    decisions: list[Decision] = []
    try:
        for uid, request in pending:
            if request not in static:
                static[request] = {f.name: f.keeps(request, fleet) for f in FILTERS if not f.depends_on_members}
            decision = _place(uid, request, static[request], fleet, now)
            decisions.append(decision)
            if isinstance(decision, Assign):
                fleet.place(_placed(uid, request, decision.host_uid))
    finally:
        for decision in decisions:
            if isinstance(decision, Assign):
                fleet.remove(decision.instance_uid)
    return decisions


def _place(
    uid: str, request: PlacementRequest, static: Mapping[str, BoolColumn], fleet: Fleet, now: datetime
) -> Decision:
    kept, results = _filter(request, fleet, static)
    if not kept.any():
        summary = _refusal(len(fleet.hosts), results)
        return Unplaceable(uid, PlacementExplanation("", summary, len(fleet.hosts), tuple(results), (), now))
    values = np.where(kept, scores.score(request, fleet), -np.inf)
    row = int(np.argmax(values))
    host = fleet.hosts[row]
    return Assign(uid, host.uid, host.id, _choice(request, fleet, row, values, results, now))


def _filter(
    request: PlacementRequest, fleet: Fleet, static: Mapping[str, BoolColumn]
) -> tuple[BoolColumn, list[FilterResult]]:
    kept: BoolColumn = np.ones(len(fleet.hosts), np.bool_)
    results: list[FilterResult] = []
    for filter_ in FILTERS:
        column = static.get(filter_.name)
        if column is None:
            column = filter_.keeps(request, fleet)
        removed = kept & ~column
        count = int(removed.sum())
        if count:
            examples = tuple(f"hosts/{fleet.hosts[row].id}" for row in np.flatnonzero(removed)[:EXAMPLES])
            results.append(FilterResult(filter_.name, count, filter_.explain(request), examples))
            kept = kept & column
    return kept, results


def _refusal(considered: int, results: Sequence[FilterResult]) -> str:
    if not considered:
        return "no host has joined yet; join one with `moorage-hostagent`"
    parts = [f"{r.filter} took {r.hosts_removed} ({r.explanation})" for r in results]
    return f"none of {considered} hosts fits: " + "; ".join(parts)


def _choice(
    request: PlacementRequest,
    fleet: Fleet,
    row: int,
    values: "np.typing.NDArray[np.float64]",
    results: Sequence[FilterResult],
    now: datetime,
) -> PlacementExplanation:
    best = [int(r) for r in np.argsort(-values, kind="stable")[:EXAMPLES] if np.isfinite(values[r])]
    shown = tuple(
        HostScore(f"hosts/{fleet.hosts[r].id}", round(float(values[r]), 4) + 0.0, scores.explain(fleet, r))
        for r in best
    )
    fitting = int(np.isfinite(values).sum())
    manner = "the fullest" if request.packs else "the least loaded"
    chosen = f"hosts/{fleet.hosts[row].id}"
    summary = f"{chosen} is {manner} of {fitting} of {len(fleet.hosts)} hosts that fit"
    if fitting == 1:
        summary = f"{chosen} is the only one of {len(fleet.hosts)} hosts that fits"
    return PlacementExplanation(chosen, summary, len(fleet.hosts), tuple(results), shown, now)


def _placed(uid: str, request: PlacementRequest, host_uid: str) -> Placed:
    return Placed(
        uid,
        request.project,
        request.template_uid,
        dict(request.labels),
        host_uid,
        request.cpu_millis,
        request.memory_bytes,
        request.ports,
        request.exclusive,
    )


def same_but_for_time(one: PlacementExplanation | None, other: PlacementExplanation) -> bool:
    """Whether both explain the same; a refusal that only repeats itself is not worth a commit."""
    return one is not None and replace(one, decide_time=None) == replace(other, decide_time=None)

"""Places pending instances on hosts. Values in, values out: no clock, no chance, no I/O.

Invariants: no host is given more than it has, no host port and no device twice; an instance's result does not depend on the order in
which the hosts are stored, nor on whether the plan is carried out at once or in parts: those that were pending first are placed first. What
filters say of equal requests is asked once, and again only where a placement of the same plan could have changed the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

import numpy as np

from controlplane.domain.containers import DeviceRequest
from controlplane.domain.instances import FilterResult, HostScore, PlacementExplanation
from controlplane.scheduler import scores
from controlplane.scheduler.devices import text_of
from controlplane.scheduler.filters import FILTERS
from controlplane.scheduler.fleet import BoolColumn, Fleet
from controlplane.scheduler.placed import Placed
from controlplane.scheduler.preempt import Place, Preemption
from controlplane.scheduler.request import PlacementRequest, device_key

EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Assign:
    """Put the instance there."""

    instance_uid: str
    host_uid: str
    host: str
    why: PlacementExplanation
    devices: tuple[DeviceRequest, ...] = ()  # what it asked for, with those that it gets


@dataclass(frozen=True, slots=True)
class Victim:
    """Goes, so that another can come."""

    instance_uid: str
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Promise:
    """Keep a place there for the instance, and send away who is in it. No victims: it is only to wait for those that go already."""

    instance_uid: str
    host_uid: str
    host: str
    victims: tuple[Victim, ...]
    why: PlacementExplanation


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No host fits; `why` names each filter and how many hosts it took."""

    instance_uid: str
    why: PlacementExplanation


Decision = Assign | Promise | Unplaceable


def plan(
    pending: Sequence[tuple[str, PlacementRequest]],
    fleet: Fleet,
    now: datetime,
    budget: Mapping[str, int] = MappingProxyType({}),
) -> list[Decision]:
    """One decision for each (instance uid, request), in order. `fleet` is as it was afterwards.

    Args:
        budget: how many of its members an owner can do without, for those of which that is known.
    """
    static: dict[PlacementRequest, Mapping[str, BoolColumn]] = {}
    decisions: list[Decision] = []
    before: dict[str, Placed | None] = {}  # what is counted otherwise than at first
    preemption = Preemption(fleet, budget)
    try:
        for uid, request in pending:
            kept = fleet.placed(uid)
            before.setdefault(uid, kept)
            if kept is not None:
                _forget(preemption, fleet, kept)
                fleet.remove(uid)  # what is kept for it is not in its own way
            if request not in static:
                static[request] = {f.name: f.keeps(request, fleet) for f in FILTERS if not f.depends_on_members}
            decision = _place(uid, request, static[request], fleet, now)
            if isinstance(decision, Unplaceable) and request.preempts:
                decision = _promise(decision, request, fleet, preemption, kept)
            decisions.append(decision)
            if isinstance(decision, Unplaceable):
                continue
            if isinstance(decision, Promise):
                for victim in decision.victims:
                    placed = fleet.placed(victim.instance_uid)
                    assert placed is not None
                    before.setdefault(placed.uid, placed)
                    fleet.place(replace(placed, is_leaving=True))
            placed = _placed(uid, request, decision)
            fleet.place(placed)
            _forget(preemption, fleet, placed)
    finally:
        for uid, placed in before.items():
            if placed is None:
                fleet.remove(uid)
            else:
                fleet.place(placed)
    return decisions


def _forget(preemption: Preemption, fleet: Fleet, placed: Placed) -> None:
    row = fleet.row.get(placed.host_uid)
    if row is not None:
        preemption.forget(row)


def _promise(
    refusal: Unplaceable, request: PlacementRequest, fleet: Fleet, preemption: Preemption, kept: Placed | None
) -> Decision:
    """Instead of the refusal, a place that others leave for it; the refusal where there is none."""
    kept_row = fleet.row.get(kept.host_uid) if kept is not None else None
    place = preemption.find(request, kept_row)
    if place is None:
        lower = "; nor is there a host on which those of lower priority could make room for it"
        return replace(refusal, why=replace(refusal.why, summary=refusal.why.summary + lower))
    preemption.spend(place)
    host = fleet.hosts[place.row]
    victims = tuple(
        Victim(v.uid, v.name, f"priority {request.priority} over {v.priority}, on hosts/{host.id}")
        for v in place.victims
    )
    summary = _promise_summary(host.id, place, refusal.why)
    why = replace(refusal.why, summary=summary, promised_host=f"hosts/{host.id}")
    return Promise(refusal.instance_uid, host.uid, host.id, victims, why)


def _promise_summary(host_id: str, place: Place, why: PlacementExplanation) -> str:
    if not place.victims:
        return f"its place on hosts/{host_id} is kept until those that are leaving it are gone"
    names = ", ".join(victim.name for victim in place.victims[:EXAMPLES])
    more = f" and {len(place.victims) - EXAMPLES} more" if len(place.victims) > EXAMPLES else ""
    return f"hosts/{host_id} is kept for it, from which {names}{more} of lower priority must go; {why.summary}"


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
    devices = fleet.devices_for(row, request.devices) or ()
    why = replace(_choice(request, fleet, row, values, results, now), devices=text_of(devices))
    return Assign(uid, host.uid, host.id, why, devices)


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


def _placed(uid: str, request: PlacementRequest, decision: Assign | Promise) -> Placed:
    devices = decision.devices if isinstance(decision, Assign) else ()
    return Placed(
        uid,
        request.project,
        request.template_uid,
        dict(request.labels),
        decision.host_uid,
        request.cpu_millis,
        request.memory_bytes,
        request.ports,
        request.exclusive,
        owner=request.owner,
        revision=request.revision,
        priority=request.priority,
        devices=tuple(device_key(given.kind, name) for given in devices for name in given.ids),
        is_protected=True,  # nobody is pushed out in the pass that places it
        is_promise=isinstance(decision, Promise),
    )


def same_but_for_time(one: PlacementExplanation | None, other: PlacementExplanation) -> bool:
    """Whether both explain the same; a refusal that only repeats itself is not worth a commit."""
    return one is not None and replace(one, decide_time=None) == replace(other, decide_time=None)

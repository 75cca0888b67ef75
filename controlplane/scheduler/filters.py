"""Filters: which hosts an instance can be on at all. Each is one function from request and fleet to a column, and can explain.

They run in the order of FILTERS; a host counts for the first filter that takes it out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from controlplane.scheduler.fleet import BoolColumn, Fleet
from controlplane.scheduler.request import AffinityTerm, PlacementRequest, ports_clash


@dataclass(frozen=True, slots=True)
class Filter:
    """`keeps` gives True for the hosts that may stay; `explain` says what the others lack, for the plural of hosts."""

    name: str
    keeps: Callable[[PlacementRequest, Fleet], BoolColumn]
    explain: Callable[[PlacementRequest], str]
    depends_on_members: bool = False  # changes as instances of the same group are placed


def _column(fleet: Fleet, values: Iterable[bool]) -> BoolColumn:
    return np.fromiter(values, np.bool_, len(fleet.hosts))


def _all(fleet: Fleet) -> BoolColumn:
    return np.ones(len(fleet.hosts), np.bool_)


def _link(_: PlacementRequest, fleet: Fleet) -> BoolColumn:
    return fleet.is_up


def _admin(_: PlacementRequest, fleet: Fleet) -> BoolColumn:
    return fleet.is_enabled


def _condition(_: PlacementRequest, fleet: Fleet) -> BoolColumn:
    return fleet.is_healthy


def _host(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.host:
        return _all(fleet)
    return _column(fleet, (host.id == request.host for host in fleet.hosts))


def _zone(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.zone:
        return _all(fleet)
    return _column(fleet, (host.zone == request.zone for host in fleet.hosts))


def _labels(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.host_labels:
        return _all(fleet)
    return _column(fleet, (all(h.labels.get(k) == v for k, v in request.host_labels) for h in fleet.hosts))


def _platform(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.platforms:
        return _all(fleet)
    offered = {_bare(platform) for platform in request.platforms}
    return _column(fleet, (_bare(host.facts.platform) in offered for host in fleet.hosts))


def _bare(platform: str) -> str:
    """Without the variant: linux/arm64/v8 runs wherever linux/arm64 does."""
    return "/".join(platform.split("/")[:2])


def _bridge(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.bridges:
        return _all(fleet)
    return _column(fleet, (all(bridge in host.facts.bridges for bridge in request.bridges) for host in fleet.hosts))


def _cpu(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.cpu_millis:
        return _all(fleet)
    return fleet.cpu_total - fleet.cpu_used >= request.cpu_millis


def _memory(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.memory_bytes:
        return _all(fleet)
    return fleet.memory_total - fleet.memory_used >= request.memory_bytes


def _ports(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.ports:
        return _all(fleet)
    return _column(
        fleet,
        (
            not any(
                ports_clash(wanted, taken) for wanted in request.ports for m in members.values() for taken in m.ports
            )
            for members in fleet.members
        ),
    )


def places_of(term: AffinityTerm, project: str, fleet: Fleet) -> set[str]:
    """The places (of the term's topology) that hold an instance which the term means."""
    found = set()
    for placed in fleet.all_placed():
        if placed.project == project and term.matches(placed.labels):
            row = fleet.row.get(placed.host_uid)
            if row is not None:
                found.add(fleet.topology(row, term.topology))
    return found


def _affinity(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for term in request.affinity:
        if term.is_soft:
            continue
        places = places_of(term, request.project, fleet)
        if not places and term.matches(dict(request.labels)):
            continue  # the first of a group that wants to be together may be anywhere
        kept &= _column(fleet, (fleet.topology(row, term.topology) in places for row in range(len(fleet.hosts))))
    return kept


def _anti_affinity(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for term in request.anti_affinity:
        if term.is_soft:
            continue
        places = places_of(term, request.project, fleet) - {""}
        kept &= _column(fleet, (fleet.topology(row, term.topology) not in places for row in range(len(fleet.hosts))))
    return kept


def _terms_text(terms: tuple[AffinityTerm, ...]) -> str:
    words = [
        ",".join(f"{key}={value}" for key, value in term.labels) + f" (same {term.topology})"
        for term in terms
        if not term.is_soft
    ]
    return "; ".join(words)


FILTERS: tuple[Filter, ...] = (
    Filter("link", _link, lambda r: "agent not connected"),
    Filter("admin", _admin, lambda r: "cordoned, draining or in maintenance"),
    Filter("condition", _condition, lambda r: "reports a condition, such as a full disk or an engine that is down"),
    Filter("host", _host, lambda r: f"is not hosts/{r.host}"),
    Filter("zone", _zone, lambda r: f"not in zones/{r.zone}"),
    Filter("label", _labels, lambda r: "lacks " + ", ".join(f"{k}={v}" for k, v in r.host_labels)),
    Filter("platform", _platform, lambda r: f"the image offers only {', '.join(r.platforms)}"),
    Filter("bridge", _bridge, lambda r: f"has no bridge {', '.join(r.bridges)}"),
    Filter("cpu", _cpu, lambda r: f"less than {r.cpu_millis} millicores free", depends_on_members=True),
    Filter("memory", _memory, lambda r: f"less than {r.memory_bytes} bytes of memory free", depends_on_members=True),
    Filter(
        "host-port",
        _ports,
        lambda r: "taken: " + ", ".join(f"{port}/{protocol}" for protocol, port, _ in r.ports),
        depends_on_members=True,
    ),
    Filter("affinity", _affinity, lambda r: f"no instance with {_terms_text(r.affinity)}", depends_on_members=True),
    Filter(
        "anti-affinity",
        _anti_affinity,
        lambda r: f"has an instance with {_terms_text(r.anti_affinity)}",
        depends_on_members=True,
    ),
)

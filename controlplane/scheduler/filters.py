"""Filters: which hosts an instance can be on at all. Each is one function from request and fleet to a column, and can explain.

They run in the order of FILTERS; a host counts for the first filter that takes it out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from controlplane.scheduler.fleet import Attribute, BoolColumn, Fleet, bare_platform
from controlplane.scheduler.request import AffinityTerm, PlacementRequest, ports_clash


@dataclass(frozen=True, slots=True)
class Filter:
    """`keeps` gives True for the hosts that may stay; `explain` says what the others lack, for the plural of hosts."""

    name: str
    keeps: Callable[[PlacementRequest, Fleet], BoolColumn]
    explain: Callable[[PlacementRequest], str]
    depends_on_members: bool = False  # changes as instances of the same group are placed


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
    kept: BoolColumn = np.zeros(len(fleet.hosts), np.bool_)
    row = fleet.row_by_id.get(request.host)
    if row is not None:
        kept[row] = True
    return kept


def _zone(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    return fleet.attribute("zone").equals(request.zone) if request.zone else _all(fleet)


def _labels(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for key, value in request.host_labels:
        kept &= fleet.label(key).equals(value)
    return kept


def _platform(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.platforms:
        return _all(fleet)
    platform = fleet.platform()
    offered = {bare_platform(name) for name in request.platforms}
    return platform.is_any_of(code for value, code in platform.values.items() if value in offered)


def _bridge(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for bridge in request.bridges:
        kept &= fleet.has_bridge(bridge)
    return kept


def _nic(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for nic in request.nics:
        kept &= fleet.has_nic(nic)
    for network in request.exclusive:
        for placed in fleet.on_network(network):
            kept[fleet.row[placed.host_uid]] = False
    return kept


def _cpu(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.cpu_millis:
        return _all(fleet)
    return fleet.cpu_total - fleet.cpu_used >= request.cpu_millis


def _memory(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.memory_bytes:
        return _all(fleet)
    return fleet.memory_total - fleet.memory_used >= request.memory_bytes


def _ports(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for wanted in request.ports:
        for placed in fleet.with_port(wanted[0], wanted[1]):
            if any(ports_clash(wanted, taken) for taken in placed.ports):
                kept[fleet.row[placed.host_uid]] = False
    return kept


def places_of(term: AffinityTerm, project: str, fleet: Fleet) -> BoolColumn:
    """The hosts in the same place (of the term's topology) as an instance that the term means. Without a place: never."""
    where = fleet.attribute(term.topology)
    rows = [fleet.row.get(placed.host_uid, -1) for placed in fleet.with_labels(project, term.labels)]
    codes = {int(code) for code in where.codes[[row for row in rows if row >= 0]]}
    return where.is_any_of(codes - _nowhere(where))


def _nowhere(where: Attribute) -> set[int]:
    return {where.values[value] for value in (None, "") if value in where.values}


def _affinity(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for term in request.affinity:
        if term.is_soft:
            continue
        near = places_of(term, request.project, fleet)
        if not near.any() and term.matches(dict(request.labels)):
            # The first of a group that wants to be together may be anywhere where the others can follow.
            where = fleet.attribute(term.topology)
            near = ~where.is_any_of(_nowhere(where))
        kept &= near
    return kept


def _anti_affinity(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for term in request.anti_affinity:
        if not term.is_soft:
            kept &= ~places_of(term, request.project, fleet)
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
    Filter(
        "nic",
        _nic,
        lambda r: f"has no NIC {', '.join(r.nics)}" + (", or has another instance on it" if r.exclusive else ""),
        depends_on_members=True,
    ),
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

"""Filters: which hosts an instance can be on at all. Each is one function from request and fleet to a column, and can explain.

They run in the order of FILTERS; a host counts for the first filter that takes it out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from controlplane.domain.hosts import HostAdminState, tolerates
from controlplane.scheduler import volumes
from controlplane.scheduler.devices import count_of
from controlplane.scheduler.fleet import BoolColumn, Fleet, bare_platform
from controlplane.scheduler.places import excess, has_room_for, nowhere, places_of
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


def _is_not(state: HostAdminState) -> Callable[[PlacementRequest, Fleet], BoolColumn]:
    def keeps(_: PlacementRequest, fleet: Fleet) -> BoolColumn:
        kept: BoolColumn = fleet.admin != state.value
        return kept

    return keeps


def _condition(_: PlacementRequest, fleet: Fleet) -> BoolColumn:
    return fleet.is_healthy


def _given_up(_: PlacementRequest, fleet: Fleet) -> BoolColumn:
    cleared: BoolColumn = fleet.given_up == 0
    return cleared


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


def _dedicated(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    owners = fleet.dedicated()
    project = f"projects/{request.project}"
    return owners.is_any_of(code for text, code in owners.values.items() if not text or project in text.split("\n"))


def _taint(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    taints = fleet.taints()
    return taints.is_any_of(
        code
        for text, code in taints.values.items()
        if not text or all(tolerates(request.tolerations, taint) for taint in text.split("\n"))
    )


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
    kept_for_others, _ = fleet.reservations.kept_from(request.project)
    return fleet.cpu_total - fleet.cpu_used - kept_for_others >= request.cpu_millis


def _memory(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    if not request.memory_bytes:
        return _all(fleet)
    _, kept_for_others = fleet.reservations.kept_from(request.project)
    return fleet.memory_total - fleet.memory_used - kept_for_others >= request.memory_bytes


def _device(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    return fleet.has_devices(request.devices) if request.devices else _all(fleet)


def _ports(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for wanted in request.ports:
        for placed in fleet.with_port(wanted[0], wanted[1]):
            if any(ports_clash(wanted, taken) for taken in placed.ports):
                kept[fleet.row[placed.host_uid]] = False
    return kept


def _affinity(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for term in request.affinity:
        if term.is_soft:
            continue
        near = places_of(term, request.project, fleet)
        if not near.any() and term.matches(dict(request.labels)):
            # The first of a group that wants to be together may be anywhere where the others can follow.
            where = fleet.attribute(term.topology)
            near = ~where.is_any_of(nowhere(where))
        kept &= near
    return kept


def _anti_affinity(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for term in request.anti_affinity:
        if not term.is_soft:
            kept &= ~places_of(term, request.project, fleet)
    return kept


def _distinct(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    for term in request.distinct:
        kept &= has_room_for(term, request, fleet)
    return kept


def _spread(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    kept = _all(fleet)
    strict = [term for term in request.spread if not term.soft]
    if strict:
        could = open_hosts(request, fleet)
        for term in strict:
            kept &= excess(term, request, fleet, could) <= 0
    return kept


def open_hosts(request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    """The hosts that the instance could be on if nothing were placed anywhere."""
    kept = _all(fleet)
    for filter_ in FILTERS:
        if not filter_.depends_on_members:
            kept &= filter_.keeps(request, fleet)
    return kept


def _devices_text(request: PlacementRequest) -> str:
    parts: list[str] = []
    for wanted in request.devices:
        count = count_of(wanted)
        way = f" by {wanted.driver}" if wanted.driver else ""
        if wanted.ids:
            some = f"{count} of " if count < len(wanted.ids) else ""
            parts.append(f"{some}{wanted.kind} {', '.join(wanted.ids)}{way}")
        else:
            parts.append(f"all {wanted.kind}{way} to itself" if count < 0 else f"{count} {wanted.kind}{way}")
    return " and ".join(parts)


def _spread_text(request: PlacementRequest) -> str:
    parts = [
        f"{term.max_skew or 1} above "
        + ("its share of the " if term.targets else "the emptiest of the ")
        + f"{term.topology or 'zone'}s"
        for term in request.spread
        if not term.soft
    ]
    return "has no place, or one that would be more than may be: " + "; ".join(parts)


def _distinct_text(request: PlacementRequest) -> str:
    parts: list[str] = []
    for term in request.distinct:
        who = ",".join(f"{key}={value}" for key, value in term.labels) or (
            "its group" if request.owner else "its template"
        )
        parts.append(f"{term.limit} of {who} in one {term.topology}")
    return "has no place, or one with as many as may be there: " + "; ".join(parts)


def _terms_text(terms: tuple[AffinityTerm, ...]) -> str:
    words = [
        ",".join(f"{key}={value}" for key, value in term.labels) + f" (same {term.topology})"
        for term in terms
        if not term.is_soft
    ]
    return "; ".join(words)


FILTERS: tuple[Filter, ...] = (
    Filter("link", _link, lambda r: "agent not connected"),
    Filter("admin", _is_not(HostAdminState.CORDONED), lambda r: "cordoned"),
    Filter("draining", _is_not(HostAdminState.DRAINING), lambda r: "being drained"),
    Filter("maintenance", _is_not(HostAdminState.MAINTENANCE), lambda r: "in maintenance"),
    Filter("condition", _condition, lambda r: "reports a condition, such as a full disk or an engine that is down"),
    Filter("given-up", _given_up, lambda r: "was lost, and still has to remove what was replaced elsewhere"),
    Filter("host", _host, lambda r: f"is not hosts/{r.host}"),
    Filter("zone", _zone, lambda r: f"not in zones/{r.zone}"),
    Filter("label", _labels, lambda r: "lacks " + ", ".join(f"{k}={v}" for k, v in r.host_labels)),
    Filter("dedicated", _dedicated, lambda r: f"is dedicated to other projects than projects/{r.project}"),
    Filter("taint", _taint, lambda r: "has a taint that it does not tolerate"),
    Filter("platform", _platform, lambda r: f"the image offers only {', '.join(r.platforms)}"),
    Filter("bridge", _bridge, lambda r: f"has no bridge {', '.join(r.bridges)}"),
    Filter(
        "nic",
        _nic,
        lambda r: f"has no NIC {', '.join(r.nics)}" + (", or has another instance on it" if r.exclusive else ""),
        depends_on_members=True,
    ),
    Filter("device", _device, lambda r: f"has not free: {_devices_text(r)}", depends_on_members=True),
    Filter("volume", lambda r, fleet: volumes.keeps(r.volumes, fleet), lambda r: volumes.explain(r.volumes)),
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
    Filter("distinct", _distinct, _distinct_text, depends_on_members=True),
    Filter("spread", _spread, _spread_text, depends_on_members=True),
)

"""Places: hosts, zones or values of a host label, and how many instances each has. For terms that look at other instances."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from controlplane.domain.instances import Spread
from controlplane.scheduler.fleet import Attribute, BoolColumn, Fleet, IntColumn
from controlplane.scheduler.placed import Placed, kin_of
from controlplane.scheduler.request import AffinityTerm, DistinctTerm, PlacementRequest

FloatColumn = npt.NDArray[np.float64]

_LESS_THAN = 1e-9  # a place may come near its share and the skew, not up to it


def places_of(term: AffinityTerm, project: str, fleet: Fleet) -> BoolColumn:
    """The hosts in the same place (of the term's topology) as an instance that the term means. Without a place: never."""
    where = fleet.attribute(term.topology)
    rows = [fleet.row.get(placed.host_uid, -1) for placed in fleet.with_labels(project, term.labels)]
    codes = {int(code) for code in where.codes[[row for row in rows if row >= 0]]}
    return where.is_any_of(codes - nowhere(where))


def nowhere(where: Attribute) -> set[int]:
    """The numbers that stand for no place."""
    return {where.values[value] for value in (None, "") if value in where.values}


def has_room_for(term: DistinctTerm, request: PlacementRequest, fleet: Fleet) -> BoolColumn:
    """The hosts in whose place there may be one more of those that the term counts."""
    where = fleet.attribute(term.topology)
    if term.labels:
        counted: Iterable[Placed] = fleet.with_labels(request.project, term.labels)
    else:
        counted = fleet.like(kin_of(request.owner, request.project, request.template_uid))
    counts = _count(where, (placed for placed in counted if not placed.is_leaving), fleet)
    kept: BoolColumn = (counts < term.limit)[where.codes]
    return kept & ~where.is_any_of(nowhere(where))


def excess(term: Spread, request: PlacementRequest, fleet: Fleet, open_hosts: BoolColumn) -> FloatColumn:
    """How far each host's place would be above what the spread allows, if one more came to it: above 0 is too far.

    Infinite where there is no place, and where the place's share is nothing. Only places with one of the `open_hosts` have a share,
    so that a zone that is away does not stop the others.
    """
    where = fleet.attribute(term.topology or "zone")
    alike = fleet.like(kin_of(request.owner, request.project, request.template_uid))
    counted = (p for p in alike if not p.is_leaving and (not request.owner or p.revision == request.revision))
    counts = _count(where, counted, fleet)
    is_open = np.zeros(len(where.values), np.bool_)
    is_open[where.codes[open_hosts]] = True
    is_open[list(nowhere(where))] = False
    skew = term.max_skew or 1
    over = np.full(len(where.values), np.inf)
    if is_open.any():
        if term.targets:
            shares = _shares(term, where, is_open, fleet)
            total = counts[is_open].sum() + 1
            # Shares make up the whole, so some place is always below its own: one more fits there with any skew of 1 or more.
            over[is_open] = (counts + 1 - shares * total - skew)[is_open] + _LESS_THAN
            over[shares == 0] = np.inf
        else:
            over[is_open] = (counts + 1 - counts[is_open].min() - skew)[is_open]
    column: FloatColumn = over[where.codes]
    return column


def _shares(term: Spread, where: Attribute, is_open: BoolColumn, fleet: Fleet) -> FloatColumn:
    """The share of each place, 0-1; those of places that are not open fall to the others."""
    names = {fleet.host_uid(t.place) if term.topology == "host" else t.place: t.percent for t in term.targets}
    named = {where.values[name]: percent for name, percent in names.items() if name in where.values}
    others = [code for code in np.flatnonzero(is_open) if code not in named]
    shares = np.zeros(len(where.values))
    shares[list(named)] = list(named.values())
    if others:
        shares[others] = max(0, 100 - sum(t.percent for t in term.targets)) / len(others)
    shares[~is_open] = 0
    whole = shares.sum()
    return shares / whole if whole else shares


def _count(where: Attribute, instances: Iterable[Placed], fleet: Fleet) -> IntColumn:
    """How many there are in each place."""
    rows = [row for placed in instances if (row := fleet.row.get(placed.host_uid)) is not None]
    return np.bincount(where.codes[rows], minlength=len(where.values)).astype(np.int64)

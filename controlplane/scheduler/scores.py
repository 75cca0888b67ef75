"""Scores: which of the hosts that fit is best. Higher is better; equal scores go to the first host in order of name."""

import numpy as np
import numpy.typing as npt

from controlplane.scheduler.filters import open_hosts
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.places import excess, places_of
from controlplane.scheduler.request import PlacementRequest

FloatColumn = npt.NDArray[np.float64]

_TEMPLATE_WEIGHT = 1.0  # an instance of the same template on the host
_INSTANCE_WEIGHT = 0.1  # any instance
_LOAD_WEIGHT = 1.0  # the host's fullest resource, 0-1
_WISH_WEIGHT = 10.0  # a soft affinity goes before balance
_FAILED_WEIGHT = 50.0  # those before it failed there: before any wish
_SPREAD_WEIGHT = 100.0  # each place that has less above its share: a soft spread goes before all else
_IMAGE_WEIGHT = 0.3  # the image is there: worth three instances, and less than one of the same template


def load(fleet: Fleet) -> FloatColumn:
    """How full each host's fullest resource is, 0-1 (more when it is overcommitted)."""
    cpu = fleet.cpu_used / np.maximum(fleet.cpu_total, 1)
    memory = fleet.memory_used / np.maximum(fleet.memory_total, 1)
    return np.maximum(cpu, memory)


def score(request: PlacementRequest, fleet: Fleet) -> FloatColumn:
    """Every host's score for the request."""
    busy = _LOAD_WEIGHT * load(fleet) + _INSTANCE_WEIGHT * fleet.instances
    if request.packs:
        scores: FloatColumn = busy
    else:
        same = fleet.count_of_template(request.project, request.template_uid)
        scores = -busy - _TEMPLATE_WEIGHT * same
    for terms, sign in ((request.affinity, 1.0), (request.anti_affinity, -1.0)):
        for term in terms:
            if term.is_soft:
                near = places_of(term, request.project, fleet)
                scores = scores + sign * _WISH_WEIGHT * near.astype(np.float64)
    soft = [term for term in request.spread if term.soft]
    if soft:
        could = open_hosts(request, fleet)
        for spread in soft:
            over = excess(spread, request, fleet, could)
            _, rank = np.unique(over, return_inverse=True)  # those without a place come last
            scores = scores - _SPREAD_WEIGHT * rank
    failed = [row for uid in request.avoid_hosts if (row := fleet.row.get(uid)) is not None]
    if failed:
        scores = scores.copy()
        scores[failed] -= _FAILED_WEIGHT
    holders = fleet.has_image(request.image) if request.image else []
    if holders:
        scores = scores.copy()
        scores[holders] += _IMAGE_WEIGHT
    return scores


def explain(fleet: Fleet, row: int) -> str:
    """What the host carries, in words."""
    return (
        f"{int(fleet.instances[row])} instances, cpu {int(fleet.cpu_used[row])}/{int(fleet.cpu_total[row])} m, "
        f"memory {int(fleet.memory_used[row]) >> 20}/{int(fleet.memory_total[row]) >> 20} MiB"
    )

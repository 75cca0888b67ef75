"""How a balancer stands, worked out from records when somebody looks. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import ROUTER
from controlplane.domain.routers import Balancer, RouterObserved
from controlplane.routers.balancer_bundles import OutsideAndInside, endpoints
from controlplane.routers.bundle import main_members, outside_and_inside
from controlplane.routers.scene import RouterScene, read
from controlplane.routers.status import lost_hosts, running_members
from moorage.store.base import View


@dataclass(frozen=True, slots=True)
class BalancerStatus:
    """What is seen of a balancer; mirrors moorage.v1.BalancerStatus."""

    active: bool = False
    message: str = ""
    endpoints: tuple[str, ...] = ()


def balancer_status(
    view: View, balancer: Balancer, revision: int, expired: tuple[str, datetime] | None
) -> BalancerStatus:
    """How a balancer stands.

    Args:
        revision: of the commit that wrote it; 0: it was only checked.
        expired: which certificate ended, as its field, and when; None: none.
    """
    found = view.get(ROUTER, f"{balancer.project}/{balancer.router}")
    if found is None:
        return BalancerStatus()
    scene = read(view, found.value)
    members = main_members(scene)
    places = endpoints(balancer, outside_and_inside(scene, members[0]) if members else OutsideAndInside())
    running = running_members(scene.router, scene.members, lost_hosts(view, scene.members))
    message = _why_not(scene, running, revision, places)
    is_active = revision > 0 and not message
    if not message:
        message = _without_members(scene, balancer)
    if not message and expired is not None:
        message = f"the certificate {expired[0]} ended at {expired[1]:%Y-%m-%d %H:%M} UTC"
    return BalancerStatus(is_active, message, places)


def _without_members(scene: RouterScene, balancer: Balancer) -> str:
    """Pools that nobody stands behind now: clients are told so."""
    empty = [
        f"pool {pool.id}: no member of {' or '.join(backend.group for backend in pool.backends)} is ready"
        for pool in balancer.spec.pools
        if pool.backends and all(b.group and not scene.members_of(b.group) for b in pool.backends)
    ]
    return "; ".join(empty)


def _why_not(scene: RouterScene, running: Sequence[Instance], revision: int, places: tuple[str, ...]) -> str:
    seen = {observed.instance_uid: observed for observed in scene.router.observed}
    if not running:
        return "the router does not run"
    for member in running:
        observed = seen.get(member.uid, RouterObserved(member.uid))
        if observed.failed_version >= revision > observed.running_version:
            return f"{member.name} could not load it: {observed.error}"
        if observed.running_version < revision:
            return f"{member.name} is still at version {observed.running_version}, and this came with {revision}"
    if not places:
        return "the router's containers do not have its addresses yet"
    return ""

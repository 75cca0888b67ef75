"""Which routers lead clients to an instance: by its own name, or as a member of its group. Pure."""

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import BALANCER, ROUTER
from controlplane.domain.routers import Balancer, Router
from moorage.store.base import View


def routers_naming(view: View, instance: Instance) -> list[Router]:
    """Routers of its networks with a balancer that has it behind it, in order of name."""
    found: dict[str, Router] = {}
    for network_uid in {nic.network_uid for nic in instance.nics}:
        for router in view.find(ROUTER, "network", network_uid):
            balancers = view.find(BALANCER, "router", router.value.uid)
            if any(_names(balancer.value, instance) for balancer in balancers):
                found[router.value.uid] = router.value
    return sorted(found.values(), key=lambda router: router.id)


def _names(balancer: Balancer, instance: Instance) -> bool:
    return any(
        backend.instance == instance.name or (backend.group and backend.group == instance.owner)
        for pool in balancer.spec.pools
        for backend in pool.backends
    )

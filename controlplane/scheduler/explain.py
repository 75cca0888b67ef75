"""The scheduler's answer without a commit: for dry runs, and for instances that must fit where they are."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import HOST, INSTANCE, NETWORK
from controlplane.domain.networks import NetworkKind
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, plan
from controlplane.scheduler.request import Wiring, request_of
from moorage.store.base import View


def wiring_of(view: View, instance: Instance) -> Wiring:
    """What the instance's shared networks need of its host."""
    found = [network.value for nic in instance.nics for network in view.find(NETWORK, "uid", nic.network_uid)]
    shared = [network for network in found if network.spec.kind is NetworkKind.SHARED]
    return Wiring(
        tuple(sorted({network.spec.bridge for network in shared if network.spec.bridge})),
        tuple(sorted({network.spec.parent for network in shared if network.spec.parent})),
        tuple(sorted({network.uid for network in shared if network.spec.is_exclusive})),
    )


def explain(view: View, instances: Sequence[Instance], now: datetime) -> list[Instance]:
    """The instances with the placement that they would get now."""
    fleet = Fleet((h.value for h in view.all(HOST)), (i.value for i in view.all(INSTANCE)))
    decisions = plan([(i.uid, request_of(i, wiring_of(view, i))) for i in instances], fleet, now)
    return [
        replace(instance, placement=decision.why, host=decision.host if isinstance(decision, Assign) else "")
        for instance, decision in zip(instances, decisions, strict=True)
    ]


def refusal_on(host: Host, others: Sequence[Instance], instance: Instance, view: View) -> str:
    """Why `instance` would not fit on `host` beside `others`; empty when it does.

    The host's link and admin state do not matter to an instance that is already there.
    """
    fleet = Fleet((host,), others)
    fleet.is_up[:] = fleet.is_enabled[:] = fleet.is_healthy[:] = True
    request = replace(request_of(instance, wiring_of(view, instance)), affinity=(), anti_affinity=())
    (decision,) = plan([(instance.uid, request)], fleet, instance.create_time)
    return "" if isinstance(decision, Assign) else decision.why.summary

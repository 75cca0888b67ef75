"""The scheduler's answer without a commit: for dry runs, and for instances that must fit where they are."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from controlplane.domain.containers import DeviceRequest
from controlplane.domain.hosts import Host, HostAdminState
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import GROUP, HOST, INSTANCE, NETWORK
from controlplane.domain.networks import NetworkKind
from controlplane.scheduler.budgets import spare_members
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, plan
from controlplane.scheduler.request import Wiring, request_of
from controlplane.scheduler.volumes import needs_of
from moorage.store.base import View


def wiring_of(view: View, instance: Instance) -> Wiring:
    """What the instance's shared networks and volumes need of its host."""
    found = [network.value for nic in instance.nics for network in view.find(NETWORK, "uid", nic.network_uid)]
    shared = [network for network in found if network.spec.kind is NetworkKind.SHARED]
    return Wiring(
        tuple(sorted({network.spec.bridge for network in shared if network.spec.bridge})),
        tuple(sorted({network.spec.parent for network in shared if network.spec.parent})),
        tuple(sorted({network.uid for network in shared if network.spec.is_exclusive})),
        needs_of(view, instance.volume_uids),
    )


def explain(view: View, instances: Sequence[Instance], now: datetime) -> list[Instance]:
    """The instances with the placement that they would get now."""
    fleet = Fleet((h.value for h in view.all(HOST)), (i.value for i in view.all(INSTANCE)))
    decisions = plan([(i.uid, request_of(i, wiring_of(view, i))) for i in instances], fleet, now, budgets(view))
    return [
        replace(instance, placement=decision.why, host=decision.host if isinstance(decision, Assign) else "")
        for instance, decision in zip(instances, decisions, strict=True)
    ]


def with_devices(instance: Instance, devices: tuple[DeviceRequest, ...]) -> Instance:
    """The instance with the devices that it was given on its host; its host is told of these."""
    return replace(instance, effective=replace(instance.effective, device_requests=devices))


def fit_on(
    host: Host, others: Sequence[Instance], before: Instance, after: Instance, view: View
) -> tuple[str, Instance]:
    """Whether `after` fits on `host` beside `others`, where it was `before`: (why not, or empty; the instance with its devices).

    What keeps new ones away does not matter to one that is there already, nor does a lack of what it has already. The devices that it
    has stay its own while its container stays, and a new container gets the same ones where that can be.
    """
    settings = replace(host.settings, dedicated_to=(), taints=())
    fleet = Fleet((replace(host, settings=settings),), others)
    fleet.is_up[:] = fleet.is_healthy[:] = True
    fleet.admin[:] = HostAdminState.ENABLED.value
    request = request_of(after, wiring_of(view, after))
    had, wants = before.effective.resources, after.effective.resources
    request = replace(
        request,
        affinity=(),
        anti_affinity=(),
        spread=(),
        distinct=(),
        preempts=False,
        cpu_millis=wants.cpu_millis if wants.cpu_millis > had.cpu_millis else 0,
        memory_bytes=wants.memory_bytes if wants.memory_bytes > had.memory_bytes else 0,
    )
    is_same_container = after.container_generation == before.container_generation
    if is_same_container:
        request = replace(request, devices=())  # it has them, whatever else has changed
    elif before.spec.device_requests == after.spec.device_requests:
        kept = before.effective.device_requests
        if fleet.devices_for(0, kept) is not None:
            request = replace(request, devices=kept)
    (decision,) = plan([(after.uid, request)], fleet, after.create_time)
    if not isinstance(decision, Assign):
        return decision.why.summary, after
    return "", after if is_same_container else with_devices(after, decision.devices)


def budgets(view: View) -> dict[str, int]:
    """How many of its members each group can do without now."""
    return {
        found.value.name: spare_members(found.value, (i.value for i in view.find(INSTANCE, "owner", found.value.name)))
        for found in view.all(GROUP)
    }

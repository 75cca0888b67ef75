"""Gathers what is looked at when it is decided about a host that is being emptied. Reads only."""

from controlplane.domain.groups import GroupMode
from controlplane.domain.hosts import Host, HostAdminState, HostLinkState
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.kinds import HOST, INSTANCE, ROUTER, VOLUME
from controlplane.domain.routers import is_router
from controlplane.drain.plan import Carried
from controlplane.services.group_slots import group_of
from moorage.store.base import View


def read(view: View, host: Host) -> list[Carried]:
    """Every instance of the host."""
    found = (found.value for found in view.find(INSTANCE, "host", host.uid))
    nowhere = "" if any(_is_open(other.value) for other in view.all(HOST)) else "no other host takes instances now"
    return [Carried(one, why_must_stay(view, one, host), nowhere or _trouble(view, one)) for one in found]


def why_must_stay(view: View, instance: Instance, host: Host) -> str:
    """Why another one could not take its place on another host; empty: it could."""
    for uid in instance.volume_uids:
        for volume in view.find(VOLUME, "uid", uid):
            if volume.value.host_uid == host.uid:
                return f"the files of {volume.value.name} are on this host"
    group = group_of(view, instance.owner)
    is_of_host = group is not None and group.spec.mode is GroupMode.PER_HOST
    if is_router(instance):
        router = view.get(ROUTER, f"{instance.project}/{instance.owner.rpartition('/')[2]}")
        if router is not None and router.value.spec.placement.host == host.name:
            return f"{instance.owner} asks for this host"
    if group is not None and not is_of_host and group.spec.instance.placement.host == host.name:
        return f"{group.name} asks for this host"
    return ""


def _is_open(host: Host) -> bool:
    return host.admin_state is HostAdminState.ENABLED and host.link_state is HostLinkState.UP


def _trouble(view: View, instance: Instance) -> str:
    """What its successor waits for."""
    if not instance.evict or instance.slot < 0:
        return ""
    for found in view.find(INSTANCE, "owner", instance.owner):
        other = found.value
        if other.slot == instance.slot and not other.host_uid and other.desired is not DesiredState.DELETED:
            return f"{other.name} has no host: {other.observed.message}"
    return ""

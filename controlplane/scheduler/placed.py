"""One instance as the rest of the fleet cares about it: what it takes of its host, who its like are, and whether it may be sent away."""

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.domain.claims import may_be_given_up
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.jobs import is_over
from controlplane.domain.routers import is_router
from controlplane.scheduler.request import device_key, port_key

#: (owner) or (project, template): instances with equal ones are each other's like.
Kin = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """One placed instance, or one that has a place kept for it."""

    uid: str
    project: str
    template_uid: str
    labels: Mapping[str, str]
    host_uid: str
    cpu_millis: int
    memory_bytes: int
    ports: tuple[tuple[str, int, str], ...]
    networks: tuple[str, ...] = ()  # uids
    name: str = ""
    owner: str = ""
    revision: int = 0
    priority: int = 0
    devices: tuple[tuple[str, str], ...] = ()  # (kind, first name)
    is_leaving: bool = False  # takes what it takes until its host says that it is gone
    is_given_up: bool = False  # counts as lost, and its host has not removed it yet
    is_protected: bool = False  # nobody may push it out
    is_promise: bool = False  # does not run here yet

    @property
    def kin(self) -> Kin:
        """Whose like it is."""
        return kin_of(self.owner, self.project, self.template_uid)


def kin_of(owner: str, project: str, template_uid: str) -> Kin:
    """Members of a group are each other's like; without an owner, the project's instances of one template."""
    return (owner,) if owner else (project, template_uid)


def placed_of(instance: Instance) -> Placed | None:
    """What the instance takes of its host, or of the one that is kept for it; None when it takes nothing."""
    host_uid = instance.host_uid or instance.promised_uid
    if not host_uid or is_over(instance):
        return None
    resources = instance.effective.resources
    ports = tuple(port_key(port) for port in instance.effective.published_ports)
    is_promise = not instance.host_uid
    return Placed(
        instance.uid,
        instance.project,
        instance.template_uid,
        instance.labels,
        host_uid,
        resources.cpu_millis,
        resources.memory_bytes,
        ports,
        tuple(dict.fromkeys(nic.network_uid for nic in instance.nics)),
        instance.name,
        instance.owner,
        instance.revision,
        instance.effective.placement.priority,
        # A promise names no devices yet: those that it waits for are still somebody's.
        () if is_promise else tuple(device_key(r.kind, i) for r in instance.effective.device_requests for i in r.ids),
        is_leaving=instance.desired is DesiredState.DELETED
        or instance.leave_time is not None
        or bool(instance.given_up),
        is_given_up=bool(instance.given_up),
        is_protected=is_promise or is_router(instance) or not may_be_given_up(instance),
        is_promise=is_promise,
    )

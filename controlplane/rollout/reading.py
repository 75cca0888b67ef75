"""Gathers what is looked at when it is decided about a group. Reads only."""

from dataclasses import replace
from datetime import datetime

from controlplane.domain.claims import blocks_successor
from controlplane.domain.failing import failed_starts, failing, has_ended
from controlplane.domain.groups import Group, GroupMode
from controlplane.domain.hosts import Host, HostAdminState, HostLinkState, lets_in
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec
from controlplane.domain.kinds import GROUP_REVISION, GROUP_SLOT, HOST, INSTANCE
from controlplane.domain.readiness import is_ready, is_started
from controlplane.order.reading import what_comes_first, who_stops_first
from controlplane.rollout.world import Member, Refusal, Seat, World
from moorage.store.base import View

#: How long a member must have been ready to be available, when nothing but its process says that it is.
MIN_READY_WITHOUT_CHECK_SECONDS = 2.0


def read(view: View, group: Group, now: datetime, refusal: Refusal | None = None) -> World:
    """The group's world. `refusal`: why members could not be made, if so."""
    revisions = {found.value.number: found.value for found in view.find(GROUP_REVISION, "group", group.uid)}
    target = revisions.get(group.target_revision)
    return World(
        group,
        now,
        {number: revision.failure for number, revision in revisions.items()},
        _members(view, group),
        {found.value.slot: found.value for found in view.find(GROUP_SLOT, "group", group.uid)},
        _seats(view, group) if group.spec.mode is GroupMode.PER_HOST else (),
        refusal,
        target is None
        or (target.instance, target.instance_labels) == (group.spec.instance, group.spec.instance_labels),
        what_comes_first(view, group.spec.depends_on, is_update=group.stable_revision > 0),
        who_stops_first(view, group) if group.is_deleting or not group.spec.replicas else "",
    )


def _members(view: View, group: Group) -> tuple[Member, ...]:
    instances = [found.value for found in view.find(INSTANCE, "owner", group.name)]
    hosts = {uid: view.find(HOST, "uid", uid) for uid in {instance.host_uid for instance in instances} if uid}
    away = {uid for uid, found in hosts.items() if not found or found[0].value.link_state is not HostLinkState.UP}
    return tuple(member_of(instance, group, is_away=instance.host_uid in away) for instance in instances)


def member_of(instance: Instance, group: Group, *, is_away: bool = False) -> Member:
    """An instance as a member. `is_away`: its host cannot be reached just now."""
    placement = instance.placement
    return Member(
        uid=instance.uid,
        id=instance.id,
        slot=instance.slot,
        revision=instance.revision,
        create_time=instance.create_time,
        host=instance.host,
        host_uid=instance.host_uid,
        pinned_host=instance.spec.placement.host.removeprefix("hosts/")
        if group.spec.mode is GroupMode.PER_HOST
        else "",
        is_away=is_away,
        is_started=is_started(instance),
        ready_time=instance.ready_time if is_ready(instance) else None,
        min_ready_seconds=group.spec.rollout.min_ready_seconds or _min_ready_seconds(instance),
        is_leaving=instance.leave_time is not None or instance.desired is DesiredState.DELETED,
        is_removed=instance.desired is DesiredState.DELETED,
        given_up=instance.given_up,
        is_in_the_way=bool(instance.given_up) and blocks_successor(instance),
        failed=_why_failed(instance),
        evict=instance.evict,
        failed_starts=failed_starts(instance),
        trouble=f"hosts/{instance.host} is not connected" if is_away else _trouble(instance),
        refused_by=placement.filters if placement is not None and not instance.host_uid else (),
    )


def _min_ready_seconds(instance: Instance) -> float:
    effective, observed = instance.effective, instance.observed
    has_probe = effective.probes.readiness is not None or effective.probes.startup is not None
    has_check = effective.health_check is not None or observed.health or has_probe
    return 0.0 if has_check else MIN_READY_WITHOUT_CHECK_SECONDS


def _why_failed(instance: Instance) -> str:
    """Why it will not run where it is, though it shall; empty: it may still."""
    found = failing(instance)
    if found is not None:
        return f"{found.reason}: {found.why}"
    if has_ended(instance):
        return f"its process ended with exit code {instance.observed.exit_code}, and its restart policy starts no other"
    return ""


def _trouble(instance: Instance) -> str:
    observed = instance.observed
    if observed.health == "unhealthy":
        return "its health check fails"
    if is_started(instance) and not is_ready(instance):
        return observed.probe or "it is not ready yet"
    if observed.reason or observed.message:
        return f"{observed.reason}: {observed.message}".strip(": ")
    return ""


def _seats(view: View, group: Group) -> tuple[Seat, ...]:
    revision = view.get(GROUP_REVISION, f"{group.uid}/{group.target_revision:012d}")
    spec = revision.value.instance if revision is not None else group.spec.instance
    hosts = (found.value for found in view.all(HOST))
    return tuple(Seat(host.id, _takes_new(host, group.project, spec)) for host in hosts if _fits(host, spec))


def _fits(host: Host, spec: InstanceSpec) -> bool:
    placement = spec.placement
    is_meant = not placement.host or placement.host == host.name
    is_near = not placement.zone or placement.zone == f"zones/{host.zone}"
    return is_meant and is_near and all(host.labels.get(key) == value for key, value in placement.host_labels.items())


def _takes_new(host: Host, project: str, spec: InstanceSpec) -> bool:
    is_open = host.admin_state is HostAdminState.ENABLED and host.link_state is HostLinkState.UP
    return is_open and lets_in(host.settings, project, spec.placement.tolerations)


def spec_of_member(group: Group, spec: InstanceSpec, slot: int, host: str) -> InstanceSpec:
    """What a member of a slot asks for: the revision's words, its own host name, and the host that it is for."""
    placement = replace(spec.placement, host=f"hosts/{host}") if host else spec.placement
    return replace(spec, hostname=spec.hostname or f"{group.id}-{slot}", placement=placement)

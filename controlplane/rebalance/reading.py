"""Gathers what is looked at when it is decided about moves, and asks the scheduler where members would go. Reads only."""

from collections import Counter
from dataclasses import replace
from datetime import datetime

from controlplane.domain.budget import budget_of
from controlplane.domain.groups import Group, GroupMode, GroupState, RolloutOrder
from controlplane.domain.hosts import Host, HostAdminState, HostLinkState, capacity_of
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import GROUP, HOST, INSTANCE
from controlplane.domain.readiness import takes_traffic
from controlplane.rebalance.plan import WHY, Candidate, Load, Move, RebalanceTerms, after, choose, worth_asking
from controlplane.scheduler.explain import wiring_of
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, plan
from controlplane.scheduler.request import request_of
from controlplane.services.group_slots import group_of
from moorage.store.base import View


def propose(view: View, terms: RebalanceTerms, now: datetime, most: int) -> list[Move]:
    """Up to so many moves, each as if those before it were done. At most one of each group."""
    loads = _loads(view)
    candidates = _candidates(view)
    moves: list[Move] = []
    fleet: Fleet | None = None
    while len(moves) < most:
        asked = worth_asking(loads, candidates, terms)
        if not asked:
            break
        if fleet is None:
            fleet = Fleet((h.value for h in view.all(HOST)), (i.value for i in view.all(INSTANCE)))
        targets = {one.instance_uid: _target(view, fleet, one, now) for one in asked}
        move = choose(loads, asked, targets, terms)
        if move is None:
            break
        moves.append(move)
        moved = next(one for one in asked if one.instance_uid == move.instance_uid)
        to_uid = targets[moved.instance_uid]
        placed = fleet.placed(moved.instance_uid)
        if placed is not None:
            fleet.place(replace(placed, host_uid=to_uid))
        loads, candidates = after(loads, candidates, moved, to_uid)
    return moves


def under_way(view: View) -> list[Instance]:
    """Those that are being moved: they are there until their successors are ready."""
    owners = [found.value.name for found in view.all(GROUP)]
    members = (found.value for owner in owners for found in view.find(INSTANCE, "owner", owner))
    return [member for member in members if member.evict.startswith(WHY)]


def is_stuck(view: View, moved: Instance) -> bool:
    """Whether its successor finds no host, against what the scheduler said before."""
    others = (found.value for found in view.find(INSTANCE, "owner", moved.owner))
    return any(one.slot == moved.slot and not one.host_uid and one.observed.reason == "UNPLACEABLE" for one in others)


def may_move(view: View, instance_uid: str, from_host: str) -> bool:
    """Whether it still is a candidate, on the newest state."""
    found = view.find(INSTANCE, "uid", instance_uid)
    if not found or f"hosts/{found[0].value.host}" != from_host:
        return False
    group = group_of(view, found[0].value.owner)
    return group is not None and is_calm(view, group)


def is_calm(view: View, group: Group) -> bool:
    """Whether members of a group may be moved for balance: all is well with it, and its successors come first."""
    if group.spec.mode is not GroupMode.REPLICATED or group.is_deleting or group.is_paused:
        return False
    if group.state is not GroupState.STABLE or group.target_revision != group.stable_revision:
        return False
    if budget_of(group.spec, group.spec.replicas).order is not RolloutOrder.START_FIRST:
        return False
    members = [found.value for found in view.find(INSTANCE, "owner", group.name)]
    return all(takes_traffic(member) and not member.evict for member in members)


def _is_open(host: Host) -> bool:
    is_up = host.link_state is HostLinkState.UP and host.loss is None
    return is_up and host.admin_state is HostAdminState.ENABLED and not host.conditions


def _loads(view: View) -> dict[str, Load]:
    found: dict[str, Load] = {}
    for item in view.all(HOST):
        host: Host = item.value
        if not _is_open(host):
            continue
        wants = [one.value.effective.resources for one in view.find(INSTANCE, "host", host.uid)]
        cpu, memory = sum(w.cpu_millis for w in wants), sum(w.memory_bytes for w in wants)
        found[host.uid] = Load(host.uid, host.id, *capacity_of(host), cpu, memory)
    return found


def _candidates(view: View) -> list[Candidate]:
    found: list[Candidate] = []
    for item in view.all(GROUP):
        group: Group = item.value
        if not is_calm(view, group):
            continue
        members: list[Instance] = [one.value for one in view.find(INSTANCE, "owner", group.name)]
        alike = Counter(member.host_uid for member in members)
        for member in members:
            wants = member.effective.resources
            size = wants.cpu_millis, wants.memory_bytes
            found.append(Candidate(member.uid, member.name, group.name, member.host_uid, *size, alike))
    return found


def _target(view: View, fleet: Fleet, candidate: Candidate, now: datetime) -> str:
    """Uid of the host where its successor would go now, beside it; empty: nowhere."""
    instance: Instance = view.find(INSTANCE, "uid", candidate.instance_uid)[0].value
    successor = replace(instance, uid=f"{instance.uid}+", avoid_hosts=(instance.host_uid,))
    request = replace(request_of(successor, wiring_of(view, successor)), preempts=False)
    (decision,) = plan([(successor.uid, request)], fleet, now)
    return decision.host_uid if isinstance(decision, Assign) else ""

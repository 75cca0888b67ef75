"""Groups over a store: what the loop commits."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from controlplane.access.quota import Quota
from controlplane.domain.groups import (
    Group,
    GroupRevision,
    GroupSpec,
    GroupState,
    RolloutOrder,
    RolloutPolicy,
    SlotPolicy,
)
from controlplane.domain.hosts import HostLinkState
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec, InstanceState, Nic, Observed
from controlplane.domain.kinds import EVENT, GROUP, GROUP_REVISION, GROUP_SLOT, INSTANCE, PROJECT
from controlplane.domain.readiness import with_ready_time
from controlplane.rollout.loop import Rollout
from controlplane.services import lookup
from controlplane.services.instance_claims import release
from controlplane.services.undelete import UndeleteService
from controlplane.undelete.loop import Purge
from moorage.errors import NotReady
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World


class Groups:
    """A group `web`, its loop, and hosts that do what tests say."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked_tails: list[str] = []
        self.rollout = Rollout(world.context, world.making, self._tail)

    async def _tail(self, instance: Instance) -> Sequence[str]:
        self.asked_tails.append(instance.id)
        return ["listening", "Traceback: no such table"]

    async def make(self, replicas: int = 3, spec: InstanceSpec | None = None, **fields: Any) -> None:
        instance = spec or InstanceSpec(template="web")
        now = self.world.clock.now()
        group = Group("g1", P, "web", now, GroupSpec(replicas=replicas, instance=instance, **fields))
        revision = GroupRevision("g1", 1, now, instance, {"app": "web"})

        def write(tx: Transaction) -> None:
            tx.put(GROUP, group)
            tx.put(GROUP_REVISION, revision)

        await self.world.store.update(write)

    async def change(self, **fields: Any) -> None:
        await self.world.store.update(lambda tx: tx.put(GROUP, replace(self.group(), **fields)))

    async def update(self, number: int, spec: InstanceSpec) -> None:
        now = self.world.clock.now()
        await self.world.store.update(lambda tx: tx.put(GROUP_REVISION, GroupRevision("g1", number, now, spec)))
        await self.change(
            spec=replace(self.group().spec, instance=spec, instance_labels={}),
            target_revision=number,
            progress_time=None,
        )

    def group(self) -> Group:
        found = self.world.store.view().get(GROUP, f"{P}/web")
        assert found is not None
        return found.value

    def members(self) -> list[Instance]:
        found = self.world.store.view().find(INSTANCE, "owner", f"projects/{P}/groups/web")
        return sorted((f.value for f in found), key=lambda i: (i.slot, i.id))

    async def observe(self, instance: Instance, observed: Observed) -> None:
        def write(tx: Transaction) -> None:
            found = tx.find(INSTANCE, "uid", instance.uid)[0].value
            changed = replace(found, host="h1", host_uid="uid-h1", observed=observed)
            tx.put(INSTANCE, with_ready_time(found, changed, self.world.clock.now()))

        await self.world.store.update(write)

    async def hosts_work(self) -> None:
        """What is new runs, what is to go is gone, and time passes."""
        for member in self.members():
            if member.desired is DesiredState.DELETED:
                await self.world.store.update(lambda tx, m=member: release(tx, m, self.world.clock.now()))  # type: ignore[misc]
            elif member.observed.state is InstanceState.PENDING:
                await self.observe(member, Observed(InstanceState.RUNNING, run=1, start_time=self.world.clock.now()))
        self.world.clock.advance(3.0)

    async def converge(self) -> None:
        for _ in range(60):
            revision = self.world.store.view().revision
            await self.rollout.reconcile_once()
            await self.hosts_work()
            if self.world.store.view().revision == revision:
                return
        raise AssertionError("it does not come to rest")


@pytest.fixture
def groups(world: World) -> Groups:
    return Groups(world)


async def test_members_have_slots_names_and_labels(groups: Groups) -> None:
    await groups.make(3)
    await groups.converge()
    members = groups.members()
    assert [m.slot for m in members] == [0, 1, 2]
    assert all(m.id.startswith(f"web-{m.slot}-") for m in members)
    assert {m.effective.hostname for m in members} == {"web-0", "web-1", "web-2"}
    assert {(m.revision, m.owner, m.labels["app"]) for m in members} == {(1, f"projects/{P}/groups/web", "web")}
    assert groups.group().state is GroupState.STABLE
    assert groups.group().stable_revision == 1
    assert "ROLLED_OUT" in groups.world.reasons()
    groups.world.audit()


async def test_scaled_and_deleted(groups: Groups) -> None:
    await groups.make(3)
    await groups.converge()
    await groups.change(spec=replace(groups.group().spec, replicas=1))
    await groups.converge()
    assert [m.slot for m in groups.members()] == [0]
    await groups.change(is_deleting=True)
    await groups.converge()
    view = groups.world.store.view()
    assert not view.count(GROUP) + view.count(GROUP_REVISION) + view.count(INSTANCE)
    groups.world.audit()


async def test_deleted_and_kept_its_slots_wait_for_it_to_come_back(groups: Groups) -> None:
    world = groups.world
    await world.projects.update(P, undelete_window_seconds=3600.0)
    await groups.make(2, slots=SlotPolicy(sticky_address=True))
    await groups.converge()
    before = [nic.addresses for member in groups.members() for nic in member.nics]
    await world.groups.delete(P, "web")
    await groups.converge()
    assert groups.members() == []
    assert (groups.group().state, groups.group().reason) == (GroupState.DELETING, "KEPT")
    world.audit()
    await UndeleteService(world.context).group(P, "web")
    await groups.converge()
    assert [nic.addresses for member in groups.members() for nic in member.nics] == before
    assert groups.group().state is GroupState.STABLE
    await world.groups.delete(P, "web")
    await groups.converge()
    world.clock.advance(3600.0)
    await Purge(world.context, world.making).reconcile_once()
    await groups.converge()
    assert not world.store.view().count(GROUP) + world.store.view().count(GROUP_SLOT)
    world.audit()


async def test_updated_one_by_one(groups: Groups) -> None:
    await groups.make(2)
    await groups.converge()
    await groups.update(2, InstanceSpec(template="web", env={"V": "2"}))
    await groups.converge()
    assert [(m.slot, m.revision, m.effective.env["V"]) for m in groups.members()] == [(0, 2, "2"), (1, 2, "2")]
    assert groups.group().stable_revision == 2


async def test_a_failing_update_goes_back_and_says_why(groups: Groups) -> None:
    await groups.make(2, rollout=RolloutPolicy(failure_limit=1))
    await groups.converge()
    await groups.update(2, InstanceSpec(template="web", env={"V": "2"}))
    await groups.rollout.reconcile_once()
    await groups.rollout.reconcile_once()
    (bad,) = [m for m in groups.members() if m.revision == 2]
    await groups.observe(bad, Observed(InstanceState.FAILED, "CRASH_LOOP", "exit code 1", run=4))
    await groups.converge()
    assert [m.revision for m in groups.members()] == [1, 1]
    assert groups.asked_tails == [bad.id]
    group = groups.group()
    assert (group.state, group.reason, group.target_revision) == (GroupState.STABLE, "ROLLED_BACK", 1)
    assert bad.id in group.message
    assert "exit code 1" in group.message
    assert "no such table" in group.message
    revision = groups.world.store.view().get(GROUP_REVISION, f"g1/{2:012d}")
    assert revision is not None
    assert revision.value.failure == group.message


async def test_what_failed_is_remembered_for_the_successor(groups: Groups) -> None:
    await groups.make(1)
    await groups.converge()
    (old,) = groups.members()
    await groups.observe(old, Observed(InstanceState.FAILED, "CRASH_LOOP", "exit code 1", run=4))
    await groups.rollout.reconcile_once()
    (new,) = [m for m in groups.members() if m.desired is DesiredState.RUNNING]
    assert new.avoid_hosts == ("uid-h1",)
    (slot,) = [found.value for found in groups.world.store.view().all(GROUP_SLOT)]
    assert (slot.failures, slot.failure) == (1, "CRASH_LOOP: exit code 1")
    await groups.converge()
    groups.world.clock.advance(300.0)
    await groups.converge()
    assert not groups.world.store.view().count(GROUP_SLOT)


async def test_what_cannot_be_made_is_said_and_tried_again(groups: Groups) -> None:
    world = groups.world

    async def allow(instances: int) -> None:
        def write(tx: Transaction) -> None:
            found = tx.get(PROJECT, P)
            assert found is not None
            tx.put(PROJECT, replace(found.value, quota=Quota(instances=instances)))

        await world.store.update(write)

    await allow(2)
    await groups.make(3)
    await groups.rollout.reconcile_once()
    await groups.rollout.reconcile_once()
    assert len(groups.members()) == 2  # as many as there is room for
    assert groups.group().reason == "QUOTA_EXCEEDED"
    revision = world.store.view().revision
    await groups.rollout.reconcile_once()
    assert world.store.view().revision == revision
    await allow(3)
    world.clock.advance(1.0)
    await groups.converge()
    assert len(groups.members()) == 3
    assert (groups.group().state, groups.group().reason) == (GroupState.STABLE, "")
    world.audit()


async def test_a_refusal_is_over_when_nothing_is_to_be_made_any_more(groups: Groups) -> None:
    world = groups.world
    record = lookup.project(world.store.view(), P)
    await world.store.update(lambda tx: tx.put(PROJECT, replace(record, quota=Quota(instances=1))))
    await groups.make(2)
    await groups.converge()
    assert (len(groups.members()), groups.group().reason) == (1, "QUOTA_EXCEEDED")
    await groups.change(spec=replace(groups.group().spec, replicas=1))
    world.clock.advance(60.0)
    await groups.converge()
    assert (groups.group().state, groups.group().reason, groups.group().message) == (GroupState.STABLE, "", "")


async def test_it_wakes_up_by_changes_and_by_time(groups: Groups) -> None:
    tasks = [asyncio.create_task(groups.rollout.run()), asyncio.create_task(groups.rollout.keep_time())]
    try:
        await groups.make(1)
        await groups.world.clock.settle()
        (member,) = groups.members()
        await groups.observe(member, Observed(InstanceState.RUNNING, run=1, start_time=groups.world.clock.now()))
        await groups.world.clock.settle()
        assert groups.group().state is GroupState.ROLLING  # it has not been ready for long enough
        await groups.world.clock.run_for(3.0)
        assert groups.group().state is GroupState.STABLE
        (member,) = groups.members()
        await groups.world.store.update(lambda tx: groups.world.making.ask_removal(tx, member, "somebody asked"))
        await groups.world.clock.settle()
        assert len(groups.members()) == 2
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_events_name_what_happened(groups: Groups) -> None:
    await groups.make(1)
    await groups.converge()
    made = [e.value for e in groups.world.store.view().all(EVENT) if e.value.reason == "CREATED"]
    assert [e.message for e in made] == ["the slot is empty; revision 1"]


async def test_sticky_slots_keep_name_and_addresses(groups: Groups) -> None:
    world = groups.world
    await world.network("back", "10.1.0.0/24")
    await groups.make(2, InstanceSpec(template="web", nics=(Nic("back"),)), slots=SlotPolicy(True, True))
    await groups.converge()
    before = {m.id: (m.nics[0].addresses, m.nics[0].mac) for m in groups.members()}
    assert sorted(before) == ["web-0", "web-1"]
    await groups.update(2, InstanceSpec(template="web", nics=(Nic("back"),), env={"V": "2"}))
    await groups.rollout.reconcile_once()
    await groups.rollout.reconcile_once()
    (going,) = [m for m in groups.members() if m.desired is DesiredState.DELETED]
    await groups.world.store.update(lambda tx: release(tx, going, groups.world.clock.now()))
    world.audit()
    (slot,) = [found.value for found in world.store.view().all(GROUP_SLOT)]
    assert slot.nics[0].addresses == before[going.id][0]
    stranger = await world.create("stranger", Nic("back"))  # does not get it
    assert stranger.nics[0].addresses not in [addresses for addresses, _ in before.values()]
    with pytest.raises(NotReady, match="kept for 1 slots"):
        await world.networks.delete(P, "back")
    await groups.converge()
    assert {m.id: (m.nics[0].addresses, m.nics[0].mac) for m in groups.members()} == before
    assert [m.revision for m in groups.members()] == [2, 2]
    world.audit()
    await groups.change(spec=replace(groups.group().spec, replicas=1))
    await groups.converge()
    assert not world.store.view().count(GROUP_SLOT)
    world.audit()
    await groups.change(is_deleting=True)
    await groups.converge()
    world.audit()


async def test_a_host_that_cannot_be_reached_holds_an_update_back(groups: Groups) -> None:
    world = groups.world
    await groups.make(2, rollout=RolloutPolicy(RolloutOrder.STOP_FIRST))
    await groups.converge()
    task = asyncio.create_task(groups.rollout.run())
    try:
        await world.clock.settle()
        await world.reports.set_link("uid-h1", HostLinkState.DISCONNECTED, "cut")
        await groups.update(2, InstanceSpec(template="web", env={"V": "2"}))
        await world.clock.settle(50)
        assert all(m.desired is DesiredState.RUNNING for m in groups.members())
        await world.reports.set_link("uid-h1", HostLinkState.UP, "healed")
        await world.clock.settle(50)
        assert [m.desired for m in groups.members()].count(DesiredState.DELETED) == 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

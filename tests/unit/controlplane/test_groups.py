"""Groups: what may be asked for, and what becomes of it. How members follow is in tests/unit/rollout."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.domain.containers import PublishedPort, Resources
from controlplane.domain.groups import (
    Group,
    GroupMode,
    GroupState,
    RolloutOrder,
    RolloutPolicy,
    SlotPolicy,
)
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec, InstanceState, Nic, Placement
from controlplane.domain.kinds import EVENT, GROUP, GROUP_REVISION, NETWORK
from controlplane.domain.volumes import VolumeMount, VolumeSharing, VolumeSpec
from controlplane.services.group_changes import GroupChange
from controlplane.services.instance_making import Membership, NewInstance
from controlplane.services.paging import PageRequest
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, NotReady, QuotaExceeded, VersionConflict
from moorage.store.base import View
from tests.unit.controlplane.world import P, World, problems

START_FIRST = RolloutPolicy(RolloutOrder.START_FIRST)
PORT = PublishedPort(8080, 80)


async def update(world: World, **fields: Any) -> Group:
    """`instance__command=...` is a field of the instance."""
    change = GroupChange(fields={name.replace("__", "."): value for name, value in fields.items()})
    return await world.group_changes.update(P, "web", change, author="somebody")


def revisions(world: World) -> list[int]:
    return [item.value.number for item in world.groups.revisions(P, "web", PageRequest()).items]


async def settle(world: World, revision: int) -> None:
    """What the rollout would write when it has ended well."""
    group = world.groups.get(P, "web")
    done = replace(group, target_revision=revision, stable_revision=revision, state=GroupState.STABLE)
    await world.store.update(lambda tx: tx.put(GROUP, done))


async def fail(world: World, revision: int, back_to: int) -> None:
    """What the rollout would write when it has failed."""
    group = world.groups.get(P, "web")
    (failed,) = [
        item.value for item in world.groups.revisions(P, "web", PageRequest()).items if item.value.number == revision
    ]

    def write(tx: Any) -> None:
        tx.put(GROUP_REVISION, replace(failed, failure="web-0 does not come up"))
        tx.put(GROUP, replace(group, target_revision=back_to))

    await world.store.update(write)


async def test_a_group_is_kept_with_full_names_and_a_revision(world: World) -> None:
    made = await world.group("web", instance_labels={"app": "web"})
    assert (made.name, made.spec.mode) == (f"projects/{P}/groups/web", GroupMode.REPLICATED)
    assert made.spec.instance.template == f"projects/{P}/templates/web"
    assert (made.target_revision, made.stable_revision) == (1, 0)
    (revision,) = [item.value for item in world.groups.revisions(P, "web", PageRequest()).items]
    assert (revision.number, revision.instance, revision.author) == (1, made.spec.instance, "somebody")
    assert world.groups.get(P, "web") == made
    assert world.reasons() == ["CREATED"]
    world.audit()


async def test_creates_are_remembered_and_names_unique(world: World) -> None:
    spec = (await world.group("other")).spec
    first = await world.groups.create(P, "web", {}, spec, request_key="r", body=b"x")
    assert await world.groups.create(P, "web", {}, spec, request_key="r", body=b"x") == first
    with pytest.raises(AlreadyExists):
        await world.group("web")
    with pytest.raises(NotFound):
        await world.groups.create("nobodys", "web", {}, spec)
    dry = await world.groups.create(P, "dry", {}, spec, validate_only=True)
    assert dry.id == "dry"
    with pytest.raises(NotFound):
        world.groups.get(P, "dry")


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"replicas": -1}, "replicas", "OUT_OF_RANGE"),
        ({"replicas": 10_001}, "replicas", "OUT_OF_RANGE"),
        ({"mode": GroupMode.PER_HOST}, "replicas", "NOT_ALLOWED"),
        ({"instance": InstanceSpec("")}, "instance.template", "REQUIRED"),
        ({"instance": InstanceSpec("web", workdir="x")}, "instance.workdir", "INVALID_PATH"),
        ({"instance_labels": {"moorage.x": ""}}, "instance_labels[moorage.x]", "LABEL_RESERVED"),
        ({"rollout": RolloutPolicy(max_surge="few")}, "rollout.max_surge", "AMOUNT_INVALID"),
        ({"rollout": RolloutPolicy(max_surge="-1")}, "rollout.max_surge", "AMOUNT_INVALID"),
        ({"rollout": RolloutPolicy(max_surge="\u0661")}, "rollout.max_surge", "AMOUNT_INVALID"),
        ({"rollout": RolloutPolicy(max_surge="1\n")}, "rollout.max_surge", "AMOUNT_INVALID"),
        ({"rollout": RolloutPolicy(max_unavailable="101%")}, "rollout.max_unavailable", "AMOUNT_INVALID"),
        ({"rollout": RolloutPolicy(max_surge="0", max_unavailable="0%")}, "rollout.max_unavailable", "OUT_OF_RANGE"),
        ({"rollout": RolloutPolicy(RolloutOrder.STOP_FIRST, "1")}, "rollout.max_surge", "NOT_ALLOWED"),
        ({"rollout": RolloutPolicy(RolloutOrder.START_FIRST, "0")}, "rollout.max_surge", "OUT_OF_RANGE"),
        (
            {"rollout": RolloutPolicy(max_surge="1"), "slots": SlotPolicy(sticky_name=True)},
            "rollout.max_surge",
            "NOT_ALLOWED",
        ),
        ({"rollout": RolloutPolicy(min_ready_seconds=-1)}, "rollout.min_ready", "OUT_OF_RANGE"),
        ({"rollout": RolloutPolicy(progress_deadline_seconds=90_000)}, "rollout.progress_deadline", "OUT_OF_RANGE"),
        (
            {"rollout": RolloutPolicy(min_ready_seconds=9, progress_deadline_seconds=9)},
            "rollout.progress_deadline",
            "OUT_OF_RANGE",
        ),
        ({"rollout": RolloutPolicy(canaries=4)}, "rollout.canaries", "OUT_OF_RANGE"),
        ({"rollout": RolloutPolicy(failure_limit=-1)}, "rollout.failure_limit", "OUT_OF_RANGE"),
        ({"kept_revisions": 101}, "kept_revisions", "OUT_OF_RANGE"),
        ({"rollout": START_FIRST, "slots": SlotPolicy(sticky_name=True)}, "rollout.order", "START_FIRST_IMPOSSIBLE"),
        ({"rollout": START_FIRST, "slots": SlotPolicy(sticky_address=True)}, "rollout.order", "START_FIRST_IMPOSSIBLE"),
        (
            {
                "rollout": START_FIRST,
                "instance": InstanceSpec("web", published_ports=(PORT,), placement=Placement("hosts/a")),
            },
            "rollout.order",
            "START_FIRST_IMPOSSIBLE",
        ),
        (
            {
                "rollout": START_FIRST,
                "mode": GroupMode.PER_HOST,
                "replicas": 0,
                "instance": InstanceSpec("web", published_ports=(PORT,)),
            },
            "rollout.order",
            "START_FIRST_IMPOSSIBLE",
        ),
        (
            {
                "rollout": START_FIRST,
                "replicas": 1,
                "instance": InstanceSpec("web", nics=(Nic("n", addresses=("10.0.0.9",)),)),
            },
            "rollout.order",
            "START_FIRST_IMPOSSIBLE",
        ),
        (
            {"instance": InstanceSpec("web", nics=(Nic("n", addresses=("10.0.0.9",)),))},
            "instance.nics[0].addresses",
            "NOT_ALLOWED",
        ),
    ],
)
async def test_bad_fields(world: World, fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        await world.group("web", **fields)
    assert problems(refused.value) == [(f"group.spec.{field}", reason)]
    assert not list(world.store.view().all(GROUP))
    assert not list(world.store.view().all(GROUP_REVISION))


async def test_every_bad_field_at_once(world: World) -> None:
    with pytest.raises(InvalidSpec) as refused:
        await world.group("Web", -1, instance=InstanceSpec(), rollout=RolloutPolicy(max_surge="x", canaries=-1))
    assert [reason for _, reason in problems(refused.value)] == [
        *("NAME_INVALID", "OUT_OF_RANGE", "REQUIRED", "AMOUNT_INVALID", "OUT_OF_RANGE")
    ]
    with pytest.raises(InvalidSpec, match="at most 50"):
        await world.group("w" * 51)
    await world.group("w" * 50)


async def test_what_can_never_run_is_refused_at_once(world: World) -> None:
    with pytest.raises(NotFound):
        await world.group("web", instance=InstanceSpec("nobody"))
    with pytest.raises(NotFound):
        await world.group("web", instance=InstanceSpec("web", nics=(Nic("nowhere"),)))
    with pytest.raises(InvalidSpec) as refused:
        await world.group("web", instance=InstanceSpec("web", privileged=True))
    assert problems(refused.value) == [("group.spec.instance.privileged", "POLICY_PRIVILEGED")]
    await world.projects.update(P, policy=ProjectPolicy(allow_privileged=True))
    await world.group("web", instance=InstanceSpec("web", privileged=True))


async def test_quota_is_asked_for_all_members_and_charged_for_none(world: World) -> None:
    await world.projects.update(P, quota=Quota(cpu_millis=1000))
    spec = InstanceSpec("web", resources=Resources(cpu_millis=250))
    with pytest.raises(QuotaExceeded):
        await world.group("web", 5, instance=spec)
    assert not list(world.store.view().all(NETWORK)), "nothing of it is kept"
    await world.group("web", 4, instance=spec)
    assert world.projects.get(P).usage.cpu_millis == 0
    with pytest.raises(QuotaExceeded):
        await world.group_changes.scale(P, "web", 5)
    with pytest.raises(QuotaExceeded):
        await update(world, instance__resources=Resources(cpu_millis=500))
    await world.projects.update(P, quota=Quota(cpu_millis=100))
    await world.group_changes.scale(P, "web", 2)
    world.audit()


async def test_scaling_makes_no_revision(world: World) -> None:
    made = await world.group("web")
    scaled = await world.group_changes.scale(P, "web", 5, etag=f"{made.uid}-1")
    assert (scaled.spec.replicas, scaled.generation, scaled.target_revision) == (5, 2, 1)
    assert await world.group_changes.scale(P, "web", 5) == scaled, "nothing to do"
    with pytest.raises(VersionConflict):
        await world.group_changes.scale(P, "web", 1, etag=f"{made.uid}-1")
    with pytest.raises(InvalidSpec) as refused:
        await world.group_changes.scale(P, "web", -1)
    assert problems(refused.value) == [("replicas", "OUT_OF_RANGE")]
    assert (await world.group_changes.scale(P, "web", 0, validate_only=True)).spec.replicas == 0
    assert world.groups.get(P, "web") == scaled
    assert revisions(world) == [1]
    assert world.reasons() == ["CREATED", "SCALE"]
    await world.group("each", 0, mode=GroupMode.PER_HOST)
    with pytest.raises(InvalidSpec) as refused:
        await world.group_changes.scale(P, "each", 1)
    assert problems(refused.value) == [("replicas", "NOT_ALLOWED")]


async def test_another_spec_of_members_makes_a_revision(world: World) -> None:
    await world.group("web", rollout=RolloutPolicy(canaries=1))
    await settle(world, 1)
    changed = await update(world, instance__command=("a",))
    assert (changed.target_revision, changed.stable_revision, changed.state) == (2, 1, GroupState.ROLLING)
    assert not changed.is_promoted
    assert changed.spec.instance.command == ("a",)
    assert await update(world, instance__command=("a",)) == changed, "the same again"
    assert await update(world, instance__template="web") == changed, "the same by another name"
    labelled = await update(world, instance_labels={"a": "b"})
    assert labelled.target_revision == 3
    policy = await update(world, rollout__max_surge="2")
    assert (policy.target_revision, policy.spec.rollout.canaries) == (3, 1)
    assert revisions(world) == [1, 2, 3]
    assert world.reasons() == ["CREATED", "UPDATE", "UPDATE"]


async def test_the_way_back_to_what_runs_is_no_new_revision(world: World) -> None:
    await world.group("web")
    await settle(world, 1)
    await update(world, instance__command=("a",))
    back = await update(world, instance__command=())
    assert (back.target_revision, back.is_promoted, revisions(world)) == (1, True, [1, 2])


async def test_what_failed_is_tried_again_only_when_somebody_asks_anew(world: World) -> None:
    await world.group("web")
    await settle(world, 1)
    await update(world, instance__command=("bad",))
    await fail(world, 2, back_to=1)
    same = await update(world, instance__command=("bad",))
    assert (same.target_revision, same.spec.instance.command) == (1, ("bad",)), (
        "the user's words stay, and are not tried"
    )
    assert (await update(world, instance__command=())).target_revision == 1
    again = await update(world, instance__command=("bad",))
    assert (again.target_revision, revisions(world)) == (2, [1, 2])
    assert not world.groups.revisions(P, "web", PageRequest()).items[1].value.failure
    await fail(world, 2, back_to=1)
    followed = await world.group_changes.rollback(P, "web")
    assert (followed.target_revision, followed.spec.instance.command) == (1, ()), "the spec follows what runs"
    asked = await world.group_changes.rollback(P, "web", 2)
    assert asked.target_revision == 2
    assert not world.groups.revisions(P, "web", PageRequest()).items[1].value.failure


async def test_rollback(world: World) -> None:
    made = await world.group("web")
    with pytest.raises(NotReady) as refused:
        await world.group_changes.rollback(P, "web")
    assert refused.value.reason == "NO_STABLE_REVISION"
    await settle(world, 1)
    await update(world, instance__command=("a",))
    back = await world.group_changes.rollback(P, "web")
    assert (back.target_revision, back.spec.instance, back.is_promoted) == (1, made.spec.instance, True)
    await update(world, instance__command=("a",))
    await settle(world, 2)
    assert (await world.group_changes.rollback(P, "web", validate_only=True)).target_revision == 1
    assert (await world.group_changes.rollback(P, "web")).target_revision == 1, "the one before the stable one"
    with pytest.raises(NotReady) as refused:
        await world.group_changes.rollback(P, "web", 7)
    assert refused.value.reason == "REVISION_UNKNOWN"
    assert "1, 2" in refused.value.message
    assert world.reasons().count("ROLLBACK") == 2


async def test_revisions_are_kept_as_many_as_asked_for(world: World) -> None:
    await world.group("web", kept_revisions=3)
    await settle(world, 1)
    for number in range(2, 8):
        await update(world, instance__command=(str(number),))
    assert revisions(world) == [1, 5, 6, 7], "the stable one stays"
    await update(world, kept_revisions=2)
    assert revisions(world) == [1, 6, 7]


async def test_pause_resume_promote(world: World) -> None:
    await world.group("web", rollout=RolloutPolicy(canaries=1))
    await settle(world, 1)
    with pytest.raises(NotReady) as refused:
        await world.group_changes.promote(P, "web")
    assert refused.value.reason == "NO_CANARY"
    await update(world, instance__command=("a",))
    promoted = await world.group_changes.promote(P, "web")
    assert promoted.is_promoted
    assert await world.group_changes.promote(P, "web") == promoted
    paused = await world.group_changes.pause(P, "web")
    assert paused.is_paused
    assert await world.group_changes.pause(P, "web") == paused
    assert (await update(world, instance__command=("b",))).state is GroupState.PAUSED
    resumed = await world.group_changes.resume(P, "web")
    assert (resumed.is_paused, resumed.state, resumed.target_revision) == (False, GroupState.ROLLING, 3)
    assert await world.group_changes.resume(P, "web") == resumed
    await fail(world, 3, back_to=3)
    again = await world.group_changes.resume(P, "web")
    assert again.state is GroupState.ROLLING
    assert not world.groups.revisions(P, "web", PageRequest()).items[2].value.failure


async def test_what_cannot_be_changed(world: World) -> None:
    await world.group("web")
    with pytest.raises(InvalidSpec) as refused:
        await update(world, mode=GroupMode.PER_HOST, replicas=0, slots=SlotPolicy(sticky_name=True))
    assert problems(refused.value) == [("group.spec.mode", "IMMUTABLE"), ("group.spec.slots", "IMMUTABLE")]
    assert (await update(world, mode=GroupMode.UNSPECIFIED)).generation == 1, "the default is what it is"


async def test_deleting(world: World) -> None:
    made = await world.group("web")
    with pytest.raises(VersionConflict):
        await world.groups.delete(P, "web", etag=f"{made.uid}-9")
    await world.groups.delete(P, "web")
    await world.groups.delete(P, "web")
    gone = world.groups.get(P, "web")
    assert (gone.is_deleting, gone.state) == (True, GroupState.DELETING)
    for call in (
        world.group_changes.pause,
        world.group_changes.resume,
        world.group_changes.promote,
        world.group_changes.rollback,
    ):
        with pytest.raises(NotReady) as refused:
            await call(P, "web")
        assert refused.value.reason == "GROUP_DELETING"
    assert world.reasons() == ["CREATED", "DELETING"]


async def test_listing(world: World) -> None:
    await world.group("web")
    await world.group("db", 1)
    names = [item.value.id for item in world.groups.list(P, PageRequest()).items]
    assert names == ["db", "web"]
    await world.groups.delete(P, "db")
    found = world.groups.list(P, PageRequest(filter="state=DELETING")).items
    assert [item.value.id for item in found] == ["db"]
    of_template = world.groups.list("-", PageRequest(filter=f"template=projects/{P}/templates/web"), frozenset({P}))
    assert len(of_template.items) == 2
    assert not world.groups.list("-", PageRequest(), frozenset()).items


async def member(world: World) -> Instance:
    """What the rollout makes for slot 0."""
    group = world.groups.get(P, "web")
    new = NewInstance("web-0", group.spec.instance_labels, group.spec.instance)
    membership = Membership(group.name, 0, group.target_revision)
    (made,) = await world.store.update(lambda tx: world.making.admit_all(tx, P, [new], membership, "of a test"))
    return made


async def test_what_users_may_do_with_a_member(world: World) -> None:
    await world.group("web")
    await world.host("a")
    await member(world)
    placed = await world.place("web-0", "a")
    await world.report(placed, InstanceState.RUNNING)
    assert (await world.instances.reboot(P, "web-0")).run_request == 2
    await world.instances.start(P, "web-0")
    for call in (
        world.instances.stop(P, "web-0"),
        world.instances.pause(P, "web-0"),
        world.changes.update(P, "web-0", labels={"a": "b"}),
        world.changes.replace(P, "web-0"),
    ):
        with pytest.raises(NotReady, match="change the group") as refused:
            await call
        assert refused.value.reason == "INSTANCE_OWNED"
    listed = world.instances.list(P, PageRequest(filter=f"group=projects/{P}/groups/web")).items
    assert [item.value.id for item in listed] == ["web-0"]
    assert not world.instances.list(P, PageRequest(filter=f"group=projects/{P}/groups/db")).items
    await world.instances.delete(P, ["web-0"])
    assert world.get("web-0").desired is DesiredState.DELETED
    told = [e.value for e in world.store.view().all(EVENT) if e.value.reason == "DELETING"]
    assert [event.message for event in told] == [f"asked for; projects/{P}/groups/web makes another"]
    world.audit()


async def test_what_a_group_needs_cannot_be_deleted(world: World) -> None:
    await world.network("back", "10.9.0.0/24")
    await world.security_group("some")
    await world.volumes.create(P, "files", {}, VolumeSpec(sharing=VolumeSharing.SHARED))
    nic = Nic("back", security_groups=("some",))
    spec = InstanceSpec("web", nics=(nic,), volumes=(VolumeMount("files", "/files"),))
    await world.group("web", 0, instance=spec)
    for call, reason in (
        (world.templates.delete(P, "web"), "TEMPLATE_IN_USE"),
        (world.networks.delete(P, "back"), "NETWORK_IN_USE"),
        (world.security_groups.delete(P, "some"), "SECURITY_GROUP_IN_USE"),
        (world.volumes.delete(P, "files"), "VOLUME_IN_USE"),
        (world.projects.delete(P), "PROJECT_IN_USE"),
    ):
        with pytest.raises(NotReady, match="group") as refused:
            await call
        assert refused.value.reason == reason
    await settle(world, 1)
    await update(world, instance=InstanceSpec("web", no_network=True))
    with pytest.raises(NotReady):
        await world.networks.delete(P, "back")
    await settle(world, 2)
    await world.networks.delete(P, "back")
    await world.security_groups.delete(P, "some")
    with pytest.raises(NotFound):
        await world.group_changes.rollback(P, "web", 1)


async def test_a_preview_keeps_nothing(world: World) -> None:
    made = await world.group("web")
    await settle(world, 1)
    before = world.groups.get(P, "web")

    def look(view: View, group: Group) -> list[int]:
        assert group.name == made.name
        return [found.value.number for found in view.find(GROUP_REVISION, "group", group.uid)]

    change = GroupChange(fields={"instance.command": ("a",)})
    ahead, numbers = await world.group_changes.preview(P, "web", look, change=change)
    assert (ahead.target_revision, numbers) == (2, [1, 2])
    same, numbers = await world.group_changes.preview(P, "web", look)
    assert (same, numbers) == (before, [1])
    await update(world, instance__command=("a",))
    await settle(world, 2)
    back, _ = await world.group_changes.preview(P, "web", look, revision=0)
    assert back.target_revision == 1
    with pytest.raises(InvalidSpec):
        await world.group_changes.preview(P, "web", look, change=change, revision=1)
    assert world.groups.get(P, "web").target_revision == 2

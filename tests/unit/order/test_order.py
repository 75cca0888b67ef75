"""Groups and jobs that depend on each other, over a store: when they begin, are updated and stop."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from controlplane.domain.groups import Dependency, DependencyCondition, GroupState
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec, InstanceState, Observed
from controlplane.domain.jobs import JobSpec, JobState
from controlplane.domain.kinds import GROUP, INSTANCE, JOB
from controlplane.domain.readiness import with_ready_time
from controlplane.jobs.loop import Jobs
from controlplane.rollout.loop import Rollout
from controlplane.services.group_changes import GroupChange
from controlplane.services.instance_claims import release
from moorage.errors import InvalidSpec, NotFound, NotReady
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World

WEB = InstanceSpec(template="web")


async def _no_lines(instance: Instance) -> Sequence[str]:
    return ()


@dataclass
class Ordered:
    """Both loops, and hosts on which all goes well unless an instance is among `stuck` by its owner's last name."""

    world: World
    stuck: set[str] = field(default_factory=set)
    starts: list[str] = field(default_factory=list)  # owners, in the order in which their instances were made
    stops: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rollout = Rollout(self.world.context, self.world.making, _no_lines)
        self.jobs = Jobs(self.world.context, self.world.making)

    async def turn(self, count: int = 30) -> None:
        for _ in range(count):
            await self.rollout.reconcile_once()
            await self.jobs.reconcile_once()
            await self._hosts_work()
            self.world.clock.advance(3)

    async def _hosts_work(self) -> None:
        for found in list(self.world.store.view().all(INSTANCE)):
            instance = found.value
            owner = instance.owner.rpartition("/")[2]
            if owner not in self.starts:
                self.starts.append(owner)
            if instance.desired is DesiredState.DELETED:
                if owner not in self.stops:
                    self.stops.append(owner)
                await self.world.store.update(lambda tx, i=instance: release(tx, i, self.world.clock.now()))  # type: ignore[misc]
            elif instance.observed.state is InstanceState.PENDING and owner not in self.stuck:
                await self.world.store.update(lambda tx, i=instance: self._run(tx, i))  # type: ignore[misc]

    def _run(self, tx: Transaction, instance: Instance) -> None:
        now = self.world.clock.now()
        seen = Observed(InstanceState.RUNNING, run=1, start_time=now)
        if "/jobs/" in instance.owner:
            seen = Observed(InstanceState.STOPPED, run=1, exit_code=0)
        changed = replace(instance, host="h1", host_uid="uid-h1", observed=seen)
        tx.put(INSTANCE, with_ready_time(instance, changed, now))

    def state(self, group_id: str) -> GroupState:
        return self.world.groups.get(P, group_id).state


@pytest.fixture
def ordered(world: World) -> Ordered:
    return Ordered(world)


async def three(ordered: Ordered) -> None:
    """db, then the job migrate, then web."""
    world = ordered.world
    await world.group("db", 2)
    await world.jobs.create(P, "migrate", {}, JobSpec(instance=WEB, depends_on=(Dependency("db"),)))
    await world.group("web", 2, depends_on=(Dependency("jobs/migrate"),))


async def test_one_after_the_other(ordered: Ordered) -> None:
    await three(ordered)
    ordered.stuck = {"db"}
    await ordered.turn()
    assert ordered.state("web") is GroupState.WAITING
    web = ordered.world.groups.get(P, "web")
    assert web.reason == "WAITS_FOR_OTHERS"
    assert web.message == "waits for projects/demo/jobs/migrate to end"
    migrate = ordered.world.jobs.get(P, "migrate")
    assert migrate.message == "waits for projects/demo/groups/db: 0 of 2 ready"
    ordered.stuck = set()
    await ordered.turn()
    assert ordered.starts == ["db", "migrate", "web"]
    assert ordered.state("web") is GroupState.STABLE
    assert ordered.world.jobs.get(P, "migrate").state is JobState.SUCCEEDED


async def test_what_runs_goes_on_and_is_filled_when_what_it_depends_on_has_trouble(ordered: Ordered) -> None:
    await three(ordered)
    await ordered.turn()
    for name in ("db", "web"):
        (first, *_) = ordered.world.store.view().find(INSTANCE, "owner", f"projects/{P}/groups/{name}")
        await ordered.world.store.update(lambda tx, f=first: release(tx, f.value, ordered.world.clock.now()))  # type: ignore[misc]
    ordered.stuck = {"db"}
    await ordered.turn()
    assert ordered.state("db") is GroupState.DEGRADED
    assert ordered.state("web") is GroupState.STABLE


async def test_updates_wait_for_the_updates_before(ordered: Ordered) -> None:
    await three(ordered)
    await ordered.turn()
    changed = InstanceSpec(template="web", env={"V": "2"})
    ordered.stuck = {"db"}
    for name in ("web", "db"):
        await ordered.world.group_changes.update(P, name, GroupChange(fields={"instance": changed}))
    await ordered.turn(10)
    assert ordered.state("web") is GroupState.WAITING
    web = ordered.world.store.view().find(INSTANCE, "owner", f"projects/{P}/groups/web")
    assert {member.value.revision for member in web} == {1}
    ordered.stuck = set()
    await ordered.turn()
    assert ordered.world.groups.get(P, "web").stable_revision == 2


async def test_they_stop_in_the_other_direction(ordered: Ordered) -> None:
    await three(ordered)
    await ordered.turn()
    with pytest.raises(NotReady) as refused:
        await ordered.world.groups.delete(P, "db")
    assert refused.value.reason == "DEPENDED_ON"
    with pytest.raises(NotReady):
        await ordered.world.jobs.delete(P, "migrate")
    await ordered.world.groups.delete(P, "db", with_dependents=True)
    await ordered.turn()
    assert ordered.stops.index("web") < ordered.stops.index("db")
    assert not ordered.world.store.view().count(GROUP) + ordered.world.store.view().count(JOB)


async def test_down_to_none_in_order(ordered: Ordered) -> None:
    await three(ordered)
    await ordered.turn()
    for name in ("db", "web"):
        await ordered.world.group_changes.scale(P, name, 0)
    await ordered.turn()
    assert ordered.stops == ["web", "db"]


async def test_bad_dependencies(ordered: Ordered) -> None:
    world = ordered.world
    await three(ordered)
    with pytest.raises(NotFound):
        await world.group("x", depends_on=(Dependency("nobody"),))
    bad = (
        Dependency("projects/other/groups/db"),
        Dependency("db"),
        Dependency("groups/db"),
        Dependency("db", DependencyCondition.COMPLETED),
        Dependency("jobs/migrate", DependencyCondition.HEALTHY),
    )
    with pytest.raises(InvalidSpec) as refused:
        await world.group("x", depends_on=bad)
    assert [violation.field for violation in refused.value.violations] == [
        "group.spec.depends_on[0].target",
        "group.spec.depends_on[2].target",
        "group.spec.depends_on[3].target",
        "group.spec.depends_on[3].condition",
        "group.spec.depends_on[4].condition",
    ]
    with pytest.raises(InvalidSpec) as circle:
        await world.group_changes.update(P, "db", GroupChange(fields={"depends_on": (Dependency("web"),)}))
    assert circle.value.reason == "DEPENDENCY_CYCLE"
    assert "groups/db -> projects/demo/groups/web -> " in str(circle.value)

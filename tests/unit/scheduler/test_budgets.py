"""How many members a group can do without, for whoever wants their places."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from controlplane.domain.groups import Group, GroupMode, GroupSpec, RolloutPolicy
from controlplane.domain.instances import DesiredState, Instance, InstanceState, Observed
from controlplane.scheduler.budgets import spare_members
from tests.unit.scheduler.values import NOW, instance

_OWNER = "projects/p/groups/g"


def group(replicas: int, unavailable: str, mode: GroupMode = GroupMode.REPLICATED) -> Group:
    spec = GroupSpec(mode, replicas, rollout=RolloutPolicy(max_unavailable=unavailable))
    return Group("uid-g", "p", "g", NOW, spec)


def ready(count: int) -> list[Instance]:
    running = Observed(InstanceState.RUNNING)
    return [instance(f"m{n}", on="a", owner=_OWNER, observed=running) for n in range(count)]


@pytest.mark.parametrize(
    ("replicas", "unavailable", "members", "spare"),
    [
        (4, "", 4, 1),
        (4, "0", 4, 0),
        (4, "50%", 4, 2),
        (5, "25%", 5, 1),
        (3, "25%", 3, 0),
        (4, "2", 3, 1),
        (4, "2", 1, 0),
        (4, "1", 5, 1),
    ],
)
def test_what_may_be_missing_less_what_is_missing(replicas: int, unavailable: str, members: int, spare: int) -> None:
    assert spare_members(group(replicas, unavailable), ready(members)) == spare


def test_who_does_not_serve_is_missing() -> None:
    for change in (
        {"observed": Observed(InstanceState.PREPARING)},
        {"desired": DesiredState.DELETED},
        {"leave_time": datetime(2030, 1, 1, tzinfo=UTC)},
        {"given_up": "its host is lost"},
    ):
        first, *others = ready(3)
        members = [replace(first, **change), *others]  # type: ignore[arg-type]
        assert spare_members(group(3, "1"), members) == 0


def test_one_a_host_is_as_many_as_there_are() -> None:
    assert spare_members(group(0, "34%", GroupMode.PER_HOST), ready(3)) == 1

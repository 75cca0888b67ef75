"""What comes before what."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.groups import Dependency, DependencyCondition
from controlplane.domain.jobs import JobState
from controlplane.order.plan import Dependent, GroupPoint, JobPoint, cycle_with, goes_after, waits_for

DB, MIGRATE = "projects/p/groups/db", "projects/p/jobs/migrate"
STARTED = DependencyCondition.STARTED


def group(wanted: int = 2, started: int = 2, ready: int = 2, **fields: bool) -> GroupPoint:
    return GroupPoint(DB, wanted, started, ready, fields.pop("is_rolling", False), **fields)


@pytest.mark.parametrize(
    ("point", "condition", "words"),
    [
        (group(), None, ""),
        (group(ready=1), None, "1 of 2 ready"),
        (group(ready=0), STARTED, ""),
        (group(started=0, ready=0), STARTED, "0 of 2 started"),
        (group(wanted=0), None, "has no members"),
        (group(is_rolling=True), None, ""),
        (group(is_deleting=True), None, "being deleted"),
        (JobPoint(MIGRATE, JobState.SUCCEEDED), None, ""),
        (JobPoint(MIGRATE, JobState.RUNNING), None, "to end"),
        (JobPoint(MIGRATE, JobState.RUNNING), STARTED, ""),
        (JobPoint(MIGRATE, JobState.FAILED, "no table"), None, "failed: no table"),
    ],
)
def test_start(point: GroupPoint | JobPoint, condition: DependencyCondition | None, words: str) -> None:
    dependency = Dependency(point.name, condition or DependencyCondition.UNSPECIFIED)
    said = waits_for([dependency], {point.name: point}, is_update=False)
    assert words in said
    assert bool(said) == bool(words)


def test_what_does_not_exist_and_what_is_updated_itself() -> None:
    assert "does not exist" in waits_for([Dependency(DB)], {}, is_update=False)
    rolling = {DB: group(is_rolling=True)}
    assert "being updated" in waits_for([Dependency(DB)], rolling, is_update=True)


def test_stop() -> None:
    dependents = [Dependent("b", True, 2), Dependent("a", True, 1), Dependent("c", True, 0), Dependent("d", False, 3)]
    assert goes_after(dependents) == "stops after a, b"
    assert goes_after(dependents[2:]) == ""


names = st.sampled_from("abcdef")
graphs = st.dictionaries(names, st.lists(names, max_size=3), max_size=6)


@given(graphs, names)
def test_a_circle_is_one(edges: dict[str, list[str]], start: str) -> None:
    way = cycle_with(start, edges)
    reached: set[str] = set()
    todo = list(edges.get(start, ()))
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += edges.get(name, ())
    assert bool(way) == (start in reached)
    if way:
        assert way[0] == way[-1] == start
        assert all(after in edges.get(before, ()) for before, after in itertools.pairwise(way))

"""Whether a group or job may begin, be updated or stop, as far as others are concerned. Pure.

`depends_on` names what comes first when it starts and is updated, so that it comes first itself when both stop. What runs is never
stopped because something that it depends on has trouble: order is about beginnings and ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.groups import Dependency, DependencyCondition
from controlplane.domain.jobs import JobState


@dataclass(frozen=True, slots=True)
class GroupPoint:
    """Where a group stands that others depend on."""

    name: str
    wanted: int
    started: int
    ready: int
    is_rolling: bool  # its newest revision has not been found good yet
    is_deleting: bool = False


@dataclass(frozen=True, slots=True)
class JobPoint:
    """Where a job stands that others depend on."""

    name: str
    state: JobState
    message: str = ""


@dataclass(frozen=True, slots=True)
class Dependent:
    """A group or job that depends on the one that is looked at."""

    name: str
    is_stopping: bool  # it is being deleted, or shall have no members
    members: int


Points = Mapping[str, GroupPoint | JobPoint]


def condition_of(dependency: Dependency) -> DependencyCondition:
    """The condition with its default."""
    if dependency.condition is not DependencyCondition.UNSPECIFIED:
        return dependency.condition
    return DependencyCondition.COMPLETED if is_job(dependency.target) else DependencyCondition.HEALTHY


def is_job(target: str) -> bool:
    """Whether a full name is a job's."""
    return "/jobs/" in target


def waits_for(dependencies: Sequence[Dependency], points: Points, *, is_update: bool) -> str:
    """What must come first and is not so yet, in a sentence; empty: nothing.

    Args:
        points: of the targets that exist.
        is_update: whether it runs already and shall become something else: then what it depends on must have had its own update first.
    """
    parts = []
    for dependency in dependencies:
        point = points.get(dependency.target)
        if point is None:
            parts.append(f"{dependency.target} does not exist")
        elif isinstance(point, JobPoint):
            parts += _job(point, condition_of(dependency))
        else:
            parts += _group(point, condition_of(dependency), is_update)
    return f"waits for {'; '.join(parts)}" if parts else ""


def _job(point: JobPoint, condition: DependencyCondition) -> list[str]:
    if point.state is JobState.SUCCEEDED:
        return []
    if point.state is JobState.FAILED:
        return [f"{point.name}, which has failed: {point.message}"]
    if condition is DependencyCondition.STARTED and point.state is JobState.RUNNING:
        return []
    return [f"{point.name} to {'start' if condition is DependencyCondition.STARTED else 'end'}"]


def _group(point: GroupPoint, condition: DependencyCondition, is_update: bool) -> list[str]:
    if point.is_deleting:
        return [f"{point.name}, which is being deleted"]
    have, word = (point.started, "started") if condition is DependencyCondition.STARTED else (point.ready, "ready")
    if have < point.wanted:
        return [f"{point.name}: {have} of {point.wanted} {word}"]
    if point.wanted == 0:
        return [f"{point.name}, which has no members"]
    return [f"{point.name}, which is being updated itself"] if is_update and point.is_rolling else []


def goes_after(dependents: Sequence[Dependent]) -> str:
    """Who must stop before a group that stops, in a sentence; empty: nobody. Who does not stop is not waited for."""
    first = sorted(d.name for d in dependents if d.is_stopping and d.members)
    return f"stops after {', '.join(first)}" if first else ""


def cycle_with(start: str, edges: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The way from a name back to itself, with it at both ends; empty: there is none.

    Args:
        edges: names to those that they depend on.
    """
    came_from: dict[str, str] = {}
    todo = [start]
    while todo:
        name = todo.pop()
        for target in edges.get(name, ()):
            if target == start:
                way = [name]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return (*reversed(way), start)
            if target not in came_from:
                came_from[target] = name
                todo.append(target)
    return ()

"""Gathers where those stand that a group or job depends on, and those that depend on it. Reads only."""

from collections.abc import Iterator, Sequence

from controlplane.domain.groups import Dependency, Group
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.jobs import Job
from controlplane.domain.kinds import GROUP, INSTANCE, JOB
from controlplane.domain.readiness import is_ready, is_started
from controlplane.order.plan import Dependent, GroupPoint, JobPoint, goes_after, is_job, waits_for
from moorage.store.base import View


def what_comes_first(view: View, dependencies: Sequence[Dependency], *, is_update: bool) -> str:
    """What must come first and is not so yet, in a sentence; empty: nothing."""
    if not dependencies:
        return ""
    if is_update:  # jobs are done once, and say nothing about what they stood on since
        dependencies = [*dependencies, *_through_jobs(view, dependencies)]
    points = (point_of(view, dependency.target) for dependency in dependencies)
    return waits_for(dependencies, {point.name: point for point in points if point is not None}, is_update=is_update)


def who_stops_first(view: View, group: Group) -> str:
    """Who must stop before a group that stops, in a sentence; empty: nobody."""
    return goes_after([_dependent(view, one) for one in _all_dependents(view, group.name)])


def ordered_with(view: View, record: Group | Job) -> set[str]:
    """Full names of the groups and jobs whose turn may come when this one changes or is gone: those that wait for it, and those that wait
    for it when they stop.
    """
    own = record.spec.depends_on
    names = {dependency.target for dependency in (*own, *_through_jobs(view, own))}
    return names | {one.name for one in _all_dependents(view, record.name)}


def point_of(view: View, name: str) -> GroupPoint | JobPoint | None:
    """Where a group or job stands, by its full name; None: it does not exist."""
    _, project, _, last = name.split("/")
    if is_job(name):
        job = view.get(JOB, f"{project}/{last}")
        return JobPoint(name, job.value.state, job.value.message) if job is not None else None
    found = view.get(GROUP, f"{project}/{last}")
    if found is None:
        return None
    group, members = found.value, list(_members(view, found.value))
    return GroupPoint(
        name,
        wanted=group.spec.replicas if not group.is_per_host else max(1, len({member.host for member in members})),
        started=len({member.slot for member in members if is_started(member)}),
        ready=len({member.slot for member in members if is_ready(member)}),
        is_rolling=group.target_revision != group.stable_revision,
        is_deleting=group.is_deleting,
    )


def dependents_of(view: View, name: str) -> list[Group | Job]:
    """The groups and jobs that depend on one, in order of name, without those that are being deleted."""
    found: list[Group | Job] = [one.value for one in view.find(GROUP, "named", name)]
    found += [one.value for one in view.find(JOB, "named", name)]
    return sorted((one for one in found if not one.is_deleting), key=lambda one: one.name)


def _members(view: View, group: Group) -> Iterator[Instance]:
    """Those that count."""
    for found in view.find(INSTANCE, "owner", group.name):
        member = found.value
        if member.leave_time is None and member.desired is not DesiredState.DELETED and not member.given_up:
            yield member


def _all_dependents(view: View, name: str) -> list[Group | Job]:
    """Those that depend on it, also by way of jobs, and those that are being deleted among them."""
    found: dict[str, Group | Job] = {}
    todo = [name]
    while todo:
        target = todo.pop()
        jobs = [one.value for one in view.find(JOB, "named", target) if one.value.name not in found]
        found |= {one.value.name: one.value for one in view.find(GROUP, "named", target)}
        found |= {job.name: job for job in jobs}
        todo += [job.name for job in jobs]
    return list(found.values())


def _through_jobs(view: View, dependencies: Sequence[Dependency]) -> list[Dependency]:
    """What the jobs among them depend on, and the jobs among that, and so on."""
    found: dict[str, Dependency] = {}
    todo = [dependency.target for dependency in dependencies if is_job(dependency.target)]
    while todo:
        _, project, _, last = todo.pop().split("/")
        job = view.get(JOB, f"{project}/{last}")
        for dependency in job.value.spec.depends_on if job is not None else ():
            if dependency.target not in found:
                found[dependency.target] = dependency
                todo += [dependency.target] if is_job(dependency.target) else []
    return list(found.values())


def _dependent(view: View, one: Group | Job) -> Dependent:
    is_stopping = one.is_deleting or (isinstance(one, Group) and one.spec.replicas == 0 and not one.is_per_host)
    return Dependent(one.name, is_stopping, len(list(view.find(INSTANCE, "owner", one.name))))

"""What groups and jobs depend on: full names, targets that exist, no circles; and what may not be deleted because others depend on it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controlplane.domain.groups import Dependency, DependencyCondition, Group
from controlplane.domain.jobs import Job
from controlplane.domain.kinds import GROUP, JOB
from controlplane.domain.names import child_name
from controlplane.order.plan import cycle_with, is_job
from controlplane.order.reading import dependents_of
from moorage.errors import FieldViolation, InvalidSpec, NotFound, NotReady
from moorage.store.base import View

LARGEST_DEPENDENCIES = 50


def resolved(
    view: View, project_id: str, own_name: str, dependencies: Sequence[Dependency], field: str
) -> tuple[Dependency, ...]:
    """The dependencies by full names.

    Args:
        own_name: full name of who depends; empty: nobody can depend on it (a cron job's jobs).
    Raises:
        InvalidSpec (OTHER_PROJECT, NAME_INVALID, NOT_ALLOWED, OUT_OF_RANGE, DEPENDENCY_CYCLE), NotFound.
    """
    if len(dependencies) > LARGEST_DEPENDENCIES:
        raise InvalidSpec.of(field, f"must be at most {LARGEST_DEPENDENCIES}", "OUT_OF_RANGE")
    violations: list[FieldViolation] = []
    found: dict[str, Dependency] = {}
    for index, dependency in enumerate(dependencies):
        where = f"{field}[{index}]"
        target = _full_name(project_id, dependency.target)
        if not target:
            text = f"must be a group or job of projects/{project_id}, such as db or jobs/migrate, not {dependency.target!r}"
            violations.append(FieldViolation(f"{where}.target", text, "NAME_INVALID"))
            continue
        if target in found:
            violations.append(
                FieldViolation(f"{where}.target", f"{target} is there twice; leave one out", "NOT_ALLOWED")
            )
        if dependency.condition is DependencyCondition.COMPLETED and not is_job(target):
            text = "groups do not end: DEPENDENCY_CONDITION_COMPLETED is for jobs"
            violations.append(FieldViolation(f"{where}.condition", text, "NOT_ALLOWED"))
        if dependency.condition is DependencyCondition.HEALTHY and is_job(target):
            text = "jobs are not ready at any time: say DEPENDENCY_CONDITION_COMPLETED or DEPENDENCY_CONDITION_STARTED"
            violations.append(FieldViolation(f"{where}.condition", text, "NOT_ALLOWED"))
        found[target] = replace(dependency, target=target)
    if violations:
        raise InvalidSpec(violations)
    for target in found:
        _require(view, target, field)
    edges = {**_edges(view, project_id), own_name: list(found)}
    if own_name and (way := cycle_with(own_name, edges)):
        text = f"{' -> '.join(way)}: none of them could ever come first"
        raise InvalidSpec.of(field, text, "DEPENDENCY_CYCLE")
    return tuple(found.values())


def refuse_needed(view: View, name: str) -> None:
    """Raises NotReady (DEPENDED_ON): others depend on it, and are not being deleted."""
    if others := dependents_of(view, name):
        names = ", ".join(one.name for one in others)
        raise NotReady(
            f"{name} comes first for {names}: delete those with it, or change what they depend on",
            reason="DEPENDED_ON",
            metadata={"name": name, "dependents": names},
        )


def _full_name(project_id: str, target: str) -> str:
    """Empty: it is no name of a group or job of the project."""
    own = f"projects/{project_id}/"
    if target.startswith("projects/") and not target.startswith(own):
        return ""
    collection, slash, last = target.removeprefix(own).rpartition("/")
    collection = collection if slash else "groups"
    return child_name(project_id, collection, last) if collection in ("groups", "jobs") and last else ""


def _require(view: View, target: str, field: str) -> None:
    _, project, _, last = target.split("/")
    key = f"{project}/{last}"
    if (view.get(JOB, key) if is_job(target) else view.get(GROUP, key)) is None:
        raise NotFound(f"{target} does not exist ({field})", metadata={"name": target, "field": field})


def _edges(view: View, project_id: str) -> Mapping[str, list[str]]:
    records: list[Group | Job] = [
        *(found.value for found in view.all(GROUP)),
        *(found.value for found in view.all(JOB)),
    ]
    return {
        record.name: [dependency.target for dependency in record.spec.depends_on]
        for record in records
        if record.project == project_id and record.spec.depends_on
    }

"""Changes of groups: what they are, how many, and which revision members shall have. Members follow by the rollout's work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from controlplane.domain.groups import Group, GroupSpec
from controlplane.domain.kinds import GROUP
from controlplane.domain.names import check_labels
from controlplane.history import record_event
from controlplane.services import group_revisions as revisions
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dependencies import resolved
from controlplane.services.dry_run import commit
from controlplane.services.group_admission import admit, members_of, normal
from controlplane.services.group_rules import check_spec
from controlplane.services.instance_claims import InstanceClaims
from moorage.errors import FieldViolation, InvalidSpec, NotReady
from moorage.store.base import Transaction, View

_FIELD = "group.spec"
_FOR_GOOD = ("mode", "slots")

T = TypeVar("T")
_Write = Callable[[Transaction, Group], Group]


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What an update sets. `fields` has paths below the spec, in the records' names, such as `replicas` or `instance.template`."""

    labels: Mapping[str, str] | None = None
    delete_protection: bool | None = None
    fields: Mapping[str, object] = field(default_factory=dict)

    def apply(self, spec: GroupSpec) -> GroupSpec:
        """The spec with what is set; parts first, so that what is set as a whole does not undo them."""
        for path in sorted(self.fields, key=lambda path: path.count(".")):
            outer, _, inner = path.partition(".")
            value = self.fields[path]
            spec = _with(spec, outer, _with(getattr(spec, outer), inner, value) if inner else value)
        return spec


def _with(record: Any, name: str, value: object) -> Any:
    return replace(record, **{name: value})


class GroupChanges:
    """Update, scale, pause, promote, rollback, and what they would bring."""

    def __init__(self, context: Context, claims: InstanceClaims) -> None:
        self._context = context
        self._claims = claims

    async def update(
        self,
        project_id: str,
        group_id: str,
        change: GroupChange,
        *,
        author: str = "",
        etag: str = "",
        validate_only: bool = False,
    ) -> Group:
        """Change labels, number, policy or what members are; the last makes a revision if it is a new one.

        Raises:
            NotFound, VersionConflict, InvalidSpec (IMMUTABLE too), QuotaExceeded, NotReady (TEMPLATE_NOT_READY, GROUP_DELETING).
        """

        write = self._update(change, author)
        return await self._change(project_id, group_id, etag, write, validate_only=validate_only)

    async def scale(
        self, project_id: str, group_id: str, replicas: int, *, etag: str = "", validate_only: bool = False
    ) -> Group:
        """Say how many members it shall have. Raises as `update`; the fields of InvalidSpec are those of ScaleGroup."""
        change = GroupChange(fields={"replicas": replicas})
        try:
            return await self.update(project_id, group_id, change, etag=etag, validate_only=validate_only)
        except InvalidSpec as error:
            own = [replace(v, field=v.field.removeprefix("group.spec.")) for v in error.violations]
            raise InvalidSpec(own) from error

    async def preview(
        self,
        project_id: str,
        group_id: str,
        look: Callable[[View, Group], T],
        *,
        change: GroupChange | None = None,
        revision: int | None = None,
    ) -> tuple[Group, T]:
        """The group as an update or a rollback would make it, and what is seen of it then; nothing is kept.

        Args:
            look: is given the state with that group.
        Raises:
            InvalidSpec: both are given (NOT_ALLOWED). And as `update` and `rollback`.
        """
        if change is not None and revision is not None:
            raise InvalidSpec.of("revision", "cannot go with group: plan one after the other", "NOT_ALLOWED")

        def work(tx: Transaction) -> tuple[Group, T]:
            write: _Write = _unchanged
            if change is not None:
                write = self._update(change, "")
            elif revision is not None:
                write = self._rollback(revision)
            group = self._apply(tx, project_id, group_id, "", write)
            return group, look(tx, group)

        return await commit(self._context.store, work, validate_only=True)

    async def pause(self, project_id: str, group_id: str, *, etag: str = "") -> Group:
        """Stop its rollouts, that of now and those to come. Raises NotFound, NotReady (GROUP_DELETING), VersionConflict."""

        def write(tx: Transaction, group: Group) -> Group:
            if group.is_paused:
                return group
            self._tell(tx, group, "PAUSE", "asked for")
            return replace(group, is_paused=True)

        return await self._change(project_id, group_id, etag, write)

    async def resume(self, project_id: str, group_id: str, *, etag: str = "") -> Group:
        """Go on with a rollout that was paused, or has failed where it stands. Raises NotFound, NotReady (GROUP_DELETING),
        VersionConflict.
        """

        def write(tx: Transaction, group: Group) -> Group:
            now = self._context.clock.now()
            target = revisions.find_revision(tx, group, group.target_revision)
            if not group.is_paused and not target.failure:
                return group
            self._tell(tx, group, "RESUME", "asked for")
            resumed = replace(group, is_paused=False, progress_time=now)
            if target.failure or group.target_revision != group.stable_revision:
                resumed = revisions.aim(tx, resumed, target, now, is_promoted=group.is_promoted)
            return resumed

        return await self._change(project_id, group_id, etag, write)

    async def promote(self, project_id: str, group_id: str, *, etag: str = "") -> Group:
        """Find the canaries good. Raises NotFound, NotReady (NO_CANARY, GROUP_DELETING), VersionConflict."""

        def write(tx: Transaction, group: Group) -> Group:
            if not group.spec.rollout.canaries or group.target_revision == group.stable_revision:
                raise NotReady(
                    f"{group.name} has no canaries to promote", reason="NO_CANARY", metadata={"name": group.name}
                )
            if group.is_promoted:
                return group
            self._tell(tx, group, "PROMOTE", f"revision {group.target_revision}")
            return replace(group, is_promoted=True, progress_time=self._context.clock.now())

        return await self._change(project_id, group_id, etag, write)

    async def rollback(
        self, project_id: str, group_id: str, revision: int = 0, *, etag: str = "", validate_only: bool = False
    ) -> Group:
        """Bring members, and the spec, to a revision that is kept; 0: the last good one.

        Raises:
            NotFound, VersionConflict, NotReady (REVISION_UNKNOWN, NO_STABLE_REVISION, GROUP_DELETING); as `create` where what it needs is
            gone.
        """

        write = self._rollback(revision)
        return await self._change(project_id, group_id, etag, write, validate_only=validate_only)

    def _update(self, change: GroupChange, author: str) -> _Write:
        def write(tx: Transaction, group: Group) -> Group:
            before = group.spec
            spec = normal(change.apply(before))
            labels = dict(group.labels if change.labels is None else change.labels)
            violations = check_labels(labels, "group.labels")
            violations += _check_kept(before, spec) + check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            if spec.instance != before.instance or spec.replicas > before.replicas:
                project = lookup.project(tx, group.project)
                spec = admit(tx, self._claims, project, spec, _FIELD, members_of(tx, group))
            if spec.depends_on != before.depends_on:
                found = resolved(tx, group.project, group.name, spec.depends_on, f"{_FIELD}.depends_on")
                spec = replace(spec, depends_on=found)
            changed = replace(group, spec=spec, labels=labels)
            if change.delete_protection is not None:
                changed = replace(changed, delete_protection=change.delete_protection)
            is_other = (spec.instance, dict(spec.instance_labels)) != (before.instance, dict(before.instance_labels))
            if is_other:
                changed = revisions.follow_spec(tx, changed, author, self._context.clock.now())
            elif spec.kept_revisions != before.kept_revisions:
                revisions.prune(tx, changed)
            if spec.replicas != before.replicas:
                self._tell(tx, changed, "SCALE", f"from {before.replicas} to {spec.replicas}")
            if changed.target_revision != group.target_revision:
                self._tell(tx, changed, "UPDATE", f"to revision {changed.target_revision}")
            return changed

        return write

    def _rollback(self, revision: int) -> _Write:
        def write(tx: Transaction, group: Group) -> Group:
            found = revisions.find_revision(tx, group, revision)
            labels = dict(found.instance_labels)
            spec = replace(group.spec, instance=found.instance, instance_labels=labels)
            violations = check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            spec = admit(tx, self._claims, lookup.project(tx, group.project), spec, _FIELD, members_of(tx, group))
            changed = replace(group, spec=spec)
            if found.number != group.target_revision or found.failure:
                now = self._context.clock.now()
                changed = revisions.aim(tx, changed, found, now, is_promoted=True)
                self._tell(tx, group, "ROLLBACK", f"from revision {group.target_revision} to {found.number}")
            return changed

        return write

    async def _change(
        self,
        project_id: str,
        group_id: str,
        etag: str,
        write: _Write,
        *,
        validate_only: bool = False,
    ) -> Group:
        return await commit(
            self._context.store,
            lambda tx: self._apply(tx, project_id, group_id, etag, write),
            validate_only=validate_only,
        )

    def _apply(self, tx: Transaction, project_id: str, group_id: str, etag: str, write: _Write) -> Group:
        group = lookup.group(tx, project_id, group_id)
        lookup.check_etag(group, etag, group.name)
        if group.is_deleting:
            raise NotReady(f"{group.name} is being deleted", reason="GROUP_DELETING", metadata={"name": group.name})
        changed = write(tx, group)
        if changed == group:
            return group
        changed = replace(changed, generation=group.generation + 1)
        tx.put(GROUP, changed)
        return changed

    def _tell(self, tx: Transaction, group: Group, reason: str, message: str) -> None:
        record_event(tx, self._context.clock, group, reason, message, project=group.project)


def _unchanged(_: Transaction, group: Group) -> Group:
    return group


def _check_kept(before: GroupSpec, after: GroupSpec) -> list[FieldViolation]:
    return [
        FieldViolation(f"{_FIELD}.{name}", "cannot be changed; make another group", "IMMUTABLE")
        for name in _FOR_GOOD
        if getattr(after, name) != getattr(before, name)
    ]

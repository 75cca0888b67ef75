"""Groups: asked for, changed and deleted. Their members are the rollout's affair, which follows the records.

What members may be is in `group_rules.py` and `group_admission.py`, what becomes of a change in `group_revisions.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from controlplane.domain.groups import Group, GroupMode, GroupRevision, GroupSpec, GroupState
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import GROUP, GROUP_REVISION
from controlplane.domain.names import check_labels, parse_child
from controlplane.history import record_event
from controlplane.services import group_revisions as revisions
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.group_admission import admit, members_of
from controlplane.services.group_rules import check_group_id, check_spec
from controlplane.services.instance_claims import InstanceClaims
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec, NotReady
from moorage.store.base import Transaction

_FIELD = "group.spec"
_FOR_GOOD = ("mode", "slots")


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What an update sets. `fields` has paths below the spec, in the records' names, such as `replicas` or `instance.template`."""

    labels: Mapping[str, str] | None = None
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


class GroupService:
    """What callers can do with groups."""

    def __init__(self, context: Context, claims: InstanceClaims) -> None:
        self._context = context
        self._claims = claims

    async def create(
        self,
        project_id: str,
        group_id: str,
        labels: Mapping[str, str],
        spec: GroupSpec,
        *,
        author: str = "",
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> Group:
        """Make a group's record and its first revision; its members follow.

        Raises:
            InvalidSpec (START_FIRST_IMPOSSIBLE, AMOUNT_INVALID and others), AlreadyExists, NotFound, QuotaExceeded,
            NotReady (TEMPLATE_NOT_READY).
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> Group:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.group(tx, *parse_child(names[0], "groups"))
            project = lookup.project(tx, project_id)
            violations = check_group_id(group_id, "group_id") + check_labels(dict(labels), "group.labels")
            violations += check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            name = f"projects/{project_id}/groups/{group_id}"
            if tx.get(GROUP, f"{project_id}/{group_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            full = admit(tx, self._claims, project, _normal(spec), _FIELD, ())
            now = self._context.clock.now()
            group = Group(uid, project_id, group_id, now, full, labels=dict(labels), progress_time=now)
            tx.put(GROUP, group)
            revisions.add_revision(tx, group, 1, author, now)
            record_event(tx, self._context.clock, group, "CREATED", _describe(full), project=project_id)
            if request_key:
                lookup.remember(tx, request_key, body, (group.name,), now)
            return group

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, group_id: str) -> Group:
        """One group. Raises NotFound."""
        return lookup.group(self._context.store.view(), project_id, group_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Group]:
        """A page of a project's groups; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            GROUP,
            request,
            scope=f"groups of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=_filter_field,
            names=("state", "reason", "template"),
            admits=(lambda g: g.project in visible) if every and visible is not None else None,
        )

    def members(self, group: Group) -> Sequence[Instance]:
        """Its instances now, in order of name."""
        return members_of(self._context.store.view(), group)

    def revisions(self, project_id: str, group_id: str, request: PageRequest) -> Page[GroupRevision]:
        """A page of what members were or shall be, oldest first. Raises NotFound."""
        view = self._context.store.view()
        group = lookup.group(view, project_id, group_id)
        return list_page(view, GROUP_REVISION, request, scope=f"revisions of {group.uid}", prefix=f"{group.uid}/")

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

        def write(tx: Transaction, group: Group) -> Group:
            before = group.spec
            spec = _normal(change.apply(before))
            labels = dict(group.labels if change.labels is None else change.labels)
            violations = check_labels(labels, "group.labels")
            violations += _check_kept(before, spec) + check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            if spec.instance != before.instance or spec.replicas > before.replicas:
                project = lookup.project(tx, project_id)
                spec = admit(tx, self._claims, project, spec, _FIELD, members_of(tx, group))
            changed = replace(group, spec=spec, labels=labels)
            is_other = (spec.instance, dict(spec.instance_labels)) != (before.instance, dict(before.instance_labels))
            if is_other:
                changed = revisions.follow_spec(tx, changed, author, self._context.clock.now())
            elif spec.kept_revisions != before.kept_revisions:
                revisions.prune(tx, changed)
            if spec.replicas != before.replicas:
                record_event(
                    tx,
                    self._context.clock,
                    changed,
                    "SCALE",
                    f"from {before.replicas} to {spec.replicas}",
                    project=project_id,
                )
            if changed.target_revision != group.target_revision:
                record_event(
                    tx,
                    self._context.clock,
                    changed,
                    "UPDATE",
                    f"to revision {changed.target_revision}",
                    project=project_id,
                )
            return changed

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

    async def delete(self, project_id: str, group_id: str, *, etag: str = "") -> None:
        """Ask for the removal of a group and its members; its record goes when they have gone. Raises NotFound, VersionConflict."""

        def ask(tx: Transaction) -> None:
            group = lookup.group(tx, project_id, group_id)
            lookup.check_etag(group, etag, group.name)
            if group.is_deleting:
                return
            changed = replace(group, is_deleting=True, state=GroupState.DELETING, generation=group.generation + 1)
            tx.put(GROUP, changed)
            record_event(tx, self._context.clock, changed, "DELETING", "asked for", project=project_id)

        await self._context.store.update(ask)

    async def pause(self, project_id: str, group_id: str, *, etag: str = "") -> Group:
        """Stop its rollouts, that of now and those to come. Raises NotFound, NotReady (GROUP_DELETING), VersionConflict."""

        def write(tx: Transaction, group: Group) -> Group:
            if group.is_paused:
                return group
            record_event(tx, self._context.clock, group, "PAUSE", "asked for", project=project_id)
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
            record_event(tx, self._context.clock, group, "RESUME", "asked for", project=project_id)
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
            record_event(
                tx, self._context.clock, group, "PROMOTE", f"revision {group.target_revision}", project=project_id
            )
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

        def write(tx: Transaction, group: Group) -> Group:
            found = revisions.find_revision(tx, group, revision)
            labels = dict(found.instance_labels)
            spec = replace(group.spec, instance=found.instance, instance_labels=labels)
            violations = check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            spec = admit(tx, self._claims, lookup.project(tx, project_id), spec, _FIELD, members_of(tx, group))
            changed = replace(group, spec=spec)
            if found.number != group.target_revision or found.failure:
                now = self._context.clock.now()
                changed = revisions.aim(tx, changed, found, now, is_promoted=True)
                record_event(
                    tx,
                    self._context.clock,
                    group,
                    "ROLLBACK",
                    f"from revision {group.target_revision} to {found.number}",
                    project=project_id,
                )
            return changed

        return await self._change(project_id, group_id, etag, write, validate_only=validate_only)

    async def _change(
        self,
        project_id: str,
        group_id: str,
        etag: str,
        write: Callable[[Transaction, Group], Group],
        *,
        validate_only: bool = False,
    ) -> Group:
        def apply(tx: Transaction) -> Group:
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

        return await commit(self._context.store, apply, validate_only=validate_only)


def _normal(spec: GroupSpec) -> GroupSpec:
    """Nothing left open that cannot be changed later."""
    return replace(spec, mode=GroupMode.REPLICATED) if spec.mode is GroupMode.UNSPECIFIED else spec


def _check_kept(before: GroupSpec, after: GroupSpec) -> list[FieldViolation]:
    return [
        FieldViolation(f"{_FIELD}.{name}", "cannot be changed; make another group", "IMMUTABLE")
        for name in _FOR_GOOD
        if getattr(after, name) != getattr(before, name)
    ]


def _describe(spec: GroupSpec) -> str:
    many = "one on each host" if spec.mode is GroupMode.PER_HOST else f"{spec.replicas} members"
    return f"{many} of {spec.instance.template}"


def _filter_field(group: Group, name: str) -> str | None:
    match name:
        case "state":
            return group.state.name
        case "reason":
            return group.reason
        case "template":
            return group.spec.instance.template
    return label_field(group.labels, name)

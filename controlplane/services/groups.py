"""Groups: asked for, shown and deleted. Their members are the rollout's affair, which follows the records.

What members may be is in `group_rules.py` and `group_admission.py`, what can be changed in `group_changes.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from controlplane.domain.groups import Group, GroupMode, GroupRevision, GroupSpec, GroupState
from controlplane.domain.jobs import Job
from controlplane.domain.kinds import GROUP, GROUP_REVISION
from controlplane.domain.names import check_labels, parse_child
from controlplane.history import record_event
from controlplane.order.reading import dependents_of
from controlplane.services import group_revisions as revisions
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dependencies import refuse_needed, resolved
from controlplane.services.dry_run import commit
from controlplane.services.group_admission import admit, normal
from controlplane.services.group_rules import check_group_id, check_spec
from controlplane.services.instance_claims import InstanceClaims
from controlplane.services.jobs import ask_removal
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.protection import refuse_protected
from controlplane.services.undelete import purge_time_of, taken_hint
from moorage.errors import AlreadyExists, InvalidSpec
from moorage.store.base import Transaction

_FIELD = "group.spec"


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
        delete_protection: bool = False,
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
                hint = taken_hint(tx, GROUP, f"{project_id}/{group_id}", f"moor group rm --now {group_id}")
                raise AlreadyExists(f"{name} exists{hint}; choose another name", metadata={"name": name})
            full = admit(tx, self._claims, project, normal(spec), _FIELD, ())
            full = replace(full, depends_on=resolved(tx, project_id, name, spec.depends_on, f"{_FIELD}.depends_on"))
            now = self._context.clock.now()
            group = Group(uid, project_id, group_id, now, full, labels=dict(labels), progress_time=now)
            group = replace(group, delete_protection=delete_protection)
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

    def revisions(self, project_id: str, group_id: str, request: PageRequest) -> Page[GroupRevision]:
        """A page of what members were or shall be, oldest first. Raises NotFound."""
        view = self._context.store.view()
        group = lookup.group(view, project_id, group_id)
        return list_page(view, GROUP_REVISION, request, scope=f"revisions of {group.uid}", prefix=f"{group.uid}/")

    async def delete(
        self, project_id: str, group_id: str, *, etag: str = "", with_dependents: bool = False, now: bool = False
    ) -> None:
        """Ask for the removal of a group and its members; its record goes when they have gone.

        Args:
            now: also where the project has an undelete window, in which the group is kept else.
            with_dependents: also of the groups and jobs that depend on it, and on those; they stop first.
        Raises:
            NotFound, VersionConflict, NotReady (DEPENDED_ON; DELETE_PROTECTED, of any of them).
        """

        def ask(tx: Transaction) -> None:
            group = lookup.group(tx, project_id, group_id)
            lookup.check_etag(group, etag, group.name)
            if not with_dependents:
                refuse_needed(tx, group.name)
            purge_time = purge_time_of(tx, project_id, self._context.clock.now(), at_once=now)
            if now and group.is_deleting and group.purge_time is not None:
                tx.put(GROUP, replace(group, purge_time=None))
            self._ask_removal(tx, group, "asked for", purge_time)

        await self._context.store.update(ask)

    def _ask_removal(self, tx: Transaction, doomed: Group | Job, why: str, purge_time: datetime | None) -> None:
        """Of a group or job, and of all that depend on it."""
        if isinstance(doomed, Job):
            ask_removal(tx, self._context, doomed, why)
        elif not doomed.is_deleting:
            command = f"moor group update {doomed.id} --no-delete-protection"
            refuse_protected(doomed.name, is_protected=doomed.delete_protection, command=command)
            changed = replace(doomed, is_deleting=True, state=GroupState.DELETING, generation=doomed.generation + 1)
            changed = replace(changed, purge_time=purge_time)
            tx.put(GROUP, changed)
            record_event(tx, self._context.clock, changed, "DELETING", why, project=doomed.project)
        for dependent in dependents_of(tx, doomed.name):
            self._ask_removal(tx, dependent, f"{doomed.name} is deleted with those that depend on it", purge_time)


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

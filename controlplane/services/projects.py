"""Projects and their members."""

from dataclasses import replace
from typing import Any

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.access.roles import Role
from controlplane.domain.hosts import Host
from controlplane.domain.kinds import (
    EVENT,
    GROUP,
    HOST,
    INSTANCE,
    MEMBER,
    NETWORK,
    OPERATION,
    PROJECT,
    SECURITY_GROUP,
    TEMPLATE,
    VOLUME,
)
from controlplane.domain.names import check_id
from controlplane.domain.operations import OperationState
from controlplane.domain.projects import Member, Project
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.paging import Page, PageRequest, list_page
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec, NotReady, VersionConflict
from moorage.store.base import Kind, Transaction

DEFAULT_PROJECT = "default"
_EXAMPLES = 5  # hosts that a refusal names


LONGEST_WINDOW_SECONDS = 30 * 86_400.0


class ProjectService:
    """What callers can do with projects."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ensure_default(self) -> None:
        """The project that a new installation begins with."""

        def make(tx: Transaction) -> None:
            if tx.get(PROJECT, DEFAULT_PROJECT) is None and tx.count(PROJECT) == 0:
                tx.put(PROJECT, Project(self._context.new_id(), DEFAULT_PROJECT, self._context.clock.now()))

        await self._context.store.update(make)

    async def create(
        self,
        project_id: str,
        description: str,
        quota: Quota,
        policy: ProjectPolicy,
        *,
        undelete_window_seconds: float = 0.0,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> Project:
        """Make a project. Raises InvalidSpec, AlreadyExists."""

        def make(tx: Transaction) -> Project:
            if request_key and lookup.remembered(tx, request_key, body) is not None:
                return lookup.project(tx, project_id)
            violations = check_id(project_id, "project_id") + _check_window(undelete_window_seconds)
            if violations:
                raise InvalidSpec(violations)
            if tx.get(PROJECT, project_id) is not None:
                name = f"projects/{project_id}"
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            project = Project(self._context.new_id(), project_id, self._context.clock.now(), description, quota, policy)
            project = replace(project, undelete_window_seconds=undelete_window_seconds)
            if not validate_only:
                tx.put(PROJECT, project)
                if request_key:
                    lookup.remember(tx, request_key, body, (project.name,), self._context.clock.now())
            return project

        return await self._context.store.update(make)

    def get(self, project_id: str) -> Project:
        """One project. Raises NotFound."""
        return lookup.project(self._context.store.view(), project_id)

    def list(self, request: PageRequest, visible: frozenset[str] | None) -> Page[Project]:
        """A page of the `visible` projects (None: all)."""
        return list_page(
            self._context.store.view(),
            PROJECT,
            request,
            scope="projects",
            admits=None if visible is None else (lambda p: p.id in visible),
        )

    async def update(
        self,
        project_id: str,
        *,
        description: str | None = None,
        quota: Quota | None = None,
        policy: ProjectPolicy | None = None,
        undelete_window_seconds: float | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Project:
        """Change description, quota or policy. A quota below what is used stops growth, not what runs.

        Raises:
            NotFound, VersionConflict, InvalidSpec (OUT_OF_RANGE).
        """
        window = undelete_window_seconds
        if violations := _check_window(window or 0.0):
            raise InvalidSpec(violations)

        def change(tx: Transaction) -> Project:
            project = lookup.project(tx, project_id)
            lookup.check_etag(project, etag, project.name)
            changed = replace(
                project,
                undelete_window_seconds=project.undelete_window_seconds if window is None else window,
                description=project.description if description is None else description,
                quota=project.quota if quota is None else quota,
                policy=project.policy if policy is None else policy,
                generation=project.generation + 1,
            )
            if not validate_only:
                tx.put(PROJECT, changed)
            return changed

        return await self._context.store.update(change)

    async def delete(self, project_id: str, *, etag: str = "") -> None:
        """Delete an empty project with its members. Raises NotFound, NotReady (PROJECT_IN_USE), VersionConflict."""

        def remove(tx: Transaction) -> None:
            project = lookup.project(tx, project_id)
            lookup.check_etag(project, etag, project.name)
            prefix = f"{project_id}/"
            kinds: tuple[tuple[Kind[Any], str], ...] = (
                (GROUP, "groups"),
                (INSTANCE, "instances"),
                (TEMPLATE, "templates"),
                (NETWORK, "networks"),
                (SECURITY_GROUP, "security groups"),
                (VOLUME, "volumes"),
            )
            left = [word for kind, word in kinds if tx.range(kind, "", 1, prefix)]
            running = (o.value for o in tx.find(OPERATION, "state", OperationState.RUNNING.name))
            if any(o.project == project_id for o in running):
                left.append("running operations")
            # Nor must its parts of hosts: they would be kept for nobody, or go to everybody.
            left += [f"parts of {host.name}" for host in _hosts_kept_for(tx, project.name)[:_EXAMPLES]]
            if left:
                raise NotReady(
                    f"{project.name} still has {', '.join(left)}; delete them first", reason="PROJECT_IN_USE"
                )
            # The next project of this name may be somebody else's: it must not inherit this one's history.
            own: tuple[Kind[Any], ...] = (MEMBER, OPERATION, EVENT)
            for kind in own:
                for found in tx.range(kind, "", 1_000_000, prefix):
                    tx.delete(kind, kind.key(found.value))
            tx.delete(PROJECT, project_id)

        await self._context.store.update(remove)

    async def set_member(self, project_id: str, user: str, role: Role, *, etag: str = "") -> Member:
        """Give a user a role. Raises NotFound, InvalidSpec, VersionConflict."""

        def change(tx: Transaction) -> Member:
            lookup.project(tx, project_id)
            if not user or "/" in user or len(user) > 128:
                raise InvalidSpec.of("member.name", "must end with the name of a user", "NAME_INVALID")
            found = tx.get(MEMBER, f"{project_id}/{user}")
            known = 0 if found is None else found.value.generation
            if etag and etag != str(known):
                name = f"projects/{project_id}/members/{user}"
                raise VersionConflict(f"{name} has changed since you read it; read it again", metadata={"name": name})
            member = Member(project_id, user, role, known + 1)
            tx.put(MEMBER, member)
            return member

        return await self._context.store.update(change)

    async def delete_member(self, project_id: str, user: str) -> None:
        """Take a role away. Raises NotFound."""

        def remove(tx: Transaction) -> None:
            name = f"projects/{project_id}/members/{user}"
            lookup.require(tx, MEMBER, f"{project_id}/{user}", name)
            tx.delete(MEMBER, f"{project_id}/{user}")

        await self._context.store.update(remove)

    def members(self, project_id: str, request: PageRequest) -> Page[Member]:
        """A page of members. Raises NotFound."""
        lookup.project(self._context.store.view(), project_id)
        return list_page(
            self._context.store.view(), MEMBER, request, scope=f"members of {project_id}", prefix=f"{project_id}/"
        )


def _hosts_kept_for(tx: Transaction, name: str) -> list[Host]:
    hosts = (found.value for found in tx.all(HOST))
    return [
        host
        for host in hosts
        if name in host.settings.dedicated_to or any(part.project == name for part in host.settings.reservations)
    ]


def _check_window(seconds: float) -> list[FieldViolation]:
    if 0 <= seconds <= LONGEST_WINDOW_SECONDS:
        return []
    return [FieldViolation("project.undelete_window", "must be between 0 and 30 days", "OUT_OF_RANGE")]

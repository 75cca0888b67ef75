"""What a rule of the permission table says, and how it is applied to a caller and a request.

The order in the interceptor: authenticate, find the rule, read the project from the request, authorize, and only then
look at anything that is stored. So the answer to one who is no member never depends on whether an object exists.

Requests are read by attribute names only (`instance.name`), so this works on protobuf messages without knowing them.
"""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from controlplane.access.roles import AgentCaller, Caller, Role
from moorage.errors import FieldViolation, Forbidden, Internal, InvalidSpec, Unauthenticated

#: Project of a request for all that the caller may see (`projects/-`); the service filters with `visible_projects`.
EVERY_PROJECT: Final = "-"
#: Project of a request for what belongs to no project, such as events of hosts: fleet admins only.
FLEET: Final = ""

_PROJECT_NAME = re.compile(r"projects/([^/]+)(?:/.*)?", re.DOTALL)


class Access(enum.Enum):
    """Who may call a method."""

    PUBLIC = "public"  # anybody, without a key
    AUTHENTICATED = "authenticated"  # any user with a key; the service shows each only what is theirs
    AGENT = "agent"  # host agents, by certificate
    FLEET_ADMIN = "fleet_admin"
    PROJECT = "project"  # members of the request's project, from a role on


class ParentScope(enum.Enum):
    """Which parents besides `projects/p` a list or watch takes."""

    ONE = "one"  # none
    EVERY = "every"  # also `projects/-`
    EVERY_OR_FLEET = "every_or_fleet"  # also `projects/-`, and `-` for what belongs to no project
    EVERY_OR_EMPTY = "every_or_empty"  # also `projects/-`, and empty with the same meaning


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    Attributes:
        role: least role; PROJECT only.
        project_field: path of the field that names the project or something in it; PROJECT only.
        same_project_fields: paths of other names, lists walked through, that must lie in the same project.
    """

    access: Access
    role: Role | None = None
    project_field: str = ""
    same_project_fields: tuple[str, ...] = ()
    scope: ParentScope = ParentScope.ONE


PUBLIC: Final = Rule(Access.PUBLIC)
AUTHENTICATED: Final = Rule(Access.AUTHENTICATED)
AGENT: Final = Rule(Access.AGENT)
FLEET_ADMIN: Final = Rule(Access.FLEET_ADMIN)


def project_rule(
    role: Role, project_field: str, *same_project_fields: str, scope: ParentScope = ParentScope.ONE
) -> Rule:
    """A rule for members of the project that `project_field` names."""
    return Rule(Access.PROJECT, role, project_field, same_project_fields, scope)


def project_of_name(name: str) -> str | None:
    """`p` of `projects/p` and of all names below it; None for other names."""
    match = _PROJECT_NAME.fullmatch(name)
    return match[1] if match else None


def project_of_request(rule: Rule, request: object) -> str | None:
    """The project that a request is about: an id, `EVERY_PROJECT`, `FLEET`, or None where the rule has no project.

    Args:
        request: the message; of a client stream, the first one.
    Raises:
        InvalidSpec: the field is empty or no name in a project, or a name elsewhere is of another project.
    """
    if rule.access is not Access.PROJECT:
        return None
    values = [value for _, value in _read(request, rule.project_field)]
    name = values[0] if len(values) == 1 else ""
    project = _scope_of(rule, name)
    if project is None:
        problem = "is required" if not name else f"{name[:200]!r} is not a name in a project, such as projects/demo"
        raise InvalidSpec.of(rule.project_field, problem, "REQUIRED" if not name else "INVALID_NAME")
    strangers = [
        FieldViolation(field, f"{value[:200]!r} is not in projects/{project}", "OTHER_PROJECT")
        for path in rule.same_project_fields
        for field, value in _read(request, path)
        # Empty names and short forms are judged by the service, which reads them as the project's own.
        if project_of_name(value) not in (None, project)
    ]
    if strangers:
        raise InvalidSpec(strangers)
    return project


def authorize(rule: Rule, caller: Caller | AgentCaller | None, project: str | None) -> None:
    """Let the caller through, or not.

    Args:
        caller: None for one without credentials.
        project: what `project_of_request` returned.
    Raises:
        Unauthenticated: KEY_MISSING.
        Forbidden: AGENT_ONLY, USER_ONLY (an agent at a users' method), FLEET_ADMIN_ONLY, NOT_A_MEMBER or ROLE_TOO_LOW.
    """
    if rule.access is Access.PUBLIC:
        return
    if caller is None:
        if rule.access is Access.AGENT:
            raise Unauthenticated("only a host's certificate opens this", reason="CERTIFICATE_MISSING")
        raise Unauthenticated("no API key was sent; log in with `moor login`", reason="KEY_MISSING")
    if rule.access is Access.AGENT:
        if not isinstance(caller, AgentCaller):
            raise Forbidden("only host agents may call this", reason="AGENT_ONLY")
        return
    if not isinstance(caller, Caller):
        raise Forbidden("host agents may not call this", reason="USER_ONLY")
    if rule.access is Access.AUTHENTICATED or caller.fleet_admin:
        return
    if rule.access is Access.FLEET_ADMIN or project == FLEET:
        raise Forbidden("only fleet admins may do this; ask one", reason="FLEET_ADMIN_ONLY")
    if rule.role is None or project is None:
        raise Internal("a rule for projects was applied without a role or a project")
    if project != EVERY_PROJECT:
        require_role(caller, project, rule.role)


def require_role(caller: Caller, project: str, role: Role) -> None:
    """Let fleet admins and members with at least `role` through.

    Raises:
        Forbidden: NOT_A_MEMBER (whether or not there is such a project) or ROLE_TOO_LOW.
    """
    if caller.fleet_admin:
        return
    own = caller.roles.get(project)
    if own is None:
        raise Forbidden(
            f"you are no member of projects/{project[:100]}, or there is none; ask one of its admins",
            reason="NOT_A_MEMBER",
            metadata={"project": f"projects/{project[:100]}"},
        )
    if own < role:
        raise Forbidden(
            f"this needs the role {role.name.lower()} in projects/{project}, and yours is {own.name.lower()}",
            reason="ROLE_TOO_LOW",
            metadata={"project": f"projects/{project}", "needed": role.name, "role": own.name},
        )


def require_fleet_admin(caller: Caller) -> None:
    """For fields that only fleet admins may write.

    Raises:
        Forbidden: FLEET_ADMIN_ONLY.
    """
    if not caller.fleet_admin:
        raise Forbidden("only fleet admins may do this; ask one", reason="FLEET_ADMIN_ONLY")


def visible_projects(caller: Caller, role: Role = Role.VIEWER) -> frozenset[str] | None:
    """Ids of the projects in which the caller has at least `role`; None: all, of a fleet admin."""
    return None if caller.fleet_admin else frozenset(id for id, own in caller.roles.items() if own >= role)


def _scope_of(rule: Rule, name: str) -> str | None:
    if name == "" and rule.scope is ParentScope.EVERY_OR_EMPTY:
        return EVERY_PROJECT
    if name == "-" and rule.scope is ParentScope.EVERY_OR_FLEET:
        return FLEET
    if name == f"projects/{EVERY_PROJECT}":
        return None if rule.scope is ParentScope.ONE else EVERY_PROJECT
    project = project_of_name(name)
    # `projects/-/instances/i` would name nothing; it must not pass for a wildcard.
    return None if project == EVERY_PROJECT else project


def _read(message: Any, path: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every string at `path` with where it stands, such as `instance.spec.nics[1].network`."""
    head, _, rest = path.partition(".")
    value = getattr(message, head)
    where = f"{prefix}{head}"
    items = [(where, value)] if _is_single(value) else [(f"{where}[{i}]", item) for i, item in enumerate(value)]
    for place, item in items:
        if rest:
            yield from _read(item, rest, f"{place}.")
        else:
            yield place, item


def _is_single(value: Any) -> bool:
    return isinstance(value, str) or not hasattr(value, "__len__")

"""How a rule is applied to a caller and a request."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.access.roles import AgentCaller, Caller, Role
from controlplane.access.rules import (
    AGENT,
    AUTHENTICATED,
    EVERY_PROJECT,
    FLEET,
    FLEET_ADMIN,
    PUBLIC,
    ParentScope,
    Rule,
    authorize,
    project_of_name,
    project_of_request,
    project_rule,
    require_fleet_admin,
    visible_projects,
)
from moorage.errors import Forbidden, Internal, InvalidSpec, MoorageError

FLEET_CALLER = Caller("root", fleet_admin=True)
VIEWER, OPERATOR, ADMIN = (Caller("u", roles={"demo": role}) for role in Role)
STRANGER = Caller("u", roles={"other": Role.ADMIN})
AGENT_CALLER = AgentCaller("h1")
CALLERS = (None, AGENT_CALLER, STRANGER, VIEWER, OPERATOR, ADMIN, FLEET_CALLER)


def answer(rule: Rule, caller: Caller | AgentCaller | None, project: str | None = None) -> str:
    try:
        authorize(rule, caller, project)
    except MoorageError as exc:
        return exc.reason
    return ""


@pytest.mark.parametrize(
    ("rule", "answers"),
    [
        (PUBLIC, ["", "", "", "", "", "", ""]),
        (AUTHENTICATED, ["KEY_MISSING", "USER_ONLY", "", "", "", "", ""]),
        (AGENT, ["CERTIFICATE_MISSING", "", *["AGENT_ONLY"] * 5]),
        (FLEET_ADMIN, ["KEY_MISSING", "USER_ONLY", *["FLEET_ADMIN_ONLY"] * 4, ""]),
        (project_rule(Role.VIEWER, "name"), ["KEY_MISSING", "USER_ONLY", "NOT_A_MEMBER", "", "", "", ""]),
        (
            project_rule(Role.OPERATOR, "name"),
            ["KEY_MISSING", "USER_ONLY", "NOT_A_MEMBER", "ROLE_TOO_LOW", "", "", ""],
        ),
        (
            project_rule(Role.ADMIN, "name"),
            ["KEY_MISSING", "USER_ONLY", "NOT_A_MEMBER", "ROLE_TOO_LOW", "ROLE_TOO_LOW", "", ""],
        ),
    ],
    ids=["public", "authenticated", "agent", "fleet admin", "viewer", "operator", "admin"],
)
def test_who_passes(rule: Rule, answers: list[str]) -> None:
    assert [answer(rule, caller, "demo") for caller in CALLERS] == answers


@given(own=st.none() | st.sampled_from(Role), needed=st.sampled_from(Role))
def test_a_higher_role_may_all_that_a_lower_may(own: Role | None, needed: Role) -> None:
    caller = Caller("u", roles={} if own is None else {"demo": own})
    assert (answer(project_rule(needed, "name"), caller, "demo") == "") == (own is not None and own >= needed)


def test_refusals_do_not_tell_whether_a_project_exists() -> None:
    texts = set()
    for project in ("real", "made-up"):
        with pytest.raises(Forbidden) as caught:
            authorize(project_rule(Role.VIEWER, "name"), STRANGER, project)
        texts.add(caught.value.message.replace(project, "*"))
    assert len(texts) == 1


def test_fleet_wide_and_wildcard_requests() -> None:
    rule = project_rule(Role.VIEWER, "parent", scope=ParentScope.EVERY_OR_FLEET)
    assert answer(rule, ADMIN, FLEET) == "FLEET_ADMIN_ONLY"
    assert answer(rule, FLEET_CALLER, FLEET) == ""
    assert answer(rule, STRANGER, EVERY_PROJECT) == ""  # and the service shows what is theirs:
    assert visible_projects(STRANGER) == frozenset({"other"})
    assert visible_projects(OPERATOR, Role.ADMIN) == frozenset()
    assert visible_projects(FLEET_CALLER) is None


def test_a_rule_without_a_project_fails_closed() -> None:
    with pytest.raises(Internal):
        authorize(project_rule(Role.VIEWER, "name"), ADMIN, None)


def test_require_fleet_admin() -> None:
    require_fleet_admin(FLEET_CALLER)
    with pytest.raises(Forbidden):
        require_fleet_admin(ADMIN)


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("projects/demo", "demo"),
        ("projects/demo/instances/web", "demo"),
        ("projects/", None),
        ("projects//instances/x", None),
        ("hosts/h1", None),
        ("xprojects/demo", None),
        ("", None),
    ],
)
def test_project_of_name(name: str, project: str | None) -> None:
    assert project_of_name(name) == project


def scope(scope: ParentScope, parent: str) -> str | None:
    try:
        rule = project_rule(Role.VIEWER, "parent", scope=scope)
        return project_of_request(rule, SimpleNamespace(parent=parent))
    except InvalidSpec as exc:
        return exc.reason


@pytest.mark.parametrize(
    ("parent", "one", "every", "fleet", "empty"),
    [
        ("projects/demo", "demo", "demo", "demo", "demo"),
        ("projects/-", "INVALID_NAME", EVERY_PROJECT, EVERY_PROJECT, EVERY_PROJECT),
        ("-", "INVALID_NAME", "INVALID_NAME", FLEET, "INVALID_NAME"),
        ("", "REQUIRED", "REQUIRED", "REQUIRED", EVERY_PROJECT),
        ("projects/-/instances/x", *["INVALID_NAME"] * 4),
        ("hosts/h1", *["INVALID_NAME"] * 4),
    ],
)
def test_parents(parent: str, one: str, every: str, fleet: str, empty: str) -> None:
    assert [scope(kind, parent) for kind in ParentScope] == [one, every, fleet, empty]


def test_names_elsewhere_must_be_of_the_same_project() -> None:
    rule = project_rule(Role.OPERATOR, "parent", "names", "spec.template", "spec.nics.network")
    nics = [SimpleNamespace(network=name) for name in ("projects/demo/networks/a", "b", "", "projects/x/networks/c")]
    spec = SimpleNamespace(template="projects/y/templates/t", nics=nics)
    request = SimpleNamespace(parent="projects/demo", names=["projects/demo/instances/a"], spec=spec)
    with pytest.raises(InvalidSpec) as caught:
        project_of_request(rule, request)
    assert [(violation.field, violation.reason) for violation in caught.value.violations] == [
        ("spec.template", "OTHER_PROJECT"),
        ("spec.nics[3].network", "OTHER_PROJECT"),
    ]
    spec.template, nics[3].network = "t", "c"
    assert project_of_request(rule, request) == "demo"


def test_rules_without_a_project_read_nothing() -> None:
    for rule in (PUBLIC, AUTHENTICATED, AGENT, FLEET_ADMIN):
        assert project_of_request(rule, object()) is None

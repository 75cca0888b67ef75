"""The documents against the code: a reason, a setting, a file or a command that one has and the other lacks is an error.

What is compared: reasons with docs/errors.md, settings with docs/configuration.md, states with docs/states.md, links and anchors of
every document, files that docs/architecture.md names, roles in the comments of protos, and `make` and `moor` commands that
documents tell people to type.
"""

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import controlplane.config
import hostagent.config
from cli.main import moor
from controlplane.access.permissions import TABLE
from controlplane.domain.hosts import HostAdminState, HostLinkState
from controlplane.domain.instances import InstanceState
from controlplane.domain.operations import OperationState
from controlplane.domain.routers import RouterState
from controlplane.domain.templates import TemplateState

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROGRAMS = ("controlplane", "hostagent", "moorage", "cli")

_WORD = re.compile(r"[A-Z][A-Z0-9]+(_[A-Z0-9]+)*")

#: Upper-case constants of the programs that look like reasons and are none.
NOT_REASONS = {
    # capabilities (controlplane/access/policy.py, hostagent/engine/spec.py)
    *("AUDIT_WRITE", "DAC_OVERRIDE", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN", "SYS_CHROOT"),
    "MOORAGE_ROUTER_STOP_SECONDS",  # environment of a router's container
    *("MOORAGE_JOB", "MOORAGE_JOB_INDEX", "MOORAGE_JOB_ATTEMPT"),  # environment of a job's instances
    # error codes of the registry protocol, which the loopback proxy says to the engine
    *("MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_UNKNOWN"),
    # a word of OpenSSL
    "CERTIFICATE_VERIFY_FAILED",
}
#: Events whose reason is the name of a state.
EVENTS_OF_STATES = {
    "UP",
    "DISCONNECTED",
    "DOWN",
    "CORDONED",
    "DRAINING",
    "ENABLED",
    "MAINTENANCE",
    "RUNNING",
    "STOPPED",
    "FAILED",
    "PAUSED",
}
#: Modules in which every upper-case constant is a reason.
ONLY_REASONS = ("hostagent/worker/status.py", "hostagent/worker/loop.py")
#: Where the reason stands among the arguments of a call.
POSITION = {"FieldViolation": 2, "_tell": 2, "of": 2, "_refused": 2, "record_event": 3, "_change": 3}


def _words(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and _WORD.fullmatch(part.value):
            yield part.value


def _reasons_of_call(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    position = POSITION.get(name)
    if position is not None and len(call.args) > position:
        yield from _words(call.args[position])
    for keyword in call.keywords:
        if keyword.arg == "reason":
            yield from _words(keyword.value)


def _reasons_of_file(path: Path) -> Iterator[str]:
    inside = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text())
    if inside in ONLY_REASONS:
        yield from _words(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _reasons_of_call(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(getattr(target, "id", "") == "default_reason" for target in targets):
                yield from _words(node.value)
    if not inside.startswith("cli/"):  # names of environment variables and of arguments are everywhere there
        yield from (word for word in _words(tree) if "_" in word)


def reasons_of_code() -> dict[str, str]:
    """Reason to one file that has it."""
    found: dict[str, str] = {}
    for program in PROGRAMS:
        for path in sorted((ROOT / program).rglob("*.py")):
            if "v1" not in path.relative_to(ROOT).parts:
                for reason in _reasons_of_file(path):
                    found.setdefault(reason, path.relative_to(ROOT).as_posix())
    return {reason: where for reason, where in found.items() if reason not in NOT_REASONS}


def first_cells(name: str) -> list[str]:
    """Upper-case words in backticks in the first column of the tables of a document."""
    return re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "docs" / name).read_text(), re.MULTILINE)


def test_every_reason_of_the_code_is_in_the_catalogue() -> None:
    listed = set(first_cells("errors.md"))
    missing = {reason: where for reason, where in reasons_of_code().items() if reason not in listed}
    assert not missing, "add them to docs/errors.md (or, if they are no reasons, to NOT_REASONS here)"


def test_the_catalogue_has_no_reason_that_the_code_lacks() -> None:
    surplus = set(first_cells("errors.md")) - set(reasons_of_code()) - EVENTS_OF_STATES
    assert not surplus, "nothing says these any more; remove them from docs/errors.md"


def test_a_reason_is_explained_once_for_each_kind_of_place() -> None:
    """A word may be an error's reason and an event's; within one table it stands once."""
    for section in re.split(r"^## ", (ROOT / "docs/errors.md").read_text(), flags=re.MULTILINE):
        found = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
        assert sorted(found) == sorted(set(found)), section.splitlines()[0]


@pytest.mark.parametrize(
    ("heading", "config"),
    [("## Control plane", controlplane.config.Config), ("## Host agent", hostagent.config.Config)],
)
def test_settings_and_their_defaults(heading: str, config: type) -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    section = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", section, re.MULTILINE))
    assert {name: default.strip() for name, default in told.items()} == {
        field.name: _default(field) for field in dataclasses.fields(config)
    }


def _default(field: "dataclasses.Field[object]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    if field.default is dataclasses.MISSING:
        return "required"
    value = field.default
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value) or "none"
    return f"`{value}`" if value != "" else "none"


@pytest.mark.parametrize(
    "states", [InstanceState, TemplateState, OperationState, HostLinkState, HostAdminState, RouterState]
)
def test_every_state_is_explained(states: type) -> None:
    listed = set(first_cells("states.md"))
    names = {state.name for state in states} - {"UNSPECIFIED"}  # type: ignore[attr-defined]
    assert names <= listed


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        leads_to = (path.parent / name) if name else path
        if not leads_to.exists() or (anchor and anchor not in _anchors(leads_to)):
            dead.append(target)
    assert not dead


def test_files_that_the_architecture_names_exist() -> None:
    """Every path in backticks: `hostagent/worker/plan.py`, `docs/`, `cli/instance/*.py`."""
    text = (ROOT / "docs/architecture.md").read_text()
    tops = "|".join(p.name for p in ROOT.iterdir() if p.is_dir())
    named = re.findall(rf"`((?:{tops})/[A-Za-z0-9_./*-]*|[A-Za-z]+(?:\.toml|\.md|file))`", text)
    assert len(named) > 50
    assert [name for name in named if not any(True for _ in ROOT.glob(name))] == []


def test_every_call_says_which_role_it_needs() -> None:
    """The comment of a call on a project's objects names the role of the permission table."""
    wrong = []
    for path in sorted((ROOT / "protos/moorage/v1").glob("*.proto")):
        text = path.read_text()
        for service, body in re.findall(r"^service (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            for comment, method in re.findall(r"((?:  //.*\n)+)  rpc (\w+)\(", body):
                role = TABLE[f"/moorage.v1.{service}/{method}"].role
                said = re.findall(r"Role: (\w+)", " ".join(comment.replace("//", "").split()))
                if said != ([] if role is None else [role.name.lower()]):
                    wrong.append((service, method, role, said))
    assert not wrong


def _commands(text: str) -> Iterator[str]:
    """Lines of code blocks and text in backticks, without a prompt and `sudo`."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (line.strip().removeprefix("$ ") for line in block.splitlines())
    yield from (line.strip() for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE))
    yield from re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {
        word
        for command in _commands(path.read_text())
        if (found := re.match(r"(?:sudo )?make((?: [a-z-]+)+)", command))
        for word in found[1].split()
    }
    assert not told - targets


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "README.md",
        *(ROOT / "docs" / f"{name}.md" for name in ("operations", "access", "networking", "errors", "groups")),
    ],
    ids=lambda path: path.name,
)
def test_moor_commands_exist(path: Path) -> None:
    """Each `moor NOUN VERB --option` is one that the command line has."""
    wrong = []
    for command in _commands(path.read_text()):
        if re.match(r"(?:sudo )?(?:\S*/)?moor ", command):
            words = shlex.split(command.split("#")[0].split(" | ")[0], posix=True)
            problem = _problem_of(words[words.index(next(w for w in words if w.endswith("moor"))) + 1 :])
            if problem:
                wrong.append((command, problem))
    assert not wrong


def _problem_of(words: list[str]) -> str:
    command: click.Command = moor
    context = click.Context(command)
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        word = rest.pop(0)
        if word.startswith("-"):
            return "" if any(word in p.opts for p in command.get_params(context)) else f"no option {word}"
        found = command.get_command(context, word)
        if found is None:
            return f"no command {word}"
        command = found
        context = click.Context(command, parent=context)
    known = {opt for p in command.get_params(context) for opt in (*p.opts, *p.secondary_opts)}
    free = any(p.nargs == -1 for p in command.params if isinstance(p, click.Argument))
    for word in rest:
        option = word.partition("=")[0]
        if re.match(r"--?[a-z]", option) and option not in known and not free:
            return f"no option {option}"
    return ""

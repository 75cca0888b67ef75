"""Reads a Dockerfile before it is built: its stages, the images that it needs, and what only BuildKit can do.

Not a full parser: it answers what must be known before a host is chosen (which images to have ready, whether the host's
builder suffices), and refuses what no builder would take, with the line. The builder has the last word on everything
else.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from moorage.errors import FieldViolation, InvalidSpec

MAX_DOCKERFILE_BYTES = 1024 * 1024

INSTRUCTIONS = frozenset(
    {
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    }
)

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"""<<(-?)\s*(['"]?)([A-Za-z_][A-Za-z0-9_]*)\2""")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^}]*))?\})")
_GIT_SOURCE = re.compile(r"(?:git@|git://|ssh://\S+|https?://\S+\.git(?:[#?]\S*)?$)")
_MAX_PROBLEMS = 20

# Flags that the classic builder knows; every other one is a word that only BuildKit understands.
_CLASSIC_FLAGS = {"FROM": {"platform"}, "COPY": {"from", "chown"}, "ADD": {"chown"}}
_HEALTHCHECK_FLAGS = {"interval", "timeout", "start-period", "retries"}

# Set by BuildKit alone; in the classic builder they are empty, and an image reference built of them is broken.
_PLATFORM_VARIABLES = frozenset(
    f"{side}{part}" for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "ARCH", "VARIANT")
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction with its continuation lines joined; `line` counts from 1."""

    line: int
    name: str
    flags: tuple[tuple[str, str], ...]
    rest: str
    has_heredoc: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM.

    Attributes:
        base: image reference with ARGs put in, `scratch`, or an earlier stage's name.
        name: after AS; empty where there is none.
        platform: of `--platform`, as written.
    """

    line: int
    base: str
    name: str
    platform: str


@dataclass(frozen=True, slots=True)
class DockerfileInfo:
    """What a Dockerfile needs.

    Attributes:
        images: references to images from outside, in order, once each: bases, and sources of COPY --from and RUN
        --mount. buildkit_features: names of what the classic builder lacks, such as `RUN --mount`; empty when it
        suffices.
    """

    stages: tuple[Stage, ...]
    images: tuple[str, ...]
    buildkit_features: tuple[str, ...]


def inspect_dockerfile(text: str, build_args: Mapping[str, str] | None = None) -> DockerfileInfo:
    """Read a Dockerfile.

    Args:
        build_args: values for ARGs, as given to the build; they decide bases like `FROM debian:${TAG}`.

    Raises:
        InvalidSpec: DOCKERFILE_INVALID, every problem with its line (`dockerfile:3`).
    """
    if len(text.encode()) > MAX_DOCKERFILE_BYTES:
        raise InvalidSpec.of("dockerfile", f"is larger than {MAX_DOCKERFILE_BYTES} bytes", "DOCKERFILE_INVALID")
    directives, instructions = _split(text)
    reader = _Reader(build_args or {})
    if "syntax" in directives:
        reader.feature("# syntax=")
    if "check" in directives:
        reader.feature("# check=")
    for instruction in instructions:
        reader.read(instruction)
    if not reader.stages and not reader.problems:
        reader.problem(1, "has no FROM")
    if reader.problems:
        raise InvalidSpec(reader.problems[:_MAX_PROBLEMS], reason="DOCKERFILE_INVALID")
    return DockerfileInfo(tuple(reader.stages), tuple(reader.images), tuple(reader.features))


class _Reader:
    def __init__(self, build_args: Mapping[str, str]) -> None:
        self._build_args = build_args
        self._global_args: dict[str, str] = {}
        self.stages: list[Stage] = []
        self.images: dict[str, None] = {}
        self.features: dict[str, None] = {}
        self.problems: list[FieldViolation] = []

    def problem(self, line: int, problem: str) -> None:
        self.problems.append(FieldViolation(f"dockerfile:{line}", problem, "DOCKERFILE_INVALID"))

    def feature(self, name: str) -> None:
        self.features[name] = None

    def read(self, one: Instruction) -> None:
        if one.name not in INSTRUCTIONS:
            self.problem(one.line, f"unknown instruction {one.name[:40]!r}")
            return
        if not one.rest and one.name not in ("CMD", "ENTRYPOINT"):
            self.problem(one.line, f"{one.name} has no arguments")
            return
        if not self.stages and one.name not in ("FROM", "ARG"):
            self.problem(one.line, f"{one.name} stands before the first FROM")
            return
        if one.has_heredoc:
            self.feature(f"{one.name} heredoc")
        if one.name == "FROM":
            self._from(one)
        elif one.name == "ARG":
            self._arg(one)
        elif one.name == "ONBUILD":
            self._onbuild(one)
        else:
            self._flags(one)

    def _arg(self, one: Instruction) -> None:
        for word in one.rest.split():
            name, has_default, default = word.partition("=")
            if not self.stages:
                value = self._build_args.get(name, _unquoted(default) if has_default else "")
                self._global_args[name] = self._expand(value)[0]

    def _from(self, one: Instruction) -> None:
        words = one.rest.split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            self.problem(one.line, "FROM takes an image, and perhaps AS and a name")
            return
        platform = dict(one.flags).get("platform", "")
        base, missing = self._expand(words[0])
        used = {a or b for a, b, _, _ in _VARIABLE.findall(words[0] + " " + platform)}
        if used & _PLATFORM_VARIABLES:
            self.feature("platform ARGs")
            missing -= _PLATFORM_VARIABLES
        if missing:
            self.problem(
                one.line, f"FROM uses {', '.join(sorted(missing))}, which no ARG before it and no build argument sets"
            )
            return
        name = words[2].lower() if len(words) == 3 else ""
        if name and not _STAGE_NAME.fullmatch(name):
            self.problem(one.line, f"{words[2]!r} is no stage name")
        if name and name in {stage.name for stage in self.stages}:
            self.problem(one.line, f"the stage {name!r} is there twice")
        self._flags(one)
        if not used & _PLATFORM_VARIABLES:
            self._image(base)
        self.stages.append(Stage(one.line, base, name, platform))

    def _onbuild(self, one: Instruction) -> None:
        inner = _instruction(one.line, one.rest, False)
        if inner.name in ("ONBUILD", "FROM", "MAINTAINER") or inner.name not in INSTRUCTIONS:
            self.problem(one.line, f"ONBUILD cannot be followed by {inner.name[:40]!r}")
            return
        self._flags(inner)

    def _flags(self, one: Instruction) -> None:
        known = _HEALTHCHECK_FLAGS if one.name == "HEALTHCHECK" else _CLASSIC_FLAGS.get(one.name, set())
        for name, value in one.flags:
            if name not in known:
                self.feature(f"{one.name} --{name}")
            if name == "from":
                self._image(self._expand(value)[0])
            if one.name == "RUN" and name == "mount":
                options = dict(part.partition("=")[::2] for part in value.split(","))
                if options.get("from"):
                    self._image(self._expand(options["from"])[0])
        if one.name == "ADD" and any(_GIT_SOURCE.match(word) for word in _words(one.rest)[:-1]):
            self.feature("ADD from git")

    def _image(self, reference: str) -> None:
        """Remember an image from outside: not a stage's name or number, not `scratch`."""
        is_stage = reference.lower() in {stage.name for stage in self.stages if stage.name}
        if reference and reference != "scratch" and not is_stage and not reference.isdigit() and "$" not in reference:
            self.images[reference] = None

    def _expand(self, text: str) -> tuple[str, set[str]]:
        """Put ARGs in; also which names had no value."""
        missing: set[str] = set()

        def value(match: re.Match[str]) -> str:
            name, operator, word = match[1] or match[2], match[3] or "", match[4] or ""
            known = self._global_args.get(name)
            is_set = known is not None and (known != "" or not operator.startswith(":"))
            if operator.endswith("+"):
                return word if is_set else ""
            if is_set and known:
                return known
            if operator.endswith("-"):
                return word
            missing.add(name)
            return ""

        return _VARIABLE.sub(value, _unquoted(text)), missing


def _split(text: str) -> tuple[dict[str, str], list[Instruction]]:
    """Directives (only at the very top), and instructions with continuations joined and here-documents skipped."""
    lines = text.removeprefix("\ufeff").splitlines()
    directives: dict[str, str] = {}
    at = 0
    while at < len(lines) and (match := _DIRECTIVE.fullmatch(lines[at].strip())):
        directives.setdefault(match[1].lower(), match[2])
        at += 1
    escape = directives.get("escape", "\\")
    instructions = []
    while at < len(lines):
        if _is_skipped(lines[at]):
            at += 1
            continue
        start, joined = at, ""
        while at < len(lines):
            line = lines[at]
            at += 1
            if joined and _is_skipped(line):  # comments and empty lines may stand inside a continued instruction
                continue
            stripped = line.rstrip()
            if not stripped.endswith(escape):
                joined += line
                break
            joined += stripped[: -len(escape)] + " "
        has_heredoc = False
        if joined.lstrip()[:4].strip().upper() in ("RUN", "COPY", "ADD"):
            for dash, _, word in _HEREDOC.findall(joined):
                end = next((n for n in range(at, len(lines)) if _ends_heredoc(lines[n], word, dash)), None)
                if end is not None:  # else it is a shift or the like in a shell command
                    has_heredoc, at = True, end + 1
        instructions.append(_instruction(start + 1, joined, has_heredoc))
    return directives, instructions


def _instruction(line: int, text: str, has_heredoc: bool) -> Instruction:
    name, _, rest = text.strip().partition(" ")
    if "\t" in name:
        name, _, rest = text.strip().partition("\t")
    rest = rest.strip()
    flags = []
    if name.upper() in ("FROM", "COPY", "ADD", "RUN", "HEALTHCHECK"):
        while match := _FLAG.match(rest):
            flags.append((match[1], match[2] or ""))
            rest = rest[match.end() :]
    return Instruction(line, name.upper(), tuple(flags), rest, has_heredoc)


def _ends_heredoc(line: str, word: str, dash: str) -> bool:
    return (line.lstrip("\t") if dash else line) == word


def _is_skipped(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _words(rest: str) -> list[str]:
    if rest.startswith("["):
        try:
            words = json.loads(rest)
        except ValueError:
            return rest.split()
        return [word for word in words if isinstance(word, str)]
    return rest.split()


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text

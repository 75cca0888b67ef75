"""What of a Dockerfile the classic builder cannot do. Pure.

The classic builder ignores some of BuildKit's words silently and stumbles over others with odd messages; we name
the feature instead, before anything runs. docs/decisions/0003-engine.md says why builds use the classic builder.
"""

import re
from collections.abc import Iterator

_ESCAPE = re.compile(r"^#\s*escape\s*=\s*(\S)\s*$", re.IGNORECASE)
_DIRECTIVE = re.compile(r"^#\s*[a-z]+\s*=", re.IGNORECASE)
# A word of its own, as BuildKit reads it: not a here-string (<<<), not a shift (1 << N).
_HEREDOC = re.compile(r"(?:^|\s)\d*<<-?(['\"]?)[A-Za-z_]\w*\1(?=\s|$)")
_FLAG = re.compile(r"^--([a-z][a-z-]*)(?:=(\S*))?")
_PLATFORM_ARG = re.compile(r"\$\{?((?:TARGET|BUILD)(?:PLATFORM|OS|ARCH|VARIANT))\b")
_PLATFORM_NAMES = frozenset(
    f"{side}{part}" for side in ("TARGET", "BUILD") for part in ("PLATFORM", "OS", "ARCH", "VARIANT")
)
_CLASSIC_FLAGS = {
    "FROM": frozenset({"platform"}),
    "COPY": frozenset({"from", "chown"}),
    "ADD": frozenset({"chown"}),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "retries"}),
}


def buildkit_features(text: str) -> tuple[str, ...]:
    """The features of a Dockerfile that need BuildKit, each once and as a user writes it (`RUN --mount`)."""
    found: dict[str, None] = {}
    for line in _instructions(text):
        word, _, rest = line.partition(" ")
        instruction, rest = word.upper(), rest.strip()
        flags, rest_after_flags = _flags(rest)
        allowed = _CLASSIC_FLAGS.get(instruction, frozenset())
        for name, value in flags:
            if name not in allowed:
                found[f"{instruction} --{name}"] = None
            elif name == "platform" and _PLATFORM_ARG.search(value):
                found["FROM --platform=$BUILDPLATFORM"] = None
        if instruction in ("RUN", "COPY", "ADD") and _has_heredoc(rest_after_flags):
            found[f"{instruction} with a heredoc (<<)"] = None
        if instruction == "ARG":
            for argument in rest.split():
                name, equals, _ = argument.partition("=")
                if name in _PLATFORM_NAMES and not equals:
                    found[f"ARG {name}"] = None
        if instruction == "ADD" and re.match(r"(git@|https?://\S+\.git(#|\s|$))", rest_after_flags):
            found["ADD of a git repository"] = None
    return tuple(found)


def _has_heredoc(rest: str) -> bool:
    """Whether Docker, not a shell inside quotes, would read a here-document."""
    return any(
        rest.count("'", 0, match.start()) % 2 == 0 and rest.count('"', 0, match.start()) % 2 == 0
        for match in _HEREDOC.finditer(rest)
    )


def _flags(rest: str) -> tuple[list[tuple[str, str]], str]:
    flags: list[tuple[str, str]] = []
    while match := _FLAG.match(rest):
        flags.append((match[1], match[2] or ""))
        rest = rest[match.end() :].lstrip()
    return flags, rest


def _instructions(text: str) -> Iterator[str]:
    """Logical lines: comments and empty lines gone, continuations joined."""
    escape = "\\"
    at_top = True
    parts: list[str] = []
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("#"):
            if at_top and (match := _ESCAPE.match(line)):
                escape = match[1]
            at_top = at_top and bool(_DIRECTIVE.match(line))
            continue
        if not line:
            continue
        at_top = False
        if line.endswith(escape):
            parts.append(line[: -len(escape)].strip())
            continue
        parts.append(line)
        yield " ".join(part for part in parts if part)
        parts = []
    if parts:
        yield " ".join(part for part in parts if part)

"""What of a directory goes to a build: everything that `.dockerignore` does not name. It only reads."""

import re
from collections.abc import Iterator
from pathlib import Path

from moorage.errors import InvalidSpec


def context_entries(root: Path, dockerfile: str) -> Iterator[tuple[Path, str]]:
    """(path, name in the archive) of the files and directories to send, parents first.

    The Dockerfile itself and .dockerignore are always sent, as Docker does it.

    Raises:
        InvalidSpec: there is no such Dockerfile in the directory.
    """
    if not (root / dockerfile).is_file():
        raise InvalidSpec.of("dockerfile", f"{root} holds no {dockerfile}; name it with --file")
    ignore_file = root / ".dockerignore"
    rules = parse_ignore(ignore_file.read_text()) if ignore_file.is_file() else []
    always = {dockerfile, ".dockerignore"}
    has_exceptions = any(not ignored for ignored, _ in rules)

    def below(folder: Path, prefix: str) -> Iterator[tuple[Path, str]]:
        for path in sorted(folder.iterdir()):
            name = prefix + path.name
            skipped = is_ignored(name, rules) and name not in always
            is_folder = path.is_dir() and not path.is_symlink()
            if not skipped:
                yield path, name
            # Below an ignored directory only an exception, or the Dockerfile, can still be wanted.
            if is_folder and (not skipped or has_exceptions or dockerfile.startswith(name + "/")):
                yield from below(path, name + "/")

    return below(root, "")


def parse_ignore(text: str) -> list[tuple[bool, re.Pattern[str]]]:
    """The rules of a .dockerignore, in order: (whether it ignores, what)."""
    rules = []
    for line in text.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        ignores = not pattern.startswith("!")
        cleaned = pattern.removeprefix("!").strip().strip("/").removeprefix("./")
        if cleaned and cleaned != ".":
            rules.append((ignores, _pattern(cleaned)))
    return rules


def is_ignored(name: str, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    """The last rule that matches the name, or a directory above it, decides."""
    ignored = False
    for ignores, pattern in rules:
        if pattern.match(name):
            ignored = ignores
    return ignored


def _pattern(glob: str) -> re.Pattern[str]:
    out = ""
    position = 0
    while position < len(glob):
        if glob.startswith("**/", position):
            out, position = out + "(?:.*/)?", position + 3
        elif glob.startswith("**", position):
            out, position = out + ".*", position + 2
        elif glob[position] == "*":
            out, position = out + "[^/]*", position + 1
        elif glob[position] == "?":
            out, position = out + "[^/]", position + 1
        else:
            out, position = out + re.escape(glob[position]), position + 1
    return re.compile(out + "(?:/.*)?$", re.DOTALL)

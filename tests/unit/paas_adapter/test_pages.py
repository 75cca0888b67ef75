"""docs/paas-documents.md against the code: every key of every kind, and every reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from paas_adapter.documents.fields import Listing, Nested, Part, keys_of
from paas_adapter.documents.kinds import KINDS
from paas_adapter.documents.scalars import Property

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/paas-documents.md").read_text()
#: Where a reason stands among the arguments of a call.
POSITION = {"refuse": 1, "note": 1, "Unreadable": 0, "_bad": 2}


def _parts(cls: type[Part]) -> Iterator[type[Part]]:
    """A class and those inside of it."""
    seen: list[type[Part]] = []
    waiting = [cls]
    while waiting:
        one = waiting.pop()
        if one in seen or one is Property:
            continue
        seen.append(one)
        for key in keys_of(one).values():
            reader = key.reader.item if isinstance(key.reader, Listing) else key.reader
            if isinstance(reader, Nested):
                waiting.append(reader.cls if isinstance(reader.cls, type) else reader.cls())
    yield from seen


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_every_key_of_a_kind_is_on_the_page(kind: object) -> None:
    word = kind.word  # type: ignore[attr-defined]
    heading = f"\n## {word[0].upper()}{word[1:]}\n"
    assert heading in PAGE
    section = PAGE.partition(heading)[2].partition("\n## ")[0]
    elsewhere = PAGE.partition("\n### Dependencies\n")[2].partition("\n## ")[0]
    repository = PAGE.partition("An artifact repository")[2].partition("\n## ")[0]
    persistence = PAGE.partition("| `persistence` |")[2].partition("\n")[0]
    told = set(re.findall(r"`([A-Za-z_]+)`", section + elsewhere + repository + persistence))
    for part in _parts(kind.cls):  # type: ignore[attr-defined]
        assert {key.name for key in keys_of(part).values()} <= told, part.__name__


def _reasons() -> Iterator[str]:
    for path in sorted((ROOT / "paas_adapter").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            if name in POSITION and len(node.args) > POSITION[name]:
                given.append(node.args[POSITION[name]])
            for value in given:
                if isinstance(value, ast.Constant) and re.fullmatch(r"[A-Z][A-Z0-9_]+", str(value.value)):
                    yield str(value.value)


def test_every_reason_is_on_the_page_and_no_other() -> None:
    section = PAGE.partition("\n## Reasons\n")[2]
    told = re.findall(r"^\| `([A-Z0-9_]+)` \|", section, re.MULTILINE)
    assert sorted(told) == sorted({*_reasons(), "NOT_JSON"})

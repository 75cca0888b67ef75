"""Files of many documents, each an object: read whole, and everything that is wrong with any of them said at once. Nothing is asked of a
control plane here.
"""

import difflib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cli.apply.nouns import BY_KIND, Noun
from moorage.errors import FieldViolation

_SUFFIXES = (".yaml", ".yml", ".json")
#: What the control plane writes, and an export of `get` has: passed over, so that such a document can be applied as it is.
_PASSED_OVER = frozenset({"uid", "etag", "create_time", "status", "desired_state", "fqdn"})
_OWN_JSON = ("google.protobuf.",)  # messages with a JSON form of their own, such as "3s"


@dataclass(frozen=True, slots=True)
class Document:
    """One object that shall be there."""

    where: str  # FILE document N
    noun: Noun
    name: str  # full
    message: Any  # its own, with name and what people write

    @property
    def label(self) -> str:
        """For people: Network/shop."""
        return label_of(self.noun, self.name)


def label_of(noun: Noun, name: str) -> str:
    """Such as Network/shop."""
    return f"{noun.kind}/{noun.short_name(name)}"


def read(paths: Iterable[Path], project: str) -> tuple[list[Document], list[FieldViolation]]:
    """All documents of files and folders ("-": standard input), in order, and all that is wrong with them.

    Args:
        project: projects/{project}, for short names.
    """
    documents: list[Document] = []
    problems: list[FieldViolation] = []
    for path in paths:
        for file in _files(path, problems):
            for number, found in enumerate(_load(file, problems), 1):
                document = _document(found, f"{file} document {number}", project, problems)
                if document is not None:
                    documents.append(document)
    seen: dict[str, str] = {}
    for document in documents:
        first = seen.setdefault(document.name, document.where)
        if first is not document.where:
            problems.append(FieldViolation(f"{document.where} name", f"{document.label} is in {first} too"))
    if not documents and not problems:
        problems.append(FieldViolation("file", "there is no document in it"))
    return documents, problems


def _files(path: Path, problems: list[FieldViolation]) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if not found:
        problems.append(FieldViolation(str(path), f"has no file that ends in {', '.join(_SUFFIXES)}"))
    return found


def _load(file: Path, problems: list[FieldViolation]) -> Iterator[Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        yield from [found for found in yaml.safe_load_all(text) if found is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(FieldViolation(str(file), f"cannot be read: {' '.join(str(error).split())}"))


def _document(found: Any, where: str, project: str, problems: list[FieldViolation]) -> Document | None:
    if not isinstance(found, dict):
        problems.append(FieldViolation(where, "must be a mapping that begins with `kind:`"))
        return None
    noun = BY_KIND.get(str(found.get("kind", "")))
    if noun is None:
        text = f"must be one of {', '.join(BY_KIND)}, not {found.get('kind')!r}"
        problems.append(FieldViolation(f"{where} kind", text))
        return None
    before = len(problems)
    name = noun.full_name(project, str(found.get("name", "")))
    if not name:
        form = "PARENT/ID, such as edge/no-mail," if noun.above else "an ID"
        problems.append(FieldViolation(f"{where} name", f"must be {form} or a full name, not {found.get('name')!r}"))
    body = {key: value for key, value in found.items() if key not in ("kind", "name") and key not in _PASSED_OVER}
    for key in sorted(set(map(str, body)) - set(noun.fields)):
        problems.append(FieldViolation(f"{where} {key}", f"no {noun.kind} has it; there is {', '.join(noun.fields)}"))
        body.pop(key, None)
    problems += [FieldViolation(f"{where} {path}", text) for path, text in check(body, noun.message.DESCRIPTOR, "")]
    if len(problems) > before:
        return None
    message = json_format.ParseDict({**body, "name": name}, noun.message())
    return Document(where, noun, name, message)


def check(value: Any, descriptor: Descriptor, path: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a message's JSON form: the path and why, for every place, not only the first."""
    if descriptor.full_name.startswith(_OWN_JSON) or not isinstance(value, dict):
        yield from _try(value, descriptor, path)
        return
    for key, inner in value.items():
        where = f"{path}.{key}" if path else str(key)
        field = descriptor.fields_by_name.get(str(key))
        if field is None:
            near = difflib.get_close_matches(str(key), descriptor.fields_by_name, n=1)
            yield where, f"{descriptor.name} has no such field{f'; did you mean {near[0]}?' if near else ''}"
        elif inner is not None:
            yield from _check_field(inner, field, where)


def _check_field(value: Any, field: FieldDescriptor, path: str) -> Iterator[tuple[str, str]]:
    inner = field.message_type
    if inner is None or inner.GetOptions().map_entry:
        yield from _try_field(value, field, path)
    elif not field.is_repeated:
        yield from check(value, inner, path)
    elif not isinstance(value, list):
        yield path, "must be a list"
    else:
        for index, item in enumerate(value):
            yield from check(item, inner, f"{path}[{index}]")


def _try(value: Any, descriptor: Descriptor, path: str) -> Iterator[tuple[str, str]]:
    """As protobuf itself judges a whole message."""
    try:
        json_format.ParseDict(value, message_factory.GetMessageClass(descriptor)())
    except (json_format.ParseError, TypeError, ValueError, AttributeError):
        yield path, f"{value!r} is no {descriptor.name}"


def _try_field(value: Any, field: FieldDescriptor, path: str) -> Iterator[tuple[str, str]]:
    """As protobuf itself judges one field."""
    assert field.containing_type is not None
    try:
        json_format.ParseDict({field.name: value}, message_factory.GetMessageClass(field.containing_type)())
    except (json_format.ParseError, TypeError, ValueError, AttributeError):
        known = "" if field.enum_type is None else f"; there is {', '.join(field.enum_type.values_by_name)}"
        yield path, f"{value!r} cannot be its value{known}"

"""Resource names such as projects/p/instances/i: how they are built, taken apart and checked."""

import re

from moorage.errors import FieldViolation, InvalidSpec

ID_PATTERN = re.compile(r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
ID_RULE = "must be 1-63 lower-case letters, digits and hyphens, begin with a letter and not end with a hyphen"

_LABEL_KEY = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?$")
LABEL_LIMIT = 64


def host_name(host: str) -> str:
    """hosts/{host}."""
    return f"hosts/{host}"


def zone_name(zone: str) -> str:
    """zones/{zone}, or empty for no zone."""
    return f"zones/{zone}" if zone else ""


def project_name(project: str) -> str:
    """projects/{project}."""
    return f"projects/{project}"


def child_name(project: str, collection: str, child: str) -> str:
    """projects/{project}/{collection}/{child}."""
    return f"projects/{project}/{collection}/{child}"


def parse_top(name: str, collection: str, field: str = "name") -> str:
    """The last part of {collection}/{id}.

    Raises:
        InvalidSpec: it is not such a name.
    """
    head, _, last = name.partition("/")
    if head != collection or not last or "/" in last:
        raise InvalidSpec.of(field, f"must look like {collection}/NAME, not {name!r}", "NAME_INVALID")
    return last


def parse_child(name: str, collection: str, field: str = "name") -> tuple[str, str]:
    """(project, child) of projects/{project}/{collection}/{child}.

    Raises:
        InvalidSpec: it is not such a name.
    """
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "projects" or parts[2] != collection or not parts[1] or not parts[3]:
        raise InvalidSpec.of(field, f"must look like projects/PROJECT/{collection}/NAME, not {name!r}", "NAME_INVALID")
    return parts[1], parts[3]


def parse_grandchild(name: str, parents: str, collection: str, field: str = "name") -> tuple[str, str, str]:
    """(project, parent, child) of projects/{project}/{parents}/{parent}/{collection}/{child}.

    Raises:
        InvalidSpec: it is not such a name.
    """
    parts = name.split("/")
    if len(parts) != 6 or (parts[0], parts[2], parts[4]) != ("projects", parents, collection) or not all(parts):
        form = f"projects/PROJECT/{parents}/NAME/{collection}/NAME"
        raise InvalidSpec.of(field, f"must look like {form}, not {name!r}", "NAME_INVALID")
    return parts[1], parts[3], parts[5]


def parse_parent(parent: str, field: str = "parent") -> str:
    """The project of projects/{project}; "-" means all.

    Raises:
        InvalidSpec: it is not such a name.
    """
    return parse_top(parent, "projects", field)


def check_id(value: str, field: str) -> list[FieldViolation]:
    """Nothing, or what is wrong with the last part of a new name."""
    if ID_PATTERN.fullmatch(value):
        return []
    return [FieldViolation(field, f"{ID_RULE}, not {value!r}", "NAME_INVALID")]


def check_labels(labels: "dict[str, str] | object", field: str) -> list[FieldViolation]:
    """Nothing, or every bad label. Keys with the prefix `moorage.` are ours."""
    found: list[FieldViolation] = []
    assert isinstance(labels, dict)
    if len(labels) > LABEL_LIMIT:
        found.append(FieldViolation(field, f"at most {LABEL_LIMIT} labels are allowed", "LABEL_INVALID"))
    for key, value in sorted(labels.items()):
        if not _LABEL_KEY.fullmatch(key):
            found.append(FieldViolation(f"{field}[{key}]", "is no valid label name", "LABEL_INVALID"))
        elif key.startswith("moorage."):
            found.append(FieldViolation(f"{field}[{key}]", "the prefix moorage. is reserved", "LABEL_RESERVED"))
        if len(value) > 1024:
            found.append(FieldViolation(f"{field}[{key}]", "is longer than 1024 characters", "LABEL_INVALID"))
    return found

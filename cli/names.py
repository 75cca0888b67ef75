"""Names: what people type (`web`) and what the API says (`projects/default/instances/web`). Pure."""

import hashlib
import re

from moorage.errors import InvalidSpec

MAX_ID_LENGTH = 63
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def is_id(text: str) -> bool:
    """Whether it can be the last part of a name."""
    return _ID.fullmatch(text) is not None


def project_name(text: str) -> str:
    """`p` or `projects/p` as `projects/p`."""
    return text if text.startswith("projects/") else f"projects/{text}"


def in_project(project: str, collection: str, text: str) -> str:
    """The full name of an object of a project; a full name stays as it is.

    Raises:
        InvalidSpec: a full name of another kind of object.
    """
    if not text.startswith("projects/"):
        return f"{project_name(project)}/{collection}/{text}"
    if text.split("/")[2:3] != [collection]:
        raise InvalidSpec.of("name", f"{text!r} is not one of the {collection}")
    return text


def in_fleet(collection: str, text: str) -> str:
    """The full name of an object outside of projects, such as hosts/a."""
    return text if text.startswith(f"{collection}/") else f"{collection}/{text}"


def short(name: str) -> str:
    """The last part."""
    return name.rsplit("/", 1)[-1]


def template_id_of(reference: str, *, distinct: bool = False) -> str:
    """An id for the template of an image: `nginx:1.27` gives `nginx-1-27`, `a/b@sha256:0123...` gives `b-0123456789ab`.

    With `distinct` it ends in a digest of the whole reference, for two images whose short ids are equal.
    """
    rest, _, digest = reference.partition("@")
    last = rest.rsplit("/", 1)[-1]
    name, _, tag = last.partition(":")
    parts = [name]
    if digest:
        parts.append(digest.partition(":")[2][:12])
    elif tag and tag != "latest":
        parts.append(tag)
    if distinct:
        parts.append(hashlib.sha256(reference.encode()).hexdigest()[:8])
    cleaned = [re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts]
    tail = "-".join(part for part in cleaned[1:] if part)
    head = cleaned[0] or "image"
    if not head[0].isalpha():
        head = f"t-{head}"
    head = head[: MAX_ID_LENGTH - len(tail) - 1].rstrip("-") if tail else head[:MAX_ID_LENGTH].rstrip("-")
    return f"{head}-{tail}" if tail else head

"""Image references as people type them (`nginx`, `ghcr.io/a/b:1`, `host:5000/a@sha256:...`), made explicit.

The rules are Docker's, since users' habits are: without a host it is Docker Hub, without a namespace there it is
`library/`, without tag and digest it is `latest`.
"""

import ipaddress
import re
from collections.abc import Collection

from controlplane.registry.names import Reference, is_digest, is_repository, is_tag
from moorage.errors import InvalidSpec

DOCKER_HUB = "docker.io"

_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_DOCKER_HUB_URL = "https://registry-1.docker.io"
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]{0,61}[A-Za-z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?")


def parse_reference(text: str, field: str = "reference") -> Reference:
    """The explicit form of a reference.

    Raises:
        InvalidSpec: it is none; reason REFERENCE_INVALID, with what is wrong.
    """

    def refuse(problem: str) -> InvalidSpec:
        return InvalidSpec.of(field, f"{text[:300]!r} is no image reference: {problem}", "REFERENCE_INVALID")

    if not text or text != text.strip() or len(text) > 1024:
        raise refuse("it is empty, too long, or has blanks around it")
    if "://" in text:
        raise refuse("leave the scheme out (docker.io/library/nginx:1, not https://...)")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise refuse("after '@' stands no sha256 or sha512 digest")
    first, slash, rest = name.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    registry, path = (first, rest) if has_host else (DOCKER_HUB, name)
    if has_host and not _is_host(registry):
        raise refuse(f"{registry!r} is no host name or host:port")
    registry = registry.lower()
    path, colon, tag = path.partition(":")
    if colon and not is_tag(tag):
        raise refuse("after ':' stands no tag (letters, digits, '_', '.', '-', 128 at most)")
    if registry in _DOCKER_HUB_NAMES:
        registry = DOCKER_HUB
        if path and "/" not in path:
            path = f"library/{path}"
    if not is_repository(path):
        hint = "; write it in lower case" if path.lower() != path else ""
        raise refuse(f"{path!r} is no repository name{hint}")
    if not tag and not digest:
        tag = "latest"
    return Reference(registry, path, tag or None, digest or None)


def registry_url(registry: str, *, plain_http: Collection[str] = ()) -> str:
    """Where a registry's API is.

    Args:
        plain_http: registries (`host:port`) that the operator lets be spoken to without TLS.
    """
    if registry == DOCKER_HUB:
        return _DOCKER_HUB_URL
    return f"{'http' if registry in plain_http else 'https'}://{registry}"


def familiar(reference: Reference) -> str:
    """The short form for people: `nginx:1.2` for `docker.io/library/nginx:1.2`."""
    text = str(reference)
    for prefix in (f"{DOCKER_HUB}/library/", f"{DOCKER_HUB}/"):
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return text


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or len(text) > 255 or (match["port"] and not 0 < int(match["port"]) < 65536):
        return False
    if match["v6"]:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError:
            return False
    return True

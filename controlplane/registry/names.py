"""The grammar of the registry API: repository names, tags, digests, and the references made of them.

Kept apart from the short forms that people type (`nginx`), which `controlplane.images.reference` expands.
"""

import re
from dataclasses import dataclass

from moorage.errors import InvalidSpec

MAX_REPOSITORY_LENGTH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image at a registry. At least one of tag and digest is set; the digest wins where both are.

    Attributes:
        registry: `host` or `host:port`, as the user named it (`docker.io` stays `docker.io`).
        repository: the path below it.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def target(self) -> str:
        """What stands after `/manifests/` in the API."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        text = f"{self.registry}/{self.repository}"
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text


def is_repository(text: str) -> bool:
    """Whether the text is a repository name: lower-case path components."""
    return len(text) <= MAX_REPOSITORY_LENGTH and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether the text is a tag."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether the text is a digest of an algorithm that we can check (sha256, sha512)."""
    return _DIGEST.fullmatch(text) is not None


def check_repository(text: str, field: str = "repository") -> str:
    """The text itself, when it is a repository name.

    Raises:
        InvalidSpec: it is not; reason REFERENCE_INVALID.
    """
    if not is_repository(text):
        raise InvalidSpec.of(field, f"{text!r} is not a repository name (lower-case path)", "REFERENCE_INVALID")
    return text


def check_digest(text: str, field: str = "digest") -> str:
    """The text itself, when it is a digest.

    Raises:
        InvalidSpec: it is not; reason REFERENCE_INVALID.
    """
    if not is_digest(text):
        raise InvalidSpec.of(field, f"{text!r} is not a sha256 or sha512 digest", "REFERENCE_INVALID")
    return text

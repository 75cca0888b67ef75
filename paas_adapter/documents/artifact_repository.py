"""Repositories that artifacts come from: the same part in applications and sign-ups."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from paas_adapter.documents.fields import Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Flag, Id, Text, Whole

#: user@host:path, which git reads as ssh.
_SCP = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^:\s][^\s]*\Z")
#: Schemes that are fetched.
FETCHED = ("https", "ssh")
#: Schemes that real documents have, which anybody on the way could answer in the repository's place.
_UNSAFE = ("http", "git")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]*\Z")


def url_fault(text: str) -> str:
    """What is wrong with the URL of a repository: git would run helpers and read files of the host for other kinds."""
    if _SCP.match(text):
        return ""
    if re.search(r"[\s\x00-\x1f]", text):
        return "a URL has no spaces in it"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in (*FETCHED, *_UNSAFE) or "::" in text.partition("//")[0]:
        return "only https:// and ssh:// repositories are fetched"
    if not host or host.startswith("-"):
        return "the URL names no host"
    return "give the password as repoPassword, not in the URL" if parts.password else ""


def ref_fault(text: str) -> str:
    return "" if _REF.match(text) and ".." not in text else "not a branch, a tag or a commit"


def directory_fault(text: str) -> str:
    inside = not text.startswith("/") and ".." not in text.split("/") and not text.startswith("-")
    return "" if inside else "a folder of the repository is relative, without .."


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRepository(Part):
    """A git repository. The keys that Stratos did not have are repoRef, repoDirectory, repoDepth and repoSubmodules."""

    #: In sign-ups: the cluster that it is for.
    alias: str = key("alias", Id())
    private: bool = key("privateRepo", Flag())
    url: str = key("repoUrl", Text(url_fault, limit=2048))
    username: str = key("repoUsername", Text(limit=200))
    password: str = key("repoPassword", Text(limit=16384), secret=True)
    #: Branch, tag or commit; empty: the repository's default branch.
    ref: str = key("repoRef", Text(ref_fault, limit=200))
    #: What of it is taken; empty: all.
    directory: str = key("repoDirectory", Text(directory_fault, limit=1024))
    #: Commits of history; None: one.
    depth: int | None = key("repoDepth", Whole(1, 1_000_000))
    submodules: bool = key("repoSubmodules", Flag())

    @property
    def is_fetched(self) -> bool:
        """Whether there is something that may be fetched."""
        return bool(self.url) and (bool(_SCP.match(self.url)) or urlsplit(self.url).scheme in FETCHED)

    def check(self, findings: Findings) -> None:
        if self.url and not self.is_fetched:
            message = "the repository is not fetched: only https:// and ssh:// are safe on the way"
            findings.note(self.at.below("repoUrl"), "NOT_USED", message)

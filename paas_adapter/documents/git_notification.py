"""Git notifications: a repository has something new, as the web hooks of its host say it."""

from dataclasses import dataclass
from typing import ClassVar

from paas_adapter.documents.artifact_repository import url_fault
from paas_adapter.documents.fields import Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifiedRepository(Part):
    """Which one. Web hooks name it in several ways; all of them are compared with the repositories in use."""

    foreign: ClassVar[bool] = True

    url: str = key("url", Text(limit=2048))
    clone_url: str = key("clone_url", Text(limit=2048), aliases=("git_http_url",))
    ssh_url: str = key("ssh_url", Text(limit=2048), aliases=("git_ssh_url",))
    description: str = key("description", Text(limit=65536))

    @property
    def urls(self) -> tuple[str, ...]:
        """Those that could be in use."""
        return tuple(url for url in (self.url, self.clone_url, self.ssh_url) if url and not url_fault(url))


@dataclass(frozen=True, slots=True, kw_only=True)
class GitNotification(Part):
    """Body of the call to /repo/notify."""

    foreign: ClassVar[bool] = True

    repository: NotifiedRepository | None = key("repository", Nested(NotifiedRepository), required=True)
    #: refs/heads/main; empty: any.
    ref: str = key("ref", Text(limit=1024))

    def check(self, findings: Findings) -> None:
        if self.repository is not None and not self.repository.urls:
            findings.refuse(self.repository.at, "MISSING", "no URL of a repository that is fetched")

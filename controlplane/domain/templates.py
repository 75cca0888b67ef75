"""Templates: mirrors protos/moorage/v1/templates.proto."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.containers import ContainerDefaults


class TemplateState(enum.IntEnum):
    """Where a template stands."""

    UNSPECIFIED = 0
    PENDING = 100
    READY = 200
    DELETING = 400


@dataclass(frozen=True, slots=True)
class RepositorySource:
    """An image in a registry. The password is kept only until the image is here."""

    reference: str = ""
    username: str = ""
    password: str = ""
    platforms: tuple[str, ...] = ()
    plain_http: bool = False


@dataclass(frozen=True, slots=True)
class DockerfileSource:
    """A Dockerfile."""

    inline: str = ""
    context_url: str = ""
    path: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    memory_bytes: int = 0
    cpu_millis: int = 0
    egress: bool = False


@dataclass(frozen=True, slots=True)
class TarSource:
    """A tar."""

    url: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotSource:
    """The file system of an instance."""

    instance: str = ""
    no_pause: bool = False


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """Exactly one is given."""

    repository: RepositorySource | None = None
    dockerfile: DockerfileSource | None = None
    tar: TarSource | None = None
    snapshot: SnapshotSource | None = None


@dataclass(frozen=True, slots=True)
class TemplateStatus:
    """What is known of a template."""

    state: TemplateState = TemplateState.PENDING
    message: str = ""
    digest: str = ""
    size_bytes: int = 0
    platforms: tuple[str, ...] = ()
    operation: str = ""
    image: ContainerDefaults | None = None
    built_on: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """An image with defaults."""

    uid: str
    project: str
    id: str
    create_time: datetime
    source: TemplateSource
    repository: str  # in the platform's registry
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    defaults: ContainerDefaults = ContainerDefaults()
    generation: int = 1
    status: TemplateStatus = TemplateStatus()

    @property
    def name(self) -> str:
        """projects/{project}/templates/{template}."""
        return f"projects/{self.project}/templates/{self.id}"

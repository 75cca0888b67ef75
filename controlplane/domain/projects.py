"""Projects, members and what they use: mirrors protos/moorage/v1/projects.proto."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.access.roles import Role


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant. `usage` is charged in the transactions that admit and release."""

    uid: str
    id: str
    create_time: datetime
    description: str = ""
    quota: Quota = Quota()
    policy: ProjectPolicy = ProjectPolicy()
    usage: Quota = Quota()
    undelete_window_seconds: float = 0.0  # for how long what is deleted is kept; 0: not
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}."""
        return f"projects/{self.id}"


@dataclass(frozen=True, slots=True)
class Member:
    """A user's role in a project."""

    project: str
    user: str
    role: Role
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}/members/{user}."""
        return f"projects/{self.project}/members/{self.user}"

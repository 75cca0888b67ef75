"""Roles, and who is calling. Numbers of roles are those of `moorage.v1.Role`."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Role(enum.IntEnum):
    """What a member may do in a project; each role may do all that the ones before it may."""

    VIEWER = 1  # read, logs and figures included
    OPERATOR = 2  # also change instances, templates and networks, and enter instances
    ADMIN = 3  # also change members


@dataclass(frozen=True, slots=True)
class Caller:
    """A user who proved an API key. `roles` is by project id, the `p` of `projects/p`."""

    user: str
    fleet_admin: bool = False
    roles: Mapping[str, Role] = field(default_factory=dict)
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class AgentCaller:
    """A host agent that proved its certificate."""

    host_uid: str

"""Security groups: mirrors protos/moorage/v1/security_groups.proto."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from moorage.router_bundle import TrafficProtocol


class SecurityDirection(enum.Enum):
    """Which way the first packet of a connection goes."""

    UNSPECIFIED = 0
    IN = 1
    OUT = 2


@dataclass(frozen=True, slots=True)
class SecurityRule:
    """Something that is allowed. `group` is a full name once it is stored; hosts are told its uid."""

    direction: SecurityDirection = SecurityDirection.UNSPECIFIED
    protocol: TrafficProtocol = TrafficProtocol.UNSPECIFIED
    ports: tuple[str, ...] = ()
    icmp_type: int | None = None
    cidrs: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class SecurityGroupSpec:
    """What a group allows."""

    description: str = ""
    rules: tuple[SecurityRule, ...] = ()
    deny_out: bool = False


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A set of allow rules of a project. Its members are the interfaces that carry it, and say so themselves."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: SecurityGroupSpec
    group_uids: Mapping[str, str] = field(default_factory=dict)  # of the groups that its rules name, by full name
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}/securityGroups/{group}."""
        return f"projects/{self.project}/securityGroups/{self.id}"

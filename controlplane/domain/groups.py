"""Groups of instances: mirrors protos/moorage/v1/groups.proto. What a member is, is in `instances.py`."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.instances import Instance, InstanceNic, InstanceSpec
from controlplane.domain.volumes import VolumeSpec


class GroupMode(enum.Enum):
    """How many members a group has."""

    UNSPECIFIED = 0
    REPLICATED = 1
    PER_HOST = 2


class RolloutOrder(enum.Enum):
    """What comes first when a member is replaced on purpose."""

    UNSPECIFIED = 0
    START_FIRST = 1
    STOP_FIRST = 2


class DependencyCondition(enum.Enum):
    """What a group waits for in another."""

    UNSPECIFIED = 0
    STARTED = 1
    HEALTHY = 2
    COMPLETED = 3


class GroupState(enum.Enum):
    """Where a group stands."""

    DEGRADED = 100
    STABLE = 200
    ROLLING = 300
    CANARY = 400
    PAUSED = 500
    ROLLING_BACK = 600
    FAILED = 700
    WAITING = 800
    DELETING = 900


@dataclass(frozen=True, slots=True)
class SlotVolume:
    """A volume that each slot has of its own: {group}-{slot}-{name}."""

    name: str = ""
    spec: VolumeSpec = VolumeSpec()
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    read_only: bool = False
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class SlotPolicy:
    """What stays with a slot when its member is replaced."""

    sticky_name: bool = False
    sticky_address: bool = False
    volumes: tuple[SlotVolume, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """How members are replaced on purpose."""

    order: RolloutOrder = RolloutOrder.UNSPECIFIED
    max_surge: str = ""  # a number or a percentage
    max_unavailable: str = ""
    min_ready_seconds: float = 0.0
    progress_deadline_seconds: float = 0.0  # 0: the default
    no_rollback: bool = False
    canaries: int = 0
    failure_limit: int = 0  # 0: the default


@dataclass(frozen=True, slots=True)
class Dependency:
    """A group or job that comes first. `target` is a full name once it is stored."""

    target: str = ""
    condition: DependencyCondition = DependencyCondition.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What the user asks of a group."""

    mode: GroupMode = GroupMode.UNSPECIFIED
    replicas: int = 0
    instance: InstanceSpec = InstanceSpec()
    instance_labels: Mapping[str, str] = field(default_factory=dict)
    slots: SlotPolicy = SlotPolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    depends_on: tuple[Dependency, ...] = ()
    kept_revisions: int = 0


@dataclass(frozen=True, slots=True)
class GroupRevision:
    """What the members of a group were, or shall be. Kept beside the group, newest last."""

    group_uid: str
    number: int
    create_time: datetime
    instance: InstanceSpec
    instance_labels: Mapping[str, str] = field(default_factory=dict)
    author: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class GroupSlot:
    """What is remembered of a slot while nobody in it does: failures of its members, and addresses that wait for the next one. A slot
    without either has no record.
    """

    group_uid: str
    slot: int
    host: str = ""  # last part of the name of its host, of a group with one member a host
    revision: int = 0  # of the members that failed
    failures: int = 0  # in a row
    failure: str = ""  # of the last one
    failed_hosts: tuple[str, ...] = ()  # uids
    not_before: datetime | None = None  # when the next member may be made
    nics: tuple[InstanceNic, ...] = ()  # interfaces with the addresses that are kept

    @property
    def uid(self) -> str:
        """Owner of the leases of `nics`."""
        return f"{self.group_uid}/{self.slot}"


@dataclass(frozen=True, slots=True)
class Group:
    """N instances of one kind. Their `owner` is its name."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: GroupSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1
    target_revision: int = 1
    stable_revision: int = 0
    is_paused: bool = False
    is_promoted: bool = False  # of the target revision: the canaries were found good
    is_deleting: bool = False
    state: GroupState = GroupState.DEGRADED
    reason: str = ""
    message: str = ""
    progress_time: datetime | None = None  # when the rollout last came nearer to its end
    delete_protection: bool = False
    purge_time: datetime | None = None  # being deleted, and forgotten no sooner

    @property
    def name(self) -> str:
        """projects/{project}/groups/{group}."""
        return f"projects/{self.project}/groups/{self.id}"

    @property
    def is_per_host(self) -> bool:
        """Whether it has one member on each host that fits, instead of a number of them."""
        return self.spec.mode is GroupMode.PER_HOST


def is_member(instance: Instance) -> bool:
    """Whether an instance is one of a group."""
    return "/groups/" in instance.owner


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot and who is in it."""

    slot: int = 0
    instance: str = ""  # full name; empty: the slot waits
    revision: int = 0
    ready: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """What is seen of a group: computed when somebody looks."""

    state: GroupState = GroupState.DEGRADED
    reason: str = ""
    message: str = ""
    wanted: int = 0
    members: int = 0
    ready: int = 0
    updated: int = 0
    target_revision: int = 0
    stable_revision: int = 0
    slots: tuple[SlotStatus, ...] = ()

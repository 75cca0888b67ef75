"""Volumes: mirrors protos/moorage/v1/volumes.proto.

A local volume is a folder of one host. It gets its host in the transaction that places its first instance, and keeps it. Only
HostLossPolicy.REPLACE lets it go to another, as a new incarnation without files; the one before is a *copy* that its host keeps until the
volume is deleted.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime


class VolumeKind(enum.Enum):
    """Where the files are."""

    UNSPECIFIED = 0
    LOCAL = 1


class VolumeSharing(enum.Enum):
    """How many instances may have it at a time."""

    UNSPECIFIED = 0
    EXCLUSIVE = 1
    SHARED = 2


class HostLossPolicy(enum.Enum):
    """What happens when the host of a local volume is lost."""

    UNSPECIFIED = 0
    WAIT = 1
    REPLACE = 2
    FAIL = 3


class VolumeRemoval(enum.Enum):
    """What happens to a volume that a group made when the group is deleted."""

    UNSPECIFIED = 0
    RETAIN = 1
    WITH_OWNER = 2


class VolumeState(enum.Enum):
    """Where a volume stands."""

    UNPLACED = 100
    COPYING = 200
    READY = 300
    LOST = 400
    DELETING = 900


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume inside an instance. `volume` is a full name once it is stored."""

    volume: str = ""
    target: str = ""
    read_only: bool = False
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """What the user asks of a volume; nothing is UNSPECIFIED once it is stored."""

    kind: VolumeKind = VolumeKind.UNSPECIFIED
    sharing: VolumeSharing = VolumeSharing.UNSPECIFIED
    on_host_loss: HostLossPolicy = HostLossPolicy.UNSPECIFIED
    removal: VolumeRemoval = VolumeRemoval.UNSPECIFIED
    host: str = ""  # hosts/{host}
    owner_uid: int = 0
    owner_gid: int = 0
    mode: int = 0
    size_bytes: int = 0  # 0: no limit
    source: str = ""  # a clone: full name of the volume or snapshot that it began with
    delete_protection: bool = False


@dataclass(frozen=True, slots=True)
class VolumeCopy:
    """Files of a volume on a host that it has left."""

    host_uid: str
    host: str
    incarnation: int


class VolumeSnapshotState(enum.Enum):
    """Where a snapshot stands."""

    CREATING = 100
    READY = 200
    DELETING = 900


@dataclass(frozen=True, slots=True)
class VolumeSnapshot:
    """What a volume had at one moment, on the host that it had then."""

    uid: str
    project: str
    volume: str  # the last part of the volume's name
    id: str
    create_time: datetime
    volume_uid: str
    copy: VolumeCopy
    state: VolumeSnapshotState = VolumeSnapshotState.CREATING
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1
    no_pause: bool = False
    message: str = ""

    @property
    def name(self) -> str:
        """projects/{project}/volumes/{volume}/snapshots/{snapshot}."""
        return f"projects/{self.project}/volumes/{self.volume}/snapshots/{self.id}"


@dataclass(frozen=True, slots=True)
class VolumeFill:
    """What is being copied into a volume."""

    volume_uid: str  # whose files
    copy: VolumeCopy  # where they are
    snapshot_uid: str = ""  # empty: what that volume has now


@dataclass(frozen=True, slots=True)
class Volume:
    """Files with a name."""

    uid: str
    project: str
    id: str
    create_time: datetime
    spec: VolumeSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1
    host_uid: str = ""
    host: str = ""  # the last part of the host's name
    incarnation: int = 1
    is_made: bool = False  # its host has said that it has the files of this incarnation
    copies: tuple[VolumeCopy, ...] = ()  # earlier incarnations, which hosts still have
    owner: str = ""  # the group that made it
    is_deleting: bool = False
    purge_time: datetime | None = None  # being deleted, and its files are kept until then
    lost: str = ""  # why its files cannot be had
    fill: VolumeFill | None = None  # what is to be copied into it before it can be used
    message: str = ""  # why its host could not do that yet
    used_bytes: int = 0
    capacity_bytes: int = 0
    usage_time: datetime | None = None

    @property
    def name(self) -> str:
        """projects/{project}/volumes/{volume}."""
        return f"projects/{self.project}/volumes/{self.id}"

    @property
    def is_exclusive(self) -> bool:
        """Whether one instance at a time may have it."""
        return self.spec.sharing is VolumeSharing.EXCLUSIVE


def state_of(volume: Volume) -> VolumeState:
    """Where it stands."""
    if volume.is_deleting:
        return VolumeState.DELETING
    if volume.lost:
        return VolumeState.LOST
    if volume.fill is not None:
        return VolumeState.COPYING
    return VolumeState.READY if volume.host_uid else VolumeState.UNPLACED


def own_copy(volume: Volume) -> VolumeCopy:
    """Its files, where they are now."""
    return VolumeCopy(volume.host_uid, volume.host, volume.incarnation)


def with_defaults(spec: VolumeSpec) -> VolumeSpec:
    """The spec with nothing left to guess."""
    return replace(
        spec,
        kind=VolumeKind.LOCAL if spec.kind is VolumeKind.UNSPECIFIED else spec.kind,
        sharing=VolumeSharing.EXCLUSIVE if spec.sharing is VolumeSharing.UNSPECIFIED else spec.sharing,
        on_host_loss=HostLossPolicy.WAIT if spec.on_host_loss is HostLossPolicy.UNSPECIFIED else spec.on_host_loss,
        removal=VolumeRemoval.RETAIN if spec.removal is VolumeRemoval.UNSPECIFIED else spec.removal,
        mode=spec.mode or 0o755,
    )


def needs_claim(volume: Volume) -> bool:
    """Whether an instance that has the volume must be known to be gone before another may have it elsewhere.

    Files of one host cannot be had on another, so an instance need not stop only because the control plane cannot be reached; but where the
    volume may begin anew elsewhere, two would call themselves its owner.
    """
    return volume.is_exclusive and volume.spec.on_host_loss is HostLossPolicy.REPLACE

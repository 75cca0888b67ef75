"""What a host is told of the volumes of its instances: mirrors protos/moorage/v1/volume_work.proto."""

from dataclasses import dataclass

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import VOLUME
from controlplane.domain.volumes import Volume, VolumeKind
from moorage.store.base import View


@dataclass(frozen=True, slots=True)
class HostVolume:
    """A volume as its host has it."""

    volume_id: str
    incarnation: int
    kind: VolumeKind
    owner_uid: int
    owner_gid: int
    mode: int
    must_exist: bool
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class VolumeAssignment:
    """A volume that an instance needs."""

    volume: HostVolume
    target: str
    read_only: bool
    sub_path: str
    exclusive: bool


def host_volume(volume: Volume) -> HostVolume:
    """The volume as the host has it that its record names."""
    spec = volume.spec
    return HostVolume(
        volume.uid,
        volume.incarnation,
        spec.kind,
        spec.owner_uid,
        spec.owner_gid,
        spec.mode,
        volume.is_made,
        spec.size_bytes,
    )


def volumes_of(view: View, instance: Instance) -> tuple[VolumeAssignment, ...]:
    """What the instance's host is told of its volumes."""
    found = []
    for mount, uid in zip(instance.effective.volumes, instance.volume_uids, strict=True):
        volumes = view.find(VOLUME, "uid", uid)
        if volumes:  # an instance keeps its volumes from being forgotten
            volume = volumes[0].value
            assigned = host_volume(volume), mount.target, mount.read_only, mount.sub_path, volume.is_exclusive
            found.append(VolumeAssignment(*assigned))
    return tuple(found)

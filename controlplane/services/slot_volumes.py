"""The volumes of a group's slots: made when the first member of a slot is, kept for all that follow it."""

from dataclasses import replace

from controlplane.domain.groups import SlotVolume
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.kinds import VOLUME
from controlplane.domain.volumes import VolumeMount
from controlplane.services.context import Context
from controlplane.services.volumes import make_volume
from moorage.errors import AlreadyExists
from moorage.store.base import Transaction


def with_slot_volumes(
    context: Context, tx: Transaction, spec: InstanceSpec, owner: str, slot: int, wanted: tuple[SlotVolume, ...]
) -> InstanceSpec:
    """The spec of a member with the volumes of its slot; those that are not there are made.

    Args:
        owner: projects/{project}/groups/{group}.
    Raises:
        AlreadyExists: a volume of that name is not the group's. QuotaExceeded, NotFound (a volume's host).
    """
    project_id, _, group_id = owner.removeprefix("projects/").partition("/groups/")
    mounts = []
    for one in wanted:
        volume_id = f"{group_id}-{slot}-{one.name}"
        found = tx.get(VOLUME, f"{project_id}/{volume_id}")
        volume = found.value if found is not None else None
        volume = volume or make_volume(context, tx, project_id, volume_id, one.labels, one.spec, owner)
        if volume.owner != owner:
            raise AlreadyExists(
                f"{volume.name} is there, and {owner} did not make it; delete it, or give the group's volume another name",
                metadata={"name": volume.name},
            )
        mounts.append(VolumeMount(volume.name, one.target, one.read_only, one.sub_path))
    return replace(spec, volumes=(*spec.volumes, *mounts)) if mounts else spec

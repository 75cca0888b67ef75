"""What instances take of volumes: by which names they say so, and who may have one that another has."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane.domain.claims import has_let_go
from controlplane.domain.instances import DesiredState
from controlplane.domain.kinds import INSTANCE, VOLUME
from controlplane.domain.volumes import Volume, VolumeMount, needs_claim
from controlplane.services import lookup
from moorage.errors import NotFound, NotReady
from moorage.store.base import View


@dataclass(frozen=True, slots=True)
class TakenVolumes:
    """An instance's volumes: mounts with full names, and the uids in the same order."""

    mounts: tuple[VolumeMount, ...] = ()
    uids: tuple[str, ...] = ()
    needs_claim: bool = False


def take(
    view: View, project_id: str, mounts: Sequence[VolumeMount], where: str, instance_uid: str = ""
) -> TakenVolumes:
    """The volumes that an instance asks for, if it may have them.

    Args:
        where: path of the mounts in the request, for errors.
        instance_uid: of an instance that is there already.
    Raises:
        InvalidSpec (OTHER_PROJECT), NotFound, NotReady (VOLUME_IN_USE, VOLUME_DELETING).
    """
    full: list[VolumeMount] = []
    volumes: list[Volume] = []
    for index, mount in enumerate(mounts):
        volume = find_volume(view, project_id, mount.volume, f"{where}[{index}].volume")
        if volume.is_deleting:
            raise NotReady(f"{volume.name} is being deleted", reason="VOLUME_DELETING", metadata={"name": volume.name})
        if volume.is_exclusive:
            _refuse_second(view, volume, instance_uid)
        full.append(replace(mount, volume=volume.name))
        volumes.append(volume)
    return TakenVolumes(tuple(full), tuple(v.uid for v in volumes), any(map(needs_claim, volumes)))


def find_volume(view: View, project_id: str, name: str, field: str) -> Volume:
    """The volume that a request names in full or by its last part. Raises InvalidSpec (OTHER_PROJECT), NotFound."""
    volume_id = lookup.own_id(project_id, "volumes", name, field)
    found = view.get(VOLUME, f"{project_id}/{volume_id}")
    if found is None:
        full = f"projects/{project_id}/volumes/{volume_id}"
        raise NotFound(
            f"{full} does not exist ({field}); make it with `moor volume create {volume_id}`",
            metadata={"name": full, "field": field},
        )
    return found.value


def _refuse_second(view: View, volume: Volume, instance_uid: str) -> None:
    users = (found.value for found in view.find(INSTANCE, "volume", volume.uid))
    others = [user for user in users if user.uid != instance_uid and not has_let_go(user)]
    if others:
        first = min(others, key=lambda i: i.id)
        is_going = first.desired is DesiredState.DELETED or first.leave_time is not None
        hint = "which is being deleted; try again when it is gone" if is_going else "and one at a time may have it"
        raise NotReady(
            f"{volume.name} is in use by {first.name}, {hint}",
            reason="VOLUME_IN_USE",
            metadata={"name": volume.name, "instance": first.name},
        )

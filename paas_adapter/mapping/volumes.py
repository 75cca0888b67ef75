"""Volumes of a member."""

import re

from paas_adapter.documents import cartridge as documents
from paas_adapter.documents.places import Findings
from paas_adapter.mapping.model import Volume
from paas_adapter.mapping.names import short_hash

_GIBIBYTE = 1024**3
#: Volumes of a slot are at most this many.
MAX_VOLUMES = 8
_SLOT_NAME = re.compile(r"[a-z][a-z0-9-]{0,5}[a-z0-9]\Z|[a-z]\Z")
_VOLUME_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z")


def _name(volume: documents.Volume, ids: list[str]) -> str:
    """Its id where that can be one; else what stands for its path, so that the order of the document does not matter."""
    fits = _SLOT_NAME.match(volume.id) and ids.count(volume.id) == 1
    return volume.id if fits else f"v{short_hash(volume.mapping_path)}"


def volumes_of(persistence: documents.Persistence | None, most: int, findings: Findings) -> tuple[Volume, ...]:
    """Volumes of a cluster with so many members at most; none where persistence is not required."""
    if persistence is None or not persistence.required:
        return ()
    ids = [volume.id for volume in persistence.volumes]
    found = []
    for volume in persistence.volumes:
        if volume.volume_id and not _VOLUME_ID.match(volume.volume_id):
            message = "a volume's name has lower-case letters, digits and hyphens, at most 63, a letter first"
            findings.refuse(volume.at.below("volumeId"), "BAD_VALUE", message)
        elif volume.volume_id and most > 1:
            message = f"{volume.volume_id} is one volume for up to {most} members: it must be a shared one"
            findings.note(volume.at.below("volumeId"), "ONE_VOLUME", message)
        size = volume.size * _GIBIBYTE if volume.size else None
        goes = volume.remove_on_termination
        name = _name(volume, ids)
        found.append(Volume(name, volume.mapping_path, size, goes, volume.volume_id, volume.at))
    if sum(not volume.existing for volume in found) > MAX_VOLUMES:
        findings.refuse(persistence.at.below("volumes"), "OUT_OF_RANGE", f"more than {MAX_VOLUMES} volumes")
    return tuple(found)

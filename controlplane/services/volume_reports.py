"""What hosts say of volumes. A host can say nothing about a volume that is not its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane.domain.kinds import VOLUME
from controlplane.services import lookup
from controlplane.services.context import Context
from moorage.store.base import Transaction


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """What a volume takes; mirrors moorage.v1.VolumeReport."""

    volume_id: str
    incarnation: int = 0
    used_bytes: int = 0
    capacity_bytes: int = 0


class VolumeReports:
    """Applies what agents report of volumes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def apply(self, host_uid: str, reports: Sequence[VolumeReport]) -> None:
        """Keep what is news, in one transaction."""
        if not reports:
            return
        now = self._context.clock.now()

        def change(tx: Transaction) -> None:
            for report in reports:
                volume = lookup.by_uid(tx, VOLUME, report.volume_id)
                if volume is None or (volume.host_uid, volume.incarnation) != (host_uid, report.incarnation):
                    continue
                told = replace(
                    volume,
                    is_made=True,
                    used_bytes=report.used_bytes,
                    capacity_bytes=report.capacity_bytes,
                    usage_time=now,
                )
                tx.put(VOLUME, told)

        await self._context.store.update(change)

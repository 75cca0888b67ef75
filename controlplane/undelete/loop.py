"""Once a second: whatever was deleted and is kept goes for good when its project's undelete window is over. Level-triggered; what it
goes by is in the records, so a restart in between forgets nothing.
"""

from dataclasses import replace
from datetime import datetime

from controlplane.domain.instances import DesiredState
from controlplane.domain.kinds import GROUP, INSTANCE, VOLUME
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.instance_making import InstanceMaking
from moorage.store.base import Transaction, View

_TICK_SECONDS = 1.0
WHY = "its undelete window is over"


class Purge:
    """`run` is a task of main.py's."""

    def __init__(self, context: Context, making: InstanceMaking) -> None:
        self._context = context
        self._making = making

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            await self.reconcile_once()
            await self._context.clock.sleep(_TICK_SECONDS)

    async def reconcile_once(self) -> None:
        """One turn over all that is kept."""
        if _due(self._context.store.view(), self._context.clock.now()):
            await self._context.store.update(self._apply)

    def _apply(self, tx: Transaction) -> None:
        for uid in _due(tx, self._context.clock.now()):
            if (instance := lookup.by_uid(tx, INSTANCE, uid)) is not None:
                self._making.ask_removal(tx, instance, WHY)
            # Of these the removal was asked for; it has waited for this alone.
            elif (group := lookup.by_uid(tx, GROUP, uid)) is not None:
                tx.put(GROUP, replace(group, purge_time=None))
            elif (volume := lookup.by_uid(tx, VOLUME, uid)) is not None:
                tx.put(VOLUME, replace(volume, purge_time=None))


def _due(view: View, now: datetime) -> list[str]:
    """Uids of what has been kept for long enough."""
    kept: list[tuple[str, datetime | None]] = [
        (found.value.uid, found.value.purge_time)
        for found in view.find(INSTANCE, "kept", "yes")
        if found.value.desired is not DesiredState.DELETED
    ]
    kept += [(found.value.uid, found.value.purge_time) for found in view.find(GROUP, "kept", "yes")]
    kept += [(found.value.uid, found.value.purge_time) for found in view.find(VOLUME, "kept", "yes")]
    return [uid for uid, time in kept if time is not None and time <= now]

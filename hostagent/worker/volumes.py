"""What the volumes of this host take, measured once a minute and told when it has changed."""

import asyncio
from collections.abc import Callable, Sequence

from hostagent.domain import VolumeUsage
from hostagent.executor.volumes import InstanceVolumes
from moorage.clock import Clock

PERIOD_SECONDS = 60.0
_MOST_OF_THE_TIME = 20.0  # between two measurements at least so many times as long as the last one took


class VolumeMeter:
    """`run` as a task; `renew` when a session begins, since what was told to another may be lost.

    Args:
        publish: tells the control plane.
    """

    def __init__(
        self, volumes: InstanceVolumes, clock: Clock, publish: Callable[[Sequence[VolumeUsage]], None]
    ) -> None:
        self._volumes = volumes
        self._clock = clock
        self._publish = publish
        self._told: dict[tuple[str, int], tuple[int, int]] = {}
        self._woken = asyncio.Event()

    def renew(self) -> None:
        """Tell everything again with the next measurement."""
        self._told.clear()

    def wake(self) -> None:
        """Measure now: a volume was prepared, and the control plane does not know yet that it was made."""
        self._woken.set()

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            started = self._clock.monotonic()
            await self.measure_once()
            took = self._clock.monotonic() - started
            await self._until_due(max(PERIOD_SECONDS, took * _MOST_OF_THE_TIME))

    async def _until_due(self, seconds: float) -> None:
        """Return after that time, or when a volume was prepared."""
        waiting = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._woken.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
        self._woken.clear()

    async def measure_once(self) -> None:
        """Measure every volume that an instance of this host needs."""
        assigned = self._volumes.assigned()
        self._told = {key: used for key, used in self._told.items() if key in assigned}
        found = []
        for key, volume in assigned.items():
            used = await self._volumes.usage(volume)
            if used is not None and self._told.get(key) != used:
                self._told[key] = used
                found.append(VolumeUsage(volume.volume_id, volume.incarnation, *used))
        if found:
            self._publish(found)

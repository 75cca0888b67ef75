"""Keeps the space of images bounded: which of the images that this agent pulled may go, and seeing that they go.

Never touched: an image that an instance here is assigned or has a container of, and any image that the journal does
not say we pulled, for it is the user's own.
"""

import logging
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from hostagent.executor.host_state import HostState
from hostagent.executor.ports import Engine
from hostagent.journal.journal import Journal
from hostagent.journal.state import PulledImage
from moorage.clock import Clock
from moorage.errors import MoorageError

log = logging.getLogger(__name__)

PERIOD_SECONDS = 60.0
MAX_AGE_SECONDS = 7 * 24 * 3600.0  # since it was last used
HIGH_PERCENT = 85  # of the disk: from here on unused images go, oldest first,
LOW_PERCENT = 75  # until so much is used
_TOUCH_SECONDS = 3600.0  # how exact `used_at` is: a journal row each time would be a waste


def removable(images: Iterable[PulledImage], used: Collection[str]) -> list[PulledImage]:
    """Images that may go, the one that was unused for longest first."""
    return sorted((i for i in images if i.image not in used), key=lambda i: (i.used_at, i.image))


def next_removal(
    images: Iterable[PulledImage], used: Collection[str], *, now: float, disk_percent: float, is_emptying: bool
) -> PulledImage | None:
    """The image to remove next, None if all may stay.

    Args:
        now: seconds since the epoch.
        disk_percent: how full the disk of the engine's data is.
        is_emptying: the high mark was reached, and the low one not yet.
    """
    unused = removable(images, used)
    if not unused:
        return None
    oldest = unused[0]
    is_old = now - oldest.used_at > MAX_AGE_SECONDS
    is_full = disk_percent > (LOW_PERCENT if is_emptying else HIGH_PERCENT)
    return oldest if is_old or is_full else None


class ImageKeeper:
    """Removes unused images. `run` is a supervised task.

    Args:
        data_root: folder of the engine's data; empty while it is not known.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        journal: Journal,
        state: HostState,
        clock: Clock,
        data_root: Callable[[], str],
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._state = state
        self._clock = clock
        self._data_root = data_root

    async def run(self) -> None:
        """Look every minute, until cancelled."""
        while True:
            await self._clock.sleep(PERIOD_SECONDS)
            await self.collect_once()

    async def collect_once(self) -> None:
        """Remove what may go now."""
        is_emptying = False
        kept: set[str] = set()  # that could not be removed just now
        while True:
            now = self._clock.now().timestamp()
            used = self._used()
            self._touch(used, now)
            percent = self._disk_percent()
            is_emptying = is_emptying or percent > HIGH_PERCENT
            image = next_removal(
                self._journal.images.values(), used | kept, now=now, disk_percent=percent, is_emptying=is_emptying
            )
            if image is None:
                return
            try:
                self._state.images.discard(image.image)
                await self._engine.remove_image(image.image)
                self._journal.forget_image(image.image)
                log.info("an unused image was removed", extra={"image": image.image})
            except MoorageError as exc:
                kept.add(image.image)
                log.info("an image stays", extra={"image": image.image, "reason": exc.reason})

    def _used(self) -> set[str]:
        assigned = {assignment.container.image for assignment in self._journal.assignments.values()}
        return assigned | {c.image for found in self._state.containers.values() for c in found.values()}

    def _touch(self, used: set[str], now: float) -> None:
        for image in used & self._journal.images.keys():
            known = self._journal.images[image]
            if now - known.used_at > _TOUCH_SECONDS:
                self._journal.set_image(replace(known, used_at=now))

    def _disk_percent(self) -> float:
        root = self._data_root()
        if not root:
            return 0.0
        try:
            usage = shutil.disk_usage(root)
        except OSError:
            return 0.0  # the engine's data is not visible from here: only age counts
        return 100.0 * (usage.total - usage.free) / max(1, usage.total)

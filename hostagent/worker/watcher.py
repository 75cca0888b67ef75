"""Follows the engine: one full listing inside a subscription to its events, then each event, and again from the
start when it went away.
"""

import logging
from collections.abc import Callable

from hostagent.executor.executor import Executor
from hostagent.executor.host_state import INSTANCE_LABEL, HostState
from hostagent.executor.ports import Engine
from moorage.clock import Clock
from moorage.errors import EngineUnavailable, MoorageError
from moorage.ids import ContainerId, InstanceId
from moorage.retry import Backoff

log = logging.getLogger(__name__)

_BACKOFF = Backoff(initial=0.1, maximum=1.0)


class EngineWatcher:
    """Keeps `HostState` in step with the engine.

    Args:
        on_listing: called after each full listing, with the instances that changed by it.
        wake: called for each instance that an event is about.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        state: HostState,
        executor: Executor,
        on_listing: Callable[[set[InstanceId]], None],
        wake: Callable[[InstanceId], None],
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._state = state
        self._executor = executor
        self._on_listing = on_listing
        self._wake = wake
        self._clock = clock
        self._was_up = False
        self.is_engine_up = False

    async def run(self) -> None:
        """Follow until cancelled, from the start again whenever the engine went away."""
        delays = _BACKOFF.delays()
        while True:
            try:
                await self.follow()
            except EngineUnavailable as exc:
                if self._was_up:
                    delays = _BACKOFF.delays()
                    log.warning("the engine went away", extra={"problem": exc.message})
            await self._clock.sleep(next(delays))

    async def follow(self) -> None:
        """Follow until the engine goes away.

        Raises:
            EngineUnavailable: it did.
        """
        self._was_up = False
        try:
            async with self._engine.events() as events:
                listing = await self._engine.list(INSTANCE_LABEL)
                changed = self._state.set_listing({c.container_id: c for c in listing})
                self.is_engine_up = self._was_up = True
                log.info("the engine is followed", extra={"containers": len(listing)})
                self._on_listing(changed)
                while True:
                    event = await anext(events)
                    instance_id, needs_look = self._state.apply(event)
                    if needs_look:
                        await self._look(instance_id, ContainerId(event.container_id))
                    if instance_id is not None:
                        self._wake(instance_id)
        finally:
            self.is_engine_up = False

    async def _look(self, instance_id: InstanceId | None, container_id: ContainerId) -> None:
        try:
            if instance_id is not None:
                await self._executor.look(instance_id, container_id)
            elif (found := await self._engine.inspect(container_id)) is not None:
                self._state.put(found)
        except MoorageError as exc:
            # The next listing tells; an engine that is away ends the stream of events as well.
            log.warning("a container could not be looked at", extra={"container": container_id, "reason": exc.reason})

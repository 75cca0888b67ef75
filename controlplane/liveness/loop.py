"""Looks once a second at who was heard, and writes what changed."""

from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.domain.kinds import HOST
from controlplane.liveness.plan import DropSession, SetLink, plan
from controlplane.services.reports import ReportService
from moorage.clock import Clock
from moorage.store.base import Store

HEARTBEAT_PERIOD_SECONDS = 3.0
HEARTBEAT_TIMEOUT_SECONDS = 10.0
DOWN_AFTER_SECONDS = 40.0
_TICK_SECONDS = 1.0


class Liveness:
    """Owns the link state of hosts that are away; a session's begin and end are written by its servicer."""

    def __init__(self, store: Store, clock: Clock, dispatcher: Dispatcher, reports: ReportService) -> None:
        self._store = store
        self._clock = clock
        self._dispatcher = dispatcher
        self._reports = reports
        self._away_since: dict[str, float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look_once()
            await self._clock.sleep(_TICK_SECONDS)

    async def look_once(self) -> None:
        """One turn."""
        now = self._clock.monotonic()
        hosts = [found.value for found in self._store.view().all(HOST)]
        silent = {s.host_uid: now - s.last_heard for s in self._dispatcher.sessions()}
        away = {h.uid: now - self._away_since.setdefault(h.uid, now) for h in hosts if h.uid not in silent}
        self._away_since = {uid: since for uid, since in self._away_since.items() if uid in away}
        actions = plan(
            hosts,
            silent,
            away,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
            down_after_seconds=DOWN_AFTER_SECONDS,
        )
        for action in actions:
            match action:
                case DropSession(host_uid, why):
                    self._dispatcher.end(host_uid, why)
                case SetLink(host_uid, state, why):
                    await self._reports.set_link(host_uid, state, why)

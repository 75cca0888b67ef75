"""Looks at who is heard, lets `plan.py` decide, asks, writes. Woken by sessions that begin or end, by answers of neighbours, and at the
time at which silence would mean something.
"""

import asyncio
import logging

from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.domain.hosts import Host
from controlplane.domain.kinds import HOST
from controlplane.liveness.plan import Ask, DropSession, Lose, Note, Plan, SetLink, Sight, plan
from controlplane.liveness.rounds import Rounds
from controlplane.liveness.terms import DEFAULT_TERMS, LivenessTerms
from controlplane.services.host_losses import HostLosses
from controlplane.services.reports import ReportService
from moorage.clock import Clock
from moorage.store.base import Store

log = logging.getLogger(__name__)

_SHORTEST_SECONDS = 0.02  # many sessions that end at once are one look
_EXACT_SECONDS = 0.005  # past the time that is waited for, whatever the clock's grain


class Liveness:
    """Owns the link state of hosts that are away; a session's begin and end are written by its servicer."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        dispatcher: Dispatcher,
        reports: ReportService,
        losses: HostLosses,
        rounds: Rounds,
        terms: LivenessTerms = DEFAULT_TERMS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._dispatcher = dispatcher
        self._reports = reports
        self._losses = losses
        self._rounds = rounds
        self._terms = terms
        self._began_at: float | None = None
        self._awake_since = 0.0
        self._woken = asyncio.Event()
        dispatcher.on_sessions = self.wake
        rounds.on_answer = self.wake

    def wake(self) -> None:
        """Look soon."""
        self._woken.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(_SHORTEST_SECONDS)
            look_at = await self.look_once()
            await self._until(look_at + _EXACT_SECONDS)

    async def look_once(self) -> float:
        """One turn. Returns when to look again if nothing wakes us, in monotonic seconds."""
        now = self._clock.monotonic()
        if self._began_at is None:
            self._began_at = now
        hosts = {found.value.uid: found.value for found in self._store.view().all(HOST)}
        self._rounds.keep_only(uid for uid, host in hosts.items() if host.loss is None)
        decided: Plan = plan(now, self._began_at, self._sights(hosts), self._rounds.newest, self._terms)
        for action in decided.actions:
            match action:
                case DropSession(host_uid, why):
                    self._dispatcher.end(host_uid, why)
                case SetLink(host_uid, state, why):
                    await self._reports.set_link(host_uid, state, why)
                case Note(host_uid, why):
                    await self._reports.note_link(host_uid, why)
                case Ask(host_uid, neighbours):
                    self._rounds.ask(hosts[host_uid], [hosts[uid] for uid in neighbours])
                case Lose(host_uid, why, evidence):
                    if await self._losses.lose(host_uid, why, evidence):
                        log.warning("a host is lost", extra={"host": hosts[host_uid].name, "why": why})
                        # It may be heard again before it has noticed anything: it must begin anew, and hear what was given up.
                        self._dispatcher.end(host_uid, "this host was given up")
        return decided.look_at

    def _sights(self, hosts: dict[str, Host]) -> list[Sight]:
        sessions = {session.host_uid: session for session in self._dispatcher.sessions() if not session.is_closed}
        sights: list[Sight] = []
        for uid, host in hosts.items():
            session, departure = sessions.get(uid), self._dispatcher.departure(uid)
            heard_at = session.last_heard if session is not None else departure.heard_at if departure else None
            sights.append(
                Sight(
                    uid,
                    host.name,
                    host.link_state,
                    None if heard_at is None else max(heard_at, self._awake_since),
                    session is not None,
                    host.zone,
                    host.loss is not None,
                    departure is not None and departure.is_farewell,
                    bool(host.facts.neighbour_port and host.facts.underlay_address and host.nonce),
                    host.link_message,
                )
            )
        return sights

    async def _until(self, look_at: float) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(look_at - self._clock.monotonic()))
        waking = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waking.cancel()
        self._woken.clear()
        now = self._clock.monotonic()
        if now > look_at + self._terms.heartbeat_seconds:
            # It was we who slept, such as a machine that was stopped: what was said meanwhile is still to be read.
            log.warning("the control plane stood still", extra={"seconds": round(now - look_at, 1)})
            self._awake_since = now - self._terms.heartbeat_seconds / 2

"""Looks every few seconds, if it is on, and marks members that shall be moved; their groups do the rest. Also on an operator's word."""

import logging
from dataclasses import replace
from datetime import datetime, timedelta

from controlplane.domain.kinds import EVENT, INSTANCE
from controlplane.history import record_event
from controlplane.rebalance.plan import DEFAULT_TERMS, WHY, Move, RebalanceTerms, allowance
from controlplane.rebalance.reading import is_stuck, may_move, propose, under_way
from controlplane.services import lookup
from controlplane.services.context import Context
from moorage.errors import FieldViolation, InvalidSpec
from moorage.store.base import Transaction

log = logging.getLogger(__name__)

DEFAULT_MOVES = 10
MOST_MOVES = 100
_LOOK_SECONDS = 5.0
_HOUR = timedelta(hours=1)


class Rebalancer:
    """`run` is a task of main.py's; it does nothing while `terms.at_once` is 0."""

    def __init__(self, context: Context, terms: RebalanceTerms = DEFAULT_TERMS) -> None:
        self._context = context
        self._terms = terms
        self._begun: list[datetime] | None = None  # when the moves of the last hour began; None: not read yet

    @property
    def is_on(self) -> bool:
        """Whether it moves by itself."""
        return self._terms.at_once > 0

    async def run(self) -> None:
        """Look until cancelled."""
        while self.is_on:
            await self._context.clock.sleep(_LOOK_SECONDS)
            await self.look_once()

    async def look_once(self) -> list[Move]:
        """One turn; the moves that were begun."""
        view, now = self._context.store.view(), self._context.clock.now()
        moving = under_way(view)
        stuck = [one.uid for one in moving if is_stuck(view, one)]
        if stuck:
            await self._context.store.update(lambda tx: self._take_back(tx, stuck))
        allowed = allowance(self._terms, len(moving), self._recent(now), now)
        return await self._begin(propose(view, self._terms, now, allowed)) if allowed else []

    async def move(self, most: int, *, validate_only: bool = False) -> list[Move]:
        """Moves on an operator's word, beyond what is allowed by itself. Raises InvalidSpec.

        Args:
            most: 0 to 100; 0: 10.
            validate_only: say only what would be done.
        """
        if not 0 <= most <= MOST_MOVES:
            raise InvalidSpec([FieldViolation("max_moves", f"must be between 0 and {MOST_MOVES}", "OUT_OF_RANGE")])
        view, now = self._context.store.view(), self._context.clock.now()
        moves = propose(view, self._terms, now, most or DEFAULT_MOVES)
        return moves if validate_only else await self._begin(moves)

    def _recent(self, now: datetime) -> list[datetime]:
        """When those of the last hour began, those that an earlier control plane began too."""
        if self._begun is None:
            events = (found.value for found in self._context.store.view().all(EVENT))
            self._begun = [event.time for event in events if event.reason == "REBALANCED"]
        self._begun = [time for time in self._begun if now - time < _HOUR]
        return self._begun

    async def _begin(self, moves: list[Move]) -> list[Move]:
        begun = self._recent(self._context.clock.now())
        done = await self._context.store.update(lambda tx: [move for move in moves if self._mark(tx, move)])
        begun += [self._context.clock.now()] * len(done)
        return done

    def _mark(self, tx: Transaction, move: Move) -> bool:
        instance = lookup.by_uid(tx, INSTANCE, move.instance_uid)
        if instance is None or not may_move(tx, move.instance_uid, move.from_host):
            return False
        tx.put(INSTANCE, replace(instance, evict=f"{WHY}{move.why}"))
        record_event(tx, self._context.clock, instance, "REBALANCED", move.why, project=instance.project)
        return True

    def _take_back(self, tx: Transaction, uids: list[str]) -> None:
        for uid in uids:
            instance = lookup.by_uid(tx, INSTANCE, uid)
            if instance is not None and instance.evict.startswith(WHY) and instance.leave_time is None:
                tx.put(INSTANCE, replace(instance, evict=""))

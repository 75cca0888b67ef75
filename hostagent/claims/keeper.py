"""Asks for leases in time, wakes whom an end concerns, and sees to it that a watchdog runs while any instance needs one."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hostagent.claims.book import ClaimBook
from hostagent.claims.deadlines import Hold
from hostagent.domain import HostCondition
from hostagent.watchdog import lease_file
from moorage.clock import Clock
from moorage.ids import InstanceId

log = logging.getLogger(__name__)

_SIGN_SECONDS = 0.5  # the watchdog takes an agent that has not written for three times as long for stopped
_FRESH_SECONDS = 0.02
_STARTING_SECONDS = 2.0  # before another watchdog is started
_STUCK_SECONDS = 5.0  # before one that does not answer is killed
_DOWN_SECONDS = 3.0  # before it is told
_DEFAULT_RENEWAL_SECONDS = 1.0


class ClaimKeeper:
    """`run` is a task of the agent's.

    Args:
        send: sends a request for leases, with its number; whether there is a session to send it in.
        wake: lets the workers of instances look again.
    """

    def __init__(
        self,
        *,
        book: ClaimBook,
        clock: Clock,
        run_dir: Path,
        send: Callable[[int, frozenset[InstanceId]], bool],
        wake: Callable[[InstanceId], None],
    ) -> None:
        self._book = book
        self._clock = clock
        self._run_dir = run_dir
        self._send = send
        self._wake_instance = wake
        self._woken = asyncio.Event()
        self._renewal_seconds = _DEFAULT_RENEWAL_SECONDS
        self._holds: dict[InstanceId, Hold] = {}
        self._asked: frozenset[InstanceId] = frozenset()
        self._ask_at = self._sign_at = self._start_at = 0.0
        self._answered_at = 0.0
        self._children: set[int] = set()

    def set_renewal(self, seconds: float) -> None:
        """How often to ask; told at each welcome. At once, too: a new control plane knows nothing of what was asked before."""
        self._renewal_seconds = seconds or _DEFAULT_RENEWAL_SECONDS
        self._ask_at = 0.0
        self._woken.set()

    def mark(self) -> None:
        """Assignments have changed, or something of an instance has gone."""
        self._woken.set()

    def take(self, number: int, given: list[InstanceId]) -> None:
        """An answer has come."""
        self._book.take(number, given)
        self._woken.set()

    def condition(self) -> HostCondition | None:
        """What is wrong, if instances here need a watchdog that does not answer."""
        if not self._book.is_used or self._book.is_watched:
            return None
        if self._clock.boottime() - self._answered_at < _DOWN_SECONDS:
            return None
        return HostCondition(
            "WATCHDOG_DOWN", "the watchdog does not answer, so instances that run under leases are not started"
        )

    async def run(self) -> None:
        """Keep leases until cancelled."""
        self._answered_at = self._clock.boottime()
        while True:
            self._woken.clear()
            if not self._book.is_used and not self._holds:
                await self._woken.wait()
                self._answered_at = self._clock.boottime()
                continue
            self._keep_watchdog()
            await self._pause(self.turn())

    def turn(self) -> float:
        """One turn. Returns how many seconds may pass before the next."""
        book, now = self._book, self._clock.boottime()
        book.look()
        wanted = book.wanted()
        if wanted and (now >= self._ask_at or wanted - self._asked):
            number = book.ask()
            if self._send(number, wanted):
                self._asked, self._ask_at = wanted, now + self._renewal_seconds
        self._asked &= wanted
        holds = {found.instance_id: book.hold(found) for found in book.leased}
        changed = [i for i in holds.keys() | self._holds.keys() if holds.get(i) is not self._holds.get(i)]
        if changed or now >= self._sign_at:
            book.write()
            self._sign_at = now + _SIGN_SECONDS
        self._holds = holds
        for instance_id in changed:
            self._wake_instance(instance_id)
        if book.has_fresh:
            return _FRESH_SECONDS
        ends = [at for at in (self._ask_at if wanted else None, self._sign_at, book.next_change()) if at is not None]
        return max(_FRESH_SECONDS, min(ends) - now)

    async def _pause(self, seconds: float) -> None:
        waiting = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._woken.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    def _keep_watchdog(self) -> None:
        now = self._clock.boottime()
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.discard(pid)
        if self._book.is_watched:
            self._answered_at = now
            return
        if now < self._start_at:
            return
        self._start_at = now + _STARTING_SECONDS
        answer = self._book.answer
        if answer is not None and lease_file.start_of(answer.pid) == answer.start:
            if now - answer.time / 100 > _STUCK_SECONDS:
                log.warning("the watchdog does not answer and is killed", extra={"pid": answer.pid})
                os.kill(answer.pid, signal.SIGKILL)
            return
        # With nothing of ours but its standard error, and in a session of its own: it shall outlive us.
        argv = [sys.executable, "-m", "hostagent.watchdog", "--run-dir", str(self._run_dir)]
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
        self._children.add(os.posix_spawn(sys.executable, argv, dict(os.environ), file_actions=null, setsid=True))
        log.info("a watchdog was started")

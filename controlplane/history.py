"""Events: written in the transaction that makes them true, so that history never tells what did not happen. And its bounds."""

import time
from typing import Any, Protocol

from controlplane.domain.kinds import AUDIT_EVENT, EVENT, OPERATION
from controlplane.domain.operations import Event
from moorage.clock import Clock
from moorage.ids import new_id
from moorage.store.base import Kind, Transaction

LARGEST_HISTORY = 20_000  # events, and as many audit events
LARGEST_OPERATIONS = 2_000  # ended ones; each may hold a build's log of 256 KiB


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Ids:
    """Rises even within a millisecond, and when the machine's clock is put back."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """Milliseconds times 65536, and a count."""
        self._last = max(self._last + 1, time.time_ns() // 1_000_000 << 16)
        return self._last


_ids = _Ids()


def time_id() -> str:
    """An id that rises with time, also from one call to the next: 12 hexadecimal digits of milliseconds, 4 of a count, and chance."""
    return f"{_ids.next():016x}{new_id()[:2]}"


def record_event(
    tx: Transaction,
    clock: Clock,
    target: _Named,
    reason: str,
    message: str,
    *,
    project: str = "",
    severity: str = "normal",
) -> None:
    """Add an event about `target`."""
    tx.put(EVENT, Event(time_id(), project, clock.now(), target.name, reason, message, severity))


def trim(tx: Transaction, keep: int = LARGEST_HISTORY) -> int:
    """Drop the oldest events beyond `keep`, of both kinds. Returns how many."""
    return _trim_kind(tx, EVENT, keep) + _trim_kind(tx, AUDIT_EVENT, keep)


def trim_operations(tx: Transaction, keep: int = LARGEST_OPERATIONS) -> int:
    """Drop the operations that ended first, beyond `keep` ended ones; what runs stays. Returns how many."""
    ended = [found.value for found in tx.all(OPERATION) if found.value.end_time is not None]
    surplus = sorted(ended, key=lambda operation: (operation.end_time, operation.uid))[: max(0, len(ended) - keep)]
    for operation in surplus:
        tx.delete(OPERATION, OPERATION.key(operation))
    return len(surplus)


def _trim_kind(tx: Transaction, kind: Kind[Any], keep: int) -> int:
    surplus = tx.count(kind) - keep
    if surplus <= 0:
        return 0
    records = sorted((found.value for found in tx.all(kind)), key=lambda record: record.uid)
    for record in records[:surplus]:
        tx.delete(kind, kind.key(record))
    return surplus

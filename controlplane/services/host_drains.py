"""What people ask of hosts that are to be emptied. What follows from it is decided in `controlplane/drain/`."""

from dataclasses import dataclass, replace
from datetime import timedelta

from controlplane.domain.hosts import Host, HostAdminState, HostDrain, drain_why
from controlplane.domain.kinds import HOST, INSTANCE
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from moorage.errors import FieldViolation, InvalidSpec
from moorage.store.base import Transaction

_LONGEST_SECONDS = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class DrainWish:
    """How a host is to be emptied."""

    deadline_seconds: float | None = None  # from now on; None: none
    force: bool = False
    delete_unmanaged: bool = False


class HostDrains:
    """Begins drains, and changes how they go on. They end by HostService.set_admin_state."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def drain(self, host_id: str, wish: DrainWish, *, etag: str = "", validate_only: bool = False) -> Host:
        """Empty a host. One in MAINTENANCE stays as it is. Raises NotFound, InvalidSpec, VersionConflict."""
        violations = _check(wish)

        def change(tx: Transaction) -> Host:
            host = lookup.host(tx, host_id)
            lookup.check_etag(host, etag, host.name)
            if violations:
                raise InvalidSpec(violations)
            if host.admin_state is HostAdminState.MAINTENANCE:
                return host
            changed = replace(
                host,
                admin_state=HostAdminState.DRAINING,
                drain=self._drain(host, wish),
                generation=host.generation + 1,
            )
            if validate_only:
                return changed
            tx.put(HOST, changed)
            if host.admin_state is not HostAdminState.DRAINING:
                record_event(tx, self._context.clock, host, "DRAINING", "asked for")
            return changed

        return await self._context.store.update(change)

    def _drain(self, host: Host, wish: DrainWish) -> HostDrain:
        now = self._context.clock.now()
        seconds = wish.deadline_seconds
        return replace(
            host.drain or HostDrain(now),
            deadline_time=None if seconds is None else now + timedelta(seconds=seconds),
            force=wish.force,
            delete_unmanaged=wish.delete_unmanaged,
            overdue=False,
        )


def let_stay(tx: Transaction, host: Host) -> None:
    """Take back that those on the host shall go because it is emptied. Whoever has been sent away goes all the same."""
    for found in tx.find(INSTANCE, "host", host.uid):
        if found.value.evict == drain_why(host):
            tx.put(INSTANCE, replace(found.value, evict=""))


def _check(wish: DrainWish) -> list[FieldViolation]:
    seconds = wish.deadline_seconds
    if seconds is not None:
        is_good = 0.0 <= seconds <= _LONGEST_SECONDS
        return [] if is_good else [FieldViolation("deadline", "must be between 0 and 30 days", "OUT_OF_RANGE")]
    if wish.force or wish.delete_unmanaged:
        problem = "is needed with force and delete_unmanaged: they count from then on"
        return [FieldViolation("deadline", problem, "REQUIRED")]
    return []

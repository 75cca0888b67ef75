"""Usage: meters advanced in the caller's transaction, and what they and the days say together."""

from datetime import UTC, datetime, timedelta

from controlplane.domain.instances import Instance, InstanceState
from controlplane.domain.kinds import USAGE_DAY, USAGE_METER
from controlplane.domain.routers import PublicAddress
from controlplane.domain.usage import (
    KEPT_DAYS,
    Metered,
    Rates,
    UsageDay,
    UsageMeter,
    added,
    advance,
    beginning,
    plus,
    spread,
)
from controlplane.services.context import Context
from controlplane.services.paging import PageRequest, page_of
from moorage.errors import InvalidSpec
from moorage.store.base import Transaction

_RUNNING = (InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.STOPPING)


def metered(record: Instance | PublicAddress) -> Metered:
    """What counts of an object."""
    if isinstance(record, PublicAddress):
        return Metered(record.uid, record.project, record.name, record.create_time, Rates(addresses=1))
    resources, observed = record.effective.resources, record.observed
    rates = Rates(
        observed.state in _RUNNING and not record.given_up,
        resources.cpu_millis,
        resources.memory_bytes,
        sum(len(nic.addresses) for nic in record.nics),
    )
    return Metered(
        record.uid, record.project, record.name, record.create_time, rates, observed.start_time, observed.finish_time
    )


def measure(tx: Transaction, record: Instance | PublicAddress, now: datetime) -> None:
    """Write down what an object has used, if what it uses has changed."""
    found = tx.get(USAGE_METER, record.uid)
    meter, days = advance(found.value if found is not None else None, metered(record), now)
    if found is None or meter != found.value:
        tx.put(USAGE_METER, meter)
    _add(tx, days)


def settle(tx: Transaction, record: Instance | PublicAddress, now: datetime) -> None:
    """Write down all that an object has used; it is forgotten in the same transaction."""
    found = tx.get(USAGE_METER, record.uid)
    meter, days = advance(found.value if found is not None else None, metered(record), now)
    _add(tx, [*days, *spread(meter, now)])
    if found is not None:
        tx.delete(USAGE_METER, record.uid)


def forget_old_days(tx: Transaction, now: datetime, limit: int = 1000) -> int:
    """Remove days that are kept no longer, at most `limit` in one go. Returns how many."""
    oldest = f"{now.astimezone(UTC) - timedelta(days=KEPT_DAYS):%Y-%m-%d}"
    old = [found.value for found in tx.all(USAGE_DAY) if found.value.day < oldest][:limit]
    for day in old:
        tx.delete(USAGE_DAY, USAGE_DAY.key(day))
    return len(old)


def _add(tx: Transaction, days: list[UsageDay]) -> None:
    for day in added(days).values():
        found = tx.get(USAGE_DAY, USAGE_DAY.key(day))
        tx.put(USAGE_DAY, day if found is None else plus(found.value, day))


class UsageService:
    """What callers can ask about usage."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def query(
        self,
        project_id: str,
        start: datetime | None,
        end: datetime | None,
        request: PageRequest,
        visible: frozenset[str] | None = None,
    ) -> tuple[list[UsageDay], str]:
        """A page of days, in order of project, day and uid, and the token of the next one; "-" reads the `visible` projects (None: all).

        Raises:
            InvalidSpec: OUT_OF_RANGE, or the page's.
        """
        if start is not None and end is not None and end <= start:
            raise InvalidSpec.of("end_time", "must be after start_time", "OUT_OF_RANGE")
        view, now = self._context.store.view(), self._context.clock.now()

        def is_asked(project: str) -> bool:
            return project_id == project or (project_id == "-" and (visible is None or project in visible))

        meters: list[UsageMeter] = [found.value for found in view.all(USAGE_METER) if is_asked(found.value.project)]
        kept = [found.value for found in view.all(USAGE_DAY) if is_asked(found.value.project)]
        days = added([*kept, *(day for meter in meters for day in spread(meter, now))])
        asked = {key: day for key, day in days.items() if _is_between(day.day, start, end)}
        query = f"usage of {project_id} {start} {end}"
        return page_of({"/".join(key): day for key, day in asked.items()}, request, query)


def _is_between(day: str, start: datetime | None, end: datetime | None) -> bool:
    begin = beginning(day)
    return (start is None or start <= begin) and (end is None or begin < end)

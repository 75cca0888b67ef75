"""What objects use over time: a meter for each that exists, and the sums of each day. Pure; mirrors protos/moorage/v1/usage.proto.

A meter holds how fast usage grows (*rates*) and since when. When the rates change, what has grown until then goes to the days, and the
meter begins anew at that moment; both are written in one commit, so that nothing is counted twice or lost, however often it is done.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

KEPT_DAYS = 92


@dataclass(frozen=True, slots=True)
class Rates:
    """What is used each second."""

    running: bool = False
    cpu_millis: int = 0  # while it runs
    memory_bytes: int = 0  # while it runs
    addresses: int = 0


@dataclass(frozen=True, slots=True)
class UsageMeter:
    """What is being used, and since when."""

    uid: str
    project: str
    name: str
    since: datetime
    rates: Rates = Rates()
    run_start: datetime | None = None  # of the newest run that was counted


@dataclass(frozen=True, slots=True)
class UsageDay:
    """What was used in one day."""

    project: str
    day: str  # 2026-11-25, UTC
    uid: str
    name: str
    instance_seconds: float = 0.0
    cpu_milli_seconds: float = 0.0
    memory_byte_seconds: float = 0.0
    address_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Metered:
    """An object that is metered, as it is now. `start_time` and `finish_time` are of its newest run, by its host's clock."""

    uid: str
    project: str
    name: str
    create_time: datetime
    rates: Rates
    start_time: datetime | None = None
    finish_time: datetime | None = None


def advance(meter: UsageMeter | None, seen: Metered, now: datetime) -> tuple[UsageMeter, list[UsageDay]]:
    """The meter after a look at its object, and what was used since the look before.

    Args:
        meter: None: the object was never looked at.
    """
    if meter is None:
        idle = Rates(addresses=seen.rates.addresses)
        meter = UsageMeter(seen.uid, seen.project, seen.name, min(seen.create_time, now), idle)
    days: list[UsageDay] = []
    is_short = not seen.rates.running and not meter.rates.running and seen.start_time not in (None, meter.run_start)
    if is_short and seen.start_time is not None and seen.finish_time is not None:
        # It has begun and ended between two looks.
        start, end = _within(seen.start_time, meter.since, now), _within(seen.finish_time, meter.since, now)
        days += spread(replace(meter, since=start, rates=replace(seen.rates, running=True, addresses=0)), end)
    if seen.rates != meter.rates:
        at = now
        if seen.rates.running != meter.rates.running:
            at = _within(_told(meter, seen) or now, meter.since, now)
        days += spread(meter, at)
        meter = replace(meter, since=at, rates=seen.rates)
    return replace(meter, name=seen.name, run_start=seen.start_time or meter.run_start), days


def _told(meter: UsageMeter, seen: Metered) -> datetime | None:
    """When the host says that the process began or ended; None: it has not said."""
    if seen.rates.running:
        return seen.start_time
    # One that is lost without a word has at most the end of a run before.
    return seen.finish_time if seen.finish_time is not None and seen.finish_time > meter.since else None


def spread(meter: UsageMeter, until: datetime) -> list[UsageDay]:
    """What has been used since the meter began, by day."""
    days: list[UsageDay] = []
    start = meter.since.astimezone(UTC)
    while start < until:
        midnight = datetime(start.year, start.month, start.day, tzinfo=UTC) + timedelta(days=1)
        end = min(midnight, until)
        days.append(_used(meter, start, (end - start).total_seconds()))
        start = end
    return [day for day in days if day.instance_seconds or day.address_seconds]


def added(days: Iterable[UsageDay]) -> dict[tuple[str, str, str], UsageDay]:
    """Their sums, by project, day and uid."""
    sums: dict[tuple[str, str, str], UsageDay] = {}
    for day in days:
        key = (day.project, day.day, day.uid)
        have = sums.get(key)
        sums[key] = day if have is None else plus(have, day)
    return sums


def plus(one: UsageDay, other: UsageDay) -> UsageDay:
    """Both, of the same object and day."""
    return replace(
        one,
        instance_seconds=one.instance_seconds + other.instance_seconds,
        cpu_milli_seconds=one.cpu_milli_seconds + other.cpu_milli_seconds,
        memory_byte_seconds=one.memory_byte_seconds + other.memory_byte_seconds,
        address_seconds=one.address_seconds + other.address_seconds,
    )


def beginning(day: str) -> datetime:
    """The time at which a day begins."""
    return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)


def _used(meter: UsageMeter, start: datetime, seconds: float) -> UsageDay:
    rates = meter.rates
    ran = seconds if rates.running else 0.0
    return UsageDay(
        meter.project,
        f"{start:%Y-%m-%d}",
        meter.uid,
        meter.name,
        instance_seconds=ran,
        cpu_milli_seconds=ran * rates.cpu_millis,
        memory_byte_seconds=ran * rates.memory_bytes,
        address_seconds=seconds * rates.addresses,
    )


def _within(time: datetime, earliest: datetime, latest: datetime) -> datetime:
    return max(earliest, min(time, latest))

"""When a schedule such as `30 2 * * mon-fri` of a time zone is due. Pure.

A schedule is five fields: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday). Each is `*`, numbers,
ranges `a-b` or lists of them by commas, with `/step` after a range or `*`; months and days of the week also have their first three
English letters. Where both days are restricted, either is enough, as crontab(5) has it. @hourly, @daily, @weekly, @monthly and
@yearly stand for the usual five.

What happens when clocks are changed:

- A schedule of every hour (all 24 in its hour field) follows real time: it is due in each pass of an hour that comes twice, and not
  in an hour that does not exist.
- Any other is due once for each local time: in the first pass of one that comes twice, and at the first minute after the gap for
  those that do not exist (once, however many of them fall into one gap).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
_HOURS = 24
#: A 29 February that is also a certain day of the week is up to 40 years away, because 2100 has none.
_HORIZON = timedelta(days=366 * 41)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of the months
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """The values that each field allows. Days of the week are 0 (Sunday) to 6."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    is_either_day: bool  # both kinds of days are restricted, and one is enough

    @property
    def follows_real_time(self) -> bool:
        """Whether every hour is due, so that hours that come twice or never are taken as they come."""
        return len(self.hours) == _HOURS

    def has_day(self, day: date) -> bool:
        """Whether it is due on a day."""
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_month or by_week) if self.is_either_day else (by_month and by_week)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    lowest: int
    highest: int
    words: tuple[str, ...] = ()  # for lowest, lowest + 1, ...


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _WEEKDAYS),
)


def parse_schedule(text: str) -> Schedule:
    """Read five fields, or a shorthand.

    Raises:
        ValueError: with a sentence for the user. Also for days that no year has, such as 30 February.
    """
    words = _SHORTHANDS.get(text.strip().lower(), text).split()
    if len(words) != len(_FIELDS):
        names = ", ".join(one.name for one in _FIELDS)
        raise ValueError(f"must be five fields ({names}) or one of {', '.join(sorted(_SHORTHANDS))}, not {text!r}")
    minutes, hours, days, months, weekdays = (_values(word, one) for word, one in zip(words, _FIELDS, strict=True))
    schedule = Schedule(
        minutes,
        hours,
        days,
        months,
        frozenset(day % 7 for day in weekdays),
        # crontab(5) asks how the field begins, so that */2 is not a restriction; we do the same, because files are copied from there
        is_either_day=not words[2].startswith("*") and not words[4].startswith("*"),
    )
    if not schedule.is_either_day and not any(
        day <= _LONGEST[month - 1] for month in schedule.months for day in schedule.days
    ):
        raise ValueError(f"is never due: no year has such a day: {text!r}")
    return schedule


def parse_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name; empty: UTC.

    Raises:
        ValueError: with a sentence for the user.
    """
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name of a folder, such as Europe
        raise ValueError(f"must be a time zone such as Europe/Berlin or UTC, not {name!r}") from error


def next_due(schedule: Schedule, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first time after an instant at which it is due, in UTC; None: the calendar ends before it comes."""
    return next(due_times(schedule, zone, after), None)


def due_times(schedule: Schedule, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Each time after an instant at which it is due, in UTC, in order. Without end for practical purposes: take what is needed.

    Args:
        after: with a time zone; it is not among them.
    """
    after = after.astimezone(UTC)
    times = (
        _in_real_time(schedule, zone, after) if schedule.follows_real_time else _by_local_time(schedule, zone, after)
    )
    last = after
    for due in times:
        if due > last:  # several local times of one gap are one
            yield due
            last = due


def _by_local_time(schedule: Schedule, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Each local time once. May repeat a time, and begin early."""
    clock = [time(hour, minute) for hour in sorted(schedule.hours) for minute in sorted(schedule.minutes)]
    # a day before: a gap or an overlap may be as long as that, where a country crossed the date line
    for day in _days(schedule, after.astimezone(zone).date() - _DAY):
        yield from sorted(_first_instant(datetime.combine(day, one, zone)) for one in clock)


def _in_real_time(schedule: Schedule, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Each minute whose local time matches."""
    now = after.replace(second=0, microsecond=0) + _MINUTE
    for day in _days(schedule, now.astimezone(zone).date()):
        now = max(now, _first_instant(datetime.combine(day, time(), zone)))
        # to the end of the day and of what of it comes a second time, when clocks go back over midnight
        end = _first_instant(datetime.combine(day + _DAY, time(), zone)) + timedelta(hours=3)
        while now < end:
            local = now.astimezone(zone)
            if local.minute in schedule.minutes and schedule.has_day(local.date()):
                yield now
            now += _MINUTE


def _days(schedule: Schedule, first: date) -> Iterator[date]:
    """The days from the first on at which it is due, as long as there are any within reach of each other."""
    day, last = first, first
    while day - last < _HORIZON and day < date.max - 2 * _DAY:
        if schedule.has_day(day):
            yield day
            last = day
        day += _DAY


def _first_instant(local: datetime) -> datetime:
    """When a local time first comes, in UTC; for one that never comes, the first minute after the gap that swallowed it."""
    instant = local.astimezone(UTC)
    if _is_local(instant, local):
        return instant
    # The offset before the gap puts the instant behind its end, and the one after the gap puts it before its begin.
    early, late = local.replace(fold=1).astimezone(UTC), instant
    offset = late.astimezone(local.tzinfo).utcoffset()
    while late - early > _MINUTE:
        middle = early + (late - early) // 2
        middle = middle.replace(second=0, microsecond=0)
        if middle == early:
            middle += _MINUTE
        if middle.astimezone(local.tzinfo).utcoffset() == offset:
            late = middle
        else:
            early = middle
    return late


def _is_local(instant: datetime, local: datetime) -> bool:
    return instant.astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None)


def _values(text: str, field: _Field) -> frozenset[int]:
    """The numbers that one field allows."""
    found: set[int] = set()
    for part in text.lower().split(","):
        span, has_step, step_word = part.partition("/")
        step = _step(step_word, field, text) if has_step else 1
        if span == "*":
            # Sunday is also 7, for ranges such as fri-sun; of all days it is one
            first, last = field.lowest, field.highest - (field.words is _WEEKDAYS)
        else:
            first_word, is_range, last_word = span.partition("-")
            first = _number(first_word, field, text)
            last = _number(last_word, field, text) if is_range else first
            if field.words is _WEEKDAYS and is_range and last == 0:
                last = 7
            if has_step and not is_range:
                last = field.highest
        if last < first:
            raise ValueError(f"{field.name}: {span!r} goes backwards, in {text!r}")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(word: str, field: _Field, text: str) -> int:
    if word in field.words:
        return field.lowest + field.words.index(word)
    # isdecimal alone also takes the digits of other scripts, which nobody means here
    if word.isascii() and word.isdecimal() and field.lowest <= int(word) <= field.highest:
        return int(word)
    names = f", or {', '.join(field.words)}" if field.words else ""
    raise ValueError(f"{field.name}: must be {field.lowest}-{field.highest}{names}, not {word!r} as in {text!r}")


def _step(word: str, field: _Field, text: str) -> int:
    if word.isascii() and word.isdecimal() and 1 <= int(word) <= field.highest:
        return int(word)
    raise ValueError(f"{field.name}: a step must be 1-{field.highest}, not {word!r} as in {text!r}")

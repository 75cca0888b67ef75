"""When schedules are due, also when clocks are changed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.schedule import due_times, next_due, parse_schedule, parse_zone

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: forward on 29 March at 02:00, back on 25 October at 03:00
MINUTE = timedelta(minutes=1)


def due(text: str, zone: ZoneInfo, after: datetime, count: int) -> list[str]:
    """The first times, in local time with the offset."""
    return [
        f"{one.astimezone(zone):%m-%d %H:%M%z}" for one in islice(due_times(parse_schedule(text), zone, after), count)
    ]


def at(*numbers: int, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime(*numbers, tzinfo=zone)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("30 2 * * *", ["11-25 02:30", "11-26 02:30"]),
        ("*/20 9-10 * * mon-fri", ["11-25 09:00", "11-25 09:20", "11-25 09:40", "11-25 10:00"]),
        ("0 0 1 jan *", ["01-01 00:00"]),
        ("0 12 * * 7", ["11-29 12:00"]),
        ("0 12 * * fri-sun", ["11-27 12:00", "11-28 12:00", "11-29 12:00", "12-04 12:00"]),
        ("0 12 27 * thu", ["11-26 12:00", "11-27 12:00", "12-03 12:00"]),  # either day is enough
        ("0 12 */2 * thu", ["12-03 12:00"]),  # but not of one that begins with a star
        ("5/20 0 * * *", ["11-25 00:05", "11-25 00:25", "11-25 00:45"]),
        ("@weekly", ["11-29 00:00"]),
        ("0 0 29 2 *", ["02-29 00:00"]),
    ],
)
def test_times(text: str, times: list[str]) -> None:
    after = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)
    assert [one[:11] for one in due(text, ZoneInfo("UTC"), after, len(times))] == times


def test_a_local_time_that_does_not_exist_is_due_once_after_the_gap() -> None:
    assert due("*/20 2 * * *", BERLIN, at(2026, 3, 28, 12), 2) == ["03-29 03:00+0200", "03-30 02:00+0200"]
    assert due("30 2,3 * * *", BERLIN, at(2026, 3, 28, 12), 2) == ["03-29 03:00+0200", "03-29 03:30+0200"]


def test_a_local_time_that_comes_twice_is_due_in_its_first_pass() -> None:
    assert due("30 2 * * *", BERLIN, at(2026, 10, 24, 12), 2) == ["10-25 02:30+0200", "10-26 02:30+0100"]


def test_every_hour_follows_real_time() -> None:
    assert due("30 * * * *", BERLIN, at(2026, 3, 29, 1), 2) == ["03-29 01:30+0100", "03-29 03:30+0200"]
    assert due("30 * * * *", BERLIN, at(2026, 10, 25, 2), 3) == [
        "10-25 02:30+0200",
        "10-25 02:30+0100",
        "10-25 03:30+0100",
    ]


def test_a_day_that_a_country_left_out() -> None:
    samoa = ZoneInfo("Pacific/Apia")  # had no 30 December 2011
    assert due("0 12 * * *", samoa, at(2011, 12, 29, 13, zone=samoa), 2) == ["12-31 00:00+1400", "12-31 12:00+1400"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("* * * *", "five fields"),
        ("", "five fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of the month"),
        ("* * * foo *", "month"),
        ("* * * * 8", "day of the week"),
        ("5-1 * * * *", "backwards"),
        ("*/0 * * * *", "step"),
        ("1,,2 * * * *", "minute"),
        ("٣ * * * *", "minute"),
        ("0 0 31 2,4 *", "never"),
    ],
)
def test_what_is_no_schedule(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_schedule(text)


@pytest.mark.parametrize("name", ["Europe", "Nowhere/Atlantis", "../etc/passwd", "/etc/localtime"])
def test_what_is_no_zone(name: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        parse_zone(name)
    assert parse_zone("") is parse_zone("UTC")


FIELD = {
    "minute": st.sampled_from(["*", "0", "30", "*/17", "1-50/7", "59"]),
    "hour": st.sampled_from(["*", "2", "0", "1-3", "*/5", "23", "3"]),
    "day": st.sampled_from(["*", "25", "29-31", "*/3", "1"]),
    "month": st.sampled_from(["*", "3", "oct,nov", "*/2"]),
    "weekday": st.sampled_from(["*", "0", "mon-fri", "sun", "*/2"]),
}
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Cairo"]
)
CHANGES = st.sampled_from(
    [
        datetime(2026, 3, 28, tzinfo=UTC),
        datetime(2026, 10, 24, tzinfo=UTC),
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 3, 8, tzinfo=UTC),
        datetime(2026, 4, 4, tzinfo=UTC),
        datetime(2026, 4, 23, tzinfo=UTC),
        datetime(2026, 7, 1, tzinfo=UTC),
    ]
)


def _walked(text: str, zone: ZoneInfo, after: datetime, days: int) -> Iterator[datetime]:
    """The same by looking at every minute: which local times it brings for the first time."""
    schedule = parse_schedule(text)

    def matches(local: datetime) -> bool:
        return local.hour in schedule.hours and local.minute in schedule.minutes and schedule.has_day(local.date())

    begin = after - timedelta(days=2)
    seen: set[datetime] = set()
    previous = begin.astimezone(zone).replace(tzinfo=None)
    for count in range(1, (days + 2) * 24 * 60):
        now = begin + count * MINUTE
        local = now.astimezone(zone).replace(tzinfo=None)
        passed = [local]
        while passed[-1] > previous + MINUTE and not schedule.follows_real_time:
            passed.append(passed[-1] - MINUTE)  # what a gap left out
        is_due = any(matches(one) and (schedule.follows_real_time or one not in seen) for one in passed)
        seen.update(passed)
        previous = max(previous, local) if not schedule.follows_real_time else local
        if is_due and now > after:
            yield now


@given(st.tuples(*FIELD.values()).map(" ".join), ZONES, CHANGES, st.integers(0, 48 * 60))
def test_it_agrees_with_a_walk_over_all_minutes(text: str, zone_name: str, day: datetime, minutes: int) -> None:
    zone, after = ZoneInfo(zone_name), day + minutes * MINUTE
    try:
        schedule = parse_schedule(text)
    except ValueError:
        return  # never due
    walked = list(_walked(text, zone, after, 2))
    assert list(islice(due_times(schedule, zone, after), len(walked))) == walked
    if walked:
        assert next_due(schedule, zone, after) == walked[0]

"""Usage: whatever is looked at, and when, the sums are what was used."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.containers import Resources
from controlplane.domain.instances import InstanceState
from controlplane.domain.kinds import USAGE_DAY, USAGE_METER
from controlplane.domain.usage import Metered, Rates, UsageMeter, added, advance, spread
from controlplane.services.paging import PageRequest
from controlplane.services.usage import UsageService, forget_old_days
from controlplane.usage.loop import UsageMeters
from moorage.errors import InvalidSpec
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@given(
    runs=st.lists(st.integers(1, 50_000), max_size=6),
    looks=st.lists(st.integers(0, 400_000), max_size=20),
)
def test_the_sums_do_not_depend_on_when_it_is_looked(runs: list[int], looks: list[int]) -> None:
    """Runs and pauses in turn. Looks may miss whole runs but the newest: so one look is made in each pause and each run."""
    borders = [0]
    for length in runs:
        borders.append(borders[-1] + length)
    end = borders[-1] + 1000
    middles = [(a + b) // 2 for a, b in zip(borders, [*borders[1:], end], strict=True)]
    meter: UsageMeter | None = None
    days = []
    for look in sorted({*middles, *(look for look in looks if look <= end), end}):
        index = max(i for i, border in enumerate(borders) if border <= look)
        starts = [borders[i] for i in range(1, index + 1, 2)]
        ends = [borders[i] for i in range(2, index + 1, 2)]
        seen = Metered(
            "u",
            "p",
            "n",
            NOON,
            Rates(index % 2 == 1, 500, 1000, 2),
            at(starts[-1]) if starts else None,
            at(ends[-1]) if ends else None,
        )
        meter, more = advance(meter, seen, at(look))
        assert advance(meter, seen, at(look)) == (meter, []), "once is enough"
        days += more
    assert meter is not None
    days += spread(meter, at(end))
    ran = sum(b - a for i, (a, b) in enumerate(zip(borders, [*borders[1:], end], strict=True)) if i % 2 == 1)
    assert sum(day.instance_seconds for day in days) == pytest.approx(ran)
    assert sum(day.cpu_milli_seconds for day in days) == pytest.approx(ran * 500)
    assert sum(day.memory_byte_seconds for day in days) == pytest.approx(ran * 1000)
    assert sum(day.address_seconds for day in days) == pytest.approx(end * 2)
    for (_, name, _), day in added(days).items():
        assert day.day == name
        assert day.address_seconds <= 2 * 86400.001


def test_a_run_between_two_looks_counts() -> None:
    idle = Metered("u", "p", "n", NOON, Rates(addresses=1))
    meter, _ = advance(None, idle, at(1))
    over = replace(idle, start_time=at(2), finish_time=at(7), rates=Rates(cpu_millis=100, addresses=1))
    meter, days = advance(meter, over, at(10))
    assert sum(day.instance_seconds for day in days) == 5
    assert advance(meter, over, at(20))[1] == []
    _, first = advance(None, over, at(20))
    assert sum(day.instance_seconds for day in first) == 5, "also when it is seen for the first time"


def test_hosts_clocks_shift_nothing_out_of_the_interval() -> None:
    meter = UsageMeter("u", "p", "n", NOON, Rates(addresses=1))
    seen = Metered("u", "p", "n", NOON, Rates(True, addresses=1), start_time=at(-500))
    meter, days = advance(meter, seen, at(10))
    assert (meter.since, days) == (NOON, [])
    _, days = advance(meter, replace(seen, rates=Rates(addresses=1), finish_time=at(9999)), at(30))
    assert sum(day.instance_seconds for day in days) == 30


def test_one_that_is_lost_ran_until_it_was_given_up() -> None:
    running = Metered("u", "p", "n", NOON, Rates(True), start_time=at(50), finish_time=at(10))
    meter, _ = advance(UsageMeter("u", "p", "n", at(20)), running, at(60))
    _, days = advance(meter, replace(running, rates=Rates()), at(90))
    assert sum(day.instance_seconds for day in days) == 40


async def test_an_instance_from_its_creation_to_its_end(world: World) -> None:
    meters, usage = UsageMeters(world.context), UsageService(world.context)

    async def look() -> None:
        meters._note(found.value.uid for found in world.store.view().all(USAGE_METER))
        meters._note([made.uid])
        await meters.write()

    await world.host("h1")
    made = await world.create("web", resources=Resources(cpu_millis=500, memory_bytes=1 << 30))
    placed = await world.place("web", "h1")
    await look()
    begin = world.clock.now()
    world.clock.advance(10)
    await world.report(placed, InstanceState.RUNNING, started_at=world.clock.now().timestamp())
    await look()
    world.clock.advance(100)
    (day,), token = usage.query(P, None, None, PageRequest())
    assert (day.instance_seconds, day.cpu_milli_seconds, day.address_seconds, token) == (100, 50_000, 220, "")
    await world.report(placed, InstanceState.STOPPED, sequence=2, finished_at=world.clock.now().timestamp())
    await look()
    revision = world.store.view().revision
    await look()
    assert world.store.view().revision == revision, "nothing to write"
    world.clock.advance(5)
    await world.instances.delete(P, ["web"])
    await world.report(world.get("web"), InstanceState.DELETED, sequence=3)
    (day,), _ = usage.query(P, None, None, PageRequest())
    assert (day.instance_seconds, day.memory_byte_seconds, day.address_seconds) == (100, 100 << 30, 230)
    assert world.store.view().count(USAGE_METER) == 0
    today = datetime(begin.year, begin.month, begin.day, tzinfo=UTC)
    assert usage.query(P, today, None, PageRequest())[0] == [day]
    assert usage.query(P, today + timedelta(days=1), None, PageRequest())[0] == []
    assert usage.query(P, None, today, PageRequest())[0] == []
    assert usage.query("-", None, None, PageRequest(), frozenset({"other"}))[0] == []
    with pytest.raises(InvalidSpec):
        usage.query(P, today, today, PageRequest())


async def test_one_that_was_never_looked_at_counts_too(world: World) -> None:
    await world.create("web")
    world.clock.advance(7)
    await world.instances.delete(P, ["web"])
    (day,), _ = UsageService(world.context).query(P, None, None, PageRequest())
    assert (day.address_seconds, day.instance_seconds) == (14, 0), "one of each family"


async def test_pages_and_the_end_of_old_days(world: World) -> None:
    for number in range(5):
        await world.create(f"w{number}")
    world.clock.advance(3)
    await world.instances.delete(P, [f"w{number}" for number in range(5)])
    usage = UsageService(world.context)
    found, token = [], ""
    while True:
        page, token = usage.query(P, None, None, PageRequest(2, token))
        found += [day.uid for day in page]
        if not token:
            break
    assert len(found) == len(set(found)) == 5
    assert found == sorted(found)

    def forget(tx: Transaction) -> int:
        return forget_old_days(tx, world.clock.now() + timedelta(days=93))

    assert await world.store.update(lambda tx: forget_old_days(tx, world.clock.now())) == 0
    assert await world.store.update(forget) == 5
    assert world.store.view().count(USAGE_DAY) == 0

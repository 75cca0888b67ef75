"""The loop over a real store: what wakes it up, what it commits, and what it does about a world that moved meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from controlplane.domain.containers import DeviceRequest
from controlplane.domain.hosts import Host, HostAdminState, HostCondition, HostLinkState
from controlplane.domain.instances import Affinity, DesiredState, Instance, InstanceState, Observed, Placement
from controlplane.domain.kinds import ALL_KINDS, EVENT, HOST, INSTANCE
from controlplane.scheduler.loop import Scheduler
from controlplane.scheduler.plan import Decision
from moorage.clock import ManualClock
from moorage.store import MemoryStore
from moorage.store.base import Transaction
from tests.unit.scheduler.values import gpus, host, instance


def put_record(tx: Transaction, record: Instance | Host) -> None:
    if isinstance(record, Instance):
        tx.put(INSTANCE, record)
    else:
        tx.put(HOST, record)


class World:
    """A store with a scheduler at work on it."""

    def __init__(self) -> None:
        self.store = MemoryStore(ALL_KINDS)
        self.scheduler = Scheduler(self.store, ManualClock(), self.push_out)

    def push_out(self, tx: Transaction, one: Instance, why: str) -> None:
        """As the services do it for what has no clients."""
        tx.put(INSTANCE, replace(one, desired=DesiredState.DELETED, generation=one.generation + 1))

    def instance(self, uid: str) -> Instance:
        found = self.store.view().get(INSTANCE, f"p/{uid}")
        assert found is not None
        return found.value

    async def put(self, *records: Instance | Host) -> None:
        def write(tx: Transaction) -> None:
            for record in records:
                put_record(tx, record)

        await self.store.update(write)

    async def eventually(self, is_so: Callable[[], bool]) -> None:
        for _ in range(500):
            if is_so():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not come to that")

    async def placed(self, uid: str, on: str) -> None:
        await self.eventually(lambda: self.instance(uid).host == on)

    async def refused(self, uid: str, word: str) -> None:
        await self.eventually(lambda: word in self.instance(uid).observed.message)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    task = asyncio.create_task(world.scheduler.run())
    yield world
    task.cancel()
    await asyncio.wait([task])
    await world.store.close()


async def test_a_placement_is_committed_with_its_reasons(world: World) -> None:
    await world.put(host("a"), instance("i", cpu=100))
    await world.placed("i", "a")
    found = world.instance("i")
    assert (found.host_uid, found.observed.state) == ("uid-a", InstanceState.ASSIGNED)
    assert found.placement is not None
    assert found.placement.host == "hosts/a"
    assert found.generation == 1, "the user's etag stays"
    assert [e.value.reason for e in world.store.view().all(EVENT)] == ["PLACED"]


async def test_a_refusal_is_written_once(world: World) -> None:
    await world.put(host("a", cpu=100), instance("i", cpu=200))
    await world.refused("i", "cpu took 1")
    assert world.instance("i").observed.reason == "UNPLACEABLE"
    await world.put(instance("j", cpu=300))
    await world.refused("j", "cpu took 1")
    assert [e.value.reason for e in world.store.view().all(EVENT)] == ["UNPLACEABLE"] * 2


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.put(host("b", cpu=500)),
        lambda w: w.put(host("a", cpu=600)),
        lambda w: w.put(replace(w.instance("i"), effective=instance("x", cpu=50).effective, generation=2)),
        lambda w: w.put(replace(w.instance("o"), effective=instance("x", cpu=1).effective, generation=2)),
        lambda w: w.store.update(lambda tx: tx.delete(INSTANCE, "p/o")),
    ],
    ids=["another host", "a bigger host", "a smaller wish", "a neighbour shrinks", "a neighbour goes"],
)
async def test_what_makes_a_pending_instance_fit(world: World, change: Callable[[World], Awaitable[None]]) -> None:
    await world.put(host("a", cpu=300), instance("o", cpu=250, on="a"), instance("i", cpu=290))
    await world.refused("i", "cpu took 1")
    await change(world)
    await world.eventually(lambda: bool(world.instance("i").host))


@pytest.mark.parametrize(
    "state",
    [
        {"link_state": HostLinkState.DISCONNECTED},
        {"admin_state": HostAdminState.CORDONED},
        {"conditions": (HostCondition("DISK_PRESSURE", ""),)},
        {"zone": "other"},
    ],
)
async def test_what_makes_a_host_fit(world: World, state: dict[str, object]) -> None:
    good = host("a", zone="z")
    await world.put(replace(good, **state), instance("i", placement=Placement(zone="zones/z")))  # type: ignore[arg-type]
    await world.refused("i", "took 1")
    await world.put(good)
    await world.placed("i", "a")


async def test_a_placement_may_be_what_another_waited_for(world: World) -> None:
    near = Placement(affinity=(Affinity({"app": "db"}),))
    first = instance("a-first", placement=near)
    await world.put(host("a"), first)
    await world.refused("a-first", "affinity took 1")
    await world.put(instance("db", labels={"app": "db"}))
    await world.placed("a-first", "a")


async def test_an_observation_wakes_nobody(world: World) -> None:
    await world.put(host("a", cpu=100), instance("i", cpu=200), instance("o", on="a"))
    await world.refused("i", "cpu took 1")
    passes = []

    async def count() -> list[Decision]:
        passes.append(1)
        return []

    world.scheduler.schedule_once = count  # type: ignore[method-assign]
    await world.put(replace(world.instance("o"), observed=Observed(InstanceState.RUNNING, run=1)))
    await world.put(host("a", cpu=100, epoch=5))
    for _ in range(50):
        await asyncio.sleep(0)
    assert passes == []


async def test_columns_that_lag_behind_give_nothing_away_twice() -> None:
    """A pass decides by what it has heard; what was committed since then is checked again in the transaction."""
    store = MemoryStore(ALL_KINDS)
    scheduler = Scheduler(store, ManualClock(), lambda tx, one, why: None)

    async def put(*records: Instance | Host) -> None:
        def write(tx: Transaction) -> None:
            for record in records:
                put_record(tx, record)

        await store.update(write)

    await put(host("a", cpu=1000, memory=1000), instance("o", cpu=100, on="a", ports=(80,)))
    task = asyncio.create_task(scheduler.run())
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    def forget(tx: Transaction) -> None:
        for key in ("p/n", "p/i"):
            tx.delete(INSTANCE, key)

    unseen: list[list[Instance | Host]] = [
        [instance("o", cpu=900, on="a", ports=(80,))],
        [instance("o", cpu=100, on="a", ports=(81,))],
        [instance("o", cpu=100, on="a", ports=(80,)), instance("n", cpu=800, on="a")],
        [host("a", cpu=1000, memory=1000, admin_state=HostAdminState.CORDONED)],
    ]
    for records in unseen:
        await put(instance("i", cpu=500, ports=(81,)), *records)
        await scheduler.schedule_once()
        found = store.view().get(INSTANCE, "p/i")
        assert found is not None
        assert not found.value.host, "left for the pass that the unseen change begins"
        await put(host("a", cpu=1000, memory=1000), instance("o", cpu=100, on="a", ports=(80,)))
        await store.update(forget)
    await put(instance("i", cpu=500, ports=(81,)))
    await scheduler.schedule_once()
    found = store.view().get(INSTANCE, "p/i")
    assert found is not None
    assert found.value.host == "a"
    await store.close()


async def test_a_storm_of_creates_never_overcommits(world: World) -> None:
    """Each create is a commit of its own: passes and commits overlap in every way."""
    await world.put(*(host(f"h{n}", cpu=1000) for n in range(3)))
    names = [f"i{n:02}" for n in range(40)]
    await asyncio.gather(*(world.put(instance(name, cpu=100)) for name in names))
    await world.eventually(
        lambda: (
            sum(bool(world.instance(n).host) for n in names) == 30
            and all(world.instance(n).host or world.instance(n).observed.reason for n in names)
        )
    )
    used = [sum(world.instance(n).host == f"h{h}" for n in names) for h in range(3)]
    assert used == [10, 10, 10]


async def test_one_that_is_gone_meanwhile_is_left_alone(world: World) -> None:
    await world.put(host("a", cpu=100), replace(instance("i", cpu=200), desired=DesiredState.RUNNING))
    await world.refused("i", "cpu took 1")
    await world.store.update(lambda tx: tx.delete(INSTANCE, "p/i"))
    await world.put(host("a", cpu=500))
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.store.view().count(INSTANCE) == 0


async def test_the_place_of_those_that_are_pushed_out_is_kept(world: World) -> None:
    await world.put(host("a", cpu=1000), instance("o", cpu=1000))
    await world.placed("o", "a")
    high = Placement(priority=5, preempts=True)
    await world.put(instance("i", cpu=1000, placement=high), instance("later", cpu=1000))
    await world.refused("i", "hosts/a is kept for it, from which projects/p/instances/o of lower priority must go")
    await world.refused("later", "cpu took 1")
    assert world.instance("o").desired is DesiredState.DELETED
    found = world.instance("i")
    assert (found.host_uid, found.promised_uid, found.observed.reason) == ("", "uid-a", "AWAITS_PLACE")
    assert found.placement is not None
    assert found.placement.promised_host == "hosts/a"
    messages = {e.value.reason: e.value.message for e in world.store.view().all(EVENT)}
    assert messages["PREEMPTED"] == "pushed out by projects/p/instances/i: priority 5 over 0, on hosts/a"
    await world.store.update(lambda tx: tx.delete(INSTANCE, "p/o"))
    await world.placed("i", "a")
    found = world.instance("i")
    assert (found.promised_uid, found.observed.state) == ("", InstanceState.ASSIGNED)
    assert world.instance("later").host == ""


async def test_a_promise_that_its_host_cannot_keep_is_taken_back(world: World) -> None:
    await world.put(host("a", cpu=1000), instance("o", cpu=1000))
    await world.placed("o", "a")
    await world.put(instance("i", cpu=1000, placement=Placement(priority=5, preempts=True)))
    await world.refused("i", "is kept for it")
    await world.put(host("a", cpu=1000, admin_state=HostAdminState.CORDONED))
    await world.refused("i", "admin took 1")
    assert world.instance("i").promised_uid == ""


async def test_devices_are_written_down_with_the_host(world: World) -> None:
    await world.put(host("a", devices=gpus("0")), instance("i", device_requests=(DeviceRequest("gpu"),)))
    await world.placed("i", "a")
    (given,) = world.instance("i").effective.device_requests
    assert (given.kind, given.ids, given.driver) == ("nvidia.com/gpu", ("GPU-0",), "nvidia")
    assert world.instance("i").spec.device_requests == (DeviceRequest("gpu"),), "what was asked for stays"
    await world.put(instance("j", device_requests=(DeviceRequest("gpu"),)))
    await world.refused("j", "device took 1")

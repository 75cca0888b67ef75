"""What a router's keeper says of connections to those that are no back ends any more: never less than is known."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hostagent.domain import ContainerSpec, DesiredState, InstanceAssignment
from hostagent.executor.host_state import HostState, NamespaceState
from hostagent.journal.journal import AssignmentChange, Journal
from hostagent.router.keeper import DRAINING_SECONDS, RouterKeeper
from moorage.clock import ManualClock
from moorage.errors import Unavailable
from moorage.ids import InstanceId
from moorage.router_bundle import (
    BackendBundle,
    BalancerBundle,
    BalancerMode,
    PoolBundle,
    RouterBundle,
    RouterReport,
    RouterRole,
)
from moorage.tasks import TaskOwner

R = InstanceId("r1")


def bundle(version: int, *instances: str) -> RouterBundle:
    backends = tuple(BackendBundle(name, f"10.1.0.{number}", 80) for number, name in enumerate(instances, 5))
    return RouterBundle(
        R, version, balancers=(BalancerBundle("lb", BalancerMode.HTTP, pools=(PoolBundle("p", backends),)),)
    )


class Applier:
    """Takes everything."""

    async def apply(self, bundle: RouterBundle) -> str | None:
        return None

    def forget(self, instance_id: InstanceId) -> None:
        return None


class Bed:
    """A keeper of one router; `answers` are what is said of connections under each version, in order."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal.open(folder, now=0.0)
        self.clock = ManualClock()
        self.tasks = TaskOwner("router")
        self.reports: list[RouterReport] = []
        self.answers: dict[int, asyncio.Queue[tuple[str, ...] | Unavailable]] = defaultdict(asyncio.Queue)
        state = HostState("nonce")
        state.namespaces[R] = NamespaceState(folder, ())
        self.keeper = RouterKeeper(
            journal=self.journal,
            state=state,
            appliers=(Applier(),),
            clock=self.clock,
            tasks=self.tasks,
            role_of=lambda _: RouterRole.UNSPECIFIED,
            draining_of=self._answer,
            publish=self.reports.append,
        )
        self.tasks.spawn(self.keeper.run(), name="keeper")
        self.tasks.spawn(self.keeper.watch_draining(), name="draining")

    async def _answer(self, running: RouterBundle) -> tuple[str, ...]:
        answer = await self.answers[running.version].get()
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    async def give(self, wanted: RouterBundle) -> None:
        made = InstanceAssignment(R, "r", "p", 1, 1, DesiredState.RUNNING, ContainerSpec(), ())
        self.journal.apply(AssignmentChange(False, 1, 1, (made,), routers=(wanted,)), now=0.0)
        self.keeper.mark([R])
        await self.clock.settle()

    def last(self) -> tuple[int, tuple[str, ...]]:
        return self.reports[-1].running_version, self.reports[-1].draining


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    made = Bed(tmp_path)
    made.answers[1].put_nowait(())
    await made.give(bundle(1, "a", "b"))
    assert made.last() == (1, ())
    yield made
    await made.tasks.close()
    made.journal.close()


async def test_a_version_is_not_told_before_it_is_known_who_drains(bed: Bed) -> None:
    bed.answers[2].put_nowait(Unavailable("busy"))
    await bed.give(bundle(2, "b"))
    assert bed.last() == (1, ())
    bed.answers[2].put_nowait(("a",))
    await bed.clock.run_for(1.0)
    assert bed.last() == (2, ("a",))


async def test_an_answer_about_the_configuration_before_is_not_taken(bed: Bed) -> None:
    bed.answers[2].put_nowait(("a",))
    await bed.give(bundle(2, "b"))
    await bed.clock.run_for(DRAINING_SECONDS)  # somebody asks under version 2, and waits for the answer
    bed.answers[3].put_nowait(("a", "b"))
    await bed.give(bundle(3))
    assert bed.last() == (3, ("a", "b"))
    bed.answers[2].put_nowait(())  # it was right when it was asked for
    await bed.clock.settle()
    assert bed.last() == (3, ("a", "b"))
    bed.answers[3].put_nowait(())
    await bed.clock.run_for(DRAINING_SECONDS)
    assert bed.last() == (3, ())

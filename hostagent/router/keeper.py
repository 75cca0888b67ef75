"""Keeps every router of this host at its newest configuration that can be loaded, and says how that went.

Routers are worked on side by side, each by one task at a time; a mark that comes meanwhile leads to another look. The parts of a bundle
are applied in order. When one refuses its part, all go back to the configuration that was in force last, which the journal keeps:
the network behind the router never has half of each.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from hostagent.domain import DesiredState
from hostagent.executor.host_state import HostState
from hostagent.journal.journal import Journal, UnreadableRouter
from hostagent.router.plan import Standing, Step, next_step, report, takes_back_ends_away
from hostagent.router.ports import Applier
from moorage.clock import Clock
from moorage.errors import MoorageError, NotFound
from moorage.ids import InstanceId
from moorage.retry import Backoff
from moorage.router_bundle import RouterBundle, RouterReport, RouterRole
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
ROLE_SECONDS = 0.25
DRAINING_SECONDS = 0.5
_BACKOFF = Backoff(initial=0.2, maximum=10.0)


class RouterKeeper:
    """Works off marked routers. `run` and `sweep` are tasks of agent.py's.

    Args:
        appliers: the parts of a bundle, in the order in which they are applied.
        role_of: what a router does now.
        draining_of: instances that are no back ends any more and still have connections.
        publish: takes each report; it is called often, and with equal reports too.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        state: HostState,
        appliers: Sequence[Applier],
        clock: Clock,
        tasks: TaskOwner,
        role_of: Callable[[RouterBundle], RouterRole],
        draining_of: Callable[[RouterBundle], Awaitable[tuple[str, ...]]],
        publish: Callable[[RouterReport], None],
    ) -> None:
        self._journal = journal
        self._state = state
        self._appliers = tuple(appliers)
        self._clock = clock
        self._tasks = tasks
        self._role_of = role_of
        self._draining_of = draining_of
        self._publish = publish
        self._standings: dict[InstanceId, Standing] = {}
        self._draining: dict[InstanceId, tuple[str, ...]] = {}
        self._unreadable: dict[InstanceId, UnreadableRouter] = {}
        self._delays: dict[InstanceId, Iterator[float]] = {}
        self._marked: set[InstanceId] = set()
        self._busy: set[InstanceId] = set()
        self._sleeping: set[InstanceId] = set()
        self._woken = asyncio.Event()

    def mark(self, instance_ids: Iterable[InstanceId]) -> None:
        """Routers whose configuration may have changed."""
        self._marked.update(instance_ids)
        if self._marked:
            self._woken.set()

    def renew(self, instance_id: InstanceId) -> None:
        """The namespace of an instance was made or repaired: what is in force there is not known any more."""
        if instance_id in self._journal.routers:
            self._doubt(instance_id)
            self.mark([instance_id])

    def refuse(self, unreadable: UnreadableRouter) -> None:
        """A configuration came that this agent does not understand; what is in force stays."""
        self._unreadable[unreadable.instance_id] = unreadable
        self._tell(unreadable.instance_id)

    def forget(self, instance_id: InstanceId) -> None:
        """Nothing of an instance is left on this host."""
        self._standings.pop(instance_id, None)
        self._draining.pop(instance_id, None)
        self._unreadable.pop(instance_id, None)
        self._delays.pop(instance_id, None)
        self._marked.discard(instance_id)
        for applier in self._appliers:
            applier.forget(instance_id)

    async def run(self) -> None:
        """Work off marks until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            for instance_id in sorted(self._marked - self._busy):
                self._marked.discard(instance_id)
                self._busy.add(instance_id)
                self._tasks.spawn(self._work(instance_id), name=f"router {instance_id}")

    async def sweep(self) -> None:
        """Look after all routers every minute, whoever changed something behind our back; until cancelled."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            for instance_id in self._journal.routers:
                self._doubt(instance_id)
            self.mark(self._journal.routers)

    async def watch_roles(self) -> None:
        """Tell what becomes of members of pairs: roles move without us. Until cancelled."""
        while True:
            await self._clock.sleep(ROLE_SECONDS)
            for instance_id, bundle in self._journal.routers.items():
                if bundle.pair is not None and instance_id in self._standings:
                    self._tell(instance_id)

    async def _work(self, instance_id: InstanceId) -> None:
        try:
            is_done = await self._settle(instance_id)
        finally:
            self._busy.discard(instance_id)
            if instance_id in self._marked:
                self._woken.set()
        if is_done:
            self._delays.pop(instance_id, None)
        elif instance_id not in self._sleeping:
            delay = next(self._delays.setdefault(instance_id, _BACKOFF.delays()))
            self._sleeping.add(instance_id)
            self._tasks.spawn(self._mark_later(instance_id, delay), name=f"retry of router {instance_id}")

    async def _mark_later(self, instance_id: InstanceId, seconds: float) -> None:
        try:
            await self._clock.sleep(seconds)
        finally:
            self._sleeping.discard(instance_id)
        self.mark([instance_id])

    def _doubt(self, instance_id: InstanceId) -> None:
        if (known := self._standings.get(instance_id)) is not None:
            self._standings[instance_id] = replace(known, is_known=False)

    async def _settle(self, instance_id: InstanceId) -> bool:
        """Bring one router to where it shall be. Returns False if it has to be tried again."""
        wanted = self._journal.routers.get(instance_id)
        assignment = self._journal.assignments.get(instance_id)
        if wanted is None or assignment is None or assignment.desired is DesiredState.DELETED:
            return True
        namespace = self._state.namespaces.get(instance_id)
        if namespace is None or namespace.nics is None:
            return True  # marked again when it is prepared
        standing = self._standings.get(instance_id, Standing())
        match next_step(standing, wanted):
            case Step.NOTHING:
                after = standing
            case Step.ADOPT:
                after = Standing(running=wanted, is_known=True)
            case Step.APPLY:
                # A doubt that arises meanwhile must not be lost: it is raised against this value.
                self._standings[instance_id] = replace(standing, is_known=True)
                try:
                    after = await self._apply(wanted, standing)
                    if after.running is not None and takes_back_ends_away(standing.running, after.running):
                        # known before the version is told: who waits for that version looks at both
                        self._draining[instance_id] = await self._draining_of(after.running)
                except NotFound:
                    self._doubt(instance_id)
                    return True  # the namespace went away; marked again when it is back
                except MoorageError as exc:
                    self._doubt(instance_id)
                    log.warning("a router waits", extra={"instance": instance_id, "problem": str(exc)})
                    return False
                after = replace(after, is_known=self._standings.get(instance_id, Standing()).is_known)
        if instance_id not in self._journal.assignments:
            return True
        self._standings[instance_id] = after
        if after.running is not None and self._journal.good_router(instance_id) != after.running:
            self._journal.set_good_router(after.running)
        self._tell(instance_id)
        return True

    def _tell(self, instance_id: InstanceId) -> None:
        standing = self._standings.get(instance_id, Standing())
        wanted, unreadable = self._journal.routers.get(instance_id), self._unreadable.get(instance_id)
        if unreadable is not None and (wanted is None or unreadable.version > wanted.version):
            failed = RouterBundle(instance_id, unreadable.version)
            error = f"this agent does not understand it: {unreadable.problem}"
            standing = replace(standing, failed=failed, error=error)
        role = self._role_of(standing.running) if standing.running is not None else RouterRole.UNSPECIFIED
        self._publish(report(instance_id, standing, role, self._draining.get(instance_id, ())))

    async def watch_draining(self) -> None:
        """Tell when connections to those that are no back ends any more have ended. Until cancelled."""
        while True:
            await self._clock.sleep(DRAINING_SECONDS)
            for instance_id in [router for router, left in self._draining.items() if left]:
                running = self._standings.get(instance_id, Standing()).running
                if running is None or instance_id in self._busy:
                    continue
                try:
                    left = await self._draining_of(running)
                except MoorageError as exc:
                    log.info("who drains is not known", extra={"instance": instance_id, "problem": str(exc)})
                    continue  # they are believed to drain on: whoever waits for that has a time of its own
                # An answer about a configuration that is being replaced says nothing of those whom the next one takes away.
                if instance_id not in self._busy and self._standings.get(instance_id, Standing()).running is running:
                    self._draining[instance_id] = left
                    self._tell(instance_id)

    async def _apply(self, wanted: RouterBundle, standing: Standing) -> Standing:
        problem = await self._try(wanted)
        if problem is None:
            return Standing(running=wanted)
        log.warning(
            "a router's configuration was refused",
            extra={"instance": wanted.instance_id, "version": wanted.version, "problem": problem},
        )
        good = standing.running or self._journal.good_router(wanted.instance_id)
        if good is not None and (again := await self._try(good)) is not None:
            log.error(
                "the configuration before it is refused too", extra={"instance": wanted.instance_id, "problem": again}
            )
            good = None
        return Standing(running=good, failed=wanted, error=problem)

    async def _try(self, bundle: RouterBundle) -> str | None:
        for applier in self._appliers:
            problem = await applier.apply(bundle)
            if problem is not None:
                return problem
        return None

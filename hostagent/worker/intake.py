"""Takes in what the control plane says: journal first, then everybody whom it concerns is woken."""

from collections.abc import Iterable

from hostagent.domain import DesiredState, InstanceAssignment
from hostagent.executor.filters import is_filtered
from hostagent.journal.journal import AssignmentChange, Journal
from hostagent.router.keeper import RouterKeeper
from hostagent.worker.loop import Reconciler
from hostagent.worker.networks import NetworkKeeper, networks_of
from moorage.clock import Clock
from moorage.errors import StoreUnavailable
from moorage.ids import InstanceId, NetworkId

_RETRY_SECONDS = 1.0


class Intake:
    """The one way by which assignments come in."""

    def __init__(
        self,
        *,
        journal: Journal,
        reconciler: Reconciler,
        networks: NetworkKeeper,
        routers: RouterKeeper,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._reconciler = reconciler
        self._networks = networks
        self._routers = routers
        self._clock = clock

    async def apply(self, change: AssignmentChange) -> None:
        """Record the news durably, then act on it. While the journal cannot be written it waits, and nothing is acted on:
        the session stands meanwhile, and tells what is wrong with the host.
        """
        before = {i.instance_id: self._journal.assignments.get(i.instance_id) for i in change.instances}
        orphans = self._journal.orphans
        touched, networks = self._journal.apply(change, now=self._clock.now().timestamp())
        while not await self._is_durable():
            await self._clock.sleep(_RETRY_SECONDS)
        changed = {i for i in touched if self._journal.assignments.get(i) != before.get(i) or i not in before}
        marked = (
            networks | self._member_networks(changed, before) | self._networks_with(orphans ^ self._journal.orphans)
        )
        self._networks.mark(marked, changed)
        waiting = self._filtered() if change.touches_security else []
        self._reconciler.wake(*touched, *self._members(networks), *waiting, is_assignment=True)
        self._routers.mark(bundle.instance_id for bundle in change.routers)
        for unreadable in change.unreadable_routers:
            self._routers.refuse(unreadable)

    async def _is_durable(self) -> bool:
        try:
            await self._journal.commit()
        except StoreUnavailable:
            return False  # the journal's writer has told the log
        return True

    def _member_networks(
        self, changed: Iterable[InstanceId], before: "dict[InstanceId, InstanceAssignment | None]"
    ) -> set[NetworkId]:
        """Networks on which somebody's addresses or names changed."""
        found: set[NetworkId] = set()
        for instance_id in changed:
            old, new = before.get(instance_id), self._journal.assignments.get(instance_id)
            if _appearance(old) != _appearance(new):
                for assignment in (old, new):
                    if assignment is not None:
                        found |= networks_of(assignment)
        return found

    def _networks_with(self, instance_ids: Iterable[InstanceId]) -> set[NetworkId]:
        found = (self._journal.assignments.get(instance_id) for instance_id in instance_ids)
        return {network_id for assignment in found if assignment is not None for network_id in networks_of(assignment)}

    def _filtered(self) -> list[InstanceId]:
        """Instances that security groups may concern; the plan of each says whether they do."""
        return [i for i, assignment in self._journal.assignments.items() if is_filtered(assignment)]

    def _members(self, networks: set[NetworkId]) -> list[InstanceId]:
        """Instances that may have waited for these networks."""
        if not networks:
            return []
        return [i for i, a in self._journal.assignments.items() if not networks.isdisjoint(networks_of(a))]


def _appearance(assignment: InstanceAssignment | None) -> tuple[object, ...]:
    """What the other members of its networks see of an instance."""
    if assignment is None or assignment.desired is DesiredState.DELETED:
        return ()
    return (assignment.nics, assignment.hostname, assignment.name, assignment.shared_names)

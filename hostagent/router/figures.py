"""What a router counted, for whoever asks."""

from collections.abc import Sequence

from hostagent.journal.journal import Journal
from hostagent.router.balancers import BalancersApplier
from hostagent.router.ports import RouterFabric
from moorage.errors import NotFound
from moorage.ids import InstanceId
from moorage.router_bundle import PoolFigure, RouterBundle, RuleFigure


class RouterFiguresReader:
    """Figures of the routers of this host. Raises NotFound for what is none."""

    def __init__(self, journal: Journal, fabric: RouterFabric, balancers: BalancersApplier) -> None:
        self._journal = journal
        self._fabric = fabric
        self._balancers = balancers

    async def rules(self, instance_id: InstanceId) -> Sequence[RuleFigure]:
        """Of each rule that is in force."""
        self._bundle(instance_id)
        return await self._fabric.router_figures(instance_id)

    async def pools(self, instance_id: InstanceId) -> Sequence[PoolFigure]:
        """Of each pool of the configuration that is in force.

        Raises: Unavailable: HAProxy does not answer.
        """
        return await self._balancers.figures(self._bundle(instance_id))

    def _bundle(self, instance_id: InstanceId) -> RouterBundle:
        found = self._journal.good_router(instance_id) or self._journal.routers.get(instance_id)
        if found is None:
            raise NotFound(f"instance {instance_id} is no router of this host", reason="INSTANCE_NOT_HERE")
        return found

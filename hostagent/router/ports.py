"""What the router's keeper needs of others: its consumer's view."""

from collections.abc import Sequence
from typing import Protocol

from moorage.ids import InstanceId
from moorage.router_bundle import RouterBundle, RuleFigure


class RouterFabric(Protocol):
    """Packet rules of routers' namespaces."""

    async def apply_router(self, bundle: RouterBundle) -> None: ...
    async def router_figures(self, instance_id: InstanceId) -> Sequence[RuleFigure]: ...


class Applier(Protocol):
    """Carries out one part of a bundle."""

    async def apply(self, bundle: RouterBundle) -> str | None:
        """Make it so; idempotent, and cheap when nothing changes.

        Returns: why it is refused, in the tool's own words; what was in force before goes on. None: it is in force.
        Raises: MoorageError: it could not be done now; to be tried again.
        """

    def forget(self, instance_id: InstanceId) -> None:
        """Nothing of this router is left."""

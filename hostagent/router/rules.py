"""The part of a bundle that is packet rules."""

from hostagent.router.ports import RouterFabric
from moorage.errors import Internal, InvalidSpec
from moorage.ids import InstanceId
from moorage.router_bundle import RouterBundle


class RulesApplier:
    """Translation, firewall and forwarding, in the router's namespace."""

    def __init__(self, fabric: RouterFabric) -> None:
        self._fabric = fabric

    async def apply(self, bundle: RouterBundle) -> str | None:
        """As Applier.apply."""
        try:
            await self._fabric.apply_router(bundle)
        except InvalidSpec as exc:
            return str(exc)
        except Internal as exc:
            if exc.reason != "NFT_REFUSED":
                raise
            return str(exc)
        return None

    def forget(self, instance_id: InstanceId) -> None:
        """As Applier.forget: the rules went with the namespace."""

"""Cartridge groups: what applications take over as a whole, with its order."""

from dataclasses import dataclass

from paas_adapter.documents.dependencies import Dependencies
from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.scalars import Anything, Id


@dataclass(frozen=True, slots=True, kw_only=True)
class CartridgeGroup(Part):
    """A group as it is registered, or one inside of it."""

    name: str = key("name", Id(), required=True)
    #: Types.
    cartridges: tuple[str, ...] = key("cartridges", Listing(Id()))
    groups: "tuple[CartridgeGroup, ...]" = key("groups", Listing(Nested(lambda: CartridgeGroup)))
    dependencies: Dependencies | None = key("dependencies", Nested(Dependencies))
    group_scaling: None = key(
        "groupScalingEnabled",
        Anything(),
        unused="groups are scaled where an application's groupMaxInstances is above 1",
    )

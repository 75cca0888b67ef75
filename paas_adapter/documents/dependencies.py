"""What cartridges and groups have to do with each other: the same part in cartridge groups and applications."""

from dataclasses import dataclass

from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.scalars import Choice, Reference, References

TERMINATE_NONE = "terminate-none"
TERMINATE_DEPENDENTS = "terminate-dependents"
TERMINATE_ALL = "terminate-all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aliases(Part):
    """A list of cartridges and groups: in order of start-up, or those that are scaled together."""

    references: tuple[Reference, ...] = key("aliases", Listing(References()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies(Part):
    """Of what lies at one level."""

    startup_orders: tuple[Aliases, ...] = key("startupOrders", Listing(Nested(Aliases)))
    scaling_dependents: tuple[Aliases, ...] = key("scalingDependents", Listing(Nested(Aliases)))
    #: Empty: not said.
    termination_behaviour: str = key(
        "terminationBehaviour",
        Choice((TERMINATE_NONE, TERMINATE_DEPENDENTS, TERMINATE_ALL)),
        aliases=("terminationBehavior",),
    )

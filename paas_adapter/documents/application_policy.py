"""Application policies: which network partitions an application uses, and when."""

from dataclasses import dataclass

from paas_adapter.documents.deployment_policy import ONE_AFTER_ANOTHER
from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.near import near_miss
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Choice, Id, Property, Text, property_map

ALL_AT_ONCE = "all-at-once"
GROUPS_PROPERTY = "networkPartitionGroups"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationPolicy(Part):
    """Named when an application is deployed."""

    id: str = key("id", Id(), required=True)
    description: str = key("description", Text(limit=65536))
    algorithm: str = key("algorithm", Choice((ONE_AFTER_ANOTHER, ALL_AT_ONCE)), default=ONE_AFTER_ANOTHER)
    #: Ids.
    network_partitions: tuple[str, ...] = key("networkPartitions", Listing(Id()), required=True)
    properties: tuple[Property, ...] = key("properties", Listing(Nested(Property)))

    @property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """Network partitions that are used together, in the order in which bursting comes to them."""
        given = property_map(self.properties).get(GROUPS_PROPERTY)
        if given is not None and given.value.strip():
            wave = [tuple(word.strip() for word in group.split("|")) for group in given.value.split(",")]
            return tuple(tuple(word for word in words if word) for words in wave if any(words))
        if self.algorithm == ALL_AT_ONCE:
            return (self.network_partitions,)
        return tuple((one,) for one in self.network_partitions)

    def check(self, findings: Findings) -> None:
        seen: set[str] = set()
        for number, name in enumerate(self.network_partitions):
            if name in seen:
                findings.refuse(self.at.below("networkPartitions", number), "DUPLICATE", f"{name} is there twice")
            seen.add(name)
        self._check_properties(findings)

    def _check_properties(self, findings: Findings) -> None:
        for one in self.properties:
            if one.name == GROUPS_PROPERTY:
                self._check_groups(one, findings)
            elif near_miss(one.name, (GROUPS_PROPERTY,)):
                message = f"{one.name} is not read; the property is called {GROUPS_PROPERTY}"
                findings.note(one.at, "NOT_USED", message)

    def _check_groups(self, given: Property, findings: Findings) -> None:
        named = [name for wave in self.waves for name in wave]
        for name in dict.fromkeys(named):
            if name not in self.network_partitions:
                message = f"{name} is not among networkPartitions"
                findings.refuse(given.at.below("value"), "UNKNOWN_REFERENCE", message)
            if named.count(name) > 1:
                findings.refuse(given.at.below("value"), "DUPLICATE", f"{name} is there twice")
        for name in self.network_partitions:
            if named and name not in named:
                findings.note(given.at, "NOT_USED", f"{name} is in no group: it is not used")

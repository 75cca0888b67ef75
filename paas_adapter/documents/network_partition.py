"""Network partitions: parts of the fleet by name."""

from dataclasses import dataclass

from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Id, Property, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Part):
    """Hosts of a network partition."""

    id: str = key("id", Id(), required=True)
    description: str = key("description", Text(limit=65536))
    provider: str = key("provider", Text(), unused="the network partition says it")
    #: region, zone, host, cluster.
    properties: tuple[Property, ...] = key("property", Listing(Nested(Property)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPartition(Part):
    """Deployment and application policies name it."""

    id: str = key("id", Id(), required=True)
    description: str = key("description", Text(limit=65536))
    #: Kind of infrastructure; it chooses among a cartridge's images.
    provider: str = key("provider", Text(limit=200))
    partitions: tuple[Partition, ...] = key("partitions", Listing(Nested(Partition)), required=True)
    properties: tuple[Property, ...] = key("properties", Listing(Nested(Property)))

    def check(self, findings: Findings) -> None:
        seen: set[str] = set()
        for partition in self.partitions:
            if partition.id and partition.id in seen:
                findings.refuse(partition.at.below("id"), "DUPLICATE", f"{partition.id} is there twice")
            seen.add(partition.id)

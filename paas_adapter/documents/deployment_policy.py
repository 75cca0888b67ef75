"""Deployment policies: where members of a cluster go."""

from dataclasses import dataclass

from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Choice, Id, Property, Text, Whole

ONE_AFTER_ANOTHER = "one-after-another"
ROUND_ROBIN = "round-robin"


def refuse_twice(parts: tuple["PartitionShare | NetworkPartitionShare", ...], findings: Findings) -> None:
    seen: set[str] = set()
    for part in parts:
        if part.id and part.id in seen:
            findings.refuse(part.at.below("id"), "DUPLICATE", f"{part.id} is there twice")
        seen.add(part.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionShare(Part):
    """A partition that members may go to."""

    id: str = key("id", Id(), required=True)
    #: Members at most, of each cluster; None: no limit.
    max: int | None = key("partitionMax", Whole(0, 2**31 - 1), aliases=("max",))
    min: int | None = key("partitionMin", Whole(0, 2**31 - 1), unused="clusters say how many members they need")
    description: str = key("description", Text(limit=65536))
    properties: tuple[Property, ...] = key(
        "property", Listing(Nested(Property)), unused="the network partition says where its partitions are"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPartitionShare(Part):
    """A network partition that members may go to, and in which order its partitions are used."""

    id: str = key("id", Id(), required=True)
    provider: str = key("provider", Text(), unused="the network partition says it")
    algorithm: str = key("partitionAlgo", Choice((ONE_AFTER_ANOTHER, ROUND_ROBIN)), default=ONE_AFTER_ANOTHER)
    partitions: tuple[PartitionShare, ...] = key("partitions", Listing(Nested(PartitionShare)), required=True)

    def check(self, findings: Findings) -> None:
        refuse_twice(self.partitions, findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPolicy(Part):
    """Clusters and groups name it."""

    id: str = key("id", Id(), required=True)
    name: str = key("name", Text())
    description: str = key("description", Text(limit=65536))
    network_partitions: tuple[NetworkPartitionShare, ...] = key(
        "networkPartitions", Listing(Nested(NetworkPartitionShare)), required=True, aliases=("partitionGroup",)
    )

    def check(self, findings: Findings) -> None:
        refuse_twice(self.network_partitions, findings)

"""Where members may go: network partitions and their partitions, as zones and labels of this fleet's hosts."""

from paas_adapter.documents.deployment_policy import (
    ROUND_ROBIN,
    DeploymentPolicy,
    NetworkPartitionShare,
    PartitionShare,
)
from paas_adapter.documents.network_partition import NetworkPartition, Partition
from paas_adapter.documents.places import Findings
from paas_adapter.mapping.environment import only_payload
from paas_adapter.mapping.model import Filling, Pool, Region
from paas_adapter.mapping.settings import Settings


def pool_of(
    network: NetworkPartition, partition: Partition, share: PartitionShare, settings: Settings, findings: Findings
) -> Pool:
    """Hosts of a partition.

    A property that names something of this fleet, a zone or a label that some host has, is a condition; one of a cloud that is not there
    is passed over with a notice, or nothing could ever be placed.
    """
    site = settings.sites.get((network.id, partition.id))
    if site is not None:
        labels = tuple(sorted(site.host_labels.items()))
        return Pool(partition.id, site.zone, labels, share.max, share.at)
    zone = ""
    found: dict[str, str] = {}
    for one in partition.properties:
        if one.name == "zone" and one.value in settings.zones:
            zone = one.value
        elif one.name in settings.host_labels:
            found[one.name] = one.value
        else:
            message = f"{one.name} is not used: no zone is called so, and no host has such a label"
            findings.note(one.at, "NO_SUCH_PLACE", message)
    return Pool(partition.id, zone, tuple(sorted(found.items())), share.max, share.at)


def _region(network: NetworkPartition, share: NetworkPartitionShare, settings: Settings, findings: Findings) -> Region:
    partitions = {one.id: one for one in network.partitions}
    pools = tuple(
        pool_of(network, partitions[one.id], one, settings, findings)
        for one in share.partitions
        if one.id in partitions
    )
    filling = Filling.EVENLY if share.algorithm == ROUND_ROBIN else Filling.IN_ORDER
    return Region(network.id, filling, pools, only_payload(network.properties, findings), share.at)


def regions_of(
    policy: DeploymentPolicy, networks: dict[str, NetworkPartition], settings: Settings, findings: Findings
) -> tuple[Region, ...]:
    """In the order of the policy; what leads nowhere was refused before."""
    return tuple(
        _region(networks[share.id], share, settings, findings)
        for share in policy.network_partitions
        if share.id in networks
    )

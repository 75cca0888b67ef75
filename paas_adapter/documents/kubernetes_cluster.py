"""Kubernetes clusters: read, so that scripts that register them go on, and not used."""

from dataclasses import dataclass

from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Id, Property, Text, Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesHost(Part):
    """A machine of it."""

    host_id: str = key("hostId", Id(), required=True)
    hostname: str = key("hostname", Text(), aliases=("hostName",))
    private_address: str = key("privateIPAddress", Text())
    public_address: str = key("publicIPAddress", Text())
    endpoint: str = key("endpoint", Text())
    properties: tuple[Property, ...] = key("property", Listing(Nested(Property)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRange(Part):
    """Ports of its machines."""

    lower: int | None = key("lower", Whole(0, 65535))
    upper: int | None = key("upper", Whole(0, 65535))


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesCluster(Part):
    """Partitions name it by their property cluster."""

    cluster_id: str = key("clusterId", Id(), required=True)
    description: str = key("description", Text(limit=65536))
    master: KubernetesHost | None = key("kubernetesMaster", Nested(KubernetesHost))
    hosts: tuple[KubernetesHost, ...] = key("kubernetesHosts", Listing(Nested(KubernetesHost)))
    port_range: PortRange | None = key("portRange", Nested(PortRange))
    properties: tuple[Property, ...] = key("property", Listing(Nested(Property)))

    def check(self, findings: Findings) -> None:
        findings.note(self.at, "NOT_USED", "Kubernetes clusters are not used: members run on the fleet's own hosts")

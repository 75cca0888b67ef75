"""Cartridges: what one can run of, and how it is reached."""

import re
from dataclasses import dataclass

from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Anything, Choice, Flag, Id, Property, Text, Whole

VM = "there is no virtual machine"
PORT = Whole(1, 65535)


def path_fault(text: str) -> str:
    """What is wrong with a path inside an instance."""
    if not text.startswith("/"):
        return "a path inside an instance begins with /"
    return "a path has no .. in it" if ".." in text.split("/") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping(Part):
    """A port of the container, and the one at which the balancer offers it."""

    name: str = key("name", Text(limit=200))
    protocol: str = key("protocol", Choice(("http", "https", "tcp")), required=True)
    port: int | None = key("port", PORT, required=True)
    proxy_port: int | None = key("proxyPort", PORT)
    kubernetes_port_type: str = key(
        "kubernetesPortType", Choice(("NodePort", "ClusterIP")), unused="there is no Kubernetes"
    )

    @property
    def label(self) -> str:
        """Its name, or the one that it has by default."""
        return self.name.strip() or f"{self.protocol}-{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(Part):
    """Where its artifacts go."""

    base_dir: str = key("baseDir", Text(path_fault))
    directories: tuple[None, ...] = key("dir", Listing(Anything()), unused="artifacts are one folder, baseDir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider(Part):
    """What a cartridge is on one kind of infrastructure."""

    type: str = key("type", Id(), required=True)
    image_id: str = key("imageId", Text(limit=512))
    name: str = key("name", Text(), unused="providers are told apart by their type")
    class_name: str = key("className", Text(), unused="no code is loaded by name")
    provider: str = key("provider", Text(), unused=VM)
    identity: str = key("identity", Text(), unused=VM, secret=True)
    credential: str = key("credential", Text(), unused=VM, secret=True)
    network_interfaces: tuple[None, ...] = key(
        "networkInterfaces", Listing(Anything()), unused="instances are on their application's network"
    )
    properties: tuple[Property, ...] = key("property", Listing(Nested(Property)))

    def check(self, findings: Findings) -> None:
        for one in self.properties:
            findings.note(one.at, "NOT_USED", f"{one.name} is not used: {VM}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Part):
    """Files that outlive a member."""

    id: str = key("id", Text(limit=200))
    #: GiB.
    size: int | None = key("size", Whole(1, 1024 * 1024))
    mapping_path: str = key("mappingPath", Text(path_fault), required=True)
    remove_on_termination: bool = key("removeOnTermination", Flag())
    #: One that is there already.
    volume_id: str = key("volumeId", Id())
    device: str = key("device", Text(), unused="volumes are folders, not disks")
    snapshot_id: str = key("snapshotId", Text(), unused="snapshots of a cloud's disks cannot be read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence(Part):
    """Which volumes a member has."""

    required: bool = key("isRequired", Flag(), aliases=("required",))
    volumes: tuple[Volume, ...] = key("volumes", Listing(Nested(Volume)))

    def check(self, findings: Findings) -> None:
        if self.volumes and not self.required:
            findings.note(self.at, "NOT_USED", "volumes are not used: isRequired is not true")
        seen: set[str] = set()
        for volume in self.volumes:
            if volume.mapping_path and volume.mapping_path in seen:
                message = "another volume has the same mappingPath"
                findings.refuse(volume.at.below("mappingPath"), "DUPLICATE", message)
            seen.add(volume.mapping_path)


_METADATA_KEY = re.compile(r"[^\s/,]+\Z")


def metadata_key_fault(text: str) -> str:
    return "" if _METADATA_KEY.match(text) else "a metadata key has no spaces, commas and slashes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cartridge(Part):
    """A kind of component that applications are made of."""

    type: str = key("type", Id(), required=True)
    provider: str = key("provider", Text())
    category: str = key("category", Text(limit=200), required=True)
    host: str = key("host", Text(limit=253))
    display_name: str = key("displayName", Text())
    description: str = key("description", Text(limit=65536))
    version: str = key("version", Text(limit=200))
    multi_tenant: bool = key("multiTenant", Flag())
    port_mappings: tuple[PortMapping, ...] = key("portMapping", Listing(Nested(PortMapping)))
    deployment: Deployment | None = key("deployment", Nested(Deployment))
    metadata_keys: tuple[str, ...] = key("metadataKeys", Listing(Text(metadata_key_fault, limit=200)))
    providers: tuple[Provider, ...] = key("iaasProvider", Listing(Nested(Provider)), required=True)
    persistence: Persistence | None = key("persistence", Nested(Persistence))
    load_balancing_ip_type: str = key(
        "loadBalancingIPType", Choice(("public", "private")), unused="members have one kind of address"
    )
    properties: tuple[Property, ...] = key("property", Listing(Nested(Property)))
    default_autoscaling_policy: str = key("defaultAutoscalingPolicy", Text(), unused="applications name their policies")
    default_deployment_policy: str = key("defaultDeploymentPolicy", Text(), unused="applications name their policies")
    load_balancer: None = key("loadBalancer", Anything(), unused="balancers are made as applications need them")

    @property
    def is_balancer(self) -> bool:
        return self.category.lower() in ("load-balancer", "loadbalancer", "lb")

    def check(self, findings: Findings) -> None:
        seen: set[str] = set()
        for mapping in self.port_mappings:
            if mapping.port is not None and mapping.label in seen:
                findings.refuse(mapping.at, "DUPLICATE", f"another port mapping is called {mapping.label}")
            seen.add(mapping.label)

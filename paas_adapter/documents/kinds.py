"""Which kinds of document there are, how each is told from the others by its keys, and what names it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paas_adapter.documents.application import Application
from paas_adapter.documents.application_policy import ApplicationPolicy
from paas_adapter.documents.autoscaling_policy import AutoscalingPolicy
from paas_adapter.documents.cartridge import Cartridge
from paas_adapter.documents.cartridge_group import CartridgeGroup
from paas_adapter.documents.deployment_policy import DeploymentPolicy
from paas_adapter.documents.domain_mapping import DomainMappings
from paas_adapter.documents.fields import Part, keys_of, spellings
from paas_adapter.documents.git_notification import GitNotification
from paas_adapter.documents.kubernetes_cluster import KubernetesCluster
from paas_adapter.documents.network_partition import NetworkPartition
from paas_adapter.documents.sign_up import SignUp
from paas_adapter.documents.tenant import Tenant
from paas_adapter.documents.user import User
from paas_adapter.documents.values import Value


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document."""

    #: For people and for `kind` of findings.
    word: str
    cls: type[Part]
    #: Whether an object is one of these, by the keys that no other kind has.
    told_by: Callable[[dict[str, Value]], bool]
    #: Attribute that names one; empty: nothing does.
    id: str = ""

    def id_of(self, document: Part) -> str:
        return str(getattr(document, self.id)) if self.id else ""


def _has(*names: str) -> Callable[[dict[str, Value]], bool]:
    return lambda root: any(name in root for name in names)


def _many(root: dict[str, Value], *names: str) -> list[Value]:
    for name in names:
        given = root.get(name)
        if given is not None:
            return given if isinstance(given, list) else [given]
    return []


def _is_application_policy(root: dict[str, Value]) -> bool:
    shares = _many(root, "networkPartitions", "networkPartition")
    return "algorithm" in root or bool(shares and all(isinstance(share, str) for share in shares))


def _is_deployment_policy(root: dict[str, Value]) -> bool:
    return any(name in root for name in ("networkPartitions", "networkPartition", "partitionGroup"))


def _is_group(root: dict[str, Value]) -> bool:
    return "name" in root and any(name in root for name in ("cartridges", "cartridge", "groups", "group"))


#: The first that fits is taken.
KINDS: tuple[Kind, ...] = (
    Kind("cartridge", Cartridge, _has("iaasProvider", "iaasProviders", "portMapping", "category"), "type"),
    Kind("application", Application, _has("applicationId", "components"), "application_id"),
    Kind("autoscaling policy", AutoscalingPolicy, _has("loadThresholds"), "id"),
    Kind("application policy", ApplicationPolicy, _is_application_policy, "id"),
    Kind("deployment policy", DeploymentPolicy, _is_deployment_policy, "id"),
    Kind("network partition", NetworkPartition, _has("partitions", "partition"), "id"),
    Kind(
        "Kubernetes cluster", KubernetesCluster, _has("clusterId", "kubernetesMaster", "kubernetesHosts"), "cluster_id"
    ),
    Kind("tenant", Tenant, _has("tenantDomain"), "domain"),
    Kind("user", User, _has("userName"), "name"),
    Kind("sign-up", SignUp, _has("artifactRepositories")),
    Kind("domain mapping", DomainMappings, _has("domainMappings")),
    Kind("git notification", GitNotification, _has("repository")),
    Kind("cartridge group", CartridgeGroup, _is_group, "name"),
)
#: Documents of these name their application; its id is then no sign of an application.
_OF_AN_APPLICATION = ("artifactRepositories", "domainMappings")
BY_WORD = {kind.word: kind for kind in KINDS}
BY_CLASS: dict[type[Any], Kind] = {kind.cls: kind for kind in KINDS}


def kind_of(root: dict[str, Value]) -> Kind | None:
    """The kind that an object is of; None: its keys do not say, or those of no kind."""
    for kind in KINDS:
        if kind.cls is Application and any(name in root for name in _OF_AN_APPLICATION):
            continue
        if kind.told_by(root):
            return kind
    return _most_alike(root)


def _most_alike(root: dict[str, Value]) -> Kind | None:
    """The one kind that knows most of the keys, so that what is missing in it can be told; at least two must be known."""
    counts = [
        (sum(name in root for key in keys_of(kind.cls).values() for name in spellings(key)), kind) for kind in KINDS
    ]
    most = max(count for count, _ in counts)
    best = [kind for count, kind in counts if count == most]
    return best[0] if most >= 2 and len(best) == 1 else None


def unwrapped(root: dict[str, Value]) -> str | None:
    """The key of the bean that old documents have around themselves, such as cartridgeDefinitionBean; None: there is none."""
    if len(root) != 1:
        return None
    (name,) = root
    return name if name.endswith("Bean") and isinstance(root[name], dict) else None

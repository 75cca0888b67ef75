"""An application of documents as what runs. What leads nowhere was refused before (documents/references.py) and is passed over here."""

from dataclasses import dataclass, field

from paas_adapter.documents import application as documents
from paas_adapter.documents.autoscaling_policy import AutoscalingPolicy
from paas_adapter.documents.bundle import Bundle
from paas_adapter.documents.cartridge import Cartridge
from paas_adapter.documents.cartridge_group import CartridgeGroup
from paas_adapter.documents.dependencies import (
    TERMINATE_ALL,
    TERMINATE_DEPENDENTS,
    TERMINATE_NONE,
    Dependencies,
)
from paas_adapter.documents.deployment_policy import DeploymentPolicy
from paas_adapter.documents.network_partition import NetworkPartition
from paas_adapter.documents.orders import children, follows, resolve, template_of
from paas_adapter.documents.places import Findings
from paas_adapter.mapping.container import check_properties, container_of, host_name_of, is_sticky
from paas_adapter.mapping.metadata import with_imports
from paas_adapter.mapping.model import (
    Application,
    Cluster,
    ClusterGroup,
    Component,
    Edge,
    Level,
    MetadataKey,
    Region,
    Termination,
    Thresholds,
)
from paas_adapter.mapping.placement import regions_of
from paas_adapter.mapping.settings import Settings

_TERMINATION = {
    "": Termination.NONE,
    TERMINATE_NONE: Termination.NONE,
    TERMINATE_DEPENDENTS: Termination.DEPENDENTS,
    TERMINATE_ALL: Termination.ALL,
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Documents that applications refer to, by name."""

    cartridges: dict[str, Cartridge] = field(default_factory=dict)
    groups: dict[str, CartridgeGroup] = field(default_factory=dict)
    autoscaling: dict[str, AutoscalingPolicy] = field(default_factory=dict)
    deployment: dict[str, DeploymentPolicy] = field(default_factory=dict)
    networks: dict[str, NetworkPartition] = field(default_factory=dict)

    @classmethod
    def of(cls, *bundles: Bundle) -> "Catalogue":
        """Of several bundles, where the later ones go before the earlier."""
        found = cls()
        for bundle in bundles:
            found.cartridges.update(bundle.by_id(Cartridge))
            found.groups.update(bundle.by_id(CartridgeGroup))
            found.autoscaling.update(bundle.by_id(AutoscalingPolicy))
            found.deployment.update(bundle.by_id(DeploymentPolicy))
            found.networks.update(bundle.by_id(NetworkPartition))
        return found


def map_application(
    application: documents.Application, catalogue: Catalogue, settings: Settings
) -> tuple[Application | None, Findings]:
    """The application, None after a problem; every document must be right, and its references checked."""
    mapper = _Mapper(application, catalogue, settings)
    mapped = mapper.run()
    return (None if mapper.findings.problems else mapped), mapper.findings


class _Mapper:
    def __init__(self, application: documents.Application, catalogue: Catalogue, settings: Settings) -> None:
        self.application = application
        self.catalogue = catalogue
        self.settings = settings
        #: What is found of a document that several clusters share is told once: equal findings are kept once.
        self.findings = Findings()
        self._asked: dict[str, tuple[str, ...]] = {}
        self._regions: dict[str, tuple[Region, ...]] = {}

    def run(self) -> Application | None:
        parts = self.application.components
        if parts is None:
            return None
        used = sorted({cartridge.type for cartridge in _cartridges(parts)} & set(self.catalogue.cartridges))
        for name in used:
            check_properties(self.catalogue.cartridges[name], self.findings)
        level = with_imports(self._level(parts, parts.dependencies, None, "", ""), self._asked)
        _once(self.findings)
        given = self.application
        return Application(given.application_id, level, given.name, given.multi_tenant, given.at)

    def _level(
        self,
        part: documents.Components | documents.GroupRef,
        said: Dependencies | None,
        template: CartridgeGroup | None,
        group: str,
        policy: str,
    ) -> Level:
        """A level: its alias (empty: the first), and the deployment policy of a level above (empty: none)."""
        mapped: list[Component] = [self._group(one, template, policy) for one in part.groups]
        for one in part.cartridges:
            cluster = self._cluster(one, group, policy)
            if cluster is not None:
                mapped.append(cluster)
        if said is None:
            return Level(tuple(mapped))
        among = children(part)
        edges = follows(said.startup_orders, among)
        together = tuple(
            tuple(child.alias for one in listed.references if (child := resolve(one, among)) is not None)
            for listed in said.scaling_dependents
        )
        return Level(
            tuple(mapped),
            tuple(Edge(edge.first.alias, edge.then.alias, edge.said_by.at) for edge in edges),
            tuple(tuple(dict.fromkeys(names)) for names in together if names),
            _TERMINATION[said.termination_behaviour],
        )

    def _group(self, group: documents.GroupRef, around: CartridgeGroup | None, policy: str) -> ClusterGroup:
        template = template_of(group, around, self.catalogue.groups)
        said = template.dependencies if template else None
        level = self._level(group, said, template, group.alias, group.deployment_policy or policy)
        return ClusterGroup(group.alias, group.name, group.least, group.most, level, group.at)

    def _cluster(self, member: documents.CartridgeRef, group: str, policy: str) -> Cluster | None:
        cartridge, info = self.catalogue.cartridges.get(member.type), member.info
        if cartridge is None or info is None:
            return None
        container = container_of(self.application, member, cartridge, group, self.settings, self.findings)
        if container is None:
            return None
        self._asked[member.alias] = info.dependency_aliases
        return Cluster(
            alias=member.alias,
            made_of=member.type,
            container=container,
            least=member.least,
            most=member.most,
            thresholds=_thresholds(self.catalogue.autoscaling.get(info.autoscaling_policy)),
            regions=self._regions_of(info.deployment_policy or policy),
            host_name=host_name_of(self.application, member, cartridge),
            sticky=is_sticky(cartridge),
            is_balancer=cartridge.is_balancer,
            exports=tuple(
                MetadataKey(member.alias, name, cartridge.at.below("metadataKeys", number))
                for number, name in enumerate(cartridge.metadata_keys)
            ),
            at=member.at,
        )

    def _regions_of(self, policy: str) -> tuple[Region, ...]:
        if policy not in self._regions:
            given = self.catalogue.deployment.get(policy)
            networks = self.catalogue.networks
            self._regions[policy] = regions_of(given, networks, self.settings, self.findings) if given else ()
        return self._regions[policy]


def _cartridges(part: documents.Components | documents.GroupRef) -> list[documents.CartridgeRef]:
    return [*part.cartridges, *(one for group in part.groups for one in _cartridges(group))]


def _once(findings: Findings) -> None:
    """Several clusters of one cartridge find the same in it."""
    findings.problems[:] = dict.fromkeys(findings.problems)
    findings.notices[:] = dict.fromkeys(findings.notices)


def _thresholds(policy: AutoscalingPolicy | None) -> Thresholds | None:
    """None where nothing is looked at; a threshold of 0 is none."""
    given = policy.load_thresholds if policy else None
    if policy is None or given is None:
        return None
    requests, memory, load = given.requests_in_flight, given.memory_consumption, given.load_average
    found = Thresholds(
        policy.id,
        (requests.threshold or None) if requests else None,
        (memory.threshold or None) if memory else None,
        (load.threshold or None) if load else None,
        policy.at,
    )
    looked_at = (found.requests_in_flight, found.memory_percent, found.load_percent)
    return found if any(one is not None for one in looked_at) else None

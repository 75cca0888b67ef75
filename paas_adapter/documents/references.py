"""Whether what documents say of each other holds: every name leads somewhere, is given once, and orders have no circle."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from paas_adapter.documents.application import Application, CartridgeRef, GroupRef
from paas_adapter.documents.application_policy import ApplicationPolicy
from paas_adapter.documents.autoscaling_policy import AutoscalingPolicy
from paas_adapter.documents.bundle import Bundle
from paas_adapter.documents.cartridge import Cartridge
from paas_adapter.documents.cartridge_group import CartridgeGroup
from paas_adapter.documents.deployment_policy import DeploymentPolicy
from paas_adapter.documents.domain_mapping import DomainMappings
from paas_adapter.documents.fields import Part
from paas_adapter.documents.kinds import BY_CLASS
from paas_adapter.documents.near import near_miss
from paas_adapter.documents.network_partition import NetworkPartition
from paas_adapter.documents.orders import Child, Level, children, circle, follows, levels, resolve, template_of
from paas_adapter.documents.places import Findings, Place
from paas_adapter.documents.sign_up import SignUp

D = TypeVar("D", bound=Part)
_NO_BUNDLE = Bundle()
#: Ids that differ in their numbers only are meant to.
_NO_DIGITS = str.maketrans("", "", "0123456789")


@dataclass(frozen=True, slots=True)
class _Known:
    """What names can lead to: the bundle's own documents before those that are registered."""

    bundle: Bundle
    registered: Bundle

    def all(self, cls: type[D]) -> dict[str, D]:
        return {**self.registered.by_id(cls), **self.bundle.by_id(cls)}


def check_bundle(bundle: Bundle, registered: Bundle = _NO_BUNDLE) -> Findings:
    """What is wrong between the documents of a bundle, given those that are registered already. Each must be right by itself."""
    findings = Findings()
    known = _Known(bundle, registered)
    _check_twice(bundle, findings)
    for group in bundle.all(CartridgeGroup):
        _check_group(group, known.all(Cartridge), findings)
    partitions = known.all(NetworkPartition)
    for policy in bundle.all(DeploymentPolicy):
        _check_deployment_policy(policy, partitions, findings)
    for plan in bundle.all(ApplicationPolicy):
        for number, name in enumerate(plan.network_partitions):
            _refer(name, partitions, "network partition", plan.at.below("networkPartitions", number), findings)
    for application in bundle.all(Application):
        _ApplicationCheck(application, known, findings).run()
    for mappings in bundle.all(DomainMappings):
        _check_mappings(mappings, known, findings)
    for sign_up in bundle.all(SignUp):
        _check_sign_up(sign_up, known, findings)
    return findings


def _check_twice(bundle: Bundle, findings: Findings) -> None:
    seen: dict[tuple[str, str], Place] = {}
    for document in bundle.documents:
        kind = BY_CLASS[type(document)]
        name = kind.id_of(document)
        if not name:
            continue
        first = seen.setdefault((kind.word, name), document.at)
        if first is not document.at:
            message = f"the {kind.word} {name} is in {first.file} already"
            findings.refuse(document.at, "DUPLICATE", message)


def _refer(name: str, known: Mapping[str, object], word: str, place: Place, findings: Findings) -> bool:
    """Refuses a name that leads nowhere; an empty one was refused when it was read."""
    if not name or name in known:
        return True
    letters = name.translate(_NO_DIGITS)
    likely = near_miss(name, [one for one in known if one.translate(_NO_DIGITS) != letters])
    hint = f"; {likely} is likely meant" if likely else ""
    findings.refuse(place, "UNKNOWN_REFERENCE", f"there is no {word} {name}{hint}")
    return False


def _check_group(group: CartridgeGroup, cartridges: Mapping[str, Cartridge], findings: Findings) -> None:
    for number, name in enumerate(group.cartridges):
        _refer(name, cartridges, "cartridge", group.at.below("cartridges", number), findings)
    seen: set[str] = set()
    for inner in group.groups:
        if inner.name and inner.name in seen:
            findings.refuse(inner.at.below("name"), "DUPLICATE", f"the group {inner.name} is there twice")
        seen.add(inner.name)
        _check_group(inner, cartridges, findings)


def _check_deployment_policy(
    policy: DeploymentPolicy, known: Mapping[str, NetworkPartition], findings: Findings
) -> None:
    for share in policy.network_partitions:
        if not _refer(share.id, known, "network partition", share.at.below("id"), findings) or not share.id:
            continue
        inside = {one.id: one for one in known[share.id].partitions}
        for partition in share.partitions:
            place = partition.at.below("id")
            _refer(partition.id, inside, f"partition of {share.id} called", place, findings)


class _ApplicationCheck:
    """One application: what it names, who has which alias, where policies stand, orders."""

    def __init__(self, application: Application, known: _Known, findings: Findings) -> None:
        self.application = application
        self.findings = findings
        self.cartridges = known.all(Cartridge)
        self.groups = known.all(CartridgeGroup)
        self.autoscaling = known.all(AutoscalingPolicy)
        self.deployment = known.all(DeploymentPolicy)
        self.aliases: dict[str, Place] = {}

    def run(self) -> None:
        components = self.application.components
        if components is None:
            return
        self._level(components.cartridges, components.groups, None, "")
        for cartridge in _cartridges(components.cartridges, components.groups):
            self._dependency_aliases(cartridge)
        for level in levels(components, self.groups):
            self._order(level)

    def _level(
        self,
        cartridges: tuple[CartridgeRef, ...],
        groups: tuple[GroupRef, ...],
        template: CartridgeGroup | None,
        policy_above: str,
    ) -> None:
        for cartridge in cartridges:
            self._cartridge(cartridge, policy_above)
        for group in groups:
            self._group(group, template, policy_above)

    def _alias(self, alias: str, place: Place) -> None:
        if not alias:
            return
        if alias in self.aliases:
            self.findings.refuse(
                place, "DUPLICATE", f"the alias {alias} is there already: {self.aliases[alias].json_path}"
            )
        self.aliases.setdefault(alias, place)

    def _policy(self, name: str, above: str, place: Place) -> None:
        """One that is named must exist, and no level above may have one."""
        if name and above:
            message = f"a level above has the deployment policy {above} already; one level on each way down has one"
            self.findings.refuse(place, "DEPLOYMENT_POLICY_TWICE", message)
        _refer(name, self.deployment, "deployment policy", place, self.findings)

    def _cartridge(self, cartridge: CartridgeRef, policy_above: str) -> None:
        _refer(cartridge.type, self.cartridges, "cartridge", cartridge.at.below("type"), self.findings)
        info = cartridge.info
        if info is None:
            return
        self._alias(info.alias, info.at.below("alias"))
        place = info.at.below("autoscalingPolicy")
        _refer(info.autoscaling_policy, self.autoscaling, "autoscaling policy", place, self.findings)
        self._policy(info.deployment_policy, policy_above, info.at.below("deploymentPolicy"))
        if not info.deployment_policy and not policy_above:
            message = "no deployment policy here, and none on the levels above"
            self.findings.refuse(info.at, "NO_DEPLOYMENT_POLICY", message)

    def _group(self, group: GroupRef, around: CartridgeGroup | None, policy_above: str) -> None:
        template = template_of(group, around, self.groups)
        if template is None:
            _refer(group.name, self.groups, "cartridge group", group.at.below("name"), self.findings)
        else:
            self._compare(group, template)
        self._alias(group.alias, group.at.below("alias"))
        self._policy(group.deployment_policy, policy_above, group.at.below("deploymentPolicy"))
        self._level(group.cartridges, group.groups, template, group.deployment_policy or policy_above)

    def _compare(self, group: GroupRef, template: CartridgeGroup) -> None:
        """What differs from its cartridge group is worth a word: its order may then say less than it seems."""
        for cartridge in group.cartridges:
            if cartridge.type and cartridge.type not in template.cartridges:
                message = f"the cartridge group {template.name} has no {cartridge.type}"
                self.findings.note(cartridge.at.below("type"), "DIFFERS_FROM_GROUP", message)
        there = {cartridge.type for cartridge in group.cartridges}
        for name in template.cartridges:
            if name not in there:
                message = f"the cartridge group {template.name} has {name} too"
                self.findings.note(group.at, "DIFFERS_FROM_GROUP", message)

    def _dependency_aliases(self, cartridge: CartridgeRef) -> None:
        info = cartridge.info
        for number, alias in enumerate(info.dependency_aliases if info else ()):
            place = cartridge.at.below("subscribableInfo", "dependencyAliases", number)
            if alias == cartridge.alias:
                self.findings.refuse(place, "CIRCLE", f"{alias} depends on itself")
            else:
                _refer(alias, self.aliases, "alias", place, self.findings)

    def _order(self, level: Level) -> None:
        said = level.dependencies
        if said is None:
            return
        among = children(level.part)
        for order in (*said.startup_orders, *said.scaling_dependents):
            for reference in order.references:
                if resolve(reference, among) is None:
                    message = f"{reference} is no child of {_name(level)}; it has {_list(among)}"
                    self.findings.refuse(reference.at, "UNKNOWN_REFERENCE", message)
        found = circle(follows(said.startup_orders, among))
        if found:
            way = " -> ".join([found[0].first.alias, *(edge.then.alias for edge in found)])
            self.findings.refuse(
                found[-1].said_by.at, "CIRCLE", f"the start-up order of {_name(level)} is a circle: {way}"
            )


def _name(level: Level) -> str:
    return f"the group {level.part.alias}" if isinstance(level.part, GroupRef) else "the application"


def _list(among: tuple[Child, ...]) -> str:
    return ", ".join(f"{child.kind}.{child.alias}" for child in among[:10]) or "none"


def _cartridges(cartridges: tuple[CartridgeRef, ...], groups: tuple[GroupRef, ...]) -> Iterator[CartridgeRef]:
    yield from cartridges
    for group in groups:
        yield from _cartridges(group.cartridges, group.groups)


def _application_of(document: DomainMappings | SignUp, known: _Known, findings: Findings) -> Application | None:
    """The application that a document is for: the one it names, else that of its folder, else the only one of the bundle."""
    applications = known.all(Application)
    if document.application_id:
        place = document.at.below("applicationId")
        _refer(document.application_id, applications, "application", place, findings)
        return applications.get(document.application_id)
    own = known.bundle.all(Application)
    folder = PurePosixPath(document.at.file).parent
    beside = [one for one in own if PurePosixPath(one.at.file).parent == folder]
    for candidates in (beside, own):
        if len(candidates) == 1:
            return candidates[0]
    message = "which application it is for is not clear: it names none, and is beside none or several"
    findings.note(document.at, "NO_APPLICATION", message)
    return None


def clusters_of(application: Application) -> dict[str, CartridgeRef]:
    """All clusters of an application by alias."""
    parts = application.components
    return {one.alias: one for one in _cartridges(parts.cartridges, parts.groups)} if parts else {}


def _of_cluster(
    document: DomainMappings | SignUp,
    alias: str,
    clusters: Mapping[str, CartridgeRef],
    place: Place,
    findings: Findings,
) -> None:
    """Refuses an alias of no cluster; where the application was only guessed, it is passed over with a notice."""
    if document.application_id:
        _refer(alias, clusters, "cluster with the alias", place, findings)
    elif alias and alias not in clusters:
        message = f"not used: the application beside it has no cluster with the alias {alias}"
        findings.note(place, "NOT_USED", message)


def _check_mappings(mappings: DomainMappings, known: _Known, findings: Findings) -> None:
    application = _application_of(mappings, known, findings)
    if application is None:
        return
    clusters = clusters_of(application)
    for mapping in mappings.mappings:
        _of_cluster(mappings, mapping.cartridge_alias, clusters, mapping.at.below("cartridgeAlias"), findings)


def _check_sign_up(sign_up: SignUp, known: _Known, findings: Findings) -> None:
    application = _application_of(sign_up, known, findings)
    if application is None:
        return
    if not application.multi_tenant:
        message = f"{application.application_id} is not multi-tenant: nobody signs up to it"
        findings.note(sign_up.at, "NOT_USED", message)
        return
    clusters = clusters_of(application)
    for repository in sign_up.artifact_repositories:
        _of_cluster(sign_up, repository.alias, clusters, repository.at.below("alias"), findings)

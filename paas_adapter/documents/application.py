"""Applications: cartridges and groups of them, with names, numbers and order."""

import re
from dataclasses import dataclass

from paas_adapter.documents.artifact_repository import ArtifactRepository
from paas_adapter.documents.cartridge import Persistence
from paas_adapter.documents.dependencies import Dependencies
from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Anything, Flag, Id, Property, Text, Whole

#: Real documents say 10,000,000 where they mean "no limit".
MEMBERS = Whole(0, 2**31 - 1)
_ALIAS = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_LVS = "members are reached through balancers"


def alias_fault(text: str) -> str:
    """What is wrong with the alias of a cluster, which becomes part of host names."""
    if len(text) > 63 or not _ALIAS.match(text):
        return "an alias has lower-case letters, digits, and single hyphens between them, at most 63"
    return ""


def _least_and_most(part: Part, least: int | None, most: int | None, names: tuple[str, str], out: Findings) -> None:
    if least is not None and most is not None and most < max(least, 1):
        out.refuse(part.at.below(names[1]), "OUT_OF_RANGE", f"{most} is below {names[0]} or below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribableInfo(Part):
    """What a cluster is, besides its cartridge."""

    alias: str = key("alias", Text(alias_fault), required=True)
    autoscaling_policy: str = key("autoscalingPolicy", Id(), required=True)
    deployment_policy: str = key("deploymentPolicy", Id())
    #: Aliases of clusters whose metadata and addresses it is told.
    dependency_aliases: tuple[str, ...] = key("dependencyAliases", Listing(Id()))
    artifact_repository: ArtifactRepository | None = key("artifactRepository", Nested(ArtifactRepository))
    properties: tuple[Property, ...] = key("property", Listing(Nested(Property)))
    persistence: Persistence | None = key("persistence", Nested(Persistence))
    min_members: int | None = key("minMembers", MEMBERS, unused="cartridgeMin says it")
    max_members: int | None = key("maxMembers", MEMBERS, unused="cartridgeMax says it")
    lvs_virtual_ip: str = key("lvsVirtualIP", Text(), unused=_LVS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CartridgeRef(Part):
    """A cartridge in an application: a cluster."""

    type: str = key("type", Id(), required=True)
    min: int | None = key("cartridgeMin", MEMBERS)
    max: int | None = key("cartridgeMax", MEMBERS)
    info: SubscribableInfo | None = key("subscribableInfo", Nested(SubscribableInfo), required=True)
    lvs_virtual_ip: str = key("lvsVirtualIP", Text(), unused=_LVS)

    @property
    def alias(self) -> str:
        return self.info.alias if self.info else ""

    @property
    def least(self) -> int:
        """Members at least."""
        return 1 if self.min is None else self.min

    @property
    def most(self) -> int:
        """Members at most."""
        return max(self.least, 1) if self.max is None else self.max

    def check(self, findings: Findings) -> None:
        _least_and_most(self, self.least, self.max, ("cartridgeMin", "cartridgeMax"), findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRef(Part):
    """A group in an application."""

    #: Of the cartridge group.
    name: str = key("name", Id(), required=True)
    alias: str = key("alias", Text(alias_fault), required=True)
    min: int | None = key("groupMinInstances", MEMBERS)
    max: int | None = key("groupMaxInstances", MEMBERS)
    deployment_policy: str = key("deploymentPolicy", Id())
    cartridges: tuple[CartridgeRef, ...] = key("cartridges", Listing(Nested(CartridgeRef)))
    groups: "tuple[GroupRef, ...]" = key("groups", Listing(Nested(lambda: GroupRef)))
    group_scaling: None = key(
        "groupScalingEnabled", Anything(), unused="a group is scaled where its groupMaxInstances is above 1"
    )

    @property
    def least(self) -> int:
        """Instances of the group at least."""
        return 1 if self.min is None else self.min

    @property
    def most(self) -> int:
        """Instances of the group at most."""
        return max(self.least, 1) if self.max is None else self.max

    def check(self, findings: Findings) -> None:
        _least_and_most(self, self.least, self.max, ("groupMinInstances", "groupMaxInstances"), findings)
        if not self.cartridges and not self.groups and self.name:
            findings.refuse(self.at, "MISSING", "a group needs at least one cartridge or group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Components(Part):
    """The first level of an application."""

    cartridges: tuple[CartridgeRef, ...] = key("cartridges", Listing(Nested(CartridgeRef)))
    groups: tuple[GroupRef, ...] = key("groups", Listing(Nested(GroupRef)))
    dependencies: Dependencies | None = key("dependencies", Nested(Dependencies))

    def check(self, findings: Findings) -> None:
        if not self.cartridges and not self.groups:
            findings.refuse(self.at, "MISSING", "an application needs at least one cartridge or group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Application(Part):
    """What is deployed as one."""

    application_id: str = key("applicationId", Id(), required=True)
    alias: str = key("alias", Id(), required=True)
    name: str = key("name", Text())
    description: str = key("description", Text(limit=65536))
    multi_tenant: bool = key("multiTenant", Flag())
    properties: tuple[Property, ...] = key("property", Listing(Nested(Property)))
    components: Components | None = key("components", Nested(Components), required=True)
    status: str = key("status", Text(), unused="only answers have it")
    sign_ups_exist: None = key("signUpsExist", Anything(), unused="only answers have it")

"""The groups that an application is made of: one for each pool of each instance of each cluster.

A pool has its own cap, zone and labels, which one group could not have several of; so members of a cluster instance are spread over the
groups of its pools by distribution.py, and how many each has is a number, not a revision.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from paas_adapter.documents.places import NOWHERE, Findings, Place
from paas_adapter.mapping.distribution import distribute, room
from paas_adapter.mapping.environment import known, merge
from paas_adapter.mapping.model import Application, Cluster, ClusterGroup, Component, Container, Level, Pool, Region
from paas_adapter.mapping.names import unique_name

#: Groups around a cluster instance with the number of their instance, from 1, the outermost first.
InstancePath: TypeAlias = tuple[tuple[str, int], ...]

#: Names of members are made of that of their group.
_NAME_LIMIT = 50
APPLICATION_LABEL = "paas/application"
ALIAS_LABEL = "paas/alias"
INSTANCE_LABEL = "paas/cluster-instance"
REGION_LABEL = "paas/network-partition"
POOL_LABEL = "paas/partition"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much of an application there shall be."""

    #: Network partitions that are in use.
    regions: tuple[str, ...]
    #: Instances of a group of components, by region and the path that ends with its alias and 0; else its minimum.
    groups: Mapping[tuple[str, InstancePath], int] = field(default_factory=dict)
    #: Members of a cluster instance, by its id; else the cluster's minimum.
    members: Mapping[str, int] = field(default_factory=dict)
    #: Members of each pool of a cluster instance now, by its id.
    now: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """A group as it shall be."""

    #: Last part of its name.
    id: str
    #: Cluster instance that it is a part of.
    instance: str
    alias: str
    region: str
    pool: Pool
    replicas: int
    #: With the environment of its region.
    container: Container
    #: Of the group and its members, in order of name.
    labels: tuple[tuple[str, str], ...]
    #: Ids of groups that must be healthy first, in order.
    depends_on: tuple[str, ...] = ()
    at: Place = field(default=NOWHERE, compare=False)


def instance_id(application: str, region: str, path: InstancePath, alias: str) -> str:
    """What tells a cluster instance from all others."""
    return "/".join([application, region, *(f"{group}-{number}" for group, number in path), alias])


def group_id(application: str, instance: str, pool: str, alias: str) -> str:
    """Last part of the name of a pool's group."""
    return unique_name(f"{application}-{alias}", f"{instance}/{pool}", _NAME_LIMIT)


def check_regions(application: Application, regions: Sequence[str]) -> Findings:
    """Refuses clusters that could go to none of these network partitions, or do not fit there with all they need."""
    findings = Findings()
    for cluster in application.level.clusters():
        usable = [region for region in cluster.regions if region.id in regions]
        if not usable:
            there = ", ".join(region.id for region in cluster.regions) or "none"
            message = f"{cluster.alias} goes to {there}, and the application policy uses {', '.join(regions)}"
            findings.refuse(cluster.at, "NO_PLACE", message)
        for region in usable:
            fits = room(region.pools)
            if fits is not None and fits < cluster.least:
                message = f"{cluster.alias} needs {cluster.least} members, and {region.id} takes {fits}"
                findings.refuse(region.at, "NO_PLACE", message)
    return findings


def plan_groups(application: Application, wanted: Wanted) -> tuple[PlannedGroup, ...]:
    """All groups, region by region, each after those that it depends on as far as their order says."""
    planner = _Planner(application, wanted)
    return tuple(group for region in wanted.regions for group in planner.level(application.level, region, (), ()))


class _Planner:
    def __init__(self, application: Application, wanted: Wanted) -> None:
        self._application = application.id
        self._wanted = wanted

    def level(self, level: Level, region: str, path: InstancePath, above: tuple[str, ...]) -> Iterator[PlannedGroup]:
        """Groups of one instance of a level; `above`: groups that all of it depends on."""
        ids = {child.alias: tuple(self._ids(child, region, path)) for child in level.children}
        for child in _ordered(level):
            first = (*above, *_first_of(level, child.alias, ids))
            if isinstance(child, Cluster):
                yield from self._cluster(child, region, path, first)
            else:
                for instance in self._instances(child, region, path):
                    yield from self.level(child.level, region, instance, first)

    def _instances(self, group: ClusterGroup, region: str, path: InstancePath) -> Iterator[InstancePath]:
        count = self._wanted.groups.get((region, (*path, (group.alias, 0))), group.least)
        for number in range(1, count + 1):
            yield (*path, (group.alias, number))

    def _ids(self, component: Component, region: str, path: InstancePath) -> Iterator[str]:
        """Ids of all groups of a component."""
        if isinstance(component, ClusterGroup):
            for instance in self._instances(component, region, path):
                for child in component.level.children:
                    yield from self._ids(child, region, instance)
            return
        used = _region(component, region)
        name = instance_id(self._application, region, path, component.alias)
        for pool in used.pools if used else ():
            yield group_id(self._application, name, pool.id, component.alias)

    def _cluster(
        self, cluster: Cluster, region: str, path: InstancePath, depends_on: tuple[str, ...]
    ) -> Iterator[PlannedGroup]:
        used = _region(cluster, region)
        if used is None:
            return
        name = instance_id(self._application, region, path, cluster.alias)
        count = self._wanted.members.get(name, cluster.least)
        counts = distribute(count, used.pools, used.filling, self._wanted.now.get(name, ()))
        for pool, replicas in zip(used.pools, counts, strict=True):
            yield PlannedGroup(
                id=group_id(self._application, name, pool.id, cluster.alias),
                instance=name,
                alias=cluster.alias,
                region=region,
                pool=pool,
                replicas=replicas,
                container=_container(cluster, used, pool, name),
                labels=(
                    (ALIAS_LABEL, cluster.alias),
                    (APPLICATION_LABEL, self._application),
                    (INSTANCE_LABEL, name[:1024]),
                    (REGION_LABEL, region),
                    (POOL_LABEL, pool.id),
                ),
                depends_on=tuple(dict.fromkeys(depends_on)),
                at=cluster.at,
            )


def _region(cluster: Cluster, region: str) -> Region | None:
    return next((one for one in cluster.regions if one.id == region), None)


def _container(cluster: Cluster, region: Region, pool: Pool, instance: str) -> Container:
    told = {
        "CLUSTER_INSTANCE_ID": instance,
        "NETWORK_PARTITION_ID": region.id,
        "PARTITION_ID": pool.id,
        "EXPORT_METADATA_KEYS": ",".join(str(key) for key in cluster.exports),
        "IMPORT_METADATA_KEYS": ",".join(str(key) for key in cluster.imports),
    }
    own = known({name: value for name, value in told.items() if value}, cluster.at)
    return replace(cluster.container, env=merge(own, cluster.container.env, region.env))


def _ordered(level: Level) -> list[Component]:
    """Children, each after those that it follows; else in their own order."""
    placed: list[Component] = []
    left = list(level.children)
    while left:
        waiting = {child.alias for child in left}
        chosen = next(
            (child for child in left if not any(e.then == child.alias and e.first in waiting for e in level.order)),
            left[0],
        )
        left.remove(chosen)
        placed.append(chosen)
    return placed


def _first_of(level: Level, alias: str, ids: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Groups that a child waits for: those of the children just before it, and where one of them has no group here, those before that."""
    found: list[str] = []
    seen: set[str] = set()
    waiting = [alias]
    while waiting:
        then = waiting.pop(0)
        for edge in level.order:
            if edge.then == then and edge.first not in seen:
                seen.add(edge.first)
                found += ids.get(edge.first, ())
                if not ids.get(edge.first):
                    waiting.append(edge.first)
    return found

"""Who publishes which metadata, and who reads it: those that start later, and those that say they depend on it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from paas_adapter.mapping.model import Cluster, ClusterGroup, Component, Edge, Level, MetadataKey


def before(order: Iterable[Edge], alias: str) -> frozenset[str]:
    """Children of a level that are active before this one starts, over any number of steps."""
    edges = tuple(order)
    found: set[str] = set()
    waiting = [alias]
    while waiting:
        then = waiting.pop()
        for edge in edges:
            if edge.then == then and edge.first not in found:
                found.add(edge.first)
                waiting.append(edge.first)
    return frozenset(found)


def _clusters(component: Component) -> Iterable[Cluster]:
    return (component,) if isinstance(component, Cluster) else component.level.clusters()


def with_imports(level: Level, asked: Mapping[str, tuple[str, ...]]) -> Level:
    """The level with what each cluster reads. `asked`: alias of a cluster to those that it says it depends on."""
    exports = {cluster.alias: cluster.exports for cluster in level.clusters()}
    return _filled(level, (), asked, exports)


def _filled(
    level: Level,
    above: tuple[MetadataKey, ...],
    asked: Mapping[str, tuple[str, ...]],
    exports: Mapping[str, tuple[MetadataKey, ...]],
) -> Level:
    published = {child.alias: [key for one in _clusters(child) for key in one.exports] for child in level.children}
    children: list[Component] = []
    for child in level.children:
        earlier = before(level.order, child.alias)
        keys = (*above, *(key for other in level.children if other.alias in earlier for key in published[other.alias]))
        if isinstance(child, ClusterGroup):
            children.append(replace(child, level=_filled(child.level, keys, asked, exports)))
        else:
            named = [key for alias in asked.get(child.alias, ()) for key in exports.get(alias, ())]
            children.append(replace(child, imports=tuple(dict.fromkeys((*keys, *named)))))
    return replace(level, children=tuple(children))

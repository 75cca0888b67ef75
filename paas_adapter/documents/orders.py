"""What the names in orders mean at one level of an application, and whether what follows what makes a circle."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from paas_adapter.documents.application import CartridgeRef, Components, GroupRef
from paas_adapter.documents.cartridge_group import CartridgeGroup
from paas_adapter.documents.dependencies import Aliases, Dependencies
from paas_adapter.documents.scalars import Reference


@dataclass(frozen=True, slots=True)
class Child:
    """A cartridge or group at a level."""

    #: "cartridge" or "group", as references have it.
    kind: str
    alias: str
    #: Type of a cartridge, name of a cartridge group.
    made_of: str
    #: Kind and alias of all that lies below it.
    inside: frozenset[tuple[str, str]] = frozenset()


def _inside(group: GroupRef) -> Iterator[tuple[str, str]]:
    for cartridge in group.cartridges:
        yield "cartridge", cartridge.alias
    for inner in group.groups:
        yield "group", inner.alias
        yield from _inside(inner)


def children(level: Components | GroupRef) -> tuple[Child, ...]:
    """Groups and cartridges of a level, in order."""
    groups = (Child("group", one.alias, one.name, frozenset(_inside(one))) for one in level.groups)
    return (*groups, *(Child("cartridge", one.alias, one.type) for one in level.cartridges))


def resolve(reference: Reference, among: Sequence[Child]) -> Child | None:
    """The child that a reference means.

    By alias; else by what it is made of, where only one child is that, so that a cartridge group can say what its orders are without
    knowing the aliases that applications will choose; else the child that has it somewhere inside.
    """
    of_kind = [child for child in among if child.kind == reference.kind]
    for child in of_kind:
        if child.alias == reference.alias:
            return child
    made = [child for child in of_kind if child.made_of == reference.alias]
    if len(made) == 1:
        return made[0]
    around = [child for child in among if (reference.kind, reference.alias) in child.inside]
    return around[0] if len(around) == 1 else None


@dataclass(frozen=True, slots=True)
class Follows:
    """One child starts after another is active."""

    first: Child
    then: Child
    #: The name in the order that says so.
    said_by: Reference


def follows(orders: Iterable[Aliases], among: Sequence[Child]) -> tuple[Follows, ...]:
    """What the start-up orders of a level say; names that mean nothing are passed over. Twice the same is said once."""
    found: dict[tuple[Child, Child], Follows] = {}
    for order in orders:
        known = [(child, one) for one in order.references if (child := resolve(one, among)) is not None]
        for (first, _), (then, said_by) in pairwise(known):
            found.setdefault((first, then), Follows(first, then, said_by))
    return tuple(found.values())


def circle(edges: Iterable[Follows]) -> tuple[Follows, ...]:
    """Edges that lead back to where they began; none: there is an order."""
    after: dict[Child, list[Follows]] = {}
    for one in edges:
        after.setdefault(one.first, []).append(one)
    done: set[Child] = set()
    for start in after:
        way: list[Follows] = []
        on_way = {start}
        open_edges = [iter(after[start])]
        while open_edges and start not in done:
            edge: Follows | None = next(open_edges[-1], None)
            if edge is None:
                open_edges.pop()
                left = way.pop().then if way else start
                done.add(left)
                on_way.discard(left)
            elif edge.then in on_way:
                way.append(edge)
                begin = next(i for i, one in enumerate(way) if one.first == edge.then)
                return tuple(way[begin:])
            elif edge.then not in done:
                way.append(edge)
                on_way.add(edge.then)
                open_edges.append(iter(after.get(edge.then, ())))
    return ()


def template_of(
    group: GroupRef, around: CartridgeGroup | None, registered: Mapping[str, CartridgeGroup]
) -> CartridgeGroup | None:
    """The cartridge group that a group is made of: that of this name inside the one around it, else a registered one."""
    inside = around.groups if around is not None else ()
    return next((one for one in inside if one.name == group.name), None) or registered.get(group.name)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of an application with what is said about its order."""

    part: Components | GroupRef
    dependencies: Dependencies | None

    @property
    def cartridges(self) -> tuple[CartridgeRef, ...]:
        return self.part.cartridges

    @property
    def children(self) -> tuple[Child, ...]:
        return children(self.part)


def levels(components: Components, registered: Mapping[str, CartridgeGroup]) -> Iterator[Level]:
    """All levels of an application, the outermost first."""
    yield Level(components, components.dependencies)
    waiting: list[tuple[GroupRef, CartridgeGroup | None]] = [(group, None) for group in components.groups]
    while waiting:
        group, around = waiting.pop(0)
        made_of = template_of(group, around, registered)
        yield Level(group, made_of.dependencies if made_of else None)
        waiting += [(inner, made_of) for inner in group.groups]

"""The groups of an application: names, order, numbers, listeners."""

import dataclasses

from hypothesis import assume, given
from hypothesis import strategies as st

from paas_adapter.documents.domain_mapping import DomainMapping
from paas_adapter.documents.places import Findings
from paas_adapter.mapping.distribution import distribute, room
from paas_adapter.mapping.groups import PlannedGroup, Wanted, check_regions, plan_groups
from paas_adapter.mapping.listeners import listeners
from paas_adapter.mapping.model import (
    Application,
    Cluster,
    ClusterGroup,
    Container,
    Edge,
    Filling,
    Image,
    Level,
    MetadataKey,
    Pool,
    Port,
    Protocol,
    Region,
    Template,
    Variable,
)


def container(*ports: Port) -> Container:
    return Container(Template("web-1", Image("a/b")), ports=ports)


def cluster(
    alias: str, *regions: Region, least: int = 1, ports: tuple[Port, ...] = (), sticky: bool = False
) -> Cluster:
    return Cluster(alias, "web", container(*ports), least, 10, None, regions, f"app.{alias}", sticky)


def region(id_: str, *caps: int | None, filling: Filling = Filling.IN_ORDER, env: tuple[Variable, ...] = ()) -> Region:
    return Region(id_, filling, tuple(Pool(f"p{number}", cap=cap) for number, cap in enumerate(caps)), env)


NP1, NP2 = region("np1", None), region("np2", None)


def app(*children: Cluster | ClusterGroup, order: tuple[Edge, ...] = ()) -> Application:
    return Application("app", Level(children, order))


def by_alias(groups: tuple[PlannedGroup, ...], alias: str) -> list[PlannedGroup]:
    return [group for group in groups if group.alias == alias]


def test_one_group_for_each_pool_of_each_instance() -> None:
    inside = ClusterGroup("g", "g", 2, 3, Level((cluster("a", region("np1", 1, 5), least=3),)))
    groups = plan_groups(app(inside), Wanted(("np1",)))
    assert [(group.instance, group.pool.id, group.replicas) for group in groups] == [
        ("app/np1/g-1/a", "p0", 1),
        ("app/np1/g-1/a", "p1", 2),
        ("app/np1/g-2/a", "p0", 1),
        ("app/np1/g-2/a", "p1", 2),
    ]
    assert len({group.id for group in groups}) == 4
    assert all(len(group.id) <= 50 for group in groups)
    wanted = Wanted(("np1",), {("np1", (("g", 0),)): 1}, {"app/np1/g-1/a": 4}, {"app/np1/g-1/a": (0, 4)})
    assert [group.replicas for group in plan_groups(app(inside), wanted)] == [0, 4]


def test_a_region_that_a_cluster_does_not_use_has_no_group_of_it() -> None:
    groups = plan_groups(app(cluster("a", NP1), cluster("b", NP1, NP2)), Wanted(("np1", "np2")))
    assert [(group.alias, group.region) for group in groups] == [("a", "np1"), ("b", "np1"), ("b", "np2")]


def test_order_over_levels_and_over_what_is_not_there() -> None:
    inner = Level((cluster("c", NP1), cluster("d", NP1, NP2)), (Edge("d", "c"),))
    order = (Edge("g", "a"), Edge("a", "b"))
    application = app(cluster("b", NP1, NP2), cluster("a", NP1), ClusterGroup("g", "g", 2, 2, inner), order=order)
    groups = plan_groups(application, Wanted(("np1", "np2")))
    names = {group.id: group.instance for group in groups}
    first = {group.instance: [names[one] for one in group.depends_on] for group in groups}
    assert first == {
        "app/np1/g-1/d": [],
        "app/np1/g-1/c": ["app/np1/g-1/d"],
        "app/np1/g-2/d": [],
        "app/np1/g-2/c": ["app/np1/g-2/d"],
        "app/np1/a": ["app/np1/g-1/c", "app/np1/g-1/d", "app/np1/g-2/c", "app/np1/g-2/d"],
        "app/np1/b": ["app/np1/a"],
        "app/np2/g-1/d": [],
        "app/np2/g-2/d": [],
        "app/np2/b": ["app/np2/g-1/d", "app/np2/g-2/d"],
    }
    position = {group.id: number for number, group in enumerate(groups)}
    assert all(position[one] < position[group.id] for group in groups for one in group.depends_on)


def test_environment_of_the_region_has_the_last_word() -> None:
    there = region("np1", None, env=(Variable("A", "there"), Variable("PARTITION_ID", "mine")))
    one = dataclasses.replace(cluster("a", there), exports=(MetadataKey("a", "k"),), imports=(MetadataKey("b", "k"),))
    one = dataclasses.replace(
        one, container=dataclasses.replace(one.container, env=(Variable("A", "own"), Variable("B", "own")))
    )
    (group,) = plan_groups(app(one), Wanted(("np1",)))
    assert {variable.name: variable.value for variable in group.container.env} == {
        "A": "there",
        "B": "own",
        "CLUSTER_INSTANCE_ID": "app/np1/a",
        "EXPORT_METADATA_KEYS": "a.k",
        "IMPORT_METADATA_KEYS": "b.k",
        "NETWORK_PARTITION_ID": "np1",
        "PARTITION_ID": "mine",
    }


def test_numbers_do_not_change_what_members_are() -> None:
    application = app(cluster("a", region("np1", 2, 2)))
    few = plan_groups(application, Wanted(("np1",)))
    many = plan_groups(application, Wanted(("np1",), members={"app/np1/a": 4}))
    assert [(group.id, group.container) for group in few] == [(group.id, group.container) for group in many]
    assert [group.replicas for group in many] == [2, 2]


def test_clusters_that_fit_nowhere_are_refused() -> None:
    application = app(cluster("a", NP1), cluster("b", region("np2", 1, 1), least=3))
    assert [one.reason for one in check_regions(application, ("np2",)).problems] == ["NO_PLACE", "NO_PLACE"]
    assert [one.reason for one in check_regions(application, ("np1", "np2")).problems] == ["NO_PLACE"]


def test_http_ports_are_shared_by_name_and_others_are_not() -> None:
    web = Port("w", Protocol.HTTP, 8080, 80)
    application = app(
        cluster("a", NP1, ports=(web, Port("s", Protocol.TCP, 22, 2222), Port("h", Protocol.HTTP, 9000))),
        cluster(
            "b", NP1, ports=(web, Port("s", Protocol.TCP, 22, 2222), Port("x", Protocol.HTTP, 81, 2222)), sticky=True
        ),
    )
    domains = [
        DomainMapping(cartridge_alias="b", domain_name="WWW.example.org", context_path="/shop/"),
        DomainMapping(cartridge_alias="a", domain_name="www.example.org", context_path=""),
        DomainMapping(cartridge_alias="b", domain_name="www.example.org", context_path="/"),
    ]
    findings = Findings()
    found = listeners(application, domains, findings)
    assert [(one.port, one.is_http, one.default.cluster) for one in found] == [(80, True, "a"), (2222, False, "a")]
    assert [(route.host, route.path, route.target.cluster) for route in found[0].routes] == [
        ("app.a", "/", "a"),
        ("app.b", "/", "b"),
        ("www.example.org", "/", "a"),
        ("www.example.org", "/shop", "b"),
    ]
    assert found[0].routes[1].target.sticky
    assert [one.reason for one in findings.notices] == ["PORT_TAKEN"] * 3
    assert listeners(app(cluster("a", NP1))) == ()


CAPS = st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=5)
FILLINGS = st.sampled_from(Filling)


@given(CAPS, FILLINGS, st.integers(-1, 40), st.data())
def test_members_over_pools(caps: list[int | None], filling: Filling, count: int, data: st.DataObject) -> None:
    pools = region("np", *caps).pools
    now = tuple(data.draw(st.integers(0, 8)) for _ in pools)
    counts = distribute(count, pools, filling, now)
    limit = room(pools)
    assert all(cap is None or have <= cap for have, cap in zip(counts, caps, strict=True))
    assert sum(counts) == max(0, count if limit is None else min(count, limit))
    assert distribute(count, pools, filling, counts) == counts
    kept = [have if cap is None else min(have, cap) for have, cap in zip(now, caps, strict=True)]
    changes = [new - old for new, old in zip(counts, kept, strict=True)]
    assert all(change >= 0 for change in changes) or all(change <= 0 for change in changes)


@given(CAPS, FILLINGS, st.integers(0, 30))
def test_from_nothing_the_way_there_does_not_matter(caps: list[int | None], filling: Filling, count: int) -> None:
    pools = region("np", *caps).pools
    counts: tuple[int, ...] = ()
    for number in range(count + 1):
        counts = distribute(number, pools, filling, counts)
    assert counts == distribute(count, pools, filling)
    if filling is Filling.EVENLY:
        free = [have for have, cap in zip(counts, caps, strict=True) if cap is None or have < cap]
        assert not free or max(counts) - min(free) <= 1
    else:
        for number, (have, cap) in enumerate(zip(counts, caps, strict=True)):
            assert have == cap or not any(counts[number + 1 :])


@st.composite
def applications(draw: st.DrawFn) -> Application:
    def level(depth: int, names: list[str]) -> Level:
        children: list[Cluster | ClusterGroup] = []
        for _ in range(draw(st.integers(1, 3))):
            name = f"n{len(names)}"
            names.append(name)
            if depth and draw(st.booleans()):
                children.append(ClusterGroup(name, name, draw(st.integers(1, 2)), 2, level(depth - 1, names)))
            else:
                used = draw(st.sampled_from([(NP1,), (NP2,), (NP1, NP2), (region("np1", 1, None),)]))
                children.append(cluster(name, *used, least=draw(st.integers(0, 3))))
        aliases = [child.alias for child in children]
        pairs = [(first, then) for i, first in enumerate(aliases) for then in aliases[i + 1 :]]
        chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
        return Level(tuple(draw(st.permutations(children))), tuple(Edge(*pair) for pair in chosen))

    return Application("app", level(2, []))


@given(applications(), st.sampled_from([("np1",), ("np2", "np1"), ()]))
def test_groups_of_any_application(application: Application, regions: tuple[str, ...]) -> None:
    groups = plan_groups(application, Wanted(regions))
    assert groups == plan_groups(application, Wanted(regions))
    assume(groups)
    position = {group.id: number for number, group in enumerate(groups)}
    assert len(position) == len(groups)
    for group in groups:
        assert all(position[one] < position[group.id] for one in group.depends_on)
        assert group.id.startswith("app-")

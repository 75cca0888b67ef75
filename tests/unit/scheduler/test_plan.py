"""What must hold of every plan, over small crowded fleets made by chance."""

import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.hosts import Host, capacity_of
from controlplane.domain.instances import Affinity, Instance, Placement, PlacementStrategy
from controlplane.scheduler.devices import text_of
from controlplane.scheduler.explain import with_devices
from controlplane.scheduler.filters import FILTERS
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, Decision, Promise, Unplaceable, plan, same_but_for_time
from controlplane.scheduler.request import ports_clash, request_of
from tests.unit.scheduler.values import NOW, host, hosts, instance, pendings


def decide(fleet: list[Host], pending: list[Instance], placed: list[Instance] | None = None) -> list[Decision]:
    return plan([(i.uid, request_of(i)) for i in pending], Fleet(fleet, placed or ()), NOW)


def carried_out(pending: list[Instance], decisions: list[Decision]) -> list[Instance]:
    """The instances that were given a host."""
    return [
        with_devices(replace(one, host_uid=decision.host_uid, host=decision.host), decision.devices)
        for one, decision in zip(pending, decisions, strict=True)
        if isinstance(decision, Assign)
    ]


def placements(decisions: list[Decision]) -> list[str]:
    return [decision.host if isinstance(decision, Assign) else "" for decision in decisions]


@given(hosts(), pendings())
@settings(max_examples=60, deadline=None)
def test_nothing_is_given_twice(fleet: list[Host], pending: list[Instance]) -> None:
    placed = carried_out(pending, decide(fleet, pending))
    for one in fleet:
        own = [i for i in placed if i.host_uid == one.uid]
        cpu = [i.effective.resources.cpu_millis for i in own]
        memory = [i.effective.resources.memory_bytes for i in own]
        cpu_capacity, memory_capacity = capacity_of(one)
        assert sum(cpu) <= cpu_capacity or not any(cpu)
        assert sum(memory) <= memory_capacity or not any(memory)
        devices = [device for i in own for device in text_of(i.effective.device_requests)]
        assert len(set(devices)) == len(devices)
        assert set(devices) <= {f"{device.kind}={device.names[0]}" for device in one.facts.devices}
        for part in one.settings.reservations:
            others = sum(i.effective.resources.cpu_millis for i in own if f"projects/{i.project}" != part.project)
            theirs = sum(cpu) - others
            assert others + max(theirs, part.cpu_millis) <= cpu_capacity or not others, "what is reserved stays free"
        ports = [port for i in own for port in request_of(i).ports]
        assert not any(ports_clash(a, b) for n, a in enumerate(ports) for b in ports[n + 1 :])


@given(hosts(), pendings(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_hosts_does_not_matter(fleet: list[Host], pending: list[Instance], chance: object) -> None:
    first = decide(fleet, pending)
    shuffled = list(fleet)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(shuffled, pending) == first


@given(hosts(), pendings(), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_a_plan_that_was_cut_short_goes_on_the_same(fleet: list[Host], pending: list[Instance], done: int) -> None:
    pending = sorted(
        pending, key=lambda i: -i.effective.placement.priority
    )  # as the loop does: nobody pushes out a later one
    whole = decide(fleet, pending)
    done = min(done, len(pending))
    placed = carried_out(pending[:done], whole[:done])
    assert decide(fleet, pending[done:], placed) == whole[done:]


@given(hosts(), pendings())
@settings(max_examples=40, deadline=None)
def test_every_refusal_accounts_for_every_host(fleet: list[Host], pending: list[Instance]) -> None:
    names = [f.name for f in FILTERS]
    for decision in decide(fleet, pending):
        why = decision.why
        assert why.hosts_considered == len(fleet)
        order = [names.index(result.filter) for result in why.filters]
        assert order == sorted(set(order))
        assert all(result.explanation and 0 < len(result.examples) <= 10 for result in why.filters)
        removed = sum(result.hosts_removed for result in why.filters)
        if isinstance(decision, Unplaceable):
            assert removed == len(fleet)
            assert all(f"{r.filter} took {r.hosts_removed}" in why.summary for r in why.filters)
        elif isinstance(decision, Promise):
            assert removed == len(fleet)
        else:
            assert removed + len(why.scores) == len(fleet)
            assert why.scores[0].score == max(score.score for score in why.scores)


@given(hosts(), pendings())
@settings(max_examples=50, deadline=None)
def test_the_fleet_is_left_as_it_was(fleet: list[Host], pending: list[Instance]) -> None:
    columns = Fleet(fleet, ())
    requests = [(i.uid, request_of(i)) for i in pending]
    first = plan(requests, columns, NOW)
    assert plan(requests, columns, NOW) == first
    assert not columns.instances.any()
    assert not columns.cpu_used.any()


@given(hosts(), pendings())
@settings(max_examples=40, deadline=None)
def test_strict_terms_hold(fleet: list[Host], pending: list[Instance]) -> None:
    """Each instance, at the moment it was placed, was near and far from what it asked for."""
    decisions = decide(fleet, pending)
    where = {one.uid: one for one in fleet}
    for number, (one, decision) in enumerate(zip(pending, decisions, strict=True)):
        if not isinstance(decision, Assign):
            continue
        others = [i for i in carried_out(pending[:number], decisions[:number]) if i.project == one.project]

        def place(host_uid: str, term: Affinity) -> str | None:
            return {"host": host_uid, "": host_uid, "zone": where[host_uid].zone}.get(
                term.topology, where[host_uid].labels.get(term.topology)
            )

        for term in (t for t in one.effective.placement.anti_affinity if not t.soft):
            meant = [place(i.host_uid, term) for i in others if term.labels.items() <= i.labels.items()]
            assert place(decision.host_uid, term) not in [m for m in meant if m]
        for term in (t for t in one.effective.placement.affinity if not t.soft):
            meant = [place(i.host_uid, term) for i in others if term.labels.items() <= i.labels.items()]
            assert place(decision.host_uid, term)
            if any(meant):
                assert place(decision.host_uid, term) in meant
            else:
                assert term.labels.items() <= one.labels.items(), "only a group's own first may be anywhere"


def test_spread_is_even_and_pack_fills() -> None:
    fleet = [host(f"h{n}") for n in range(3)]
    spread = decide(fleet, [instance(f"i{n}", cpu=100) for n in range(9)])
    assert Counter(placements(spread)) == {"h0": 3, "h1": 3, "h2": 3}
    packing = Placement(strategy=PlacementStrategy.PACK)
    pack = decide(fleet, [instance(f"i{n}", cpu=1000, placement=packing) for n in range(9)])
    assert placements(pack) == ["h0"] * 4 + ["h1"] * 4 + ["h2"]
    assert "the fullest" in pack[1].why.summary


def test_spread_goes_by_template_before_load() -> None:
    fleet = [host("busy"), host("idle")]
    others = [instance(f"o{n}", cpu=500, on="busy", template_uid="other") for n in range(3)]
    own = [instance("own", on="idle")]
    assert placements(decide(fleet, [instance("new")], others + own)) == ["busy"]


@pytest.mark.parametrize(
    ("topology", "together"),
    [("host", {("a", "a", "a")}), ("zone", {("a", "b", "a"), ("c", "c", "c")}), ("rack", {("a", "c", "a")})],
)
def test_a_group_that_wants_to_be_together(topology: str, together: set[tuple[str, ...]]) -> None:
    fleet = [
        host("a", zone="z1", labels={"rack": "r1"}),
        host("b", zone="z1"),
        host("c", zone="z2", labels={"rack": "r1"}),
    ]
    near = Placement(affinity=(Affinity({"app": "web"}, topology),))
    found = decide(fleet, [instance(f"i{n}", labels={"app": "web"}, placement=near) for n in range(3)])
    assert tuple(placements(found)) in together


def test_affinity_with_nobody_is_a_refusal_that_says_so() -> None:
    near = Placement(affinity=(Affinity({"app": "db"}, "zone"),))
    (found,) = decide([host("a", zone="z")], [instance("i", labels={"app": "web"}, placement=near)])
    assert found.why.summary == "none of 1 hosts fits: affinity took 1 (no instance with app=db (same zone))"


def test_a_place_without_a_name_is_no_place() -> None:
    """Hosts that lack the label are not together in it, nor are they apart in it."""
    fleet = [host("a"), host("b", labels={"rack": "r"})]
    db = [instance("db", on="a", labels={"app": "db"})]
    near = Placement(affinity=(Affinity({"app": "db"}, "rack"),))
    far = Placement(anti_affinity=(Affinity({"app": "db"}, "rack"),))
    assert placements(decide(fleet, [instance("i", placement=near)], db)) == [""]
    assert placements(decide(fleet, [instance("i", placement=far)], db)) == ["b"]
    web = [
        instance(f"w{n}", labels={"app": "web"}, placement=Placement(affinity=(Affinity({"app": "web"}, "rack"),)))
        for n in range(2)
    ]
    assert placements(decide(fleet, web)) == ["b", "b"], "the first goes where the others can follow"


def test_anti_affinity_over_host_zone_and_label() -> None:
    fleet = [host(n, zone=z, labels={"rack": r}) for n, z, r in (("a", "z1", "1"), ("b", "z1", "2"), ("c", "z2", "2"))]
    for topology, expected in (("", ["a", "b", "c", ""]), ("zone", ["a", "c", "", ""]), ("rack", ["a", "b", "", ""])):
        far = Placement(anti_affinity=(Affinity({"app": "web"}, topology),))
        pending = [instance(f"i{n}", labels={"app": "web"}, placement=far) for n in range(4)]
        assert placements(decide(fleet, pending)) == expected


def test_soft_terms_are_wishes() -> None:
    fleet = [host("a"), host("b")]
    busy = [instance(f"o{n}", on="b", cpu=500) for n in range(4)] + [instance("db", on="b", labels={"app": "db"})]
    near = Placement(affinity=(Affinity({"app": "db"}, soft=True),))
    far = Placement(anti_affinity=(Affinity({"app": "db"}, soft=True),))
    assert placements(decide(fleet, [instance("i", placement=near)], busy)) == ["b"]
    assert placements(decide(fleet[1:], [instance("i", placement=far)], busy)) == ["b"]
    nobody = Placement(affinity=(Affinity({"app": "none"}, soft=True),))
    assert placements(decide(fleet, [instance("i", placement=nobody)], busy)) == ["a"]


def test_other_projects_do_not_count() -> None:
    far = Placement(anti_affinity=(Affinity({"app": "web"}),))
    theirs = [instance("o", on="a", project="q", labels={"app": "web"})]
    assert placements(decide([host("a")], [instance("i", placement=far)], theirs)) == ["a"]


def test_those_that_waited_first_are_placed_first() -> None:
    """Not those that happen to be alike: two small ones must not take the place of a big one that came between them."""
    pending = [instance("s1", cpu=1000), instance("big", cpu=3000), instance("s2", cpu=1000)]
    assert placements(decide([host("a", cpu=4000)], pending)) == ["a", "a", ""]


def test_no_host_at_all() -> None:
    (found,) = decide([], [instance("i")])
    assert "join one" in found.why.summary


def test_a_refusal_that_repeats_itself_is_the_same_but_for_its_time() -> None:
    (first,) = decide([], [instance("i")])
    later = replace(first.why, decide_time=NOW.replace(year=2031))
    assert same_but_for_time(first.why, later)
    assert not same_but_for_time(None, later)
    assert not same_but_for_time(replace(first.why, summary="x"), later)


def test_ten_thousand_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet(
        [host(f"h{n:05}", zone=f"z{n % 10}", labels={"rack": f"r{n % 100}"}) for n in range(10_000)],
        [
            instance(f"o{n}", cpu=10, on=f"h{n:05}", template_uid=f"t{n % 50}", labels={"app": "old"})
            for n in range(10_000)
        ],
    )
    far = Placement(anti_affinity=(Affinity({"app": "web"}),), affinity=(Affinity({"app": "old"}, "rack", True),))
    shapes = {
        "alike": [instance(f"i{n}", cpu=100) for n in range(50)],
        "all different": [instance(f"i{n}", cpu=100 + n, ports=(8000 + n,)) for n in range(50)],
        "apart": [instance(f"i{n}", labels={"app": "web"}, placement=far) for n in range(50)],
    }
    for name, pending in shapes.items():
        begin = time.process_time()
        decisions = plan([(i.uid, request_of(i)) for i in pending], fleet, NOW)
        took = time.process_time() - begin
        with capsys.disabled():
            print(f"\n10,000 hosts, 50 instances, {name}: {took:.3f} s")
        assert len(set(placements(decisions))) == 50
        assert took < 1.0


def test_hosts_on_which_those_before_it_failed_come_last_but_are_not_forbidden() -> None:
    fleet = [host("a"), host("b")]
    pending = replace(instance("i"), avoid_hosts=("uid-a",))
    assert placements(decide(fleet, [pending])) == ["b"]
    assert placements(decide(fleet[:1], [pending])) == ["a"]

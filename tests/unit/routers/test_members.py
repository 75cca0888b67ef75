"""Which containers a router shall have."""

from dataclasses import replace
from typing import Any

from controlplane.domain.containers import PublishedPort
from controlplane.domain.hosts import Host, HostAdminState
from controlplane.domain.instances import DesiredState, Instance, InstanceNic, InstanceState, Observed
from controlplane.domain.routers import EdgeHosts, PortForward, RouterObserved
from controlplane.router_members.plan import (
    LABEL,
    ChangeMember,
    CreateMember,
    DeleteMember,
    ForgetRouter,
    plan,
)
from controlplane.routers.bundle import member_id
from controlplane.routers.scene import RouterScene
from moorage.router_bundle import RouterRole
from tests.support.controlplane import make_host
from tests.unit.routers import scenes as s

ONE = f"projects/{s.P}/publicAddresses/one"


def hosts(*names: str) -> list[Host]:
    return [make_host(name, s.NOW) for name in names]


def test_a_single_router_holds_the_gateways() -> None:
    (made,) = plan(s.scene(members=()), [])
    assert isinstance(made, CreateMember)
    assert made.id == "edge-router-1"
    assert made.behind == {s.BACK.uid, s.FRONT.uid}
    assert [(n.network, n.interface, n.addresses) for n in made.spec.nics] == [
        (s.OUTSIDE.name, "eth0", ()),
        (s.BACK.name, "eth1", ("10.1.0.1", "fd00:1::1")),
        (s.FRONT.name, "eth2", ("10.2.0.1",)),
    ]
    assert made.labels == {LABEL: "uid-edge"}


def test_nothing_is_done_when_all_is_there() -> None:
    assert plan(s.scene(), hosts("h1")) == []


def test_a_member_that_is_being_removed_is_waited_for() -> None:
    """Its successor would need the same addresses."""
    assert plan(s.scene(members=(s.member(desired=DesiredState.DELETED),)), []) == []


def test_a_pair_has_addresses_of_its_own_and_stays_apart() -> None:
    made = [a for a in plan(s.scene(members=(), router=s.router(redundant=True)), []) if isinstance(a, CreateMember)]
    assert [a.id for a in made] == ["edge-router-1", "edge-router-2"]
    assert {a.behind for a in made} == {frozenset({s.BACK.uid, s.FRONT.uid})}
    assert all(nic.addresses == () for a in made for nic in a.spec.nics)
    assert made[0].spec.placement.anti_affinity[0].labels == {LABEL: "uid-edge"}


def test_public_addresses_are_lent_and_taken_back() -> None:
    forward = s.rule("f", PortForward(ONE, "tcp", 80, 0, s.WEB.name))
    assert plan(s.scene(forward), []) == [
        ChangeMember(
            "uid-edge-router-1", ("198.51.100.20/24",), False, (), "its public addresses or ports are others now"
        )
    ]
    lent = s.member(lent=("198.51.100.20/24",))
    assert plan(s.scene(forward, members=(lent,)), []) == []
    (back,) = plan(s.scene(members=(lent,)), [])
    assert isinstance(back, ChangeMember)
    assert back.lent_addresses == ()


def test_a_pair_has_public_addresses_in_turn() -> None:
    forward = s.rule("f", PortForward(ONE, "tcp", 80, 0, s.WEB.name))
    one, two = (replace(s.member(slot), nics=_own(s.member(slot), slot)) for slot in "12")
    scene = s.scene(forward, members=(one, two), router=s.router(redundant=True, outside_virtual_id=254))
    changes = plan(scene, [])
    assert [(a.lent_addresses, a.lent_in_turn) for a in changes if isinstance(a, ChangeMember)] == [
        (("198.51.100.20/24",), True)
    ] * 2
    held = tuple(
        replace(m, nics=(replace(m.nics[0], lent_addresses=("198.51.100.20/24",), lent_in_turn=True), *m.nics[1:]))
        for m in (one, two)
    )
    assert plan(replace(scene, members=held), []) == []


def _own(member: Instance, slot: str) -> tuple[InstanceNic, ...]:
    """Interfaces with addresses of a pair's member's own on the legs."""
    return (
        member.nics[0],
        replace(member.nics[1], addresses=(f"10.1.0.1{slot}/24",)),
        replace(member.nics[2], addresses=(f"10.2.0.1{slot}/24",)),
    )


def test_a_balancer_uses_public_addresses_too() -> None:
    (change,) = plan(s.scene(balancers=(s.balancer("b", public_address=ONE),)), [])
    assert isinstance(change, ChangeMember)
    assert change.lent_addresses == ("198.51.100.20/24",)


def test_ingress_ports_change_in_place() -> None:
    ports = (PublishedPort(80, 80),)
    (change,) = plan(s.scene(router=s.router(ingress_ports=ports)), [])
    assert isinstance(change, ChangeMember)
    assert change.published_ports == (PublishedPort(80, 80, "tcp"),)


def test_other_networks_need_another_container() -> None:
    assert plan(s.scene(legs=(s.BACK,)), []) == [DeleteMember("uid-edge-router-1", "the router has other networks")]


def test_a_router_that_becomes_a_pair_gives_up_its_gateways_first() -> None:
    actions = plan(s.scene(router=s.router(redundant=True)), [])
    assert DeleteMember("uid-edge-router-1", "the router becomes a pair, or a single one") in actions
    assert [a.id for a in actions if isinstance(a, CreateMember)] == ["edge-router-2"]


def edge(**fields: Any) -> Any:
    return s.router(edge_hosts=EdgeHosts(**fields))


def test_edge_members_come_where_the_main_one_is_not() -> None:
    placed = s.member(host="h1", host_uid="uid-h1")
    made = plan(s.scene(members=(placed,), router=edge(every_host=True)), hosts("h1", "h2", "h3"))
    assert [(a.id, a.spec.placement.host, a.behind) for a in made if isinstance(a, CreateMember)] == [
        ("edge-router-e-h2", "hosts/h2", frozenset()),
        ("edge-router-e-h3", "hosts/h3", frozenset()),
    ]
    assert plan(s.scene(router=edge(every_host=True)), hosts("h1", "h2")) == [], "not before the main one has its place"
    labelled = [replace(h, labels={"edge": "yes"}) if h.id == "h3" else h for h in hosts("h1", "h2", "h3")]
    some = plan(s.scene(members=(placed,), router=edge(host_labels={"edge": "yes"})), labelled)
    assert [a.id for a in some if isinstance(a, CreateMember)] == ["edge-router-e-h3"]


def test_an_edge_member_goes_with_its_host_and_shares_no_public_address() -> None:
    placed = s.member(host="h1", host_uid="uid-h1", lent=("198.51.100.20/24",))
    at_edge = s.member("e-h2", host="h2", host_uid="uid-h2")
    forward = s.rule("f", PortForward(ONE, "tcp", 80, 0, s.WEB.name))
    scene = s.scene(forward, members=(placed, at_edge), router=edge(every_host=True))
    assert plan(scene, hosts("h1", "h2")) == []
    assert plan(scene, hosts("h1")) == [DeleteMember("uid-edge-router-e-h2", "the router has no use for it any more")]


def test_the_end_of_a_router() -> None:
    going = s.router(is_deleting=True)
    assert [type(a) for a in plan(s.scene(router=going), [])] == [DeleteMember]
    assert plan(s.scene(router=going, members=(s.member(desired=DesiredState.DELETED),)), []) == []
    assert [type(a) for a in plan(s.scene(router=going, members=()), [])] == [ForgetRouter]


def test_names_fit() -> None:
    long = replace(s.router(), id="a" * 63)
    assert len(member_id(long, "1")) <= 63
    assert len(member_id(long, "e-" + "h" * 30)) <= 63


def going(scene: RouterScene, *names: str) -> list[str]:
    """Who is sent away, with these hosts."""
    uids = [action.instance_uid for action in plan(scene, hosts(*names)) if isinstance(action, DeleteMember)]
    return [member.id for member in scene.members if member.uid in uids]


def test_a_single_router_leaves_a_drained_host_if_there_is_another() -> None:
    scene = s.scene(members=(s.member(evict="hosts/a is drained", host="a"),))
    assert going(scene, "a") == []
    assert going(scene, "a", "b") == ["edge-router-1"]


def test_of_a_pair_one_goes_at_a_time_and_the_active_one_last() -> None:
    runs = Observed(InstanceState.RUNNING)
    one, two = (s.member(slot, evict="hosts/a is drained", observed=runs) for slot in ("1", "2"))
    active = RouterObserved(one.uid, running_version=5, role=RouterRole.ACTIVE)
    standby = RouterObserved(two.uid, running_version=5, role=RouterRole.STANDBY)

    def sent(*observed: RouterObserved, members: tuple[Instance, ...]) -> list[str]:
        scene = s.scene(members=members, router=s.router(redundant=True, observed=observed))
        found = plan(scene, hosts("a", "b", "c"))
        return [a.instance_uid for a in found if isinstance(a, DeleteMember) and "elsewhere" in a.why]

    assert sent(active, standby, members=(one, two)) == [two.uid]
    assert sent(active, members=(one, replace(two, desired=DesiredState.DELETED))) == []
    fresh = replace(two, evict="")
    assert sent(active, members=(one, fresh)) == [], "the other one has no configuration yet"
    assert sent(active, standby, members=(one, fresh)) == [one.uid]
    assert sent(active, standby, members=(one, replace(fresh, observed=Observed()))) == []


def test_edge_members_do_not_come_to_hosts_that_are_emptied() -> None:
    scene = s.scene(router=s.router(edge_hosts=EdgeHosts(every_host=True)), members=(s.member(host="a"),))
    found = [*hosts("a", "b"), replace(*hosts("c"), admin_state=HostAdminState.DRAINING)]
    assert [action.id for action in plan(scene, found) if isinstance(action, CreateMember)] == ["edge-router-e-b"]

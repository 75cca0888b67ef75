"""What a router is told of its balancers."""

import dataclasses
from typing import Any

from controlplane.domain.instances import DesiredState, Instance, InstanceState, Observed
from controlplane.domain.routers import Backend, BackendPool, Balancer, BalancerSpec, Listener
from controlplane.routers.balancer_bundles import OutsideAndInside, Place, balancer_bundles, endpoints
from controlplane.routers.bundle import derive, outside_and_inside
from moorage.router_bundle import (
    BackendBundle,
    BackendHealthCheck,
    BalancerAlgorithm,
    BalancerBundle,
    BalancerMode,
    Certificate,
    HttpRoute,
    ListenerBundle,
    PoolBundle,
    Stickiness,
)
from tests.unit.routers import scenes as s

ONE = f"projects/{s.P}/publicAddresses/one"
WEB, API = "projects/demo/instances/web", "projects/demo/instances/api"
ADDRESSES = OutsideAndInside(
    outside=Place("eth0", ("192.0.2.1", "2001:db8::1")),
    public_addresses={ONE: "192.0.2.7"},
    inside={s.BACK.name: Place("eth1", ("10.1.0.1",))},
    instances={WEB: ("uid-web", "10.1.0.4"), API: ("uid-api", "10.1.0.5")},
)


def balancer(balancer_id: str = "lb", **fields: Any) -> Balancer:
    base = BalancerSpec(listeners=(Listener(port=80),), pools=(BackendPool("p", (Backend(WEB, 8080),)),))
    return dataclasses.replace(s.balancer(balancer_id), spec=dataclasses.replace(base, **fields))


def only(*balancers: Balancer) -> BalancerBundle:
    (bundle,) = balancer_bundles(balancers, ADDRESSES)
    return bundle


def test_defaults_are_written_out() -> None:
    assert only(balancer()) == BalancerBundle(
        "lb",
        BalancerMode.TCP,
        (
            ListenerBundle("192.0.2.1", 80, interface="eth0"),
            ListenerBundle("2001:db8::1", 80, interface="eth0"),
        ),
        (PoolBundle("p", (BackendBundle("uid-web", "10.1.0.4", 8080, 100),)),),
    )


def test_all_that_was_asked_is_told() -> None:
    certificate = Certificate("cert", "key")
    check = BackendHealthCheck(http_path="/health", interval_seconds=1.0)
    listener = Listener(ONE, "", 443, (certificate,), True, ("10.0.0.0/8",))
    pool = BackendPool(
        "p", (Backend(API, 80, 7, True),), BalancerAlgorithm.LEASTCONN, Stickiness.COOKIE, check, send_proxy=True
    )
    route = HttpRoute(("a.test",), "/x", "p")
    made = balancer(
        mode=BalancerMode.HTTP,
        listeners=(listener, Listener(inside_network=s.BACK.name, port=81)),
        pools=(pool,),
        routes=(route,),
        forwarded_for=False,
        idle_timeout_seconds=5.0,
    )
    assert only(made) == BalancerBundle(
        "lb",
        BalancerMode.HTTP,
        (
            ListenerBundle("192.0.2.7", 443, (certificate,), True, ("10.0.0.0/8",), "eth0"),
            ListenerBundle("10.1.0.1", 81, interface="eth1"),
        ),
        (
            PoolBundle(
                "p",
                (BackendBundle("uid-api", "10.1.0.5", 80, 7, True),),
                BalancerAlgorithm.LEASTCONN,
                Stickiness.COOKIE,
                check,
                True,
            ),
        ),
        (route,),
        False,
        5.0,
    )
    assert endpoints(made, ADDRESSES) == ("192.0.2.7:443", "10.1.0.1:81")
    assert endpoints(balancer(), ADDRESSES) == ("192.0.2.1:80", "[2001:db8::1]:80")


def test_what_leads_nowhere_is_left_out() -> None:
    gone = BackendPool("p", (Backend("projects/demo/instances/gone", 80),))
    assert only(balancer(pools=(gone,))).pools == (PoolBundle("p"),)
    nowhere = (Listener("projects/demo/publicAddresses/gone", "", 80), Listener(inside_network="other", port=80))
    assert balancer_bundles([balancer(listeners=nowhere)], ADDRESSES) == ()
    assert balancer_bundles([balancer()], OutsideAndInside()) == ()


def test_they_are_in_order_of_id() -> None:
    made = balancer_bundles([balancer("b"), balancer("a")], ADDRESSES)
    assert [bundle.balancer_id for bundle in made] == ["a", "b"]


def test_a_scene_gives_the_addresses() -> None:
    member = s.member(lent=("198.51.100.20/24",))
    deleted = dataclasses.replace(s.DB, desired=DesiredState.DELETED)
    scene = s.scene(balancers=(s.balancer("lb"),), instances={i.name: i for i in (s.WEB, deleted)})
    assert outside_and_inside(scene, member) == OutsideAndInside(
        outside=Place("eth0", ("198.51.100.9",)),
        public_addresses={ONE: "198.51.100.20"},
        inside={s.BACK.name: Place("eth1", ("10.1.0.1", "fd00:1::1")), s.FRONT.name: Place("eth2", ("10.2.0.1",))},
        instances={s.WEB.name: ("uid-web", "10.1.0.5")},
    )
    (told,) = derive(scene, member, 1).balancers
    assert told.listeners == (ListenerBundle("198.51.100.9", 80, interface="eth0"),)
    assert told.pools[0].backends == (BackendBundle("uid-web", "10.1.0.5", 8080),)


def test_a_group_is_its_members_that_are_ready() -> None:
    group = f"projects/{s.P}/groups/web"
    runs = Observed(InstanceState.RUNNING)

    def member(slot: int, **fields: Any) -> Instance:
        at = s.nic(s.BACK, f"10.1.0.2{slot}/24")
        return s.instance(f"web-{slot}", at, **{"owner": group, "slot": slot, "observed": runs, **fields})

    made = [
        member(2),
        member(1),
        member(3, observed=dataclasses.replace(runs, health="starting")),
        member(4, leave_time=s.NOW),
        member(5, desired=DesiredState.DELETED),
        member(6, observed=Observed(InstanceState.STARTING)),
    ]
    pool = BackendPool("p", (Backend(group=group, port=80, weight=5), Backend(s.WEB.name, 81)))
    asked = dataclasses.replace(s.balancer("lb"), spec=dataclasses.replace(s.balancer("lb").spec, pools=(pool,)))
    unready = dataclasses.replace(s.WEB, observed=dataclasses.replace(runs, health="unhealthy"))
    scene = s.scene(balancers=(asked,), instances={i.name: i for i in (*made, unready)})
    (told,) = derive(scene, s.member(), 1).balancers
    assert told.pools[0].backends == (
        BackendBundle("uid-web-1", "10.1.0.21", 80, 5),
        BackendBundle("uid-web-2", "10.1.0.22", 80, 5),
    )
    stopped = dataclasses.replace(s.WEB, observed=Observed(InstanceState.STOPPED))
    (told,) = derive(dataclasses.replace(scene, instances={s.WEB.name: stopped}), s.member(), 1).balancers
    assert [backend.instance_id for backend in told.pools[0].backends] == ["uid-web"], "it is seen that it stands still"

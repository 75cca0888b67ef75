"""From the running configuration to the wanted one."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from hostagent.router.haproxy_answers import LiveServer
from hostagent.router.haproxy_config import HaproxyConfiguration, configuration
from hostagent.router.haproxy_plan import LiveConfiguration, Reload, RuntimeChanges, plan
from moorage.router_bundle import (
    BackendBundle,
    BalancerBundle,
    BalancerMode,
    Certificate,
    HttpRoute,
    ListenerBundle,
    PoolBundle,
    Stickiness,
)

A, B = BackendBundle("ia", "10.1.0.4", 8080), BackendBundle("ib", "10.1.0.5", 8080)
BASE = BalancerBundle("lb", BalancerMode.HTTP, (ListenerBundle("192.0.2.1", 80),), (PoolBundle("web", (A, B)),))


def wanted(
    *backends: BackendBundle,
    stickiness: Stickiness = Stickiness.UNSPECIFIED,
    routes: tuple[HttpRoute, ...] = (),
    certificates: tuple[Certificate, ...] = (),
) -> HaproxyConfiguration:
    pool = PoolBundle("web", backends, stickiness=stickiness)
    listener = ListenerBundle("192.0.2.1", 80, certificates)
    balancer = dataclasses.replace(BASE, pools=(pool,), routes=routes, listeners=(listener,))
    return configuration([balancer], drain_time_seconds=60.0, folder="/f")


def running(made: HaproxyConfiguration) -> LiveConfiguration:
    """What runs once this is in force."""
    servers = {
        name: {s.name: LiveServer(s.address, s.port, s.weight, is_in_maintenance=False) for s in backend.servers}
        for name, backend in made.backends.items()
    }
    return LiveConfiguration(made.shape, servers, made.maps, made.certificates)


def commands(live: LiveConfiguration, target: HaproxyConfiguration) -> list[str]:
    changes = plan(live, target, "/f")
    assert isinstance(changes, RuntimeChanges)
    return [command.text for command in changes.commands]


def test_nothing_is_to_be_done_when_it_runs() -> None:
    assert commands(running(wanted(A, B)), wanted(A, B)) == []


def test_another_shape_needs_a_reload() -> None:
    live = dataclasses.replace(running(wanted(A)), shape="other")
    assert isinstance(plan(live, wanted(A), "/f"), Reload)


def test_servers_come_before_others_go() -> None:
    assert commands(running(wanted(A)), wanted(B)) == [
        "add server lb.web/ib_8080 10.1.0.5:8080 weight 100 check inter 2000ms fastinter 500ms downinter 1000ms fall 3 rise 2",
        "enable health lb.web/ib_8080",
        "set server lb.web/ib_8080 state ready",
        "set server lb.web/ia_8080 state maint",
        "del server lb.web/ia_8080",
    ]


def test_weight_drain_and_address_are_set() -> None:
    after = wanted(dataclasses.replace(A, weight=7), dataclasses.replace(B, drain=True, address="10.1.0.9"))
    assert commands(running(wanted(A, B)), after) == [
        "set server lb.web/ia_8080 weight 7",
        "set server lb.web/ib_8080 addr 10.1.0.9 port 8080",
        "set server lb.web/ib_8080 weight 0",
    ]


def test_cookies_are_made_for_servers_that_are_added() -> None:
    before, after = wanted(A, stickiness=Stickiness.COOKIE), wanted(A, B, stickiness=Stickiness.COOKIE)
    assert commands(running(before), after)[-1] == "enable dynamic-cookie backend lb.web"


def test_what_waits_for_its_end_is_settled_and_may_come_back() -> None:
    live = running(wanted(A, B))
    leaving = {
        "lb.web": {**live.servers["lb.web"], "ib_8080": LiveServer("10.1.0.5", 8080, 100, is_in_maintenance=True)}
    }
    live = dataclasses.replace(live, servers=leaving)
    changes = plan(live, wanted(A), "/f")
    assert isinstance(changes, RuntimeChanges)
    assert changes.is_settled
    assert commands(live, wanted(A, B)) == ["enable health lb.web/ib_8080", "set server lb.web/ib_8080 state ready"]


def test_routes_are_added_changed_and_removed() -> None:
    def routes(*prefixes: str) -> tuple[HttpRoute, ...]:
        return tuple(HttpRoute(("a.test",), prefix, "web") for prefix in prefixes)

    live = running(wanted(A, routes=routes("/x", "/y")))
    changed = {"routes-lb.map": {**live.maps["routes-lb.map"], "a.test/x/": "lb.gone"}}
    assert commands(dataclasses.replace(live, maps=changed), wanted(A, routes=routes("/x", "/z"))) == [
        "set map /f/routes-lb.map a.test/x/ lb.web",
        "add map /f/routes-lb.map a.test/z/ lb.web",
        "del map /f/routes-lb.map a.test/y/",
    ]


def test_a_certificate_is_replaced_where_it_is_unless_it_is_too_long() -> None:
    live = running(wanted(A, certificates=(Certificate("OLD", "KEY"),)))
    changes = plan(live, wanted(A, certificates=(Certificate("NEW", "KEY"),)), "/f")
    assert isinstance(changes, RuntimeChanges)
    file = "/f/certificate-192.0.2.1-80-0.pem"
    assert [c.text for c in changes.commands] == [f"set ssl cert {file}", f"commit ssl cert {file}"]
    assert changes.commands[0].payload == "NEW\nKEY\n"
    assert "KEY" not in repr(changes)
    long = plan(live, wanted(A, certificates=(Certificate("X" * 13_000, "KEY"),)), "/f")
    assert isinstance(long, Reload)


_backends = st.lists(
    st.builds(
        BackendBundle,
        st.sampled_from(["ia", "ib", "ic", "id"]),
        st.sampled_from(["10.1.0.4", "10.1.0.5"]),
        st.just(80),
        st.integers(1, 256),
        st.booleans(),
    ),
    unique_by=lambda backend: backend.instance_id,
    max_size=4,
)


@given(_backends, _backends, st.integers(0, 20), st.booleans())
def test_a_plan_that_was_cut_off_anywhere_is_finished_by_the_next(
    before: list[BackendBundle], after: list[BackendBundle], prefix: int, may_delete: bool
) -> None:
    target = wanted(*after)
    state = {name: dict(table) for name, table in running(wanted(*before)).servers.items()}
    for count in (prefix, 1000):
        changes = plan(LiveConfiguration(target.shape, state), target, "/f")
        assert isinstance(changes, RuntimeChanges)
        for command in changes.commands[:count]:
            _obey(state["lb.web"], command.text.split(), may_delete)
    live = LiveConfiguration(target.shape, state)
    settled = plan(live, target, "/f")
    assert isinstance(settled, RuntimeChanges)
    assert settled.is_settled
    serving = {name: s for name, s in state["lb.web"].items() if not s.is_in_maintenance}
    assert serving == running(target).servers["lb.web"]


def _obey(servers: dict[str, LiveServer], words: list[str], may_delete: bool) -> None:
    """HAProxy, as far as these commands go."""
    name = words[2].rpartition("/")[2]
    match words:
        case ["add", "server", _, endpoint, "weight", weight, *_]:
            address, _, port = endpoint.rpartition(":")
            servers[name] = LiveServer(address, int(port), int(weight), is_in_maintenance=True)
        case ["set", "server", _, "addr", address, "port", port]:
            servers[name] = dataclasses.replace(servers[name], address=address, port=int(port))
        case ["set", "server", _, "weight", weight]:
            servers[name] = dataclasses.replace(servers[name], weight=int(weight))
        case ["set", "server", _, "state", state]:
            servers[name] = dataclasses.replace(servers[name], is_in_maintenance=state == "maint")
        case ["del", "server", _] if may_delete:
            assert servers.pop(name).is_in_maintenance

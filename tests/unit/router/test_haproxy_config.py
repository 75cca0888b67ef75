"""The text, files and maps of a set of balancers."""

import dataclasses

import pytest

from hostagent.router.haproxy_config import (
    HaproxyConfiguration,
    HaproxyLimits,
    NotRenderable,
    configuration,
    route_table,
)
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

WEB = PoolBundle("web", (BackendBundle("ia", "10.1.0.4", 8080), BackendBundle("ib", "10.1.0.5", 8080, 50, drain=True)))
API = PoolBundle("api", (BackendBundle("ic", "10.1.0.6", 80),))
HTTP = BalancerBundle("lb", BalancerMode.HTTP, (ListenerBundle("192.0.2.1", 80),), (WEB, API))


def made(*balancers: BalancerBundle) -> HaproxyConfiguration:
    return configuration(balancers, drain_time_seconds=60.0, folder="/f")


def section(text: str, head: str) -> list[str]:
    """The lines of one section."""
    lines = text.splitlines()
    start = lines.index(head)
    ends = [number for number, line in enumerate(lines) if number > start and not line.strip()]
    return [line.strip() for line in lines[start + 1 : ends[0] if ends else None]]


def test_a_pool_becomes_a_backend_with_a_line_for_each_server() -> None:
    text = made(HTTP).text
    lines = section(text, "backend lb.web")
    assert (
        "server ia_8080 10.1.0.4:8080 weight 100 check inter 2000ms fastinter 500ms downinter 1000ms fall 3 rise 2"
        in lines
    )
    assert (
        "server ib_8080 10.1.0.5:8080 weight 0 check inter 2000ms fastinter 500ms downinter 1000ms fall 3 rise 2"
        in lines
    )
    assert "balance roundrobin" in lines
    assert "default_backend lb.web" in section(text, "frontend lb:192.0.2.1:80")


def test_servers_certificates_and_routes_are_no_part_of_the_shape() -> None:
    one, other = Certificate("A", "a"), Certificate("B", "b")
    base = dataclasses.replace(
        HTTP, listeners=(ListenerBundle("192.0.2.1", 443, (one,)),), routes=(HttpRoute(("a.test",), "", "api"),)
    )
    shape = made(base).shape
    fewer = dataclasses.replace(base, pools=(dataclasses.replace(WEB, backends=()), API))
    routed = dataclasses.replace(base, routes=(HttpRoute(("b.test", "c.test"), "/x", "api"),))
    renewed = dataclasses.replace(base, listeners=(ListenerBundle("192.0.2.1", 443, (other,)),))
    assert {made(same).shape for same in (fewer, routed, renewed)} == {shape}
    assert f"    description {shape}" in made(base).text.splitlines()


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(HTTP, listeners=(ListenerBundle("192.0.2.1", 81),)),
        dataclasses.replace(HTTP, listeners=(ListenerBundle("192.0.2.1", 80, accept_proxy=True),)),
        dataclasses.replace(HTTP, listeners=(ListenerBundle("192.0.2.1", 80, source_cidrs=("10.0.0.0/8",)),)),
        dataclasses.replace(HTTP, mode=BalancerMode.TCP),
        dataclasses.replace(HTTP, forwarded_for=False),
        dataclasses.replace(HTTP, idle_timeout_seconds=30.0),
        dataclasses.replace(HTTP, routes=(HttpRoute((), "/x", "api"),)),
        dataclasses.replace(HTTP, pools=(WEB,)),
        dataclasses.replace(HTTP, pools=(dataclasses.replace(WEB, algorithm=BalancerAlgorithm.LEASTCONN), API)),
        dataclasses.replace(HTTP, pools=(dataclasses.replace(WEB, stickiness=Stickiness.COOKIE), API)),
        dataclasses.replace(HTTP, pools=(dataclasses.replace(WEB, send_proxy=True), API)),
        dataclasses.replace(HTTP, pools=(dataclasses.replace(WEB, health_check=BackendHealthCheck(fall=9)), API)),
    ],
)
def test_all_else_is(other: BalancerBundle) -> None:
    assert made(other).shape != made(HTTP).shape


def test_the_longest_prefix_of_a_host_wins_and_hosts_inherit() -> None:
    routes = (
        HttpRoute((), "/static", "api"),
        HttpRoute(("*.example.org",), "/wild/", "api"),
        HttpRoute(("*.example.org",), "", "web"),
        HttpRoute(("App.example.org",), "/static", "web"),
    )
    table = route_table(dataclasses.replace(HTTP, routes=routes))
    assert table == {
        "*/static/": "lb.api",
        "*.example.org/static/": "lb.api",
        "*.example.org/wild/": "lb.api",
        "*.example.org/": "lb.web",
        "app.example.org/static/": "lb.web",
        "app.example.org/wild/": "lb.api",
        "app.example.org/": "lb.web",
    }


def test_only_look_ups_that_can_find_something_are_made() -> None:
    def look_ups(*routes: HttpRoute) -> int:
        return made(dataclasses.replace(HTTP, routes=routes)).text.count("map_beg(")

    exact, wild, every = (
        HttpRoute(("a.test",), "", "api"),
        HttpRoute(("*.a.test",), "", "api"),
        HttpRoute((), "/x", "api"),
    )
    assert [look_ups(), look_ups(exact), look_ups(wild), look_ups(every), look_ups(exact, wild, every)] == [
        0,
        1,
        1,
        1,
        3,
    ]


def test_certificates_are_files_without_empty_lines() -> None:
    listener = ListenerBundle("2001:db8::1", 443, (Certificate("CERT\n\nCHAIN", "KEY\n"),))
    found = made(dataclasses.replace(HTTP, listeners=(listener,)))
    assert found.certificates == {"certificate-2001_db8__1-443-0.pem": "CERT\nCHAIN\nKEY\n"}
    assert (
        "bind [2001:db8::1]:443 transparent ssl crt /f/certificate-2001_db8__1-443-0.pem alpn h2,http/1.1" in found.text
    )
    assert "KEY" not in found.text


def test_many_sources_are_many_short_lines() -> None:
    cidrs = tuple(f"10.{number}.0.0/16" for number in range(100))
    text = made(dataclasses.replace(HTTP, listeners=(ListenerBundle("192.0.2.1", 80, source_cidrs=cidrs),))).text
    acls = [line.split() for line in text.splitlines() if "acl may_come" in line]
    assert sum(len(words) - 3 for words in acls) == 100
    assert max(map(len, acls)) < 64  # HAProxy takes no more words in a line


def test_limits_and_drain_time_are_written() -> None:
    text = configuration([HTTP], drain_time_seconds=1.5, limits=HaproxyLimits(3, 500)).text
    lines = [line.strip() for line in text.splitlines()]
    assert {"nbthread 3", "maxconn 500", "hard-stop-after 1500ms"} <= set(lines)
    assert "nbthread" not in made(HTTP).text


@pytest.mark.parametrize(
    "bad",
    [
        dataclasses.replace(HTTP, balancer_id="a b"),
        dataclasses.replace(HTTP, routes=(HttpRoute(("a.test",), "/x\nglobal", "api"),)),
        dataclasses.replace(HTTP, routes=(HttpRoute(("a.test;x",), "/", "api"),)),
        dataclasses.replace(HTTP, pools=(PoolBundle("web", health_check=BackendHealthCheck(http_path="/\n")),)),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(bad: BalancerBundle) -> None:
    with pytest.raises(NotRenderable):
        made(bad)


def test_words_of_a_check_are_quoted() -> None:
    check = BackendHealthCheck(http_path="/it's #1", http_host="100%.test", interval_seconds=0.5, timeout_seconds=0.2)
    lines = section(
        made(dataclasses.replace(HTTP, pools=(PoolBundle("web", health_check=check),))).text, "backend lb.web"
    )
    assert (
        r"http-check send meth GET uri '/it'\''s #1' ver HTTP/1.1 hdr Host '100%%.test' hdr Connection close" in lines
    )
    assert "timeout check 200ms" in lines

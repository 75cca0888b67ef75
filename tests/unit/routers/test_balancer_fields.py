"""What of a balancer is wrong without looking at anything else."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.routers import Backend, BackendPool, BalancerSpec, Listener
from controlplane.services.balancer_field_rules import check_spec, normal_spec
from moorage.router_bundle import (
    BackendHealthCheck,
    BalancerAlgorithm,
    BalancerMode,
    Certificate,
    HttpRoute,
    Stickiness,
)

HTTP = BalancerMode.HTTP
GOOD = BalancerSpec(mode=HTTP, listeners=(Listener(port=80),), pools=(BackendPool("web", (Backend("web-1", 8080),)),))


def found(spec: BalancerSpec) -> list[tuple[str, str]]:
    return [(violation.field, violation.reason) for violation in check_spec(spec, "s")]


def listener(**fields: Any) -> BalancerSpec:
    return replace(GOOD, listeners=(Listener(**{"port": 80, **fields}),))


def pool(**fields: Any) -> BalancerSpec:
    return replace(GOOD, pools=(BackendPool(**{"id": "web", **fields}),))


def check(**fields: Any) -> BalancerSpec:
    return pool(health_check=BackendHealthCheck(**fields))


def routes(*routes: HttpRoute) -> BalancerSpec:
    return replace(GOOD, routes=routes)


@pytest.mark.parametrize(
    "spec",
    [
        GOOD,
        replace(GOOD, mode=BalancerMode.UNSPECIFIED),
        pool(),
        pool(stickiness=Stickiness.COOKIE),
        replace(pool(stickiness=Stickiness.SOURCE, send_proxy=True), mode=BalancerMode.TCP),
        replace(GOOD, mode=BalancerMode.TCP, forwarded_for=False),
        listener(source_cidrs=("10.0.0.0/8", "2001:db8::1"), accept_proxy=True),
        check(http_path="/health?full=1", http_host="app.example.org:8080", interval_seconds=0.5, rise=1, fall=10),
        check(disabled=True),
        routes(HttpRoute(("app.example.org", "*.example.org", "localhost", "xn--bcher-kva.example"), "/api/v1", "web")),
        routes(HttpRoute((), "/a", "web"), HttpRoute(("x.org",), "/a", "web"), HttpRoute(("x.org",), "", "web")),
    ],
)
def test_good_ones(spec: BalancerSpec) -> None:
    assert found(spec) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (replace(GOOD, listeners=()), [("s.listeners", "REQUIRED")]),
        (replace(GOOD, pools=()), [("s.pools", "REQUIRED")]),
        (replace(GOOD, idle_timeout_seconds=90_000.0), [("s.idle_timeout", "OUT_OF_RANGE")]),
        (replace(GOOD, idle_timeout_seconds=-1.0), [("s.idle_timeout", "OUT_OF_RANGE")]),
        (listener(port=0), [("s.listeners[0].port", "PORT_INVALID")]),
        (listener(port=65536), [("s.listeners[0].port", "PORT_INVALID")]),
        (listener(public_address="a", inside_network="b"), [("s.listeners[0].inside_network", "NOT_ALLOWED")]),
        (listener(source_cidrs=("10.0.0.1/8",)), [("s.listeners[0].source_cidrs[0]", "CIDR_INVALID")]),
        (listener(certificates=(Certificate(),) * 51), [("s.listeners[0].certificates", "OUT_OF_RANGE")]),
        (pool(id="Web"), [("s.pools[0].id", "NAME_INVALID")]),
        (replace(GOOD, pools=GOOD.pools * 2), [("s.pools[1].id", "NAMED_TWICE")]),
        (
            pool(backends=(Backend("", 0, 300),)),
            [
                ("s.pools[0].backends[0].instance", "REQUIRED"),
                ("s.pools[0].backends[0].port", "PORT_INVALID"),
                ("s.pools[0].backends[0].weight", "OUT_OF_RANGE"),
            ],
        ),
        (
            pool(backends=(Backend("a", 80), Backend("projects/p/instances/a", 80), Backend("a", 81))),
            [("s.pools[0].backends[1].port", "NAMED_TWICE")],
        ),
        (
            replace(pool(stickiness=Stickiness.COOKIE), mode=BalancerMode.TCP),
            [("s.pools[0].stickiness", "NOT_ALLOWED")],
        ),
        (
            replace(GOOD, mode=BalancerMode.TCP, forwarded_for=True, routes=(HttpRoute((), "/", "none"),)),
            [("s.routes", "NOT_ALLOWED"), ("s.forwarded_for", "NOT_ALLOWED")],
        ),
        (check(http_path="health"), [("s.pools[0].health_check.http_path", "INVALID_PATH")]),
        (check(http_path="/a b"), [("s.pools[0].health_check.http_path", "INVALID_PATH")]),
        (check(http_path="/", http_host="a\nb"), [("s.pools[0].health_check.http_host", "HOST_INVALID")]),
        (check(http_host="a"), [("s.pools[0].health_check.http_host", "NOT_ALLOWED")]),
        (
            check(interval_seconds=0.01, timeout_seconds=-1.0, rise=101, fall=-1),
            [(f"s.pools[0].health_check.{name}", "OUT_OF_RANGE") for name in ("interval", "timeout", "rise", "fall")],
        ),
        (routes(HttpRoute(("a_b.org",), "", "web")), [("s.routes[0].hosts[0]", "HOST_INVALID")]),
        (routes(HttpRoute(("a.org:80",), "", "web")), [("s.routes[0].hosts[0]", "HOST_INVALID")]),
        (routes(HttpRoute(("*.*.org",), "", "web")), [("s.routes[0].hosts[0]", "HOST_INVALID")]),
        (routes(HttpRoute(("*",), "", "web")), [("s.routes[0].hosts[0]", "HOST_INVALID")]),
        (routes(HttpRoute((), "api", "web")), [("s.routes[0].path_prefix", "INVALID_PATH")]),
        (routes(HttpRoute((), "/api;x", "web")), [("s.routes[0].path_prefix", "INVALID_PATH")]),
        (routes(HttpRoute((), "/api", "api")), [("s.routes[0].pool", "POOL_UNKNOWN")]),
        (
            routes(HttpRoute(("A.org.", "b.org"), "/x/", "web"), HttpRoute(("c.org", "a.org"), "/x", "web")),
            [("s.routes[1]", "ROUTE_TWICE")],
        ),
    ],
)
def test_bad_ones(spec: BalancerSpec, expected: list[tuple[str, str]]) -> None:
    assert found(spec) == expected


def test_what_is_stored_leaves_nothing_open() -> None:
    spec = replace(
        GOOD,
        mode=BalancerMode.UNSPECIFIED,
        listeners=(Listener(port=80, source_cidrs=("10.0.0.1",)),),
        routes=(HttpRoute(("App.Example.org.",), "/X", "web"),),
    )
    normal = normal_spec(spec)
    assert normal.mode is BalancerMode.TCP
    assert normal.listeners[0].source_cidrs == ("10.0.0.1/32",)
    assert normal.pools[0].algorithm is BalancerAlgorithm.ROUNDROBIN
    assert normal.pools[0].backends[0].weight == 100
    assert normal.routes[0] == HttpRoute(("app.example.org",), "/X", "web")
    assert normal_spec(normal) == normal

"""What clients see of balancers: modes, algorithms, stickiness, health, weights, TLS, addresses of clients, routes."""

import asyncio
import collections
import dataclasses
import socket
import ssl

import pytest

from hostagent.router.haproxy import HaproxyRefused
from moorage.router_bundle import (
    BackendHealthCheck,
    BalancerAlgorithm,
    BalancerMode,
    Certificate,
    HttpRoute,
    ListenerBundle,
    PoolBundle,
    Stickiness,
)
from tests.integration.router.haproxy_bed import (
    PATIENCE_SECONDS,
    ROUTER,
    Instance,
    RouterBed,
    balancer,
    busy_one,
    pool,
    request,
)
from tests.support import certificates


def certificate(name: str) -> Certificate:
    """A new one, self-signed."""
    made = certificates.make(name)
    return Certificate(made.certificate_pem, made.private_key_pem)


def trusting(one: Certificate) -> ssl.SSLContext:
    """A client that believes this one only."""
    return certificates.trusting(one.certificate_pem)


async def names(router: RouterBed, count: int, **how: str) -> collections.Counter[str]:
    """Who answers."""
    return collections.Counter([(await router.get(**how)).body for _ in range(count)])  # type: ignore[arg-type]


async def until_answered_by(router: RouterBed, expected: set[str]) -> None:
    """Waits until exactly these instances answer."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while (seen := set(await names(router, 6))) != expected:
        assert asyncio.get_running_loop().time() < deadline, f"{seen} answer, not {expected}"


@pytest.fixture
async def two(router: RouterBed) -> tuple[Instance, Instance]:
    return await router.instance(10), await router.instance(11)


async def test_round_robin_shares_by_weight_and_a_weight_changes_without_a_reload(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, b = two
    await router.apply(balancer(pool(a.bundle(), b.bundle())))
    assert await names(router, 20) == {"i10": 10, "i11": 10}
    before = await router.pid()
    await router.apply(balancer(pool(a.bundle(weight=150), b.bundle(weight=50))))
    assert await names(router, 20) == {"i10": 15, "i11": 5}
    assert await router.pid() == before


async def test_least_connections_goes_to_the_idle_one(router: RouterBed, two: tuple[Instance, Instance]) -> None:
    a, b = two
    await router.apply(balancer(pool(a.bundle(), b.bundle(), algorithm=BalancerAlgorithm.LEASTCONN)))
    slow = asyncio.create_task(router.get("/slow"))
    busy, idle = await busy_one(a, b)
    # In turn it would be half of them. All but a few, for HAProxy may still count the last answer's connection when the next request comes:
    # then both have one.
    found = await names(router, 12)
    busy.release.set()
    assert (await slow).body == busy.name
    assert found[idle.name] >= 9


_BY_HASH = pool(algorithm=BalancerAlgorithm.SOURCE)
_BY_TABLE = pool(stickiness=Stickiness.SOURCE)


@pytest.mark.parametrize("how", [_BY_HASH, _BY_TABLE])
async def test_a_client_comes_back_by_its_address_also_over_a_reload(
    router: RouterBed, two: tuple[Instance, Instance], how: PoolBundle
) -> None:
    a, b = two
    both = dataclasses.replace(how, backends=(a.bundle(), b.bundle()))
    clients = [router.add_client(number) for number in range(201, 213)]
    await router.apply(balancer(both))
    first = {source: (await router.get(source=source)).body for source in clients}
    assert set(first.values()) == {"i10", "i11"}
    assert {source: (await router.get(source=source)).body for source in reversed(clients)} == dict(
        reversed(first.items())
    )
    before = await router.pid()
    await router.apply(balancer(both, listeners=(ListenerBundle(ROUTER, 80), ListenerBundle(ROUTER, 81))))
    assert await router.pid() != before
    assert {source: (await router.get(source=source)).body for source in clients} == first


async def test_a_cookie_leads_back_and_outlives_adding_servers_and_a_reload(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, b = two
    c = await router.instance(12)
    await router.apply(balancer(pool(a.bundle(), stickiness=Stickiness.COOKIE)))
    cookie_a = (await router.get()).headers["set-cookie"].partition(";")[0]
    before = await router.pid()
    await router.apply(balancer(pool(a.bundle(), b.bundle(), c.bundle(), stickiness=Stickiness.COOKIE)))
    assert await router.pid() == before
    cookies = {}
    for _ in range(9):
        answer = await router.get()
        cookies[answer.body] = answer.headers["set-cookie"].partition(";")[0]
    assert cookies.keys() == {"i10", "i11", "i12"}
    assert cookies["i10"] == cookie_a
    await router.apply(
        balancer(pool(a.bundle(), b.bundle(), c.bundle(), stickiness=Stickiness.COOKIE), idle_timeout_seconds=50.0)
    )
    assert await router.pid() != before
    for name, cookie in cookies.items():
        assert await names(router, 3, headers=[f"Cookie: {cookie}"]) == {name: 3}  # type: ignore[arg-type]


async def test_what_fails_its_check_gets_nothing_until_it_is_well(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, b = two
    check = BackendHealthCheck(http_path="/health", interval_seconds=0.1, rise=1, fall=1)
    await router.apply(balancer(pool(a.bundle(), b.bundle(), health_check=check)))
    a.status = 503
    await until_answered_by(router, {"i11"})
    figures = (await router.haproxy.figures([balancer(pool(a.bundle(), b.bundle()))]))[0]
    assert [backend.state for backend in figures.backends] == ["down", "up"]
    assert "503" in figures.backends[0].check
    a.status = 200
    await until_answered_by(router, {"i10", "i11"})
    assert b.server is not None
    b.server.close()
    await until_answered_by(router, {"i10"})


async def test_a_drained_back_end_keeps_its_clients_and_gets_no_new_ones(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, b = two
    await router.apply(balancer(pool(a.bundle(), b.bundle(), stickiness=Stickiness.COOKIE)))
    slow = asyncio.create_task(router.get("/slow"))
    busy, other = await busy_one(a, b)
    answers = [await router.get() for _ in range(4)]
    cookie = next(answer.headers["set-cookie"] for answer in answers if answer.body == busy.name).partition(";")[0]
    drained = balancer(pool(busy.bundle(drain=True), other.bundle(), stickiness=Stickiness.COOKIE))
    await router.apply(drained)
    assert await names(router, 6) == {other.name: 6}
    assert (await router.get(headers=[f"Cookie: {cookie}"])).body == busy.name
    figures = (await router.haproxy.figures([drained]))[0]
    assert (figures.backends[0].state, figures.backends[0].in_flight, figures.in_flight) == ("drain", 1, 1)
    busy.release.set()
    assert (await slow).body == busy.name
    await router.apply(balancer(pool(busy.bundle(), other.bundle(), stickiness=Stickiness.COOKIE)))
    assert set(await names(router, 6)) == {"i10", "i11"}


async def test_a_removed_back_end_finishes_what_it_has(router: RouterBed, two: tuple[Instance, Instance]) -> None:
    a, b = two
    await router.apply(balancer(pool(a.bundle())))
    slow = asyncio.create_task(router.get("/slow"))
    await busy_one(a, b)
    await router.apply(balancer(pool(b.bundle())))
    assert await names(router, 4) == {"i11": 4}
    a.release.set()
    assert (await slow).body == "i10"
    await router.apply(balancer(pool(a.bundle(), b.bundle())))  # and it may come back
    await until_answered_by(router, {"i10", "i11"})


async def test_tcp_carries_connections_and_tells_who_they_are_by_the_proxy_protocol(router: RouterBed) -> None:
    a = await router.instance(10, expects_proxy=True)
    await router.apply(balancer(pool(a.bundle(), send_proxy=True), mode=BalancerMode.TCP))
    assert (await router.get()).body == "proxy 192.168.77.200 i10"


async def test_a_proxy_in_front_tells_who_its_client_is(router: RouterBed, two: tuple[Instance, Instance]) -> None:
    a, _ = two
    await router.apply(balancer(pool(a.bundle()), listeners=(ListenerBundle(ROUTER, 80, accept_proxy=True),)))
    said = b"PROXY TCP4 203.0.113.9 203.0.113.1 5555 8443\r\n"
    assert (await router.get(before=said)).body == "i10"
    assert a.header("X-Forwarded-For") == ["203.0.113.9"]
    assert a.header("X-Forwarded-Port") == ["8443"]
    assert (await router.get()).status in (0, 400)  # who does not say it is not served


async def test_instances_are_told_who_asks_unless_it_is_off(router: RouterBed, two: tuple[Instance, Instance]) -> None:
    a, _ = two
    await router.apply(balancer(pool(a.bundle())))
    await router.get(headers=["X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https"])
    assert a.header("X-Forwarded-For")[-1] == "192.168.77.200"
    assert (a.header("X-Forwarded-Proto"), a.header("X-Forwarded-Port")) == (["http"], ["80"])
    await router.apply(balancer(pool(a.bundle()), forwarded_for=False))
    await router.get()
    assert a.header("X-Forwarded-For") == []


async def test_requests_go_where_host_and_longest_path_lead_and_routes_change_without_a_reload(
    router: RouterBed,
) -> None:
    a, b, c, d = [await router.instance(number) for number in (10, 11, 12, 13)]
    pools = [pool(one.bundle(), pool_id=one.name) for one in (a, b, c, d)]
    routes = [
        HttpRoute(("app.example.org",), "", "i11"),
        HttpRoute(("app.example.org",), "/api", "i12"),
        HttpRoute(("*.example.org",), "", "i13"),
        HttpRoute((), "/static/", "i13"),
    ]
    await router.apply(balancer(*pools, routes=tuple(routes)))
    cases = {
        ("other.net", "/"): "i10",
        ("other.net", "/static/x"): "i13",
        ("app.example.org", "/"): "i11",
        ("APP.example.org:80", "/api"): "i12",
        ("app.example.org", "/api/v1?x=/static/"): "i12",
        ("app.example.org", "/apis"): "i11",
        ("app.example.org", "/static/x"): "i13",
        ("web.example.org", "/"): "i13",
        ("a.web.example.org", "/"): "i10",
        ("example.org", "/"): "i10",
    }
    assert {(host, path): (await router.get(path, host=host)).body for host, path in cases} == cases
    before = await router.pid()
    routes[1] = HttpRoute(("app.example.org",), "/api/v2", "i10")
    await router.apply(balancer(*pools, routes=(*routes, HttpRoute(("new.net",), "", "i12"))))
    assert await router.pid() == before
    assert (await router.get("/api/v1", host="app.example.org")).body == "i11"
    assert (await router.get("/api/v2/x", host="app.example.org")).body == "i10"
    assert (await router.get(host="new.net")).body == "i12"


async def test_tls_shows_the_certificate_that_fits_the_name_and_takes_a_new_one_without_a_reload(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, _ = two
    one, other = certificate("one.test"), certificate("other.test")

    def tls(*shown: Certificate) -> tuple[ListenerBundle, ...]:
        return (ListenerBundle(ROUTER, 80), ListenerBundle(ROUTER, 443, certificates=shown))

    await router.apply(balancer(pool(a.bundle()), listeners=tls(one, other)))
    assert (await router.get(port=443, host="one.test", tls=trusting(one))).body == "i10"
    assert a.header("X-Forwarded-Proto") == ["https"]
    assert (await router.get(port=443, host="other.test", tls=trusting(other))).body == "i10"
    with pytest.raises(ssl.SSLCertVerificationError):  # a name that none fits gets the first
        await router.get(port=443, host="third.test", tls=trusting(one))
    context = trusting(one)
    context.set_alpn_protocols(["h2"])
    _, writer = await router.connect(443, tls=context, name="one.test")
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"

    before = await router.pid()
    newer = certificate("other.test")
    await router.apply(balancer(pool(a.bundle()), listeners=tls(one, newer)))
    assert await router.pid() == before
    assert (await router.get(port=443, host="other.test", tls=trusting(newer))).body == "i10"
    with pytest.raises(ssl.SSLCertVerificationError):
        await router.get(port=443, host="other.test", tls=trusting(other))
    third = certificate("third.test")
    await router.apply(balancer(pool(a.bundle()), listeners=tls(one, newer, third)))
    assert (await router.get(port=443, host="third.test", tls=trusting(third))).body == "i10"
    assert all(path.stat().st_mode & 0o77 == 0 for path in router.folder.glob("certificate-*"))


async def test_tls_in_tcp_mode_reaches_instances_as_plain_text(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, _ = two
    one = certificate("one.test")
    listener = ListenerBundle(ROUTER, 443, certificates=(one,))
    await router.apply(balancer(pool(a.bundle()), mode=BalancerMode.TCP, listeners=(listener,)))
    assert (await router.get(port=443, host="one.test", tls=trusting(one))).body == "i10"


async def test_who_is_not_among_the_sources_is_refused(router: RouterBed, two: tuple[Instance, Instance]) -> None:
    a, _ = two
    listener = ListenerBundle(ROUTER, 80, source_cidrs=("192.168.77.201/32", "10.0.0.0/8"))
    await router.apply(balancer(pool(a.bundle()), listeners=(listener,)))
    assert (await router.get()).status == 0
    assert (await router.get(source=router.add_client(201))).body == "i10"


async def test_a_pool_without_back_ends_says_that_there_is_no_service_until_one_comes(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, _ = two
    await router.apply(balancer(pool()))
    assert (await router.get()).status == 503
    await router.apply(balancer(pool(a.bundle())))
    assert (await router.get()).body == "i10"
    await router.apply()
    with pytest.raises(ConnectionRefusedError):
        await router.connect()
    await router.apply(balancer(pool(a.bundle())))
    assert (await router.get()).body == "i10"


async def test_ipv6_of_listener_and_back_end(router: RouterBed) -> None:
    a = Instance("i6", "fd77::10", 8080)
    listener = router.bed.socket(router.instances_space.path, socket.AF_INET6, socket.SOCK_STREAM)
    listener.bind(("fd77::10", 8080))
    listener.listen()
    await router.serve(a, listener)
    await router.apply(balancer(pool(a.bundle()), listeners=(ListenerBundle("fd77::1", 80),)))
    client = router.bed.socket(router.bed.outside.path, socket.AF_INET6, socket.SOCK_STREAM)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("fd77::1", 80))
    reader, writer = await asyncio.open_connection(sock=client)
    assert (await request(reader, writer)).body == "i6"
    writer.close()
    await writer.wait_closed()


async def test_a_configuration_that_haproxy_refuses_is_told_in_its_words_and_the_last_good_one_serves(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, b = two
    good = balancer(pool(a.bundle()))
    await router.apply(good)
    before = await router.pid()
    mixed = Certificate(certificate("a.test").certificate_pem, certificate("b.test").private_key_pem)
    bad = balancer(pool(b.bundle()), listeners=(ListenerBundle(ROUTER, 80, certificates=(mixed,)),))
    with pytest.raises(HaproxyRefused, match="private key"):
        await router.apply(bad)
    assert await router.pid() == before
    assert (await router.get()).body == "i10"
    # a port that somebody else has shows only when a new process starts
    taken = router.bed.socket(router.router.path, socket.AF_INET, socket.SOCK_STREAM)
    taken.bind((ROUTER, 81))
    taken.listen()
    files = {path.name: path.read_text() for path in router.folder.iterdir() if path.is_file()}
    with pytest.raises(HaproxyRefused, match="81"):
        await router.apply(
            balancer(pool(b.bundle()), listeners=(ListenerBundle(ROUTER, 80), ListenerBundle(ROUTER, 81)))
        )
    assert {path.name: path.read_text() for path in router.folder.iterdir() if path.is_file()} == files
    assert (await router.get()).body == "i10"
    await router.apply(balancer(pool(a.bundle(), b.bundle())))
    assert set(await names(router, 4)) == {"i10", "i11"}


async def test_figures_are_those_of_all_processes(router: RouterBed, two: tuple[Instance, Instance]) -> None:
    a, b = two
    first = balancer(pool(a.bundle(), b.bundle()))
    await router.apply(first)
    for _ in range(4):
        await router.get()
    slow = asyncio.create_task(router.get("/slow"))
    await busy_one(a, b)
    second = balancer(pool(a.bundle(), b.bundle()), idle_timeout_seconds=20.0)
    await router.apply(second)
    await router.get()
    figures = (await router.haproxy.figures([second]))[0]
    assert (figures.in_flight, figures.total) == (1, 6)
    assert sum(backend.in_flight for backend in figures.backends) == 1
    for one in two:
        one.release.set()
    await slow
    await router.haproxy.watch_old_processes()
    figures = (await router.haproxy.figures([second]))[0]
    assert (figures.in_flight, figures.total) == (0, 6)
    assert figures.bytes_out > 0


async def test_one_that_leaves_keeps_its_requests_and_is_named_until_they_end(
    router: RouterBed, two: tuple[Instance, Instance]
) -> None:
    a, b = two
    both, listeners = balancer(pool(a.bundle(), b.bundle())), (ListenerBundle(ROUTER, 80), ListenerBundle(ROUTER, 81))
    await router.apply(both)
    slow = asyncio.create_task(router.get("/slow"))
    busy, idle = await busy_one(a, b)
    assert await router.haproxy.draining([both]) == ()
    left = balancer(pool(idle.bundle()))
    await router.apply(left)
    assert await router.haproxy.draining([left]) == (busy.bundle().instance_id,)
    assert await names(router, 6) == {idle.name: 6}
    more = dataclasses.replace(left, listeners=listeners)
    await router.apply(more)  # a new process: the old one has the request
    assert await router.haproxy.draining([more]) == (busy.bundle().instance_id,)
    busy.release.set()
    assert (await slow).body == busy.name

    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while await router.haproxy.draining([more]):
        assert asyncio.get_running_loop().time() < deadline, "the end of the last request is not seen"

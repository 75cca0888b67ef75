"""balancer: what people write, and what is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.balancer import words
from moorage.errors import InvalidSpec, NotFound
from moorage.v1 import balancers_pb2 as pb
from tests.unit.cli.conftest import Moor, Served

EDGE = "projects/default/routers/edge"
LB = f"{EDGE}/balancers/web"


def _read(path: Path) -> str:
    return f"<{path}>"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("80", pb.Listener(port=80)),
        ("one:443", pb.Listener(public_address="one", port=443)),
        ("projects/p/publicAddresses/one:443", pb.Listener(public_address="projects/p/publicAddresses/one", port=443)),
        ("80,inside=back", pb.Listener(inside_network="back", port=80)),
        (
            "443,cert=a.pem,key=a.key,cert=b.pem,proxy,from=10.0.0.0/8,from=fd00::/8",
            pb.Listener(
                port=443,
                certificates=[
                    pb.Certificate(certificate_pem="<a.pem>", private_key_pem="<a.key>"),
                    pb.Certificate(certificate_pem="<b.pem>"),
                ],
                accept_proxy=True,
                source_cidrs=["10.0.0.0/8", "fd00::/8"],
            ),
        ),
    ],
)
def test_listeners(word: str, expected: pb.Listener) -> None:
    assert words.listener(word, _read) == expected


def test_back_ends_routes_and_checks() -> None:
    assert words.backend("web-1:8080") == ("", pb.Backend(instance="web-1", port=8080))
    assert words.backend("web-1:80,weight=5,pool=api,drain") == (
        "api",
        pb.Backend(instance="web-1", port=80, weight=5, drain=True),
    )
    assert words.route("a.org,*.b.org/api=api") == pb.HttpRoute(
        hosts=["a.org", "*.b.org"], path_prefix="/api", pool="api"
    )
    assert words.route("/x=y=web") == pb.HttpRoute(path_prefix="/x=y", pool="web")
    assert words.health_check("none", {}) == pb.BackendHealthCheck(disabled=True)
    assert words.health_check("tcp", {"rise": 3}) == pb.BackendHealthCheck(rise=3)
    checked = words.health_check("/h", {"check_host": "a.org", "check_interval": "500ms"})
    assert (checked.http_path, checked.http_host, checked.interval.nanos) == ("/h", "a.org", 500_000_000)


def test_what_is_none_of_them() -> None:
    calls: list[Callable[[], Any]] = [
        *(
            lambda word=word: words.listener(word, _read)
            for word in ("", "web", "0", "65536", "80,tls", "80,key=a", "80,inside=")
        ),  # type: ignore[misc]
        *(lambda word=word: words.backend(word) for word in ("", "web-1", ":80", "web-1:x", "web-1:80,weight=x")),  # type: ignore[misc]
        *(lambda word=word: words.route(word) for word in ("", "a.org", "a.org=", "=web")),  # type: ignore[misc]
        lambda: words.health_check("health", {}),
        *(lambda text=text: words.read_file(text, _read) for text in ("[", "- a", "nothing: 1")),  # type: ignore[misc]
    ]
    for call in calls:
        with pytest.raises(InvalidSpec):
            call()


def test_a_back_end_is_found_by_what_is_enough() -> None:
    found = pb.Balancer(name="lb")
    for name, backends in {
        "web": [("web-1", 80), ("web-2", 80)],
        "api": [("web-1", 80), ("api-1", 1), ("api-1", 2)],
    }.items():
        pool = found.spec.pools.add(id=name)
        for instance, port in backends:
            pool.backends.add(instance=f"projects/default/instances/{instance}", port=port)
    assert words.find(found, "web-2") is found.spec.pools[0].backends[1]
    assert words.find(found, "web-1:80,pool=api") is found.spec.pools[1].backends[0]
    for word in ("web-1", "web-1:80", "api-1"):
        with pytest.raises(InvalidSpec):
            words.find(found, word)
    for word in ("web-3", "web-2:81", "web-2,pool=api"):
        with pytest.raises(NotFound):
            words.find(found, word)


@pytest.fixture
def edge(moor: Moor, served: Served) -> Callable[..., Any]:
    moor("router", "create", "edge", "--network", "back")

    def run(*argv: str, **how: Any) -> Any:
        return moor("balancer", *argv, "--router", "edge", **how)

    return run


def test_a_balancer_is_made_and_changed(edge: Callable[..., Any], served: Served, tmp_path: Path) -> None:
    certificate, key = tmp_path / "site.pem", tmp_path / "site.key"
    certificate.write_text("CERT")
    key.write_text("KEY")

    def now() -> pb.Balancer:
        found: pb.Balancer = served.plane.get(LB)
        return found

    edge(
        *("create", "web", "--mode", "http", "--listen", "80", "--listen", f"443,cert={certificate},key={key}"),
        *("--backend", "web-1:8080,weight=50", "--backend", "web-2:8080", "--backend", "api-1:80,pool=api"),
        *("--route", "/api=api", "--sticky", "cookie", "--check", "/health", "--idle-timeout", "30s", "-l", "app=web"),
    )
    assert [pool.id for pool in now().spec.pools] == ["default", "api"]
    assert all(pool.stickiness == pb.STICKINESS_COOKIE for pool in now().spec.pools)
    assert now().spec.listeners[1].certificates[0].certificate_pem == "CERT"
    assert now().labels == {"app": "web"}
    assert "80 443,tls" in edge("ls").output
    assert "privateKeyPem" not in edge("get", "web").output

    edge("backend", "add", "web", "web-3:8080", "api-2:80,pool=api")
    edge("backend", "weight", "web", "web-1:8080", "7")
    edge("backend", "drain", "web", "web-2")
    edge("backend", "rm", "web", "api-1:80")
    default, api = now().spec.pools
    assert [(b.instance, b.weight, b.drain) for b in default.backends] == [
        ("web-1", 7, False),
        ("web-2", 0, True),
        ("web-3", 0, False),
    ]
    assert [b.instance for b in api.backends] == ["api-2"]
    edge("backend", "drain", "web", "web-2", "--undo")
    assert not now().spec.pools[0].backends[1].drain

    edge("update", "web", "--sticky", "source", "--check", "tcp", "--no-forwarded-for", "--route", "none")
    assert [(p.stickiness, len(p.backends)) for p in now().spec.pools] == [
        (pb.STICKINESS_SOURCE, 3),
        (pb.STICKINESS_SOURCE, 1),
    ]
    assert not now().spec.routes
    assert now().spec.HasField("forwarded_for")

    newer = tmp_path / "new.pem"
    newer.write_text("NEW")
    edge("certificate", "add", "web", "443", str(newer), str(key))
    assert [c.certificate_pem for c in now().spec.listeners[1].certificates] == ["CERT", "NEW"]
    edge("certificate", "add", "web", "443", str(newer), str(key), "--replace")
    assert [c.certificate_pem for c in now().spec.listeners[1].certificates] == ["NEW"]

    table = edge("stats", "web").output
    assert "IN FLIGHT" in table
    assert "Connection refused" in table
    edge("rm", "web")
    with pytest.raises(Exception, match="web"):
        served.plane.get(LB)


def test_a_balancer_is_read_from_a_file(edge: Callable[..., Any], served: Served, tmp_path: Path) -> None:
    (tmp_path / "site.pem").write_text("CERT")
    (tmp_path / "site.key").write_text("KEY")
    file = tmp_path / "lb.yaml"
    file.write_text("""
mode: BALANCER_MODE_HTTP
labels: {app: web}
idle_timeout: 5s
listeners: [{port: 443, certificates: [{certificate_pem: "@site.pem", private_key_pem: "@site.key"}]}]
pools: [{id: web, backends: [{instance: web-1, port: 8080}]}]
""")
    edge("create", "web", "-f", str(file), "--no-forwarded-for")
    found = served.plane.get(LB)
    assert found.spec.listeners[0].certificates[0].certificate_pem == "CERT"
    assert (found.spec.idle_timeout.seconds, found.labels["app"], found.spec.forwarded_for) == (5, "web", False)
    file.write_text("pools: [{id: api}]")
    edge("update", "web", "-f", str(file))
    assert [pool.id for pool in served.plane.get(LB).spec.pools] == ["api"]
    assert served.plane.get(LB).spec.idle_timeout.seconds == 5


def test_what_makes_no_sense_is_refused(edge: Callable[..., Any]) -> None:
    edge("create", "web", "--listen", "80")
    for argv in (
        ("update", "web"),
        ("update", "web", "--check-host", "a.org"),
        ("backend", "add", "web", "web-1:80,pool=none"),
        ("certificate", "add", "web", "443", "/none.pem", "/none.key"),
        ("create", "other", "-f", "/none.yaml"),
    ):
        assert edge(*argv, code=2).output is not None

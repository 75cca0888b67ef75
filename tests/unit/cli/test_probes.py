"""Probes as people write them."""

import pytest

from cli.probes import apply_probes, probe
from moorage.errors import InvalidSpec
from moorage.v1 import instances_pb2
from moorage.v1.probes_pb2 import ExecCheck, GrpcCheck, HttpCheck, Probe, TcpCheck


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("tcp:5432", Probe(tcp=TcpCheck(port=5432))),
        ("tcp:5432,address=[::1]", Probe(tcp=TcpCheck(port=5432, address="::1"))),
        ("http:8080", Probe(http=HttpCheck(port=8080))),
        ("http:8080/a?b=1,2", Probe(http=HttpCheck(port=8080, path="/a?b=1,2"))),
        (
            "https:443/,host=a.example,header=X-Key: 1:2,header=B:",
            Probe(http=HttpCheck(port=443, path="/", https=True, host="a.example", headers={"X-Key": "1:2", "B": ""})),
        ),
        ("grpc:50051", Probe(grpc=GrpcCheck(port=50051))),
        ("grpc:50051/my.Service", Probe(grpc=GrpcCheck(port=50051, service="my.Service"))),
        ("exec:pg_isready -q", Probe(exec=ExecCheck(command=["pg_isready", "-q"]))),
        ("exec:sh -c 'echo a,b; exit 0'", Probe(exec=ExecCheck(command=["sh", "-c", "echo a,b; exit 0"]))),
    ],
)
def test_what_is_asked(word: str, expected: Probe) -> None:
    assert probe("probe-readiness", word) == expected


def test_when_it_is_asked() -> None:
    made = probe("probe-liveness", "exec:check a,b,period=1.5s,timeout=500ms,delay=1m,failures=5,successes=2")
    assert list(made.exec.command) == ["check", "a,b"]
    assert (made.period.ToMilliseconds(), made.timeout.ToMilliseconds()) == (1500, 500)
    assert made.initial_delay.seconds == 60
    assert (made.failure_threshold, made.success_threshold) == (5, 2)


@pytest.mark.parametrize(
    "word",
    [
        "",
        "tcp",
        "tcp:",
        "tcp:http",
        "tcp:0",
        "tcp:65536",
        "udp:53",
        "http:/health",
        "exec:'",
        "tcp:1,failures=0",
        "tcp:1,period=soon",
        "tcp:1,host=a",
        "exec:x,address=::1",
        "http:1,header=x",
        "tcp:1,colour=red",
    ],
)
def test_what_is_refused(word: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        probe("probe-startup", word)
    assert caught.value.violations[0].field == "probe-startup"


def test_one_is_set_another_removed_and_the_third_left() -> None:
    spec = instances_pb2.InstanceSpec()
    options = {"probe_startup": "tcp:1", "probe_liveness": "tcp:2", "probe_readiness": None}
    assert apply_probes(spec, options)
    assert apply_probes(spec, {"probe_startup": "none", "probe_readiness": "tcp:3"})
    assert not spec.probes.HasField("startup")
    assert (spec.probes.liveness.tcp.port, spec.probes.readiness.tcp.port) == (2, 3)
    assert not apply_probes(spec, {})

"""Probes on real hosts: who is ready, who is restarted, and that a restart of the agent changes neither."""

import sys

import pytest
from google.protobuf.duration_pb2 import Duration

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.v1 import common_pb2
from moorage.v1 import instances_pb2 as pb
from moorage.v1.probes_pb2 import ExecCheck, GrpcCheck, HttpCheck, Probe, Probes, TcpCheck
from tests.support import onhost
from tests.support.plane import FAILED, Plane, until

#: Serves /up as long as it is there. The shell ends the server, which as process 1 would not hear the signal.
SERVER = "mkdir -p /www; echo yes >/www/up; trap 'exit 0' TERM; httpd -f -p 80 -h /www & wait"
_SECOND = Duration(seconds=1)
UP = HttpCheck(port=80, path="/up")
_HEALTH_SERVER = """
import grpc, sys, time
from concurrent import futures
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
servicer = health.HealthServicer()
servicer.set("", health_pb2.HealthCheckResponse.SERVING)
server = grpc.server(futures.ThreadPoolExecutor(2))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port("0.0.0.0:50051")
server.start()
time.sleep(120)
"""


def probe(**fields: object) -> Probe:
    values: dict[str, object] = {"period": _SECOND, "timeout": Duration(seconds=2), "failure_threshold": 2}
    return Probe(**{**values, **fields})  # type: ignore[arg-type]


async def test_readiness_follows_the_service_and_restarts_nothing(plane: Plane) -> None:
    await plane.network("back", "10.74.0.0/24")
    spec = plane.spec(SERVER, networks=["back"], probes=Probes(readiness=probe(http=UP)))
    await plane.run({"web": spec})
    await plane.see("web", lambda found: found.status.ready, what="ready")
    await plane.exec("web", ["rm", "/www/up"])
    found = await plane.see("web", lambda found: not found.status.ready, what="not ready any more")
    assert found.status.probe == "readiness (http 80/up: status 404)"
    await plane.exec("web", ["touch", "/www/up"])
    found = await plane.see("web", lambda found: found.status.ready, what="ready again")
    assert (found.status.run, found.status.restarts, found.status.probe) == (1, 0, "")


async def test_a_process_that_hangs_is_restarted(plane: Plane) -> None:
    """Its port still takes connections, for the kernel does: only the answer is missing."""
    liveness = probe(http=UP, timeout=_SECOND)
    await plane.run(
        {"web": plane.spec(SERVER, probes=Probes(liveness=liveness, readiness=probe(tcp=TcpCheck(port=80))))}
    )
    await plane.see("web", lambda found: found.status.ready, what="ready")
    await plane.exec("web", ["sh", "-c", "kill -STOP $(pidof httpd)"])
    found = await plane.see("web", lambda found: found.status.run == 2 and found.status.ready, what="a new run")
    assert (found.status.restarts, found.status.failures_in_row) == (1, 1)


async def test_a_command_decides_when_it_has_started(plane: Plane) -> None:
    startup = probe(exec=ExecCheck(command=["test", "-e", "/tmp/started"]), failure_threshold=100)
    await plane.run({"web": plane.spec(probes=Probes(startup=startup, liveness=startup))})
    words = "startup (exec test -e /tmp/started: exit code 1)"
    found = await plane.see("web", lambda found: found.status.probe == words, what="what it waits for")
    assert not found.status.ready
    await plane.exec("web", ["touch", "/tmp/started"])
    await plane.see("web", lambda found: found.status.ready, what="ready")


async def test_a_crash_loop_says_which_probe_and_what_was_printed(plane: Plane) -> None:
    policy = common_pb2.RestartPolicy(max_restarts=1, initial=Duration(nanos=100_000_000))
    startup = probe(tcp=TcpCheck(port=81))
    spec = plane.spec(
        "echo no way in; trap 'exit 0' TERM; sleep 100 & wait", probes=Probes(startup=startup), restart=policy
    )
    await plane.start_all({"web": spec})
    await plane.reach(["web"], FAILED)
    status = (await plane.get("web")).status
    assert (status.reason, status.run, status.failures_in_row) == ("CRASH_LOOP", 2, 2)
    assert "startup (tcp 81: connection refused), 2 times in a row" in status.message
    assert status.message.endswith("it printed last: no way in")


async def test_grpc_is_asked_inside_the_network_of_the_instance(plane: Plane, hosts: list[Host]) -> None:
    await plane.network("back", "10.74.0.0/24")
    readiness = probe(grpc=GrpcCheck(port=50051))
    made = await plane.run({"api": plane.spec(host=1, networks=["back"], probes=Probes(readiness=readiness))})
    words = "readiness (grpc 50051: connection refused)"
    await plane.see("api", lambda found: found.status.probe == words, what="that nothing listens")
    path = f"{onhost.RUN_DIR}/netns/i-{made['api'].uid}"
    command = f"nsenter --net={path} '{sys.executable}' -c '{_HEALTH_SERVER}' >/dev/null 2>&1 & echo $!"
    pid = (await hosts[0].run(["sh", "-c", command])).strip()
    try:
        await plane.see("api", lambda found: found.status.ready, what="ready")
    finally:
        await hosts[0].run(["kill", pid])
    await plane.see("api", lambda found: not found.status.ready, what="not ready any more")


async def test_an_agent_that_is_killed_changes_nobodys_readiness(plane: Plane, fleet: Fleet) -> None:
    probes = Probes(liveness=probe(http=UP), readiness=probe(http=UP))
    await plane.run({"web": plane.spec(SERVER, host=2, probes=probes)})
    before = await plane.see("web", lambda found: found.status.ready, what="ready")
    seen: list[pb.InstanceStatus] = []

    async def is_back() -> bool:
        status = (await plane.get("web")).status
        seen.append(status)
        return not status.stale and status.start_time == before.status.start_time

    await fleet.kill("h2", "agent")
    await fleet.start("h2", "agent")
    await until(is_back, what="the agent of h2")
    await plane.exec("web", ["rm", "/www/up"])
    after = await plane.see("web", lambda found: found.status.run == 2, what="the probes go on")
    assert all(status.ready for status in seen)
    assert after.status.restarts == 1


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
async def test_a_service_for_itself_alone_is_not_ready_for_others(plane: Plane, address: str) -> None:
    await plane.network("back", "10.74.0.0/24")
    server = "mkdir -p /www; echo yes >/www/up; trap 'exit 0' TERM; httpd -f -p 127.0.0.1:80 -h /www & wait"
    readiness = probe(tcp=TcpCheck(port=80, address=address))
    await plane.run({"web": plane.spec(server, networks=["back"], probes=Probes(readiness=readiness))})
    if address:
        await plane.see("web", lambda found: found.status.ready, what="ready")
    else:
        await plane.see("web", lambda found: found.status.probe, what="that nothing listens for others")

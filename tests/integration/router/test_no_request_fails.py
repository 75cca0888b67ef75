"""Changes under load: no connection is refused, no request fails; old processes end, at the latest after the drain time."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from moorage.errors import Unavailable
from moorage.router_bundle import BackendBundle, BalancerBundle, HttpRoute, ListenerBundle, Stickiness
from tests.integration.router.haproxy_bed import (
    PATIENCE_SECONDS,
    ROUTER,
    RouterBed,
    balancer,
    busy_one,
    pool,
    request,
)

CHANGES = 100
_BACKENDS = """
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend instances
    bind 192.168.77.10:8001-8006
    http-request return status 200 content-type text/plain string ok
"""


@asynccontextmanager
async def running(space: Path, *argv: str, how: signal.Signals = signal.SIGTERM) -> AsyncIterator[asyncio.Future[str]]:
    """A program in a namespace; its output after the block."""
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={space}", *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    try:
        yield output
    finally:
        process.send_signal(how)
        words, _ = await process.communicate()
        output.set_result(words.decode())


def _variant(number: int) -> BalancerBundle:
    """The hundred configurations: back ends come and go, weights, drain, routes, and every fourth only a reload can do."""
    backends = tuple(
        BackendBundle("i10", "192.168.77.10", 8001 + one, weight=50 + (number * 7 + one) % 100, drain=one == number % 6)
        for one in range(6)
        if one != (number + 3) % 6
    )
    listeners = (ListenerBundle(ROUTER, 80), *((ListenerBundle(ROUTER, 90 + number),) if number % 4 == 0 else ()))
    routes = tuple(HttpRoute((f"h{one}.test",), "/x", "web") for one in range(number % 5 + 1))
    return balancer(pool(*backends, stickiness=Stickiness.COOKIE), listeners=listeners, routes=routes)


def _failures(words: str) -> dict[str, int]:
    """What wrk counted as wrong."""
    found = {name: int(count) for name, count in re.findall(r"(connect|read|write|timeout) (\d+)", words)}
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", words)
    return {name: count for name, count in {**found, "status": int(other[1]) if other else 0}.items() if count}


async def test_a_hundred_changes_under_load_cost_no_request(router: RouterBed) -> None:
    if shutil.which("wrk") is None:
        if "netns" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
            pytest.fail("this test needs wrk")
        pytest.skip("this test needs wrk")
    served = router.bed.folder / "instances.cfg"
    served.write_text(_BACKENDS)
    await router.apply(_variant(0))
    load = ("wrk", "-t", "1", "-d", "600s", "--timeout", "20s", f"http://{ROUTER}/x")
    pids = {await router.pid()}
    clients = router.bed.outside.path
    async with running(router.instances_space.path, "haproxy", "-db", "-f", str(served)):
        await until_served(router)
        async with (
            running(clients, *load, "-c", "8", "-H", "Host: h0.test", how=signal.SIGINT) as keeping,
            running(clients, *load, "-c", "4", "-H", "Connection: close", how=signal.SIGINT) as opening,
        ):
            for number in range(1, CHANGES + 1):
                await router.apply(_variant(number))
                pids.add(await router.pid())
    assert len(pids) > CHANGES // 4  # reloads were among them
    assert len(pids) < CHANGES // 2 + 10  # and most changes needed none
    for words in (await keeping, await opening):
        requests = re.search(r"(\d+) requests in", words)
        assert requests, words
        assert int(requests[1]) > CHANGES, words
        assert _failures(words) == {}, words


async def until_served(router: RouterBed) -> None:
    """Waits until the instances are there."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while (await router.get("/x")).status != 200:
        assert asyncio.get_running_loop().time() < deadline


async def test_a_request_under_way_ends_in_its_old_process(router: RouterBed) -> None:
    a, b = await router.instance(10), await router.instance(11)
    await router.apply(balancer(pool(a.bundle(), b.bundle())))
    reader, writer = await router.connect()
    slow = asyncio.create_task(request(reader, writer, "/slow"))
    await busy_one(a, b)
    for seconds in range(20, 25):
        await router.apply(balancer(pool(a.bundle(), b.bundle()), idle_timeout_seconds=float(seconds)))
    a.release.set()
    b.release.set()
    answer = await slow
    assert answer.status == 200
    assert answer.headers["connection"] == "close"  # so that the client comes to the new process


async def test_an_old_process_ends_after_the_drain_time(router: RouterBed) -> None:
    a, b = await router.instance(10), await router.instance(11)
    await router.apply(balancer(pool(a.bundle(), b.bundle())), drain_time_seconds=1.0)
    slow = asyncio.create_task(router.get("/slow"))
    await busy_one(a, b)
    before = asyncio.get_running_loop().time()
    await router.apply(balancer(pool(a.bundle(), b.bundle()), idle_timeout_seconds=20.0), drain_time_seconds=1.0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await router.haproxy.watch_old_processes()
    assert asyncio.get_running_loop().time() - before >= 0.9
    assert (await slow).status != 200
    a.release.set()
    b.release.set()


async def test_another_agent_finds_all_as_it_is_and_changes_nothing(router: RouterBed) -> None:
    a = await router.instance(10)
    wanted = balancer(pool(a.bundle()))
    await router.apply(wanted)
    pid, checks = await router.pid(), router.entrypoint.checks
    await router.new_agent().apply([wanted], drain_time_seconds=60.0)
    assert (await router.pid(), router.entrypoint.checks) == (pid, checks)


async def test_a_container_that_starts_anew_serves_what_it_served(router: RouterBed) -> None:
    a = await router.instance(10)
    wanted = balancer(pool(a.bundle()))
    await router.apply(wanted)
    await router.container.kill()
    with pytest.raises(Unavailable):
        await router.apply(balancer())
    await router.container.start()
    await until_served(router)
    await router.apply(wanted)
    assert (await router.get()).body == "i10"

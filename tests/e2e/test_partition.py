"""A host that is cut off: what must not run twice is silent there before anybody else may have what it claims, with the agent alive,
killed, and stopped.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.dev import machine, processes
from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.programs import Programs
from moorage.errors import Internal
from moorage.v1 import instances_pb2
from tests.e2e.conftest import TEMPLATE, connect
from tests.support import onhost
from tests.support.fleet import box, in_own_loop
from tests.support.plane import RUNNING, Plane, pieces_of, until

#: Says the time that all clocks of the machine share, in seconds since its start, as long as it runs. It pays no heed to a polite end.
OWNER = "trap '' TERM; while :; do cut -d' ' -f1 /proc/uptime; usleep 50000; done"
LEASE_SECONDS = 10.0
FREE_SECONDS = LEASE_SECONDS + 1.0  # after the last request: the earliest moment at which another may have it


@pytest.fixture(scope="module")
def two(rootfs: Path) -> Iterator[Fleet]:
    """Two hosts of their own."""
    with box(2, programs=Programs()) as made:
        in_own_loop(made.up())

        async def register() -> None:
            async with connect(made) as client:
                plane = Plane(client, TEMPLATE)
                await plane.finish(await plane.upload(TEMPLATE, pieces_of(rootfs)))

        in_own_loop(register())
        yield made


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def agent_pid(fleet: Fleet, number: int) -> int:
    plan = fleet.config.all_hosts()[number - 1]
    found = machine.find(fleet.config, fleet._state(), plan, machine.AGENT)
    assert found is not None
    return found.pid


async def beats(host: Host, container_id: str) -> list[float]:
    """What an owner has said, as its engine kept it."""
    return [float(line) for line in (await host.docker("logs", container_id)).split()]


async def is_reached(host: Host, instance_uid: str) -> bool:
    """Whether anything in the instance's namespace would answer to its address."""
    space = f"{onhost.RUN_DIR}/netns/i-{instance_uid}"
    try:
        links = await host.run(["nsenter", f"--net={space}", "ip", "-o", "link", "show", "up"])
    except Internal:
        return False
    return "eth0" in links


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["alive", "killed", "stopped"])
async def test_one_that_is_cut_off_is_silent_before_its_claim_is_free(two: Fleet, agent: str) -> None:
    first = two.host(1)
    async with connect(two) as client:
        plane = Plane(client, TEMPLATE)
        spec = plane.spec(OWNER, host=1)
        spec.exclusive = True
        made = (await plane.run({f"owner-{agent}": spec}))[f"owner-{agent}"]
        assert made.status.claims == [instances_pb2.CLAIM_INSTANCE]
        (container,) = [c for c in await onhost.containers(first) if c.instance == made.uid]
        pid = agent_pid(two, 1)
        await two.cut("h1")
        cut = boottime()
        if agent == "killed":
            await two.kill("h1")
        elif agent == "stopped":
            os.kill(pid, signal.SIGSTOP)

        async def is_silent() -> bool:
            return processes.start_time(container.pid) is None and not await is_reached(first, made.uid)

        await until(is_silent, what="the end of the owner", within_seconds=30)
        silent = boottime()
        assert (await beats(first, container.id))[-1] < cut + FREE_SECONDS
        assert silent < cut + FREE_SECONDS + 0.5, "the look itself takes a while"
        if agent == "stopped":
            assert processes.start_time(pid) is None, "the watchdog ends an agent that could go on late"
        await two.heal("h1")
        if agent != "alive":
            await two.start("h1")

        async def goes_on() -> bool:
            return bool((await plane.get(f"owner-{agent}")).status.state == RUNNING)

        await until(goes_on, what="the owner to go on")
        await plane.delete([f"owner-{agent}"])

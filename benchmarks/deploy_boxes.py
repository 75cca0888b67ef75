"""The two fleets in a box that are compared: three engines of one configuration each, in folders and subnets of their
own, so that no other fleet on the machine is in the way.

One run at a time. What a killed run has left is removed before the next one starts; whatever ends this run but
SIGKILL removes its own.
"""

import asyncio
import contextlib
import fcntl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from cli.dev.config import FleetConfig
from cli.dev.fleet import Fleet
from cli.dev.programs import Programs
from cli.dev.removal import reap
from moorage.errors import AlreadyExists, NotFound

HOSTS = 3


def configs(base: Path) -> tuple[FleetConfig, FleetConfig]:
    """Moorage's fleet and Swarm's. A Swarm refuses live-restore, so its engines have it off; nothing else differs."""
    moorage = FleetConfig(
        prefix="moorbench",
        subnet="172.31.248.0/24",
        directory=base / "moorage",
        hosts=HOSTS,
        loopback_port=17480,
    )
    swarm = FleetConfig(
        prefix="moorswarm",
        subnet="172.31.247.0/24",
        directory=base / "swarm",
        hosts=HOSTS,
        loopback_port=17490,
        engine_settings={"live-restore": False},
    )
    return moorage, swarm


@contextlib.contextmanager
def alone(base: Path) -> Iterator[None]:
    """Hold the lock of the benchmark; its folder is there meanwhile.

    Raises:
        AlreadyExists: another run holds it.
    """
    with Path(tempfile.gettempdir(), "moorage-bench.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyExists("another run of the benchmark is at work on this machine; wait for its end") from None
        base.mkdir(parents=True, exist_ok=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # somebody else's files are in it
                base.rmdir()


@contextlib.asynccontextmanager
async def boxes(base: Path) -> AsyncIterator[tuple[Fleet, Fleet]]:
    """Both fleets, up inside the block; gone after it."""
    found = configs(base)
    fleets = (Fleet(found[0], programs=Programs()), Fleet(found[1]))
    await _remove(found)
    try:
        for fleet in fleets:
            await fleet.up()
        yield fleets
    finally:
        # A second signal must not leave half of it standing.
        await asyncio.shield(asyncio.ensure_future(_remove(found)))


async def _remove(found: tuple[FleetConfig, FleetConfig]) -> None:
    for config in found:
        with contextlib.suppress(NotFound):
            await Fleet.open(config.directory).down()
        await reap(config.prefix)

"""The fleet in a box for tests: one at a time on a machine, whatever earlier runs have left removed first.

    # conftest.py of a package that wants it
    from tests.support.fleet import fleet as fleet

`fleet` is session-scoped: three hosts with control plane and agents, prefix `moortest`, in a temporary
folder. Tests that need another shape use `box(...)`. The logs of all processes are copied to build/test-logs before a
fleet goes, for CI to print.
"""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cli.dev.config import FleetConfig
from cli.dev.fleet import Fleet, missing_tools
from cli.dev.programs import Programs
from cli.dev.removal import reap
from moorage.errors import NotFound


@dataclass(frozen=True, slots=True)
class Place:
    """What one fleet on the machine needs for itself."""

    prefix: str
    subnet: str
    loopback_port: int


SHARED = Place("moortest", "172.31.251.0/24", 18460)
# Tests of the box itself bring fleets up and down while the shared one may be up.
OWN = Place("moorbox", "172.31.249.0/24", 17470)
LOGS = Path(__file__).resolve().parents[2] / "build/test-logs"
_WAIT_SECONDS = 1200.0
_T = TypeVar("_T")


def require_fleet() -> None:
    """Skip the calling test, naming what is missing; fail instead when MOORAGE_REQUIRE has `docker` or `netns`."""
    lacks = ([] if os.geteuid() == 0 else ["root"]) + missing_tools()
    if not lacks:
        return
    message = f"a fleet in a box needs: {', '.join(lacks)}"
    if {"docker", "netns"} & set(os.environ.get("MOORAGE_REQUIRE", "").split(",")):
        pytest.fail(message)
    pytest.skip(message)


def in_own_loop(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in a thread and loop of its own: fixtures outlive the loops of tests."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@contextlib.contextmanager
def to_ourselves(place: Place) -> Iterator[None]:
    """Wait until no other test run is at this place, then remove what killed runs have left there."""
    deadline = time.monotonic() + _WAIT_SECONDS
    with Path(tempfile.gettempdir(), f"{place.prefix}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    pytest.fail("another test run has held the fleet in a box for 20 minutes")
                time.sleep(0.1)
        in_own_loop(_reap_leftovers(place.prefix))
        yield


@contextlib.contextmanager
def box(
    hosts: int = 1,
    *,
    programs: Programs | None = None,
    egress: bool = False,
    place: Place = OWN,
    zones: tuple[str, ...] = ("default",),
    vxlan_ports: tuple[int, ...] = (4789,),
    engine_settings: Mapping[str, Any] | None = None,
    controlplane_settings: Mapping[str, Any] | None = None,
) -> Iterator[Fleet]:
    """A fleet's folder and operations; it is not up yet. Everything of it is removed at the end of the block.

    A test run can be in one block of a place at a time; the others wait up to 20 minutes.
    """
    require_fleet()
    with to_ourselves(place):
        directory = Path(tempfile.mkdtemp(prefix=f"{place.prefix}-"))
        config = FleetConfig(
            prefix=place.prefix,
            subnet=place.subnet,
            directory=directory,
            hosts=hosts,
            loopback_port=place.loopback_port,
            egress=egress,
            zones=zones,
            vxlan_ports=vxlan_ports,
            engine_settings=dict(engine_settings or {}),
            controlplane_settings=dict(controlplane_settings or {}),
        )
        try:
            yield Fleet(config, programs=programs)
        finally:
            _keep_logs(directory)
            in_own_loop(_remove(directory))


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Three hosts with a control plane and an agent each, up for the whole test session. The third listens for VXLAN on
    a port of its own."""
    with box(3, programs=Programs(), place=SHARED, vxlan_ports=(4789, 4789, 14789)) as made:
        in_own_loop(made.up())
        yield made


async def _reap_leftovers(prefix: str) -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{prefix}-*"):
        await _remove(directory)
    await reap(prefix)


async def _remove(directory: Path) -> None:
    try:
        await Fleet.open(directory).down()
    except NotFound:
        shutil.rmtree(directory, ignore_errors=True)


def _keep_logs(directory: Path) -> None:
    for log in directory.glob("logs/*.log"):
        kept = LOGS / directory.name
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, kept)

"""Removal: everything of a fleet outside its folder, then the folder.

It works from the token, or from the prefix when the folder is lost.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from moorage.errors import DeadlineExceeded, NotReady

from . import cgroups, processes, underlay
from .config import FleetConfig
from .processes import Process
from .state import OWN_FILES, FleetState


async def reap(prefix: str) -> None:
    """Remove whatever fleets of this prefix have left on the machine when their folder is lost too.

    Only call it while nobody else can be using the prefix.
    """
    names = FleetConfig(prefix=prefix)
    groups = [name for name in cgroups.names(f"{prefix}-h") if name.removeprefix(f"{prefix}-h").isdigit()]

    def everything() -> list[Process]:
        for name in groups:
            cgroups.thaw(name)
        return [*processes.tagged(f"{prefix}-"), *(process for name in groups for process in cgroups.members(name))]

    await processes.kill_all(everything)
    await underlay.remove(names, None, None)
    await _remove_groups(groups)


async def remove_outside(config: FleetConfig, current: FleetState, lock: int) -> None:
    """Everything of the fleet that is not in its folder."""
    plans = config.all_hosts()

    def everything() -> list[Process]:
        for plan in plans:
            cgroups.thaw(plan.cgroup)
        in_groups = [process for plan in plans for process in cgroups.members(plan.cgroup)]
        return [*processes.tagged(f"{current.token}:"), *in_groups]

    await processes.kill_all(everything)
    await underlay.remove(config, current, lock)
    await _remove_groups([plan.cgroup for plan in plans])


async def _remove_groups(names: Sequence[str]) -> None:
    deadline = time.monotonic() + 10
    while remaining := [name for name in names if not cgroups.remove(name)]:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"control groups remain: {', '.join(remaining)}")
        await asyncio.sleep(0.02)


def remove_folder(directory: Path) -> None:
    """Remove the fleet's folder, the state file last: an interrupted removal can be repeated."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [point for point in mounted if point.startswith(f"{directory}/")]
    if inside:
        raise NotReady(f"something is mounted at {', '.join(inside)}; unmount it, then repeat `moor dev down`")
    for entry in directory.iterdir():
        if entry.name in OWN_FILES:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    remove_empty(directory)


def remove_empty(directory: Path) -> None:
    """Remove our own few files from a folder, and the folder if nothing else is in it."""
    for name in OWN_FILES:
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the next command already waits in it
        directory.rmdir()

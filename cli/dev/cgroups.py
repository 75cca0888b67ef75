"""Control groups of a host's containers: who is in them, and their removal. Versions 1 and 2."""

import contextlib
import os
from pathlib import Path

from .processes import Process, start_time

_MOUNT = Path("/sys/fs/cgroup")


def roots(name: str) -> list[Path]:
    """The existing folders of the group `/<name>`: one with version 2, one a controller with version 1."""
    hierarchies = [_MOUNT] if (_MOUNT / "cgroup.controllers").exists() else [p for p in _MOUNT.iterdir() if p.is_dir()]
    return [path for path in {(hierarchy / name).resolve() for hierarchy in hierarchies} if path.is_dir()]


def names(prefix: str) -> list[str]:
    """Names of the top groups that start with `prefix`."""
    hierarchies = [_MOUNT] if (_MOUNT / "cgroup.controllers").exists() else [p for p in _MOUNT.iterdir() if p.is_dir()]
    return sorted({path.name for hierarchy in hierarchies for path in hierarchy.glob(f"{prefix}*") if path.is_dir()})


def members(name: str) -> list[Process]:
    """The running processes in the group and all groups below it."""
    pids: set[int] = set()
    for root in roots(name):
        for folder, _, files in os.walk(root):
            if "cgroup.procs" in files:
                # A group that went away meanwhile, or a threaded one, has no list: its processes are in the parent's.
                with contextlib.suppress(OSError):
                    pids.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
    # 0 stands for a process outside our pid namespace, which we could not name.
    return [Process(pid, started) for pid in sorted(pids - {0}) if (started := start_time(pid)) is not None]


def leaves(name: str) -> set[str]:
    """Names of the groups directly below: one a container."""
    return {path.name for root in roots(name) for path in root.iterdir() if path.is_dir()}


def thaw(name: str) -> None:
    """Let frozen (paused) groups run again: with version 1 a frozen process does not even take SIGKILL."""
    for root in roots(name):
        for folder, _, files in os.walk(root, topdown=False):
            for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if file in files:
                    with contextlib.suppress(OSError):
                        Path(folder, file).write_text(value)


def remove(name: str) -> bool:
    """Remove the group and all below it. Returns False while something is still in it (call again)."""
    for root in roots(name):
        for folder, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    return not roots(name)

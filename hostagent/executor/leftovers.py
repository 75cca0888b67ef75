"""Processes that run in an instance's network namespace although the engine knows of none.

An engine that is killed between a container's start and its own record of it comes back believing that the container
never ran, refuses to start it ("id already in use"), and removes it without ending the process. The namespace is
ours, so whatever runs in it while no container of the instance does is such a leftover; nothing else tells us of it.
"""

import contextlib
import logging
import os
import signal
from pathlib import Path

log = logging.getLogger(__name__)


def kill_leftovers(namespace: Path) -> list[int]:
    """Kill every process in a network namespace; returns their ids. Blocking: a look at each process of the machine.

    Never touches the namespace that we are in ourselves. Call it only while no container runs there.
    """
    try:
        wanted = os.stat(namespace)
        own = os.stat("/proc/self/ns/net")
    except OSError:
        return []
    if (wanted.st_dev, wanted.st_ino) == (own.st_dev, own.st_ino):
        return []
    killed = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or is a kernel thread
            found = os.stat(f"/proc/{name}/ns/net")
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                os.kill(int(name), signal.SIGKILL)
                killed.append(int(name))
    if killed:
        log.warning("leftover processes were killed", extra={"namespace": namespace.name, "pids": str(killed)})
    return killed

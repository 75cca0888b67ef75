"""Ending a process and what it has started, from outside: the engine can start a program in a container, and has no call
that ends it.
"""

import contextlib
import os
import signal
from pathlib import Path


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants; fine if it has ended. The caller has just been told that it runs."""
    pending, found = [pid], []
    while pending:
        each = pending.pop()
        found.append(each)
        with contextlib.suppress(OSError):  # it ended meanwhile
            for thread in Path(f"/proc/{each}/task").iterdir():
                pending += [int(child) for child in (thread / "children").read_text().split()]
    for each in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)

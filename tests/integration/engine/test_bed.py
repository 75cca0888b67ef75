"""The test bed itself: nothing is left of it, whatever ended it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.engine_bed import PREFIX, EngineBed, reap_leftovers, require_engine

pytestmark = pytest.mark.docker

_VICTIM = """
import sys, time
from tests.integration.engine_bed import BASE_IMAGE, EngineBed
with EngineBed() as bed:
    bed.docker("run", "-d", "--network", "none", BASE_IMAGE, "sleep", "1234567")
    print(bed.folder, flush=True)
    time.sleep(600)
"""


def traces(folder: Path) -> list[str]:
    """What is left of a bed: folders, cgroups, mounts, processes."""
    top = Path("/sys/fs/cgroup")
    found = [str(path) for path in (folder, top / folder.name, *top.glob(f"*/{folder.name}")) if path.exists()]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if folder.name in line]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.fsencode(folder.name) in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue  # it has just ended
    return found


def test_a_bed_leaves_nothing() -> None:
    require_engine()
    with EngineBed() as bed:
        assert traces(bed.folder)
        bed.docker("run", "-d", "--network", "none", "moorage-test/busybox:latest", "sleep", "1234567")
    assert traces(bed.folder) == []


def test_a_killed_run_is_cleaned_up_by_the_next() -> None:
    require_engine()
    with subprocess.Popen([sys.executable, "-c", _VICTIM], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        folder = Path(victim.stdout.readline().strip())
        assert folder.name.startswith(PREFIX)
        victim.send_signal(signal.SIGKILL)
    assert traces(folder)
    reap_leftovers()
    assert traces(folder) == []

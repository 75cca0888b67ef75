"""What Moorage costs while nothing happens, and what its runtime wrapper adds to each call.

The wrapper is measured on a host, where its folders and namespaces are real: this module is also the program that is
run there (`python -m benchmarks.deploy_footprint ...`).
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cli.dev.fleet import Fleet
from cli.dev.host import Host

_RUN_DIR = Path("/run/moorage")
_BUNDLES = Path("/run/containerd/io.containerd.runtime.v2.task/moby")
_ROOT = Path(__file__).resolve().parents[1]


async def idle_memory(fleet: Fleet) -> dict[str, float]:
    """Resident memory in MB of 2^20 bytes: of the control plane, of the greatest agent, and of the registry."""
    status = await fleet.status()
    agents = [host.pids["agent"] for host in status.hosts]
    assert status.controlplane_pid is not None
    found = {
        "controlplane_rss_mb": _rss_mb(status.controlplane_pid),
        "agent_rss_mb": max(_rss_mb(pid) for pid in agents if pid is not None),
    }
    return found | {"registry_rss_mb": sum(_rss_mb(pid) for pid in _children(status.controlplane_pid))}


async def wrapper_milliseconds(host: Host, container: str, *, calls: int = 200) -> dict[str, float]:
    """What the wrapper adds, in ms: `wrapper_ms` is the greater of `--version` and `create` (each a median).

    Args:
        container: a running instance's, whose bundle and published namespace `create` is tried with.
    """
    arguments = [str(host.plan.runtime_path), container, str(calls)]
    program = [sys.executable, "-m", "benchmarks.deploy_footprint", *arguments]
    output = await host.run(["env", f"PYTHONPATH={_ROOT}", *program])
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def _children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for found in lists for child in found.read_text().split()]


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def _on_the_host(wrapper: Path, container: str, calls: int) -> dict[str, float]:
    from hostagent.runtime.wrapper import render

    real = shutil.which("runc")
    assert real is not None
    version = _difference([str(wrapper), "--version"], [real, "--version"], calls)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(_BUNDLES / container / "config.json", folder)
        # The same script before a program that does nothing: what `create` costs beside the real runtime.
        script = Path(folder, "wrapper")
        script.write_text(render(_RUN_DIR, "/bin/true"))
        script.chmod(0o755)
        arguments = ["--log", f"{folder}/log.json", "--log-format", "json", "create", "--bundle", folder, container]
        create = _difference([str(script), *arguments], ["/bin/true", *arguments], calls)
    return {"wrapper_ms": max(version, create), "wrapper_version_ms": version, "wrapper_create_ms": create}


def _difference(wrapped: Sequence[str], bare: Sequence[str], calls: int) -> float:
    """Median of the one minus median of the other, in ms; called in turns, so that what disturbs disturbs both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(calls):
        for argv, kept in ((wrapped, times[0]), (bare, times[1])):
            kept.append(_milliseconds(argv))
    return statistics.median(times[0]) - statistics.median(times[1])


def _milliseconds(argv: Sequence[str]) -> float:
    started = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    pid = os.posix_spawn(argv[0], list(argv), os.environ, file_actions=silent)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit(f"{argv[0]} {argv[-1]} ended with {os.waitstatus_to_exitcode(status)}")
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    print(json.dumps(_on_the_host(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))

"""What a fleet could leave on the machine, as one comparable value."""

import subprocess
import tempfile
from pathlib import Path

from cli.dev import cgroups, processes
from tests.support.fleet import OWN

PREFIX = OWN.prefix


def machine() -> dict[str, object]:
    """Everything with our prefix, and all of what has no prefix but must not change."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "links": sorted(p.name for p in Path("/sys/class/net").iterdir() if p.name.startswith(PREFIX)),
        "network namespaces": sorted(p.name for p in Path("/run/netns").glob(f"{PREFIX}*")),
        "mounts": sorted(point for point in mounts if PREFIX in point),
        "routes": [line for line in _lines("ip", "route", "show", "table", "all") if PREFIX in line],
        "nftables": _lines("nft", "list", "ruleset"),
        "ip_forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "control groups": cgroups.names(PREFIX),
        "processes": processes.tagged(f"{PREFIX}-"),
        "folders": sorted(p.name for p in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*")),
        "system folders": {top: sorted(p.name for p in Path(top).iterdir()) for top in ("/etc", "/opt", "/var/lib")},
    }


def _lines(*argv: str) -> list[str]:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()

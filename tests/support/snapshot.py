"""Everything of a host of the box that networks and instances could leave behind, as text by kind, for comparison.

Only what tells nothing is left out: counters, indexes, timers, and neighbours that the kernel learned by itself.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cli.dev.host import Host
from tests.support.onhost import RUN_DIR

Snapshot = Mapping[str, frozenset[str]]

_COUNTERS = re.compile(r"counter packets \d+ bytes \d+|\[\d+:\d+\]")
_LINK = ("ifname", "address", "mtu", "operstate", "master", "ifalias", "link_type")
#: By kind, a command that prints one item a line. Whoever adds something to hosts adds its kind here.
_COMMANDS: Mapping[str, str] = {
    "namespaces": f"find {RUN_DIR}/netns -mindepth 1",
    "files": f"find {RUN_DIR} -mindepth 1 -not -path '{RUN_DIR}/netns/*'",
    "packet rules": "nft -s list ruleset",
    "packet rules of iptables": "{ iptables-save; ip6tables-save; } | grep -v '^#'",
    "forwarding entries": "bridge fdb show",
    "neighbours": "ip -4 neigh show nud permanent; ip -6 neigh show nud permanent",
    "proxies": "ip neigh show proxy",
    "addresses": "ip -o addr show | sed 's/^[0-9]*: //; s/valid_lft.*//'",
    "routes": "ip -4 route show table all; ip -6 route show table all",
    "policy rules": "ip -4 rule; ip -6 rule",
    "queues": "tc qdisc show | sed 's/ [0-9a-f]*: / /g'",
    # Docker's namespaces are among them; the empty files of those that are gone are not asked for, because Docker removes them
    # a minute later, also in the middle of a test. The underlays of other boxes on the machine are seen from inside hosts.
    "mounts": "cut -d' ' -f5- /proc/self/mountinfo | grep -v '^/run/netns/[a-z0-9]*-underlay ' | "
    "sed 's/ shared:[0-9]*//; s/ master:[0-9]*//'",
    "sockets": "ss -Hlntu | awk '{print $1, $5}'",
}


async def take(host: Host) -> Snapshot:
    """What is on a host now."""
    script = "\n".join(f"echo '@{kind}'; {{ {command}; }} 2>/dev/null" for kind, command in _COMMANDS.items())
    lines = _split((await host.run(["sh", "-c", script])).splitlines())
    links = json.loads(await host.run(["ip", "-d", "-j", "link", "show"]))
    lines["links"] = [_described(link) for link in links]
    lines["containers"] = (await host.docker("ps", "-aq", "--no-trunc")).splitlines()
    lines["instance files"] = [str(path) for path in (host.plan.agent_data / "instances").glob("*")]
    return {kind: _counted(_COUNTERS.sub("", line).strip() for line in some) for kind, some in lines.items()}


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """What is there that was not, and what is not that was."""
    found = []
    for kind in sorted(before.keys() | after.keys()):
        had, has = before.get(kind, frozenset()), after.get(kind, frozenset())
        found += [f"+ {kind}: {line}" for line in sorted(has - had)] + [
            f"- {kind}: {line}" for line in sorted(had - has)
        ]
    return found


def open_files(pid: int) -> int:
    """How many files, sockets and namespaces a process of the host holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _split(output: Sequence[str]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    current: list[str] = []
    for line in output:
        if line.startswith("@"):
            current = kinds.setdefault(line[1:], [])
        else:
            current.append(line)
    return kinds


def _counted(lines: Iterable[str]) -> frozenset[str]:
    """The lines; what is there more than once says how often."""
    return frozenset(f"{line} ({count} times)" if count > 1 else line for line, count in Counter(lines).items())


def _described(link: Mapping[str, object]) -> str:
    info = link.get("linkinfo")
    kind = info.get("info_kind", "") if isinstance(info, dict) else ""
    return " ".join([str(kind), *(f"{name}={link.get(name, '')}" for name in _LINK), *map(str, link.get("flags", ()))])  # type: ignore[call-overload]

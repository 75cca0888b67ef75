"""What HAProxy's sockets answer, as values: its servers, maps, workers and figures. Pure; written for 2.6 to 3.x."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostagent.router.haproxy_config import HaproxyConfiguration

_FORCED_MAINTENANCE = 0x01  # SRV_ADMF_FMAINT
_STATE_VERSION = "1"


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A server of the running process."""

    address: str
    port: int
    weight: int
    is_in_maintenance: bool


@dataclass(frozen=True, slots=True)
class Workers:
    """Processes of one master.

    Attributes:
        current: pid of the one that takes new connections; 0: there is none.
        old: pids of those that finish theirs.
        reloads: how often the master was told to reload; counts failures.
        has_failed: whether the last reload failed.
    """

    current: int = 0
    old: tuple[int, ...] = ()
    reloads: int = 0
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class StatLine:
    """One line of figures."""

    queued: int
    in_flight: int
    total: int
    bytes_in: int
    bytes_out: int
    weight: int
    status: str
    check: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one worker: of backends by name, of servers by backend and name."""

    backends: Mapping[str, StatLine] = field(default_factory=dict)
    servers: Mapping[tuple[str, str], StatLine] = field(default_factory=dict)


def info(text: str) -> dict[str, str]:
    """`show info` as key and value."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}


def servers(text: str) -> dict[str, dict[str, LiveServer]]:
    """`show servers state`: servers by backend and name."""
    found: dict[str, dict[str, LiveServer]] = {}
    for row in _state_rows(text):
        server = LiveServer(
            row["srv_addr"],
            int(row["srv_port"]),
            int(row["srv_uweight"]),
            bool(int(row["srv_admin_state"]) & _FORCED_MAINTENANCE),
        )
        found.setdefault(row["be_name"], {})[row["srv_name"]] = server
    return found


def server_state_file(text: str, wanted: HaproxyConfiguration) -> str:
    """What a new process shall believe of its servers' health, from `show servers state` of the old one.

    Weights are the wanted ones, and nobody is in maintenance: otherwise the file would win over the configuration.
    """
    header, rows = _state_header(text), _state_rows(text)
    weights = {
        (name, server.name): server.weight for name, backend in wanted.backends.items() for server in backend.servers
    }
    lines = [_STATE_VERSION, "# " + " ".join(header)]
    for row in rows:
        weight = weights.get((row["be_name"], row["srv_name"]))
        if weight is None or int(row["srv_admin_state"]) & _FORCED_MAINTENANCE:
            continue
        row.update(srv_admin_state="0", srv_uweight=str(weight), srv_iweight=str(weight))
        lines.append(" ".join(row[column] for column in header))
    return "\n".join(lines) + "\n"


def table(text: str) -> dict[str, str]:
    """`show map FILE`: key and value."""
    fields = (line.split() for line in text.splitlines())
    return {parts[1]: parts[2] for parts in fields if len(parts) == 3}


def workers(text: str) -> Workers:
    """`show proc` of the master."""
    current, old, reloads, has_failed, section = 0, [], 0, False, ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ").strip()
            continue
        parts = line.split()
        if len(parts) < 3 or not parts[0].isdigit():
            continue
        if parts[1] == "master":
            failed = re.search(r"failed:\s*(\d+)", line)
            reloads, has_failed = int(parts[2]), failed is not None and failed[1] != "0"
        elif parts[1] == "worker" and section == "old workers":
            old.append(int(parts[0]))
        elif parts[1] == "worker":
            current = int(parts[0])
    return Workers(current, tuple(old), reloads, has_failed)


def stats(text: str) -> Stats:
    """`show stat`."""
    backends: dict[str, StatLine] = {}
    found: dict[tuple[str, str], StatLine] = {}
    for row in csv.DictReader(io.StringIO(text.lstrip("# "))):
        name, kind = row["svname"], row["type"]
        if kind == "1":
            backends[row["pxname"]] = _stat_line(row)
        elif kind == "2":
            found[row["pxname"], name] = _stat_line(row)
    return Stats(backends, found)


def _stat_line(row: Mapping[str, str]) -> StatLine:
    def number(column: str) -> int:
        return int(row.get(column) or 0)

    code = row.get("check_code") or "0"
    what = " ".join(words for words in (row.get("check_desc"), code if code != "0" else "") if words)
    check = ": ".join(words for words in (what, row.get("last_chk")) if words)
    return StatLine(
        number("qcur"),
        number("scur"),
        number("stot"),
        number("bin"),
        number("bout"),
        number("weight"),
        row.get("status") or "",
        check,
    )


def _state_header(text: str) -> list[str]:
    lines = (line for line in text.splitlines() if line.startswith("#"))
    return next(lines, "#").lstrip("# ").split()


def _state_rows(text: str) -> list[dict[str, str]]:
    header = _state_header(text)
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header) and len(row) > 1]

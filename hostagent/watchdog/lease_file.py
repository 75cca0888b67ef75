"""Two small files in the agent's run folder: what the agent tells the watchdog and the runtime wrapper, and how the watchdog answers.

Times are hundredths of a second since the machine's start (CLOCK_BOOTTIME), as /proc/uptime has them: all three read the same clock,
which runs on while the machine sleeps, and the wrapper is a shell script that can only compare whole numbers.

    moorage-leases 1 BOOT-ID AGENT-PID AGENT-START WRITTEN
    END INSTANCE NAMESPACE CONTAINER[,CONTAINER...]      one line an instance; "-" for none; END 0: it has no lease

Both files are replaced or written as a whole, so that nobody reads half of one.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MARK = "moorage-leases"
_VERSION = "1"
LEASES = "leases"
ANSWER = "watchdog"


@dataclass(frozen=True, slots=True)
class Entry:
    """An instance that runs under leases."""

    instance_id: str
    end: int  # hundredths; nothing of it may run, or be reached, from then on
    namespace: str = ""  # path of its network namespace
    container_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leases:
    """What the agent has written. `written` tells when it was alive last."""

    boot_id: str
    agent_pid: int
    agent_start: int  # of its process, as /proc/PID/stat has it: a number that is used again is another process
    written: int
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the watchdog says: it was alive at `time`, and had then read what the agent wrote at `read`."""

    pid: int
    start: int
    time: int
    read: int


def render(leases: Leases) -> str:
    """The text of the file."""
    head = f"{_MARK} {_VERSION} {leases.boot_id} {leases.agent_pid} {leases.agent_start} {leases.written}"
    lines = [
        f"{entry.end} {entry.instance_id} {entry.namespace or '-'} {','.join(entry.container_ids) or '-'}"
        for entry in leases.entries
    ]
    return "\n".join((head, *lines, ""))


def parse(text: str) -> Leases:
    """What a text of `render` says.

    Raises:
        ValueError: it is none.
    """
    lines = text.splitlines()
    mark, version, boot_id, pid, start, written = (lines[0] if lines else "").split(" ")
    if (mark, version) != (_MARK, _VERSION):
        raise ValueError("no list of leases of this version")
    return Leases(boot_id, int(pid), int(start), int(written), tuple(_entries(lines[1:])))


def _entries(lines: Iterable[str]) -> Iterable[Entry]:
    for line in lines:
        end, instance_id, namespace, containers = line.split(" ")
        ids = () if containers == "-" else tuple(containers.split(","))
        yield Entry(instance_id, int(end), "" if namespace == "-" else namespace, ids)


def write(run_dir: Path, leases: Leases) -> None:
    """Replace the file. Blocking; the folder lies in memory."""
    temporary = run_dir / f".{LEASES}.new"
    temporary.write_text(render(leases))
    os.replace(temporary, run_dir / LEASES)


def read(run_dir: Path) -> Leases | None:
    """What stands in the file; None: there is none, or none that can be read."""
    try:
        return parse((run_dir / LEASES).read_text())
    except (OSError, ValueError):
        return None


def write_answer(handle: int, answer: Answer) -> None:
    """Answer in an open file, always in as many bytes."""
    os.pwrite(handle, f"{answer.pid:020d} {answer.start:020d} {answer.time:020d} {answer.read:020d}\n".encode(), 0)


def read_answer(run_dir: Path) -> Answer | None:
    """The newest answer; None: there never was one."""
    try:
        pid, start, time, seen = (run_dir / ANSWER).read_text().split()
        return Answer(int(pid), int(start), int(time), int(seen))
    except (OSError, ValueError):
        return None


def start_of(pid: int) -> int | None:
    """When a process was started, in ticks since the machine's start; None: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None

"""Starts processes that outlive the command line, and finds and ends only those.

A process of a fleet carries `MOORAGE_BOX=<token>:<owner>` in its environment from its first instruction, and so do
all its children (containerd's shims among them). Before it becomes the program it writes its own pid and start time
to its record file; we never write a pid for it, so there is no moment at which a running process has no record and no
tag. A pid alone is never believed: it must have the recorded start time and our token, and is signalled through a
pidfd.
"""

# Small files on the machine's own disk and in /proc: an asynchronous file library would gain nothing.
# ruff: noqa: ASYNC240

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moorage.errors import DeadlineExceeded, Internal, NotReady

VARIABLE = "MOORAGE_BOX"
_POLL_SECONDS = 0.02
# $1 is the record file, the rest the program. Standard input is the fleet's lock, held until the record is written.
_LAUNCHER = """
twentieth() { echo "${20}"; }
read -r line </proc/self/stat
start=$(twentieth ${line##*) })
printf '%s %s\\n' "$$" "$start" >"$1.new" && mv "$1.new" "$1" && shift && exec "$@" </dev/null
"""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, named so that it cannot be confused with a later one of the same pid.

    Attributes:
        start_time: clock ticks since boot.
    """

    pid: int
    start_time: int

    @property
    def is_alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        return start_time(self.pid) == self.start_time


def start_time(pid: int) -> int | None:
    """Start time of the process in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def tag_of(pid: int) -> str | None:
    """The `<token>:<owner>` in a process's environment; None when it has none."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    start = f"{VARIABLE}=".encode()
    return next((item[len(start) :].decode() for item in environment.split(b"\0") if item.startswith(start)), None)


def tagged(prefix: str) -> list[Process]:
    """All running processes whose tag starts with `prefix`, this one excepted."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        pid = int(entry)
        started = start_time(pid)
        if started is None or not (tag_of(pid) or "").startswith(prefix):
            continue
        found.append(Process(pid, started))
    return found


def recorded(record: Path, token: str) -> Process | None:
    """The process of this record file, if it still runs and carries the token."""
    try:
        pid, started = record.read_text().split()
    except FileNotFoundError:
        return None
    process = Process(int(pid), int(started))
    is_ours = process.is_alive and (tag_of(process.pid) or "").startswith(f"{token}:")
    return process if is_ours else None


def send(process: Process, number: int) -> bool:
    """Signal exactly this process. Returns whether it was still there."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # Checked after the descriptor is open: the pid cannot be given to another process in between.
        if not process.is_alive:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def end(process: Process, number: int, *, within_seconds: float) -> bool:
    """Signal a process and wait for its end. Returns whether it ended in time."""
    send(process, number)
    deadline = time.monotonic() + within_seconds
    while process.is_alive:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def kill_all(find: Callable[[], Iterable[Process]], *, within_seconds: float = 30.0) -> int:
    """SIGKILL whatever `find` returns until it returns nothing. Returns how many processes were killed.

    Raises:
        DeadlineExceeded: some do not end (they hang in the kernel).
    """
    deadline = time.monotonic() + within_seconds
    killed: set[Process] = set()
    while remaining := list(find()):
        killed.update(process for process in remaining if send(process, signal.SIGKILL))
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in remaining)
            raise DeadlineExceeded(f"processes {pids} do not end after SIGKILL; look at /proc/PID/stack")
        await asyncio.sleep(_POLL_SECONDS)
    return len(killed)


def clean_environment() -> dict[str, str]:
    """Our environment without what points a Docker client elsewhere, and with the folders of system programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    path = kept.get("PATH", "")
    for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        if folder not in path.split(":"):
            path = f"{path}:{folder}" if path else folder
    return {**kept, "PATH": path}


async def launch(
    argv: Sequence[str],
    *,
    record: Path,
    log: Path,
    tag: str,
    lock: int,
    before: Sequence[str] = (),
    extra_environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a program in a session of its own, reparented away from us, and return it.

    Args:
        before: a command that enters namespaces and executes what follows (`nsenter ...`, `unshare ...`).
        lock: descriptor of the fleet's lock; the child holds it until its record is written.

    Raises:
        NotReady: it ended before it was recorded; its own words are in the log.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    with log.open("ab") as output:
        starter = await asyncio.create_subprocess_exec(
            *("setsid", "--fork", *before, "sh", "-c", _LAUNCHER, "launch", str(record), *argv),
            stdin=lock,
            stdout=output,
            stderr=output,
            cwd="/",
            env={**clean_environment(), VARIABLE: tag, **(extra_environment or {})},
        )
    await starter.wait()
    deadline = time.monotonic() + 10
    while not record.exists():
        if time.monotonic() > deadline:
            raise NotReady(f"{argv[0]} did not start: {tail(log)}")
        await asyncio.sleep(0.005)
    pid, started = record.read_text().split()
    return Process(int(pid), int(started))


async def wait_until(
    condition: Callable[[], bool], *, what: str, process: Process, log: Path, within_seconds: float = 30.0
) -> None:
    """Poll a condition that a process is to bring about.

    Raises:
        NotReady: the process ended first.
        DeadlineExceeded: it took too long.
    """
    deadline = time.monotonic() + within_seconds
    while not condition():
        if not process.is_alive:
            raise NotReady(f"{what} ended: {tail(log)}")
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what} was not ready after {within_seconds:.0f} s: {tail(log)}")
        await asyncio.sleep(_POLL_SECONDS)


async def run(argv: Sequence[str], *, lock: int | None = None, stdin: bytes = b"", check: bool = True) -> str:
    """Run a short command to its end; its output. Children keep the lock, so that no half-done command outlives it.

    Raises:
        Internal: it failed; its own words are in the message.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=() if lock is None else (lock,),
        env=clean_environment(),
    )
    output, errors = await process.communicate(stdin)
    if check and process.returncode:
        words = errors.decode(errors="replace").strip() or output.decode(errors="replace").strip()
        raise Internal(f"`{' '.join(argv)[:200]}` failed with {process.returncode}: {words}", reason="COMMAND_FAILED")
    return output.decode(errors="replace")


def tail(log: Path, characters: int = 600) -> str:
    """The last words of a log, for an error message."""
    with contextlib.suppress(FileNotFoundError):
        return f"{log}: ...{log.read_text(errors='replace')[-characters:].strip()}"
    return f"{log} is missing"

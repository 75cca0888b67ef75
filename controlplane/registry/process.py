"""One child process that must not outlive us, nor be started twice.

Three nets, because each has a hole: the kernel's parent-death signal (not sent when the child ignores it), a pid file
with the process's start time (so a pid that was given to another program is never killed), and a lock on the folder
(so that a second control plane on the same data refuses to start instead of ending the first one's child).

The parent-death signal is tied to the *thread* that started the child: `spawn` must be called from a thread that
lives as long as the program, which for us is the event loop's.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from moorage.errors import NotReady

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_SECONDS = 0.02


class FolderLock:
    """An exclusive lock on a folder for the life of this process. The kernel lets go of it when we die."""

    def __init__(self, folder: Path) -> None:
        """Raises NotReady with reason DATA_DIR_IN_USE when another process holds it."""
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            raise NotReady(
                f"{folder} is in use by another control plane; stop that one or use another folder",
                reason="DATA_DIR_IN_USE",
            ) from exc
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let go. May be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def spawn(
    program: str, arguments: Sequence[str], *, environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """Start a program that gets SIGTERM when we die. Its output comes on `stdout` (both streams)."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(_LAUNCHER),
        str(os.getpid()),
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,  # a Ctrl-C at the terminal is for us; we end the child in our own order
    )


def start_time(pid: int) -> str | None:
    """What tells two processes with one pid apart: boot id and start tick; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rsplit(")", 1)[1].split()  # the name before it may hold blanks and brackets
    if fields[0] == "Z":
        return None
    return f"{boot}:{fields[19]}"


def write_pid_file(path: Path, pid: int) -> None:
    """Remember a child, so that the next start can find it if we are killed."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": pid, "start": start_time(pid)}))
    temporary.replace(path)


async def end_leftover(path: Path, *, grace_seconds: float = 2.0) -> int | None:
    """End the process that a pid file names, if it is still that very process; then remove the file.

    Returns: the pid that was ended, or None when there was nothing to do.
    """
    record = await asyncio.to_thread(_read_pid_file, path)
    ended = None
    if record is not None and start_time(record[0]) == record[1]:
        await _end(*record, grace_seconds)
        ended = record[0]
    await asyncio.to_thread(path.unlink, True)
    return ended


def _read_pid_file(path: Path) -> tuple[int, str] | None:
    try:
        record = json.loads(path.read_text())
        return int(record["pid"]), str(record["start"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # half-written or not ours: it names no process
        return None


async def _end(pid: int, started: str, grace_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    for number, wait_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = loop.time() + wait_seconds
        while loop.time() < deadline:
            if start_time(pid) != started:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def end_child(process: asyncio.subprocess.Process, *, grace_seconds: float) -> None:
    """SIGTERM, then SIGKILL after the grace; returns when the process is gone."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), grace_seconds)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

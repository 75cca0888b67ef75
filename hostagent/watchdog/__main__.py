"""`moorage-watchdog`: looks at the agent's list of leases ten times a second, and ends what has none any more.

It is started by the agent and, where there is systemd, by a unit of its own; a second one waits until the first is gone. It outlives
both agent and engine, and ends only when it is told to, or with the agent's run folder.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import sys
import time
from pathlib import Path

from hostagent.watchdog import ending, lease_file
from hostagent.watchdog.lease_file import Answer, Leases
from hostagent.watchdog.plan import plan

_TICK_SECONDS = 0.1
_AGAIN = 100  # between looks at what was ended already, in hundredths: an engine may have a start on its way
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def main() -> None:
    """The program's entry: runs until it is killed."""
    parser = argparse.ArgumentParser(prog="moorage-watchdog", description="Ends instances whose leases have ended.")
    parser.add_argument("--run-dir", type=Path, default=Path("/run/moorage"), help="The agent's run_dir.")
    run_dir: Path = parser.parse_args().run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    handle = os.open(run_dir / lease_file.ANSWER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    _be_firm()
    Watchdog(run_dir, handle).run()


class Watchdog:
    """Reads, decides, ends. `handle` is its open file of answers."""

    def __init__(self, run_dir: Path, handle: int) -> None:
        self._run_dir = run_dir
        self._handle = handle
        self._pid = os.getpid()
        self._start = lease_file.start_of(self._pid) or 0
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._leases: Leases | None = None
        self._ended: dict[str, int] = {}  # instance id to when it was looked at last

    def run(self) -> None:
        """Look until killed, or until the run folder is gone and nothing is left to watch over."""
        while self._run_dir.exists() or self._has_leases():
            self.look_once()
            time.sleep(_TICK_SECONDS)

    def _has_leases(self) -> bool:
        return self._leases is not None and any(entry.instance_id not in self._ended for entry in self._leases.entries)

    def look_once(self) -> None:
        """One turn. A list that cannot be read leaves the last one in force: its leases end, and none is renewed.

        The time is taken before the list is read: what the agent renews while its end has not come is seen to be renewed.
        """
        now = _now()
        self._leases = lease_file.read(self._run_dir) or self._leases
        if self._leases is not None:
            self._end(self._leases, now)
        read = self._leases.written if self._leases is not None else 0
        lease_file.write_answer(self._handle, Answer(self._pid, self._start, _now(), read))

    def _end(self, leases: Leases, now: int) -> None:
        duty = plan(leases, self._boot_id, now)
        self._ended = {e.instance_id: self._ended[e.instance_id] for e in duty.entries if e.instance_id in self._ended}
        due = [e for e in duty.entries if now - self._ended.get(e.instance_id, -_AGAIN) >= _AGAIN]
        if not due:
            return
        if duty.is_agent_silent and ending.end_agent(leases.agent_pid, leases.agent_start):
            _say("the agent is silent while a lease has ended; it is killed, so that it can finish nothing late")
        for entry in due:
            ending.take_down(entry)
        if count := ending.end_processes(due):
            _say(f"{count} processes were killed, without a lease: {', '.join(e.instance_id for e in due)}")
        self._ended.update((entry.instance_id, now) for entry in due)


def _be_firm() -> None:
    """Stay in memory, be scheduled before others, and be the last that the kernel kills for want of memory."""
    with contextlib.suppress(OSError):
        os.nice(-20)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 100)


def _say(what: str) -> None:
    print(f"moorage-watchdog: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

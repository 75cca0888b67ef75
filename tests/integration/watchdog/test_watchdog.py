"""The watchdog as a program of its own, over real processes, cgroups and interfaces: what it ends, what it leaves alone, and when."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hostagent.netlink import namespaces
from hostagent.watchdog import lease_file
from hostagent.watchdog.lease_file import Entry, Leases
from tests.integration.netlink.bed import require_namespaces

pytestmark = pytest.mark.root

INSTANCE, CONTAINER, OTHER = "aaaaaaaaaa", "0123456789abcdef" * 4, "fedcba9876543210" * 4
FREEZER = Path("/sys/fs/cgroup/freezer")
PATIENCE_SECONDS = 10.0


def now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 100)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still waiting for {what}")
        time.sleep(0.02)


@dataclass
class Rig:
    """A run folder with a namespace in it, and processes that stand for agent and containers."""

    run_dir: Path
    space: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    groups: list[Path] = field(default_factory=list)

    def spawn(self, *argv: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(argv, start_new_session=True)
        self.processes.append(process)
        return process

    def contained(self, container_id: str, script: str = "exec sleep 1000") -> "subprocess.Popen[bytes]":
        """A process in a cgroup of that name, outside of the namespace."""
        if not FREEZER.is_dir():
            pytest.skip("this machine has no freezer of cgroups v1")
        group = FREEZER / f"mt-{self.run_dir.name}" / container_id
        group.mkdir(parents=True, exist_ok=True)
        self.groups += [group, group.parent]
        return self.spawn("sh", "-c", f"echo $$ >{group}/cgroup.procs; {script}")

    def inside(self) -> "subprocess.Popen[bytes]":
        """A process in the namespace, in nobody's cgroup."""
        return self.spawn("nsenter", f"--net={self.space}", "sleep", "1000")

    def watch(self) -> "subprocess.Popen[bytes]":
        return self.spawn(sys.executable, "-m", "hostagent.watchdog", "--run-dir", str(self.run_dir))

    def write(self, *entries: Entry, written: int = 0, agent: int = 0) -> Leases:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        start = lease_file.start_of(agent) or 0
        leases = Leases(boot_id, agent, start, written or now(), entries)
        lease_file.write(self.run_dir, leases)
        return leases

    def entry(self, end: int) -> Entry:
        return Entry(INSTANCE, end, str(self.space), (CONTAINER,))

    def has_read(self, leases: Leases) -> bool:
        answer = lease_file.read_answer(self.run_dir)
        return answer is not None and answer.read >= leases.written

    def links_up(self) -> str:
        listed = subprocess.run(
            ["nsenter", f"--net={self.space}", "ip", "-o", "link", "show", "up"],
            check=True,
            capture_output=True,
            text=True,
        )
        return " ".join(re.findall(r"^\d+: (\w+)", listed.stdout, re.MULTILINE))


@pytest.fixture
def rig() -> Iterator[Rig]:
    require_namespaces()
    run_dir = Path(tempfile.mkdtemp(prefix="mt-net-watch-"))
    namespaces.prepare_folder(run_dir / "netns")
    space = namespaces.create(namespaces.HostNamespace.capture(), run_dir / "netns" / f"i-{INSTANCE}", {})
    made = Rig(run_dir, space.path)
    try:
        for command in ("ip link add v0 type veth peer name v1", "ip link set v0 up", "ip link set v1 up"):
            subprocess.run(["nsenter", f"--net={space.path}", *command.split()], check=True)
        yield made
    finally:
        for process in made.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for group in dict.fromkeys(made.groups):
            with contextlib.suppress(OSError):
                group.rmdir()
        space.close()
        namespaces.remove(space.path)
        namespaces.release_folder(run_dir / "netns")
        shutil.rmtree(run_dir)


def is_alive(process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is None


def test_what_has_no_lease_any_more_is_killed_and_its_interfaces_are_down(rig: Rig) -> None:
    owner, guest, other = rig.contained(CONTAINER), rig.inside(), rig.contained(OTHER)
    end = now() + 100
    first = rig.write(rig.entry(end))
    rig.watch()
    until(lambda: rig.has_read(first), "the watchdog")
    assert is_alive(owner)
    assert "v0" in rig.links_up()
    until(lambda: not is_alive(owner) and not is_alive(guest), "the end of both")
    assert now() >= end
    until(lambda: "v0" not in rig.links_up(), "the interfaces to go down")
    assert is_alive(other), "another's"


def test_who_has_only_entered_the_namespace_does_not_take_his_own_group_with_him(rig: Rig) -> None:
    bystander = rig.contained(OTHER)
    group = rig.groups[0]
    guest = rig.spawn("sh", "-c", f"echo $$ >{group}/cgroup.procs; exec nsenter --net={rig.space} sleep 1000")
    until(lambda: len((group / "cgroup.procs").read_text().split()) == 2, "both in one group")
    rig.write(rig.entry(now() - 1))
    rig.watch()
    until(lambda: not is_alive(guest), "the end of the guest")
    assert is_alive(bystander)
    assert (group / "freezer.state").read_text().strip() == "THAWED"


def test_who_forks_all_the_time_is_killed_too(rig: Rig) -> None:
    rig.contained(CONTAINER, "while :; do sleep 0.2 & sleep 0.01; done")
    group = rig.groups[0]
    until(lambda: len((group / "cgroup.procs").read_text().split()) > 5, "children")
    rig.write(rig.entry(now() - 1))
    rig.watch()
    until(lambda: not (group / "cgroup.procs").read_text().split(), "the end of all")


def test_a_renewed_lease_keeps_it_alive(rig: Rig) -> None:
    owner = rig.contained(CONTAINER)
    rig.write(rig.entry(now() + 100))
    rig.watch()
    deadline = now() + 300
    while now() < deadline:
        rig.write(rig.entry(now() + 100))
        time.sleep(0.1)
    assert is_alive(owner)


def test_a_list_that_is_broken_or_gone_renews_nothing(rig: Rig) -> None:
    owner = rig.contained(CONTAINER)
    first = rig.write(rig.entry(now() + 100))
    rig.watch()
    until(lambda: rig.has_read(first), "the watchdog")
    (rig.run_dir / lease_file.LEASES).write_text("moorage-leases 1 broken\n")
    until(lambda: not is_alive(owner), "its end")


def test_a_silent_agent_is_killed_only_when_a_lease_has_ended(rig: Rig) -> None:
    agent, owner = rig.spawn("sleep", "1000"), rig.contained(CONTAINER)
    os.kill(agent.pid, signal.SIGSTOP)
    end = now() + 300
    first = rig.write(rig.entry(end), agent=agent.pid)
    rig.watch()
    until(lambda: rig.has_read(first), "the watchdog")
    until(lambda: now() > first.written + 200, "silence")
    assert is_alive(agent)
    until(lambda: not is_alive(owner) and not is_alive(agent), "the end of both")
    assert now() >= end


def test_another_process_with_the_agents_number_is_left_alone(rig: Rig) -> None:
    agent, owner = rig.spawn("sleep", "1000"), rig.contained(CONTAINER)
    leases = rig.write(rig.entry(now() - 1), written=now() - 1000, agent=agent.pid)
    lease_file.write(rig.run_dir, replace(leases, agent_start=leases.agent_start + 1))
    rig.watch()
    until(lambda: not is_alive(owner), "its end")
    assert is_alive(agent)


def test_it_ends_with_the_run_folder_but_not_before_the_last_lease(rig: Rig) -> None:
    owner = rig.contained(CONTAINER)
    first = rig.write(rig.entry(now() + 100))
    watchdog = rig.watch()
    until(lambda: rig.has_read(first), "the watchdog")
    moved = rig.run_dir.rename(rig.run_dir.with_suffix(".gone"))
    try:
        until(lambda: not is_alive(owner) and not is_alive(watchdog), "the end of both")
    finally:
        moved.rename(rig.run_dir)


def test_ends_of_another_boot_have_passed(rig: Rig) -> None:
    owner = rig.contained(CONTAINER)
    leases = rig.write(rig.entry(now() + 100000))
    lease_file.write(rig.run_dir, replace(leases, boot_id="another"))
    rig.watch()
    until(lambda: not is_alive(owner), "its end")


def test_a_second_watchdog_takes_over(rig: Rig) -> None:
    first, second = rig.watch(), rig.watch()
    until(lambda: lease_file.read_answer(rig.run_dir) is not None, "an answer")
    known = lease_file.read_answer(rig.run_dir)
    assert known is not None
    (one, other) = (first, second) if known.pid == first.pid else (second, first)
    one.kill()
    one.wait()
    until(lambda: getattr(lease_file.read_answer(rig.run_dir), "pid", 0) == other.pid, "the second one")

"""Ends processes by their container, and takes interfaces down, without engine, agent or any other program.

Processes are found by the container's id in /proc/PID/cgroup, which they inherit and cannot leave, and by the instance's network
namespace, for those that an `exec` put elsewhere. Where the kernel can kill a whole cgroup (v2), it does; else each is killed, with the
freezer (v1) keeping them from making new ones meanwhile, until a look finds none.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from hostagent.watchdog.lease_file import Entry, start_of

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_CGROUPS = Path("/sys/fs/cgroup")
_MOST_LOOKS = 20
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")  # a shorter text could stand in the cgroup of a process that is not ours

_libc = ctypes.CDLL(None, use_errno=True)


def end_processes(entries: Iterable[Entry]) -> int:
    """Kill all that belongs to these instances; returns how many processes were found. Never touches our own namespace's."""
    ids = {found for entry in entries for found in entry.container_ids if _CONTAINER_ID.fullmatch(found)}
    spaces = {inode for entry in entries if entry.namespace and (inode := _inode(entry.namespace)) is not None}
    spaces.discard(_inode("/proc/self/ns/net"))
    if not ids and not spaces:
        return 0
    killed: set[int] = set()
    frozen: set[Path] = set()
    try:
        for _ in range(_MOST_LOOKS):
            found = list(_processes(ids, spaces))
            fresh = [(pid, groups) for pid, groups in found if pid not in killed]
            for pid, groups in fresh:
                _stop_forks(groups, ids, frozen)
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            if not fresh:
                break
    finally:
        for freezer in frozen:  # a frozen process dies only once it is thawed
            _write(freezer / "freezer.state", "THAWED")
    return len(killed)


def take_down(entry: Entry) -> None:
    """Take the interfaces in an instance's namespace down, so that nobody there answers to its addresses."""
    if not entry.namespace:
        return
    try:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        space = os.open(entry.namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(home)
        return
    try:
        if os.fstat(space).st_ino != os.fstat(home).st_ino and _libc.setns(space, _CLONE_NEWNET) == 0:
            try:
                _links_down()
            finally:
                if _libc.setns(home, _CLONE_NEWNET) != 0:
                    os._exit(1)  # whoever started us starts another one; one that is lost in there is of no use
    finally:
        os.close(space)
        os.close(home)


def end_agent(pid: int, start: int) -> bool:
    """Kill an agent that is silent; whether it was there."""
    if start_of(pid) != start:
        return False
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _processes(ids: set[str], spaces: set[int]) -> Iterable[tuple[int, bytes]]:
    wanted = [container_id.encode() for container_id in ids]
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            with open(f"/proc/{name}/cgroup", "rb") as file:
                groups = file.read()
            if any(word in groups for word in wanted) or (spaces and _inode(f"/proc/{name}/ns/net") in spaces):
                yield int(name), groups


def _stop_forks(groups: bytes, ids: set[str], frozen: set[Path]) -> None:
    for line in groups.decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        if not any(container_id in path for container_id in ids):
            continue  # a group that is not the container's has others in it
        if not controllers:
            for root in (_CGROUPS, _CGROUPS / "unified"):
                _write(root / path.lstrip("/") / "cgroup.kill", "1")
        elif "freezer" in controllers.split(","):
            folder = _CGROUPS / "freezer" / path.lstrip("/")
            if folder not in frozen and _write(folder / "freezer.state", "FROZEN"):
                frozen.add(folder)


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True


def _links_down() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        for _, name in socket.if_nameindex():
            request = struct.pack("16sH14x", name.encode(), 0)
            with contextlib.suppress(OSError):
                _, flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
                if flags & _IFF_UP:
                    down = struct.pack("16sH14x", name.encode(), flags & ~_IFF_UP)
                    fcntl.ioctl(control, _SIOCSIFFLAGS, down)


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None

"""Questions to the kernel from within a network namespace: does an address answer, and which links are there.

A socket belongs to the namespace in which it was made, whoever uses it later. So pings leave from a resident
instance's own namespace without any process being started there, at the same cost for every side.

The kernel asks for an unknown neighbour once a second and keeps packets waiting meanwhile; a whole second would blur
what is measured. So where pings leave from, it asks every 20 ms; the same on every side, and nowhere else.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from moorage.errors import DeadlineExceeded

_CLONE_NEWNET = 0x40000000
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_RETRANSMIT_MS = 20
_T = TypeVar("_T")


def within(namespace: Path, work: Callable[[], _T]) -> _T:
    """Do short, blocking work in a thread of its own that has entered the namespace, such as /proc/PID/ns/net."""

    def enter_and_work() -> _T:
        _enter(namespace)
        return work()

    with ThreadPoolExecutor(1, thread_name_prefix="namespace") as pool:
        return pool.submit(enter_and_work).result()


def links(namespaces: Sequence[Path]) -> frozenset[tuple[str, str]]:
    """Every link in these namespaces, as (namespace, name); a namespace that is gone has none."""
    found: set[tuple[str, str]] = set()

    def look() -> None:
        for namespace in namespaces:
            with contextlib.suppress(FileNotFoundError):
                _enter(namespace)
                found.update((str(namespace), name) for _, name in socket.if_nameindex())

    with ThreadPoolExecutor(1, thread_name_prefix="links") as pool:
        pool.submit(look).result()
    return frozenset(found)


def _enter(namespace: Path) -> None:
    handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{namespace}: {os.strerror(code)}")
    finally:
        os.close(handle)


class Pinger:
    """Pings addresses, each from the vantage point that its caller names. Needs root.

    Args:
        vantages: name to network namespace.
    """

    def __init__(self, vantages: Mapping[str, Path]) -> None:
        self._sockets = {name: within(path, _open) for name, path in vantages.items()}
        self._identity = os.getpid() & 0xFFFF
        self._waiting: dict[str, str] = {}
        self._answered: dict[str, float] = {}
        self._interval = 0.0
        self._changed = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    def begin(self, *, interval_seconds: float) -> None:
        """Start a measurement: forget the last one; answers to its pings do not count."""
        self._identity = (self._identity + 1) & 0xFFFF
        self._waiting.clear()
        self._answered.clear()
        self._interval = interval_seconds

    def add(self, address: str, vantage: str) -> None:
        """Ping an address until it answers; again does nothing."""
        if address not in self._answered and address not in self._waiting:
            self._waiting[address] = vantage
            self._send_to(address, vantage)
            self._changed.set()

    @property
    def answered(self) -> Mapping[str, float]:
        """When each address answered first, by time.perf_counter()."""
        return self._answered

    async def until_answered(self, count: int, *, timeout_seconds: float) -> float:
        """Wait until so many addresses have answered; when the last one did.

        Raises:
            DeadlineExceeded: some do not.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while len(self._answered) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            silent = ", ".join(f"{a} from {v}" for a, v in self._waiting.items()) or "addresses that are not known"
            raise DeadlineExceeded(f"no answer after {timeout_seconds:.0f} s of {silent}") from None
        return max(self._answered.values())

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for found in self._sockets.values():
            loop.add_reader(found, self._receive, found)
        self._sender = asyncio.create_task(self._send())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sender is not None:
            self._sender.cancel()
        for found in self._sockets.values():
            asyncio.get_running_loop().remove_reader(found)
            found.close()

    async def _send(self) -> None:
        while True:
            for address, vantage in list(self._waiting.items()):
                self._send_to(address, vantage)
            await asyncio.sleep(self._interval or 0.05)

    def _send_to(self, address: str, vantage: str) -> None:
        with contextlib.suppress(OSError):  # no route or no neighbour yet: the next one may pass
            self._sockets[vantage].sendto(_echo(self._identity), (address, 0))

    def _receive(self, found: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, (address, _) = found.recvfrom(2048)
                self._take(packet, address)

    def _take(self, packet: bytes, address: str) -> None:
        start = (packet[0] & 0x0F) * 4
        kind, _, _, identity = struct.unpack_from("!BBHH", packet, start)
        if kind == _ECHO_REPLY and identity == self._identity and self._waiting.pop(address, None):
            self._answered[address] = time.perf_counter()
            self._changed.set()


def _open() -> socket.socket:
    for folder in Path("/proc/sys/net/ipv4/neigh").iterdir():
        (folder / "retrans_time_ms").write_text(str(_RETRANSMIT_MS))
    found = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    found.setblocking(False)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return found


def _echo(identity: int) -> bytes:
    words = (_ECHO_REQUEST << 8, identity, 0)
    total = sum(words)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!HHHH", words[0], checksum, identity, 0)

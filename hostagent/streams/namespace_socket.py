"""A TCP connection opened from within a network namespace.

A socket belongs to the namespace in which it was made, whoever uses it later. So a thread of its own enters the
namespace, makes the socket, connects, and ends; no thread that anything else uses ever changes its namespace.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moorage.errors import NotReady, Unavailable

CONNECT_SECONDS = 5.0
_CLONE_NEWNET = 0x40000000


async def connect(namespace: Path, addresses: Sequence[str], port: int) -> socket.socket:
    """A connected, non-blocking socket to the first of the addresses that answers.

    Raises:
        NotReady: the namespace is not there.
        Unavailable: CONNECTION_REFUSED, nothing listens on the port.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="forward")
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, _connect, namespace, addresses, port)
    finally:
        pool.shutdown(wait=False)


def _connect(namespace: Path, addresses: Sequence[str], port: int) -> socket.socket:
    try:
        handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise NotReady("the instance has no network namespace now", reason="NAMESPACE_MISSING") from exc
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise NotReady(
                f"the instance's network cannot be entered: {os.strerror(ctypes.get_errno())}",
                reason="NAMESPACE_MISSING",
            )
    finally:
        os.close(handle)
    problem = "it has no address"
    for address in addresses:
        found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            found.settimeout(CONNECT_SECONDS)
            found.connect((address, port))
            found.setblocking(False)
            with contextlib.suppress(OSError):
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return found
        except OSError as exc:
            found.close()
            problem = exc.strerror or str(exc)
    raise Unavailable(f"nothing answers on port {port} of the instance: {problem}", reason="CONNECTION_REFUSED")

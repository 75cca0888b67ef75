"""Asks other name servers, as they are: what an instance asked goes out byte for byte, under a random number and from
a random port, and what comes back is given back byte for byte.

Servers are tried one after the other, beginning with the one that answered last, so that a dead one costs one question
its patience and not all of them. All of it ends before a resolver in an instance gives up (five seconds in most).
"""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from hostagent.names import wire
from hostagent.names.upstream import servers_of
from moorage.errors import MoorageError

log = logging.getLogger(__name__)

PORT = 53
_TRY_SECONDS = 1.2
_TOTAL_SECONDS = 4.0
_ROUNDS = 2
_AT_ONCE = 128  # of the whole host; every question holds a socket

#: Makes a socket of a family and type, in the namespace that it shall ask from.
OpenSocket = Callable[[int, int], Awaitable[socket.socket]]


async def from_here(family: int, kind: int) -> socket.socket:
    """A socket in the agent's own namespace, which is the host's."""
    return socket.socket(family, kind | socket.SOCK_NONBLOCK)


class Forwarder:
    """Asks on behalf of all instances.

    Args:
        port: of the servers.
    """

    def __init__(self, port: int = PORT) -> None:
        self._port = port
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._best: dict[tuple[str, ...], str] = {}  # of each set of servers, the one that answered last

    async def ask(self, query: bytes, servers: Sequence[str], open_socket: OpenSocket = from_here) -> bytes | None:
        """The answer; None when no server gives one. An answer that was cut is asked for again over TCP."""
        if not servers or self._slots.locked():
            return None
        worst: bytes | None = None
        async with self._slots:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TOTAL_SECONDS):
                    for server in self._order(tuple(servers)) * _ROUNDS:
                        found = await self._try(query, server, open_socket)
                        if found is None:
                            continue
                        if wire.rcode_of(found) in (0, 3):
                            self._best[tuple(servers)] = server
                            return found
                        worst = found  # it refuses or has failed itself; another may know
        return worst

    def _order(self, servers: tuple[str, ...]) -> list[str]:
        best = self._best.get(servers)
        return sorted(servers, key=lambda server: server != best)

    async def _try(self, query: bytes, server: str, open_socket: OpenSocket) -> bytes | None:
        sent = wire.with_number(query, secrets.randbits(16))
        try:
            async with asyncio.timeout(_TRY_SECONDS):
                found = await self._over_udp(sent, server, open_socket)
                if not wire.is_truncated(found):
                    return found
            async with asyncio.timeout(_TRY_SECONDS):
                return await self._over_tcp(sent, server, open_socket)
        except (OSError, TimeoutError, EOFError, MoorageError) as error:
            log.debug("a name server did not answer", extra={"server": server, "problem": str(error)})
            return None

    async def _over_udp(self, query: bytes, server: str, open_socket: OpenSocket) -> bytes:
        loop = asyncio.get_running_loop()
        async with _opened(server, socket.SOCK_DGRAM, open_socket) as asking:
            # Connected: the kernel lets only this server's answers in, and tells when nobody listens there.
            asking.connect((server, self._port))
            await loop.sock_sendall(asking, query)
            while True:
                data = await loop.sock_recv(asking, wire.LARGEST_TCP)
                if wire.is_answer_to(query, data):
                    return data

    async def _over_tcp(self, query: bytes, server: str, open_socket: OpenSocket) -> bytes:
        loop = asyncio.get_running_loop()
        async with _opened(server, socket.SOCK_STREAM, open_socket) as asking:
            await loop.sock_connect(asking, (server, self._port))
            await loop.sock_sendall(asking, len(query).to_bytes(2) + query)
            length = int.from_bytes(await _exactly(asking, 2))
            data = await _exactly(asking, length)
            if not wire.is_answer_to(query, data):
                raise EOFError("the answer is one to another question")
            return data


class HostResolvers:
    """Whom the host itself asks: its resolv.conf, read again when it changes. A local resolver such as systemd's at
    127.0.0.53 is reached too, for it is asked from the host's namespace.
    """

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[str, ...] = ()

    def servers(self) -> tuple[str, ...]:
        """The servers now; none if the file is not there."""
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen != self._seen:
                self._servers = servers_of(self._path.read_text(errors="replace"))
                self._seen = seen
        except OSError:
            self._servers, self._seen = (), None
        return self._servers


@contextlib.asynccontextmanager
async def _opened(server: str, kind: int, open_socket: OpenSocket) -> AsyncIterator[socket.socket]:
    found = await open_socket(socket.AF_INET6 if ":" in server else socket.AF_INET, kind)
    try:
        yield found
    finally:
        found.close()


async def _exactly(asking: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(asking, size - len(data))
        if not piece:
            raise EOFError("the server closed before its answer was whole")
        data += piece
    return data

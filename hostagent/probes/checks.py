"""One check of an instance: its outcome, never an error.

Connections are made on sockets of the instance's own namespace (a socket belongs to the namespace in which it was
made, whoever uses it later), so nothing of the host's network stands between. A check takes at most its probe's
timeout, which begins when it is its turn and its socket is there: what keeps this host busy is no failure of the
instance. Whatever the target does, a check holds one descriptor and reads a few kilobytes.
"""

import asyncio
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hostagent.probe_domain import ExecCheck, HttpCheck, Probe
from hostagent.probes.grpc_check import ask_health
from hostagent.probes.plan import Outcome
from hostagent.probes.ports import ProbeEngine, ProbeFabric, Program
from moorage.errors import MoorageError, NotReady
from moorage.ids import ContainerId, InstanceId

log = logging.getLogger(__name__)

PASSED = Outcome(True)
_CONNECTIONS_AT_ONCE = 64
_PROGRAMS_AT_ONCE = 8  # each costs the engine some tens of milliseconds of work
_LONGEST_LINE = 8 * 1024
_LONGEST_HEAD = 100  # lines
_LONGEST_WORDS = 120
_KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where an instance is asked."""

    instance_id: InstanceId
    container_id: ContainerId
    addresses: tuple[str, ...]  # its own, without prefix length


class Checks:
    """Makes checks, a bounded number at once."""

    def __init__(self, engine: ProbeEngine, fabric: ProbeFabric) -> None:
        self._engine = engine
        self._fabric = fabric
        self._connections = asyncio.Semaphore(_CONNECTIONS_AT_ONCE)
        self._programs = asyncio.Semaphore(_PROGRAMS_AT_ONCE)
        self._tls = _unverified()

    async def make(self, probe: Probe, target: Target) -> Outcome:
        """The outcome of one check. Cancelling it leaves nothing open."""
        try:
            if probe.exec is not None:
                async with self._programs:
                    return await self._exec(probe.exec, target, probe.timeout_seconds)
            async with self._connections:
                return await self._connected(probe, target)
        except MoorageError as error:
            # Ours, not the instance's: the engine is away, or its namespace is being made anew.
            log.debug("a check could not be made", extra={"instance": target.instance_id, "problem": error.message})
            return Outcome(None)

    async def _connected(self, probe: Probe, target: Target) -> Outcome:
        if probe.http is not None:
            http = probe.http
            scheme = "https" if http.https else "http"
            what = f"{scheme} {http.port}{http.path}"
            return await self._at(what, target, http.address, http.port, probe, lambda s: _http(s, http, self._tls))
        if probe.grpc is not None:
            grpc = probe.grpc
            what = f"grpc {grpc.port}" + (f" {grpc.service}" if grpc.service else "")
            return await self._at(what, target, grpc.address, grpc.port, probe, lambda s: ask_health(s, grpc.service))
        if probe.tcp is not None:
            return await self._at(f"tcp {probe.tcp.port}", target, probe.tcp.address, probe.tcp.port, probe, _nothing)
        return Outcome(None)

    async def _at(
        self,
        what: str,
        target: Target,
        address: str,
        port: int,
        probe: Probe,
        ask: Callable[[socket.socket], Awaitable[str]],
    ) -> Outcome:
        """Connect to the first address that answers, and ask there. `ask` returns what is wrong, or nothing."""
        addresses = (address,) if address else target.addresses or ("127.0.0.1",)
        sockets: list[socket.socket] = []
        try:
            for one in addresses:
                sockets.append(await self._open(target, one))
            async with asyncio.timeout(probe.timeout_seconds):
                connected = await _connect(sockets, addresses, port)
                problem = connected if isinstance(connected, str) else await ask(connected)
        except TimeoutError:
            problem = f"no answer within {probe.timeout_seconds:g} s"
        except (OSError, EOFError) as error:
            problem = _words(error)
        finally:
            for opened in sockets:
                opened.close()
        return Outcome(False, f"{what}: {problem}") if problem else PASSED

    async def _open(self, target: Target, address: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return await self._fabric.open_socket_inside(target.instance_id, family, socket.SOCK_STREAM)

    async def _exec(self, check: ExecCheck, target: Target, timeout_seconds: float) -> Outcome:
        what = f"exec {' '.join(check.command)}"[:_LONGEST_WORDS]
        program = await self._engine.exec(target.container_id, check.command)
        is_over = False
        try:
            async with asyncio.timeout(timeout_seconds):
                line = await _first_line(program)
                code = await program.exit_code()
            is_over = True
        except TimeoutError:
            return Outcome(False, f"{what}: has not ended within {timeout_seconds:g} s")
        except NotReady as error:  # STILL_RUNNING: it closed its output, and does not end
            return Outcome(False, f"{what}: {error.message}")
        finally:
            await _end(program, is_over=is_over)
        return PASSED if code == 0 else Outcome(False, f"{what}: exit code {code}" + (f", {line}" if line else ""))


async def _connect(sockets: Sequence[socket.socket], addresses: Sequence[str], port: int) -> socket.socket | str:
    """The first that is connected, or why none is."""
    loop = asyncio.get_running_loop()
    problem = ""
    for one, address in zip(sockets, addresses, strict=True):
        try:
            await loop.sock_connect(one, (address, port))
        except OSError as error:
            problem = problem or _words(error)
        else:
            return one
    return problem


async def _nothing(_connected: socket.socket) -> str:
    return ""


async def _http(connected: socket.socket, check: HttpCheck, tls: ssl.SSLContext) -> str:
    """GET; what is wrong with the answer, or nothing."""
    name = check.host.partition(":")[0]
    # On a socket of its own: whoever opened this one closes it, however the conversation ends.
    reader, writer = await asyncio.open_connection(
        sock=connected.dup(),
        limit=_LONGEST_LINE,
        ssl=tls if check.https else None,
        server_hostname=(name if name and not _is_address(name) else "") if check.https else None,
    )
    try:
        writer.write(_request(check, connected.getpeername()))
        await writer.drain()
        return _judged(await _status_line(reader))
    except ValueError:
        return "the answer is no HTTP"
    finally:
        writer.transport.abort()


def _request(check: HttpCheck, peer: tuple[str, int]) -> bytes:
    address = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
    own = {
        "Host": check.host or f"{address}:{check.port}",
        "User-Agent": "moorage-probe",
        "Accept": "*/*",
        "Connection": "close",
    }
    given = {name.lower() for name in check.headers}
    headers = {**{name: value for name, value in own.items() if name.lower() not in given}, **check.headers}
    lines = [f"GET {check.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


async def _status_line(reader: asyncio.StreamReader) -> bytes:
    """That of the answer; 1xx ones before it are passed over. Raises ValueError: a line without end."""
    line = await reader.readline()
    while line.startswith(b"HTTP/1.1 1") and len(line.split()) > 1 and len(line.split()[1]) == 3:
        for _ in range(_LONGEST_HEAD):
            if not (await reader.readline()).strip():
                break
        line = await reader.readline()
    return line


def _judged(line: bytes) -> str:
    if not line:
        return "the connection was closed without an answer"
    words = line.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return "the answer is no HTTP"
    return "" if 200 <= int(words[1]) < 400 else f"status {int(words[1])}"


async def _first_line(program: Program) -> str:
    """What it printed first; the rest is read and forgotten, so that it never waits for us."""
    head = b""
    while (chunk := await program.read()) is not None:
        if len(head) < _LONGEST_WORDS:
            head += chunk.data
    line = head.strip().partition(b"\n")[0].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in line)[:_LONGEST_WORDS].strip()


async def _end(program: Program, *, is_over: bool) -> None:
    """Leave no program behind that nobody waits for: checks of a target that hangs would pile up inside it."""
    try:
        if not is_over:
            async with asyncio.timeout(_KILL_SECONDS):
                await program.kill()
    except (MoorageError, TimeoutError) as error:
        log.warning("a check's program was not ended", extra={"problem": str(error)})
    finally:
        await program.close()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # asyncio has words of its own, with the address
    return str(error) or "the connection was broken off"

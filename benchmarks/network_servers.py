"""HAProxy of the machine, run by hand in the networks of instances: servers behind a balancer, and the balancer to compare with."""

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from benchmarks.network_bed import Endpoint
from moorage.errors import DeadlineExceeded

SERVER_PORT = 8080
_WAIT_SECONDS = 10.0

_SERVER = """global
    maxconn 4000
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend web
    bind {address}:{port}
    http-request return status 200 content-type text/plain string "moorage\\n"
"""

_BALANCER = """global
    maxconn 4000
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend web
    bind {address}:{port}
    option forwardfor
    default_backend all
backend all
    balance roundrobin
{servers}
"""


@contextlib.asynccontextmanager
async def servers(endpoints: Iterable[Endpoint]) -> AsyncIterator[None]:
    """An HTTP server on SERVER_PORT of each, inside the block."""
    async with contextlib.AsyncExitStack() as stack:
        for endpoint in endpoints:
            text = _SERVER.format(address=endpoint.address, port=SERVER_PORT)
            await stack.enter_async_context(haproxy(endpoint, text, SERVER_PORT))
        yield


@contextlib.asynccontextmanager
async def balancer_by_hand(endpoint: Endpoint, port: int, backends: Iterable[Endpoint]) -> AsyncIterator[None]:
    """What somebody would write who does it without us."""
    lines = [f"    server s{n} {one.address}:{SERVER_PORT} check" for n, one in enumerate(backends)]
    text = _BALANCER.format(address=endpoint.address, port=port, servers="\n".join(lines))
    async with haproxy(endpoint, text, port):
        yield


@contextlib.asynccontextmanager
async def haproxy(endpoint: Endpoint, text: str, port: int, *, listens_on: str = "") -> AsyncIterator[None]:
    """It runs inside the block, and listens on the port when that begins.

    Args:
        text: its configuration.
        listens_on: an address; empty: the endpoint's.
    """
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as folder:
        config = Path(folder, "haproxy.cfg")
        await asyncio.to_thread(config.write_text, text)
        running = await asyncio.create_subprocess_exec(
            *endpoint.contained_command("haproxy", "-db", "-q", "-f", str(config)), stdin=asyncio.subprocess.DEVNULL
        )
        try:
            await _listening(endpoint, listens_on or endpoint.address, port)
            yield
        finally:
            if running.returncode is None:
                running.terminate()
            await running.wait()


async def _listening(endpoint: Endpoint, address: str, port: int) -> None:
    """Wait until somebody listens there, as the kernel's table of the endpoint's network says."""
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X} 00000000:0000 0A"
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        look = await asyncio.create_subprocess_exec(
            *endpoint.command("cat", "/proc/self/net/tcp"), stdout=asyncio.subprocess.PIPE
        )
        table, _ = await look.communicate()
        if wanted in table.decode():
            return
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"nobody listens on {address}:{port} after {_WAIT_SECONDS:.0f} s")
        await asyncio.sleep(0.02)

"""A router's namespace with the router image's entrypoint and this machine's HAProxy in it; instances and clients beside it.

Servers and clients are sockets of this process that were made inside the namespaces.
"""

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.router_image.recipe import context_folder
from hostagent.router import haproxy_answers
from hostagent.router.entrypoint import Entrypoint
from hostagent.router.folder import Folder
from hostagent.router.haproxy import Haproxy
from moorage.router_bundle import (
    BackendBundle,
    BackendHealthCheck,
    BalancerBundle,
    BalancerMode,
    ListenerBundle,
    PoolBundle,
)
from tests.integration.netlink.bed import Bed, require_namespaces

ROUTER = "192.168.77.1"
PATIENCE_SECONDS = 15.0
QUICK_CHECK = BackendHealthCheck(interval_seconds=0.1, rise=1, fall=1)


def require_haproxy() -> None:
    """Skip without HAProxy or namespaces; a failure instead when MOORAGE_REQUIRE contains `netns`."""
    require_namespaces()
    if lacks := [name for name in ("haproxy", "dnsmasq", "unshare") if shutil.which(name) is None]:
        message = f"tests of balancers need: {', '.join(lacks)}"
        if "netns" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
            pytest.fail(message)
        pytest.skip(message)


class CountingEntrypoint(Entrypoint):
    """Counts checks."""

    checks = 0

    async def check(self, program: str, file: str) -> str:
        """As it is."""
        self.checks += 1
        return await super().check(program, file)


class Container:
    """The router image's entrypoint, in the router's network namespace and a namespace of processes of its own."""

    def __init__(self, space: Path, folder: Path) -> None:
        self._space = space
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """As the engine would; returns when it takes requests."""
        with (self._folder.parent / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("nsenter", f"--net={self._space}", "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
                *("sh", str(context_folder() / "entrypoint")),
                env={**os.environ, "MOORAGE_ROUTER_DIR": str(self._folder), "MOORAGE_ROUTER_STOP_SECONDS": "2"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not (self._folder / "control").exists():
            assert asyncio.get_running_loop().time() < deadline, "the entrypoint reads no requests"
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """SIGKILL; the kernel ends all that it started."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        (self._folder / "control").unlink(missing_ok=True)


@dataclass
class Instance:
    """An HTTP server: says its name; `status` is what it answers; `/slow` waits until `release` is set."""

    name: str
    address: str
    port: int
    status: int = 200
    expects_proxy: bool = False
    requests: list[str] = field(default_factory=list)  # heads
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # a slow request
    release: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    def bundle(self, *, weight: int = 100, drain: bool = False) -> BackendBundle:
        """As a back end."""
        return BackendBundle(self.name, self.address, self.port, weight, drain)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            prefix = ""
            if self.expects_proxy:
                head = await reader.readexactly(16)
                prefix = f"proxy {_proxied_source(await reader.readexactly(int.from_bytes(head[14:16])))} "
            while head_bytes := await reader.readuntil(b"\r\n\r\n"):
                head_text = head_bytes.decode()
                path = head_text.split()[1]
                if not path.startswith("/health"):
                    self.requests.append(head_text)
                if path == "/slow":
                    self.arrived.set()
                    await self.release.wait()
                body = f"{prefix}{self.name}".encode()
                writer.write(f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def header(self, name: str) -> list[str]:
        """All values of a header of the last request."""
        lines = (line.partition(": ") for line in self.requests[-1].splitlines()[1:])
        return [value for key, _, value in lines if key.lower() == name.lower()]


def _proxied_source(addresses: bytes) -> str:
    return socket.inet_ntoa(addresses[:4]) if addresses else "local"


@dataclass(frozen=True)
class Answer:
    """What a client got; status 0: nothing."""

    status: int
    headers: dict[str, str]
    body: str


class RouterBed:
    """The router at 192.168.77.1, instances at .10 and up, clients at .200 (and more addresses beside it)."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.router = bed.add_leg("router", 1)
        self.instances_space = bed.add_leg("instances", 10)
        self.shared = bed.folder / "files" / "router"
        self.shared.mkdir(parents=True)
        self.folder = self.shared / "haproxy"
        self.entrypoint = CountingEntrypoint(self.shared)
        self.container = Container(self.router.path, self.shared)
        self.haproxy = self.new_agent()
        self._servers: list[asyncio.Server] = []
        self._served: list[Instance] = []
        self._clients: list[asyncio.StreamWriter] = []

    def new_agent(self) -> Haproxy:
        """As after a restart of the agent."""
        return Haproxy(self.shared, self.entrypoint, inside=str(self.folder))

    async def instance(self, number: int, *, expects_proxy: bool = False) -> Instance:
        """A serving instance."""
        address = f"192.168.77.{number}"
        if number != 10:
            self.bed.run(self.instances_space.path, f"ip addr add {address}/24 dev up0")
        made = Instance(f"i{number}", address, 8080, expects_proxy=expects_proxy)
        await self.start(made)
        return made

    async def start(self, instance: Instance) -> None:
        """Listens (again)."""
        listener = self._socket(self.instances_space.path, instance.address, instance.port)
        listener.listen(512)
        await self.serve(instance, listener)

    async def serve(self, instance: Instance, listener: socket.socket) -> None:
        """Answers on a socket that listens."""
        instance.server = await asyncio.start_server(instance.serve, sock=listener)
        self._served.append(instance)
        self._servers.append(instance.server)

    def add_client(self, number: int) -> str:
        """Another address of the clients' namespace."""
        self.bed.run(self.bed.outside.path, f"ip addr add 192.168.77.{number}/24 dev up0")
        return f"192.168.77.{number}"

    async def apply(self, *balancers: BalancerBundle, drain_time_seconds: float = 60.0) -> None:
        """A bundle with these balancers."""
        await self.haproxy.apply(balancers, drain_time_seconds=drain_time_seconds)

    async def pid(self) -> int:
        """Of the process that takes new connections."""
        with Folder.at(self.folder) as folder:
            reader, writer = await folder.connect("master.sock")
        writer.write(b"show proc\n")
        writer.write_eof()
        try:
            return haproxy_answers.workers((await reader.read(-1)).decode()).current
        finally:
            writer.close()

    async def connect(
        self,
        port: int = 80,
        *,
        source: str = "",
        tls: ssl.SSLContext | None = None,
        name: str = "",
        before: bytes = b"",
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's connection to the router."""
        client = self._socket(self.bed.outside.path, source or "192.168.77.200", 0)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (ROUTER, port))
        if before:
            await asyncio.get_running_loop().sock_sendall(client, before)
        reader, writer = await asyncio.open_connection(sock=client, ssl=tls, server_hostname=name if tls else None)
        self._clients.append(writer)
        return reader, writer

    async def get(
        self,
        path: str = "/",
        *,
        port: int = 80,
        host: str = "example.org",
        headers: Sequence[str] = (),
        source: str = "",
        tls: ssl.SSLContext | None = None,
        before: bytes = b"",
    ) -> Answer:
        """One request on a connection of its own; status 0 if there is no answer."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await self.connect(port, source=source, tls=tls, name=host, before=before)
                return await request(reader, writer, path, host=host, headers=[*headers, "Connection: close"])
        except (ConnectionError, asyncio.IncompleteReadError):
            return Answer(0, {}, "")

    def _socket(self, space: Path, address: str, port: int) -> socket.socket:
        made = self.bed.socket(space, socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        return made

    async def close(self) -> None:
        """Ends everything."""
        await self.container.kill()
        for server in self._servers:
            server.close()
        connections = [*self._clients, *(one for instance in self._served for one in instance.connections)]
        for connection in connections:
            connection.transport.abort()
        # Until the loop has let go of each: what is only dropped would be found, and told of, in some later test.
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(one.wait_closed() for one in connections), return_exceptions=True)


async def request(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str = "/",
    *,
    host: str = "example.org",
    headers: Sequence[str] = (),
) -> Answer:
    """One request on an open connection."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    pairs = (line.partition(":") for line in head[1:] if line)
    found = {key.strip().lower(): value.strip() for key, _, value in pairs}
    body = await reader.readexactly(int(found.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), found, body.decode())


def balancer(
    *pools: PoolBundle,
    mode: BalancerMode = BalancerMode.HTTP,
    listeners: tuple[ListenerBundle, ...] = (ListenerBundle(ROUTER, 80),),
    **others: object,
) -> BalancerBundle:
    """A balancer "lb"."""
    return BalancerBundle("lb", mode, listeners, pools, **others)  # type: ignore[arg-type]


def pool(
    *backends: BackendBundle, pool_id: str = "web", health_check: BackendHealthCheck = QUICK_CHECK, **others: object
) -> PoolBundle:
    """A pool of back ends, which are looked at often."""
    return PoolBundle(pool_id, backends, health_check=health_check, **others)  # type: ignore[arg-type]


@pytest.fixture
async def router() -> AsyncIterator[RouterBed]:
    """A router without balancers."""
    require_haproxy()
    bed = Bed()
    made = RouterBed(bed)
    try:
        await made.container.start()
        yield made
    finally:
        await made.close()
        await bed.close()


async def busy_one(first: Instance, second: Instance) -> tuple[Instance, Instance]:
    """Waits until one of them has a slow request; that one, and the other."""
    waits = {asyncio.create_task(one.arrived.wait()): one for one in (first, second)}
    done, rest = await asyncio.wait(waits, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    assert done, "the slow request did not arrive"
    busy = waits[done.pop()]
    return busy, second if busy is first else first

"""What HAProxy reads for a router's balancers: text, certificate files and maps, from the bundle.

Pure. The text is cut in two: what only a reload can change (the *shape*, a digest that HAProxy itself carries as its description
and tells), and what its runtime API can change: servers with address and weight, the contents of certificates, the lines of maps.
So what runs can always be compared with what is wanted, whoever started it and when.

A server is named after its instance and port, because cookies, tables of clients and figures must outlive a reload. A drained
server has weight 0: nothing new goes there, clients that are bound to it still do. Requests find their pool by two or three
look-ups of `host/path/` in a map for the longest prefix; what a host inherits from its wildcard and from routes of every host is
written out here, so that the look-up of one host is enough. Files lie flat in one folder, whose path is put into the text.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moorage.router_bundle import (
    BackendHealthCheck,
    BalancerAlgorithm,
    BalancerBundle,
    BalancerMode,
    ListenerBundle,
    PoolBundle,
    Stickiness,
)

FOLDER = "/run/moorage-router/haproxy"
CONFIGURATION_FILE = "haproxy.cfg"
SERVER_STATE_FILE = "servers.state"
RUNTIME_SOCKET = "runtime.sock"
MASTER_SOCKET = "master.sock"

_PEERS_PORT = 10024  # of the loopback of the router's namespace
_STICKY_CLIENTS = "100k"
_STICKY_TIME = "30m"
_CIDRS_A_LINE = 40
_DEFAULT_IDLE_SECONDS = 60.0
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 10.0
_CHECK_INTERVAL_SECONDS = 2.0
_RISE, _FALL = 2, 3
_SHORTEST_INTERVAL_SECONDS = 0.1
_SAFE_ID = re.compile(r"[A-Za-z0-9_.-]+")
_SAFE_ROUTE = re.compile(r"[A-Za-z0-9/._~!$&()*+,=:@%-]*")  # nothing that means something in a map or a runtime command


class NotRenderable(ValueError):
    """The bundle has a value that cannot be written into a configuration, such as a line break in a path."""


@dataclass(frozen=True, slots=True)
class HaproxyLimits:
    """What the process may take of its host.

    Attributes:
        threads: 0: as many as there are processors for it.
        max_connections: of clients, all listeners together; each busy one costs about 35 KB.
    """

    threads: int = 0
    max_connections: int = 20_000


DEFAULT_LIMITS = HaproxyLimits()


@dataclass(frozen=True, slots=True)
class Server:
    """One back end as HAProxy knows it."""

    name: str
    address: str
    port: int
    weight: int  # 0-256; 0: drained

    @property
    def endpoint(self) -> str:
        """Address and port as HAProxy writes them."""
        return _endpoint(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Backend:
    """A pool's part that the runtime API can change, and how a server is added to it."""

    servers: tuple[Server, ...]
    options: str  # of every server
    is_checked: bool
    has_cookie: bool


@dataclass(frozen=True, slots=True)
class HaproxyConfiguration:
    """All that HAProxy needs for a set of balancers.

    Attributes:
        text: the configuration file.
        shape: digest of what only a reload can change.
        backends: by name.
        certificates: PEM by file name; secret.
        maps: by file name.
    """

    text: str
    shape: str
    backends: Mapping[str, Backend]
    certificates: Mapping[str, str]
    maps: Mapping[str, Mapping[str, str]]

    def files(self) -> dict[str, str]:
        """Contents of all files beside the configuration file, by name."""
        lines = {
            name: "".join(f"{key} {value}\n" for key, value in sorted(table.items()))
            for name, table in self.maps.items()
        }
        return {**self.certificates, **lines}


def configuration(
    balancers: Sequence[BalancerBundle],
    *,
    drain_time_seconds: float,
    limits: HaproxyLimits = DEFAULT_LIMITS,
    folder: str = FOLDER,
) -> HaproxyConfiguration:
    """The configuration for these balancers.

    Args:
        drain_time_seconds: how long connections of an old process may go on after a reload.
        limits: what the process may take.
        folder: path of the files as HAProxy sees it.
    Raises:
        NotRenderable: a value cannot be written.
    """
    certificates: dict[str, str] = {}
    maps: dict[str, Mapping[str, str]] = {}
    backends: dict[str, Backend] = {}
    frontends: list[str] = []
    pools: list[tuple[list[str], Backend]] = []
    for balancer in balancers:
        table = route_table(balancer)
        if balancer.routes:
            maps[map_file(balancer.balancer_id)] = table
        for listener in balancer.listeners:
            certificates.update(_certificate_files(listener))
            frontends += _frontend(balancer, listener, folder)
        for pool in balancer.pools:
            backend = _backend_values(pool)
            backends[backend_name(balancer.balancer_id, pool.pool_id)] = backend
            pools.append((_backend(balancer, pool, backend), backend))

    head = [*_defaults(), *frontends]
    shape_text = "\n".join(
        [*_global(drain_time_seconds, limits, folder, "-"), *head, *(line for lines, _ in pools for line in lines)]
    )
    shape = hashlib.sha256(shape_text.encode()).hexdigest()[:16]
    lines = [*_global(drain_time_seconds, limits, folder, shape), *head]
    for pool_lines, backend in pools:
        lines += pool_lines
        lines += [
            f"    server {server.name} {server.endpoint} {server_arguments(server, backend)}"
            for server in backend.servers
        ]
    return HaproxyConfiguration("\n".join(lines) + "\n", shape, backends, certificates, maps)


def server_arguments(server: Server, backend: Backend) -> str:
    """What follows a server's endpoint, in the file and when it is added at run time."""
    return f"weight {server.weight} {backend.options}".rstrip()


def backend_name(balancer_id: str, pool_id: str) -> str:
    """Name of a pool in HAProxy."""
    return f"{_id(balancer_id)}.{_id(pool_id)}"


def server_name(instance_id: str, port: int) -> str:
    """Name of a back end in HAProxy."""
    return f"{_id(instance_id)}_{port}"


def instance_of(server: str) -> str:
    """The instance of a server's name."""
    return server.rpartition("_")[0]


def map_file(balancer_id: str) -> str:
    """Name of the file with a balancer's routes."""
    return f"routes-{_id(balancer_id)}.map"


def route_table(balancer: BalancerBundle) -> dict[str, str]:
    """Which pool takes requests to `host/path/`, by longest prefix; `*` stands for every host, `*.x` for the hosts one label below x.

    Of routes with equally long prefixes the one with the host itself goes before its wildcard, and that before every host.
    """
    own: dict[str, dict[str, str]] = {}
    for route in balancer.routes:
        prefix = _plain(route.path_prefix).rstrip("/") + "/"
        for host in route.hosts or ("*",):
            own.setdefault(_plain(host).lower(), {}).setdefault(prefix, backend_name(balancer.balancer_id, route.pool))
    table: dict[str, str] = {}
    for host in own:
        _, _, parent = host.partition(".")
        inherited = {**own.get("*", {}), **own.get(f"*.{parent}", {}), **own[host]}
        table.update({host + prefix: pool for prefix, pool in inherited.items()})
    return table


def _global(drain_time_seconds: float, limits: HaproxyLimits, folder: str, shape: str) -> list[str]:
    lines = [
        "# Written by the agent of this host; changes are overwritten.",
        "global",
        f"    description {shape}",
        "    user haproxy",
        "    group haproxy",
        f"    maxconn {limits.max_connections}",
        "    no strict-limits",  # a container's limit of files may be lower; fewer connections are better than none
        f"    hard-stop-after {_milliseconds(drain_time_seconds)}",
        f"    stats socket {folder}/{RUNTIME_SOCKET} mode 600 level admin expose-fd listeners",
        f"    server-state-file {folder}/{SERVER_STATE_FILE}",
        "    localpeer moorage",
        "    ssl-default-bind-options ssl-min-ver TLSv1.2",
        "    tune.ssl.default-dh-param 2048",
    ]
    if limits.threads:
        lines.append(f"    nbthread {limits.threads}")
    # Itself, to hand the tables of clients to the next process. No unix socket: a path would have to be open to the user of the
    # workers, and with an abstract one HAProxy stops instead of going on when a new process cannot take its listeners.
    return [*lines, "", "peers moorage", f"    peer moorage 127.0.0.1:{_PEERS_PORT}"]


def _defaults() -> list[str]:
    return [
        "",
        "defaults",
        "    load-server-state-from-file global",
        f"    timeout connect {_CONNECT_SECONDS}s",
        "    retries 3",
        "    option redispatch 1",  # the next attempt goes to another server, not the last of them only
    ]


def _frontend(balancer: BalancerBundle, listener: ListenerBundle, folder: str) -> list[str]:
    endpoint = _endpoint(listener.address, listener.port)
    files = list(_certificate_files(listener))
    # transparent: the address may come later (a standby member has none of the outside ones)
    bind = f"    bind {endpoint} transparent"
    if listener.accept_proxy:
        bind += " accept-proxy"
    if files:
        bind += " ssl" + "".join(f" crt {folder}/{name}" for name in files)
        if balancer.mode is BalancerMode.HTTP:
            bind += " alpn h2,http/1.1"
    idle_seconds = balancer.idle_timeout_seconds or _DEFAULT_IDLE_SECONDS
    idle = _milliseconds(idle_seconds)
    lines = [
        "",
        f"frontend {_id(balancer.balancer_id)}:{listener.address}:{listener.port}",
        f"    mode {_mode(balancer)}",
        bind,
        f"    timeout client {idle}",
    ]
    lines += _sources(listener.source_cidrs)
    if balancer.mode is BalancerMode.HTTP:
        lines += [
            f"    timeout http-keep-alive {idle}",
            f"    timeout http-request {_milliseconds(min(idle_seconds, _REQUEST_SECONDS))}",
            # a reload lets silent connections end with their next answer: closing them would cost the request that is on its way
            "    option idle-close-on-response",
        ]
        if balancer.forwarded_for:
            lines += [
                "    option forwardfor",
                f"    http-request set-header X-Forwarded-Proto {'https' if files else 'http'}",
                "    http-request set-header X-Forwarded-Port %[dst_port]",
            ]
        lines += _routing(balancer, folder)
    if balancer.pools:
        lines.append(f"    default_backend {backend_name(balancer.balancer_id, balancer.pools[0].pool_id)}")
    return lines


def _sources(cidrs: Sequence[str]) -> list[str]:
    if not cidrs:
        return []
    networks = [str(ipaddress.ip_network(cidr, strict=False)) for cidr in cidrs]
    chunks = [networks[start : start + _CIDRS_A_LINE] for start in range(0, len(networks), _CIDRS_A_LINE)]
    # the address of the connection itself: with accept-proxy that is the proxy, whose word about its client is believed
    return [
        *(f"    acl may_come src {' '.join(chunk)}" for chunk in chunks),
        "    tcp-request connection reject unless may_come",
    ]


def _routing(balancer: BalancerBundle, folder: str) -> list[str]:
    hosts = [host for route in balancer.routes for host in route.hosts or ("*",)]
    if not hosts:
        return []
    find = f"concat(,txn.path,/),map_beg({folder}/{map_file(balancer.balancer_id)})"
    unless = " if !{ var(txn.pool) -m found }"
    lines = ["    http-request set-var(txn.path) path"]
    if any(not host.startswith("*") for host in hosts):
        lines.append(f"    http-request set-var(txn.pool) req.hdr(host),host_only,lower,{find}")
    if any(host.startswith("*.") for host in hosts):
        lines += [
            f"    http-request set-var(txn.parent) req.hdr(host),host_only,lower,field(2,.,0){unless}",
            f"    http-request set-var(txn.pool) str(*.),concat(,txn.parent),{find}{unless}",
        ]
    if "*" in hosts:
        lines.append(f"    http-request set-var(txn.pool) str(*),{find}{unless}")
    return [*lines, "    use_backend %[var(txn.pool)] if { var(txn.pool) -m found }"]


def _backend_values(pool: PoolBundle) -> Backend:
    check = pool.health_check
    options = []
    if not check.disabled:
        options.append(f"check {_intervals(_interval(check))} fall {check.fall or _FALL} rise {check.rise or _RISE}")
    if pool.send_proxy:
        options.append("send-proxy-v2")
    servers = tuple(
        Server(
            server_name(b.instance_id, b.port), str(ipaddress.ip_address(b.address)), b.port, 0 if b.drain else b.weight
        )
        for b in pool.backends
    )
    return Backend(servers, " ".join(options), not check.disabled, pool.stickiness is Stickiness.COOKIE)


def _backend(balancer: BalancerBundle, pool: PoolBundle, values: Backend) -> list[str]:
    check = pool.health_check
    lines = [
        "",
        f"backend {backend_name(balancer.balancer_id, pool.pool_id)}",
        f"    mode {_mode(balancer)}",
        f"    timeout server {_milliseconds(balancer.idle_timeout_seconds or _DEFAULT_IDLE_SECONDS)}",
        *_ALGORITHMS[pool.algorithm],
    ]
    if balancer.mode is BalancerMode.HTTP:
        lines.append("    http-reuse safe")
    if pool.stickiness is Stickiness.COOKIE:
        # the cookie's value is made of key, address and port: the same in every process and in both members of a pair
        key = hashlib.sha256(f"{balancer.balancer_id}.{pool.pool_id}".encode()).hexdigest()[:32]
        lines += ["    cookie MOORAGE insert indirect nocache httponly dynamic", f"    dynamic-cookie-key {key}"]
    elif pool.stickiness is Stickiness.SOURCE:
        lines += [
            f"    stick-table type ipv6 size {_STICKY_CLIENTS} expire {_STICKY_TIME} peers moorage",
            "    stick on src",
        ]
    if not check.disabled:
        lines.append(f"    timeout check {_milliseconds(check.timeout_seconds or _interval(check))}")
        if check.http_path:
            host = (check.http_host or "localhost").replace("%", "%%")
            lines += [
                "    option httpchk",
                f"    http-check send meth GET uri {_quoted(check.http_path)} ver HTTP/1.1 hdr Host {_quoted(host)} hdr Connection close",
                "    http-check expect status 200-399",
            ]
    return [*lines, f"    # every server: {values.options}"]  # part of the shape


def _certificate_files(listener: ListenerBundle) -> dict[str, str]:
    stem = f"certificate-{listener.address.replace(':', '_')}-{listener.port}"
    return {
        f"{stem}-{number}.pem": _pem(certificate.certificate_pem, certificate.private_key_pem)
        for number, certificate in enumerate(listener.certificates)
    }


def _pem(*parts: str) -> str:
    """PEM blocks without empty lines, because one would end the payload of a runtime command."""
    return "".join(f"{line.strip()}\n" for part in parts for line in part.splitlines() if line.strip())


# hash-type consistent: only then can servers come and go at run time, and most clients keep their server
_ALGORITHMS: Mapping[BalancerAlgorithm, Iterable[str]] = {
    BalancerAlgorithm.UNSPECIFIED: ("    balance roundrobin",),
    BalancerAlgorithm.ROUNDROBIN: ("    balance roundrobin",),
    BalancerAlgorithm.LEASTCONN: ("    balance leastconn",),
    BalancerAlgorithm.SOURCE: ("    balance source", "    hash-type consistent"),
}


def _mode(balancer: BalancerBundle) -> str:
    return "http" if balancer.mode is BalancerMode.HTTP else "tcp"


def _intervals(seconds: float) -> str:
    """Between two checks: of a back end that is up, of one about which there is doubt, and of one that is down. What comes back, such as
    all back ends after the balancer's own host was cut off, is led to within one interval.
    """
    soon = max(seconds / 4, min(seconds, _SHORTEST_INTERVAL_SECONDS))
    return f"inter {_milliseconds(seconds)} fastinter {_milliseconds(soon)} downinter {_milliseconds(2 * soon)}"


def _interval(check: BackendHealthCheck) -> float:
    return check.interval_seconds or _CHECK_INTERVAL_SECONDS


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _endpoint(address: str, port: int) -> str:
    ip = ipaddress.ip_address(address)
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def _id(text: str) -> str:
    if not _SAFE_ID.fullmatch(text):
        raise NotRenderable(f"{text!r} is no id")
    return text


def _plain(text: str) -> str:
    if not _SAFE_ROUTE.fullmatch(text):
        raise NotRenderable(f"{text!r} has a character that a route cannot have; write it percent-encoded")
    return text


def _quoted(text: str) -> str:
    if any(character < " " or character == "\x7f" for character in text):
        raise NotRenderable(f"{text!r} has a control character")
    return "'" + text.replace("'", "'\\''") + "'"

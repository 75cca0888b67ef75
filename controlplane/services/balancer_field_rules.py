"""Field rules of a balancer: what goes with what, and all else that needs no stored object. Pure.

`normal_spec` fills in defaults and gives hosts and CIDRs one spelling. Certificates have a module of their own.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from controlplane.domain.names import check_id
from controlplane.domain.routers import Backend, BackendPool, BalancerSpec, Listener
from controlplane.routers.balancer_bundles import DEFAULT_WEIGHT
from controlplane.services.rule_field_rules import parse_cidr
from moorage.errors import FieldViolation
from moorage.router_bundle import BackendHealthCheck, BalancerAlgorithm, BalancerMode, HttpRoute, Stickiness

LARGEST_LISTENERS = 50
LARGEST_POOLS = 200
LARGEST_BACKENDS = 1000  # of one pool
LARGEST_ROUTES = 5000
LARGEST_HOSTS = 100  # of one route
LARGEST_CERTIFICATES = 50  # of one listener
LARGEST_SOURCES = 1000
LARGEST_WEIGHT = 256
LONGEST_IDLE_SECONDS = 86_400.0
SHORTEST_INTERVAL_SECONDS = 0.1
LONGEST_INTERVAL_SECONDS = 3600.0
SHORTEST_TIMEOUT_SECONDS = 0.01
LARGEST_COUNT = 100  # rise and fall
_LAST_PORT = 65535
_HOST = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PREFIX = re.compile(r"/[A-Za-z0-9/._~!$&()*+,=:@%-]*")
_CHECK_PATH = re.compile(r"/[!-~]*")
_CHECK_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,253}")


def check_spec(spec: BalancerSpec, field: str) -> list[FieldViolation]:
    """Every violation."""
    is_http = spec.mode is BalancerMode.HTTP
    found = [
        *_count(spec.listeners, 1, LARGEST_LISTENERS, f"{field}.listeners"),
        *_count(spec.pools, 1, LARGEST_POOLS, f"{field}.pools"),
        *_count(spec.routes, 0, LARGEST_ROUTES, f"{field}.routes"),
        *_between(spec.idle_timeout_seconds, 1.0, LONGEST_IDLE_SECONDS, f"{field}.idle_timeout", "s; 0: 60"),
    ]
    for index, listener in enumerate(spec.listeners):
        found += _listener(listener, f"{field}.listeners[{index}]")
    for index, pool in enumerate(spec.pools):
        found += _pool(pool, is_http, f"{field}.pools[{index}]")
    found += _twice([pool.id for pool in spec.pools], f"{field}.pools", "id", "is the id of another pool")
    if not is_http:
        if spec.routes:
            found.append(
                FieldViolation(f"{field}.routes", "only requests have hosts and paths: mode HTTP", "NOT_ALLOWED")
            )
        if spec.forwarded_for:
            text = "only requests have headers: mode HTTP; or send_proxy of a pool"
            found.append(FieldViolation(f"{field}.forwarded_for", text, "NOT_ALLOWED"))
        return found
    pool_ids = {pool.id for pool in spec.pools}
    for index, route in enumerate(spec.routes):
        found += _route(route, pool_ids, f"{field}.routes[{index}]")
    return [*found, *_same_routes(spec.routes, f"{field}.routes")]


def normal_spec(spec: BalancerSpec) -> BalancerSpec:
    """Nothing left open, one spelling. The spec must be without violations."""
    return replace(
        spec,
        mode=BalancerMode.TCP if spec.mode is BalancerMode.UNSPECIFIED else spec.mode,
        listeners=tuple(
            replace(listener, source_cidrs=tuple(str(parse_cidr(cidr)) for cidr in listener.source_cidrs))
            for listener in spec.listeners
        ),
        pools=tuple(
            replace(
                pool,
                algorithm=BalancerAlgorithm.ROUNDROBIN
                if pool.algorithm is BalancerAlgorithm.UNSPECIFIED
                else pool.algorithm,
                backends=tuple(replace(b, weight=b.weight or DEFAULT_WEIGHT) for b in pool.backends),
            )
            for pool in spec.pools
        ),
        routes=tuple(replace(route, hosts=tuple(map(_normal_host, route.hosts))) for route in spec.routes),
    )


def _listener(listener: Listener, field: str) -> Iterator[FieldViolation]:
    yield from _port(listener.port, f"{field}.port")
    if listener.public_address and listener.inside_network:
        text = "a listener is outside or inside: leave out public_address, or make two listeners"
        yield FieldViolation(f"{field}.inside_network", text, "NOT_ALLOWED")
    yield from _count(listener.certificates, 0, LARGEST_CERTIFICATES, f"{field}.certificates")
    yield from _count(listener.source_cidrs, 0, LARGEST_SOURCES, f"{field}.source_cidrs")
    for index, cidr in enumerate(listener.source_cidrs):
        if isinstance(problem := parse_cidr(cidr), str):
            yield FieldViolation(f"{field}.source_cidrs[{index}]", problem, "CIDR_INVALID")


def _pool(pool: BackendPool, is_http: bool, field: str) -> Iterator[FieldViolation]:
    yield from check_id(pool.id, f"{field}.id")
    yield from _count(pool.backends, 0, LARGEST_BACKENDS, f"{field}.backends")
    for index, backend in enumerate(pool.backends):
        yield from _backend(backend, f"{field}.backends[{index}]")
    keys = [
        f"{'group ' if b.group else ''}{(b.group or b.instance).rpartition('/')[2]}:{b.port}" for b in pool.backends
    ]
    yield from _twice(keys, f"{field}.backends", "port", "is in the pool already")
    if pool.stickiness is Stickiness.COOKIE and not is_http:
        text = "only requests carry cookies: mode HTTP; or stick by source"
        yield FieldViolation(f"{field}.stickiness", text, "NOT_ALLOWED")
    yield from _health_check(pool.health_check, f"{field}.health_check")


def _backend(backend: Backend, field: str) -> Iterator[FieldViolation]:
    if not backend.instance and not backend.group:
        yield FieldViolation(f"{field}.instance", "is required, or a group", "REQUIRED")
    elif backend.instance and backend.group:
        text = "a back end is an instance or a group: leave one out, or make two back ends"
        yield FieldViolation(f"{field}.group", text, "NOT_ALLOWED")
    yield from _port(backend.port, f"{field}.port")
    yield from _between(backend.weight, 1, LARGEST_WEIGHT, f"{field}.weight", "; 0: 100")


def _health_check(check: BackendHealthCheck, field: str) -> Iterator[FieldViolation]:
    if check.http_path and not _CHECK_PATH.fullmatch(check.http_path):
        text = "begins with / and has no spaces; write others percent-encoded"
        yield FieldViolation(f"{field}.http_path", text, "INVALID_PATH")
    if check.http_host and not _CHECK_HOST.fullmatch(check.http_host):
        yield FieldViolation(f"{field}.http_host", "is no host name", "HOST_INVALID")
    elif check.http_host and not check.http_path:
        yield FieldViolation(f"{field}.http_host", "goes with http_path only", "NOT_ALLOWED")
    interval, longest = check.interval_seconds, LONGEST_INTERVAL_SECONDS
    yield from _between(interval, SHORTEST_INTERVAL_SECONDS, longest, f"{field}.interval", "s; 0: 2")
    timeout = check.timeout_seconds
    yield from _between(timeout, SHORTEST_TIMEOUT_SECONDS, longest, f"{field}.timeout", "s; 0: the interval")
    yield from _between(check.rise, 1, LARGEST_COUNT, f"{field}.rise", "; 0: 2")
    yield from _between(check.fall, 1, LARGEST_COUNT, f"{field}.fall", "; 0: 3")


def _route(route: HttpRoute, pool_ids: set[str], field: str) -> Iterator[FieldViolation]:
    yield from _count(route.hosts, 0, LARGEST_HOSTS, f"{field}.hosts")
    for index, host in enumerate(route.hosts):
        name = _normal_host(host)
        if len(name) > 253 or not _HOST.fullmatch(name):
            text = f"{host!r} is no name such as app.example.org or *.example.org (without port)"
            yield FieldViolation(f"{field}.hosts[{index}]", text, "HOST_INVALID")
    if route.path_prefix and not _PREFIX.fullmatch(route.path_prefix):
        text = "begins with /, without ? and #; characters that no path has are written percent-encoded"
        yield FieldViolation(f"{field}.path_prefix", text, "INVALID_PATH")
    if route.pool not in pool_ids:
        yield FieldViolation(f"{field}.pool", f"{route.pool!r} is no id of a pool of this balancer", "POOL_UNKNOWN")


def _same_routes(routes: Sequence[HttpRoute], field: str) -> Iterator[FieldViolation]:
    """Of two routes for the same host and path only one could ever be taken."""
    seen: dict[tuple[str, str], int] = {}
    for index, route in enumerate(routes):
        for host in route.hosts or ("",):
            key = (_normal_host(host), route.path_prefix.rstrip("/"))
            first = seen.setdefault(key, index)
            if first != index:
                text = f"{host or 'every host'} with this path has routes[{first}] already"
                yield FieldViolation(f"{field}[{index}]", text, "ROUTE_TWICE")
                break


def _twice(keys: Sequence[str], field: str, last: str, problem: str) -> Iterator[FieldViolation]:
    seen: set[str] = set()
    for index, key in enumerate(keys):
        if key in seen:
            yield FieldViolation(f"{field}[{index}].{last}", f"{key} {problem}", "NAMED_TWICE")
        seen.add(key)


def _count(items: Sequence[object], least: int, most: int, field: str) -> Iterable[FieldViolation]:
    if len(items) < least:
        return [FieldViolation(field, "at least one is needed", "REQUIRED")]
    if len(items) > most:
        return [FieldViolation(field, f"at most {most}", "OUT_OF_RANGE")]
    return []


def _port(port: int, field: str) -> Iterable[FieldViolation]:
    if 1 <= port <= _LAST_PORT:
        return []
    return [FieldViolation(field, f"{port} is no port: 1-{_LAST_PORT}", "PORT_INVALID")]


def _between(value: float, least: float, most: float, field: str, words: str) -> Iterable[FieldViolation]:
    """Zero is the default."""
    if value == 0 or least <= value <= most:
        return []
    return [FieldViolation(field, f"must be {least:g}-{most:g}{words}", "OUT_OF_RANGE")]


def _normal_host(host: str) -> str:
    return host.lower().removesuffix(".")


def other_family(listener: Listener, address: str, field: str) -> list[FieldViolation]:
    """Sources of another family than the address that they would come to."""
    version = ipaddress.ip_address(address).version
    return [
        FieldViolation(
            f"{field}.source_cidrs[{index}]", f"{cidr} is not IPv{version}, and the address is", "CIDR_INVALID"
        )
        for index, cidr in enumerate(listener.source_cidrs)
        if ipaddress.ip_network(cidr).version != version
    ]

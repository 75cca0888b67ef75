"""What people write of a balancer, as messages of the API, and back. Pure, but for files that a word names.

Each parser refuses with an example of what it reads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format

from cli.names import short
from cli.output import enum_word
from cli.spec import duration
from moorage.errors import InvalidSpec, NotFound
from moorage.v1 import balancers_pb2

MODES = {"tcp": balancers_pb2.BALANCER_MODE_TCP, "http": balancers_pb2.BALANCER_MODE_HTTP}
ALGORITHMS = {
    name: getattr(balancers_pb2, f"BALANCER_ALGORITHM_{name.upper()}") for name in ("roundrobin", "leastconn", "source")
}
STICKINESS = {
    "none": balancers_pb2.STICKINESS_UNSPECIFIED,
    "cookie": balancers_pb2.STICKINESS_COOKIE,
    "source": balancers_pb2.STICKINESS_SOURCE,
}
DEFAULT_POOL = "default"
_LISTEN = "write 80, ADDRESS:443,cert=site.pem,key=site.key, or 80,inside=NETWORK; more: proxy, from=CIDR"
_BACKEND = "write web-1:8080, web-1:8080,weight=50 or web-1:8080,pool=api,drain"
_ROUTE = "write app.example.org=web, *.example.org/api=api or /static=files"

Read = Callable[[Path], str]


def listener(word: str, read: Read) -> balancers_pb2.Listener:
    """`[ADDRESS:]PORT[,inside=NETWORK][,cert=FILE[,key=FILE]]...[,proxy][,from=CIDR]...`. Raises InvalidSpec.

    Args:
        read: gives the text of a file.
    """
    where, *parts = word.split(",")
    address, _, port = where.rpartition(":")
    found = balancers_pb2.Listener(public_address=address, port=_port("listen", word, port, _LISTEN))
    for part in parts:
        key, _, value = part.partition("=")
        if part == "proxy":
            found.accept_proxy = True
        elif key == "inside" and value:
            found.inside_network = value
        elif key == "from" and value:
            found.source_cidrs.append(value)
        elif key == "cert" and value:
            found.certificates.add(certificate_pem=read(Path(value)))
        elif key == "key" and value and found.certificates:
            found.certificates[-1].private_key_pem = read(Path(value))
        else:
            raise InvalidSpec.of("listen", f"{word!r}: {part!r} is not known; {_LISTEN}")
    return found


def backend(word: str) -> tuple[str, balancers_pb2.Backend]:
    """`INSTANCE:PORT[,weight=N][,pool=ID][,drain]`, or groups/GROUP instead of an instance: pool ("" if none is named) and back end.

    Raises InvalidSpec.
    """
    where, *parts = word.split(",")
    instance, _, port = where.rpartition(":")
    found = balancers_pb2.Backend(port=_port("backend", word, port, _BACKEND))
    if is_group(instance):
        found.group = instance.removeprefix("groups/")
    else:
        found.instance = instance
    pool = ""
    if not instance:
        raise InvalidSpec.of("backend", f"{word!r}: {_BACKEND}")
    for part in parts:
        key, _, value = part.partition("=")
        if part == "drain":
            found.drain = True
        elif key == "weight" and value.isdecimal():
            found.weight = min(int(value), 2**31 - 1)
        elif key == "pool" and value:
            pool = value
        else:
            raise InvalidSpec.of("backend", f"{word!r}: {part!r} is not known; {_BACKEND}")
    return pool, found


def is_group(name: str) -> bool:
    """Whether a word names a group: groups/GROUP, or its full name."""
    return name.startswith("groups/") or "/groups/" in name


def route(word: str) -> balancers_pb2.HttpRoute:
    """`HOST[,HOST]...[/PATH]=POOL`, or `/PATH=POOL` for every host. Raises InvalidSpec."""
    where, _, pool = word.rpartition("=")
    hosts, slash, path = where.partition("/")
    if not where or not pool:
        raise InvalidSpec.of("route", f"{word!r}: {_ROUTE}")
    return balancers_pb2.HttpRoute(hosts=hosts.split(",") if hosts else (), path_prefix=slash + path, pool=pool)


def health_check(text: str, options: Mapping[str, Any]) -> balancers_pb2.BackendHealthCheck:
    """`none`, `tcp`, or the path of an HTTP check, such as /health."""
    found = balancers_pb2.BackendHealthCheck(rise=options.get("rise") or 0, fall=options.get("fall") or 0)
    if text == "none":
        found.disabled = True
    elif text.startswith("/"):
        found.http_path = text
    elif text != "tcp":
        raise InvalidSpec.of("check", f"{text!r}: write none, tcp, or a path such as /health")
    found.http_host = options.get("check_host") or ""
    for name in ("interval", "timeout"):
        if options.get(f"check_{name}"):
            getattr(found, name).CopyFrom(duration(f"check-{name}", options[f"check_{name}"]))
    return found


def pools(words: Iterable[str], options: Mapping[str, Any]) -> list[balancers_pb2.BackendPool]:
    """Pools of the back ends, in the order in which they are first named; options hold for all of them."""
    found: dict[str, balancers_pb2.BackendPool] = {}
    for word in words:
        name, one = backend(word)
        pool = found.setdefault(name or DEFAULT_POOL, balancers_pb2.BackendPool(id=name or DEFAULT_POOL))
        pool.backends.append(one)
    for pool in found.values() or [found.setdefault(DEFAULT_POOL, balancers_pb2.BackendPool(id=DEFAULT_POOL))]:
        apply_pool_options(pool, options)
    return list(found.values())


def apply_pool_options(pool: balancers_pb2.BackendPool, options: Mapping[str, Any]) -> None:
    """Sets what of a pool is said by options; leaves the rest as it is."""
    if options.get("algorithm"):
        pool.algorithm = ALGORITHMS[options["algorithm"]]
    if options.get("sticky"):
        pool.stickiness = STICKINESS[options["sticky"]]
    if options.get("send_proxy") is not None:
        pool.send_proxy = options["send_proxy"]
    if options.get("check"):
        pool.health_check.CopyFrom(health_check(options["check"], options))


def is_about_pools(options: Mapping[str, Any]) -> bool:
    """Whether `apply_pool_options` would set something."""
    return any(options.get(name) for name in ("algorithm", "sticky", "check")) or options.get("send_proxy") is not None


def find(balancer: balancers_pb2.Balancer, word: str) -> balancers_pb2.Backend:
    """The back end that `INSTANCE:PORT[,pool=ID]` names; without a port, the instance's only one.

    Raises:
        NotFound: it is not there. InvalidSpec: several are.
    """
    where, _, pool = word.partition(",pool=")
    instance, _, port = where.rpartition(":") if ":" in where else (where, "", "")
    matching = [
        one
        for each in balancer.spec.pools
        if pool in ("", each.id)
        for one in each.backends
        if bool(one.group) == is_group(instance)
        and short(one.group or one.instance) == short(instance)
        and port in ("", str(one.port))
    ]
    if not matching:
        raise NotFound(f"{balancer.name} has no back end {word}; `moor balancer get` lists them")
    if len(matching) > 1:
        raise InvalidSpec.of("backend", f"{word!r}: there are {len(matching)}; write INSTANCE:PORT,pool=ID")
    return matching[0]


def read_file(text: str, read: Read) -> balancers_pb2.Balancer:
    """A YAML mapping of the fields of a balancer's spec, and labels. A PEM may be `@FILE`. Raises InvalidSpec."""
    try:
        item = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InvalidSpec.of("file", f"is no YAML: {exc}") from exc
    if not isinstance(item, dict):
        raise InvalidSpec.of("file", "must be a mapping with listeners and pools")
    spec = {key: value for key, value in item.items() if key != "labels"}
    try:
        found = json_format.ParseDict({"spec": spec, "labels": item.get("labels") or {}}, balancers_pb2.Balancer())
    except json_format.ParseError as exc:
        raise InvalidSpec.of("file", str(exc)) from exc
    for each in found.spec.listeners:
        for certificate in each.certificates:
            for name in ("certificate_pem", "private_key_pem"):
                value = getattr(certificate, name)
                if value.startswith("@"):
                    setattr(certificate, name, read(Path(value[1:])))
    return found


def describe_listeners(listeners: Sequence[balancers_pb2.Listener]) -> str:
    """In one line."""
    return " ".join(
        f"{short(one.public_address) + ':' if one.public_address else ''}{one.port}"
        f"{',inside=' + short(one.inside_network) if one.inside_network else ''}{',tls' if one.certificates else ''}"
        for one in listeners
    )


def describe_backends(pools: Sequence[balancers_pb2.BackendPool]) -> str:
    """In one line."""
    return " ".join(
        f"{pool.id}={','.join(f'{_name(b)}:{b.port}' + ('(drain)' if b.drain else '') for b in pool.backends)}"
        for pool in pools
    )


def _name(backend: balancers_pb2.Backend) -> str:
    return f"groups/{short(backend.group)}" if backend.group else short(backend.instance)


def mode_word(balancer: balancers_pb2.Balancer) -> str:
    """tcp or http."""
    return enum_word(balancers_pb2.BalancerMode, balancer.spec.mode).lower()


def _port(option: str, word: str, text: str, example: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise InvalidSpec.of(option, f"{word!r}: {example}")
    return int(text)

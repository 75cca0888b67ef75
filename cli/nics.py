"""From what people write of one interface to its message. Pure. Rates are written as `tc` has them, rules as `ip rule` has them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cli.names import in_project
from moorage.errors import InvalidSpec
from moorage.v1 import instances_pb2

_RATE = re.compile(r"(\d+(?:\.\d+)?)(k|m|g|)bit")
_FACTOR = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_EXAMPLE = (
    "write NETWORK[:ADDRESS,...] or name=NETWORK,address=A,interface=N,mac=M,mtu=N,route=CIDR@GATEWAY,security-group=G"
)
_RULE_EXAMPLE = "write such as 'from 10.1.0.5 table 100 via 10.1.0.1', with from, to, fwmark, table, priority, via, route CIDR@GATEWAY"


def nic(project: str, word: str) -> instances_pb2.Nic:
    """`NETWORK[:ADDRESS[,ADDRESS]]`, or `name=NETWORK,KEY=VALUE...`.

    Raises:
        InvalidSpec: an unknown key, or a value that cannot be understood.
    """
    if not word.startswith("name="):
        name, _, addresses = word.partition(":")
        wanted = [address.strip("[]") for address in addresses.split(",") if address]
        return instances_pb2.Nic(network=in_project(project, "networks", name), addresses=wanted)
    made = instances_pb2.Nic()
    for part in word.split(","):
        key, _, value = part.partition("=")
        match key:
            case "name":
                made.network = in_project(project, "networks", value)
            case "address":
                made.addresses.append(value.strip("[]"))
            case "interface" | "mac":
                setattr(made, key, value)
            case "mtu" if value.isdecimal():
                made.mtu = int(value)
            case "security-group":
                made.security_groups.append(in_project(project, "securityGroups", value))
            case "route":
                made.routes.append(route(value))
            case "rule":
                made.rules.append(rule(value))
            case "rate-in" | "rate-out":
                setattr(made, f"{key.replace('-', '_')}_bits", rate(key, value))
            case _:
                raise InvalidSpec.of("network", f"{part!r} is not known; {_EXAMPLE}")
    return made


def rate(option: str, word: str) -> int:
    """`10mbit` in bits a second; `0` is none."""
    found = _RATE.fullmatch(word)
    if found is None and word != "0":
        raise InvalidSpec.of(option, f"{word!r}: write bits a second, such as 500kbit, 10mbit or 1gbit")
    return int(float(found[1]) * _FACTOR[found[2]]) if found else 0


def route(word: str) -> instances_pb2.NicRoute:
    """`CIDR[@GATEWAY]`."""
    destination, _, gateway = word.partition("@")
    return instances_pb2.NicRoute(destination=destination, gateway=gateway)


def rule(word: str) -> instances_pb2.NicRule:
    """`from CIDR to CIDR fwmark N table N priority N via GATEWAY route CIDR@GATEWAY`, what is needed of it, in any order."""
    words = word.split()
    made = instances_pb2.NicRule()
    numbers: dict[str, Callable[[str], int]] = {"fwmark": lambda text: int(text, 0), "table": int, "priority": int}
    if len(words) % 2:
        raise InvalidSpec.of("rule", f"{word!r}: {_RULE_EXAMPLE}")
    for key, value in zip(words[::2], words[1::2], strict=True):
        if key in ("from", "to"):
            setattr(made, {"from": "source", "to": "destination"}[key], value)
        elif key == "via":
            made.routes.add(destination="::/0" if ":" in value else "0.0.0.0/0", gateway=value)
        elif key == "route":
            made.routes.append(route(value))
        elif key in numbers:
            try:
                setattr(made, key, numbers[key](value))
            except ValueError as exc:
                raise InvalidSpec.of("rule", f"{word!r}: {value!r} is no number") from exc
        else:
            raise InvalidSpec.of("rule", f"{word!r}: {key!r} is not known; {_RULE_EXAMPLE}")
    return made


def apply_options(nic: instances_pb2.Nic, options: Mapping[str, Any]) -> None:
    """--mtu, --rate-in, --rate-out, --route and --rule; what was not given stays, a repeatable one replaces all that were there.

    An empty word takes away all routes, or rules.
    """
    if options.get("mtu") is not None:
        nic.mtu = options["mtu"]
    for field in ("rate_in", "rate_out"):
        if options.get(field) is not None:
            setattr(nic, f"{field}_bits", rate(field.replace("_", "-"), options[field]))
    _replace(nic.routes, options.get("route") or (), route)
    _replace(nic.rules, options.get("rule") or (), rule)


def _replace(into: Any, words: Iterable[str], parse: Callable[[str], Any]) -> None:
    given = tuple(words)
    if given:
        del into[:]
        into.extend(parse(word) for word in given if word)

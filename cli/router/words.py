"""From what people write of routers and their rules to the messages of the API. Pure.

Names are passed on as they are written: the control plane reads the last part of a name as the project's own.
"""

from collections.abc import Iterable, Sequence

from cli.spec import key_values
from moorage.errors import InvalidSpec
from moorage.v1 import router_rules_pb2, routers_pb2

_EGRESS = {"allow": routers_pb2.DEFAULT_ACTION_ALLOW, "deny": routers_pb2.DEFAULT_ACTION_DENY}
_PROTOCOLS = {
    "any": router_rules_pb2.TRAFFIC_PROTOCOL_ANY,
    "tcp": router_rules_pb2.TRAFFIC_PROTOCOL_TCP,
    "udp": router_rules_pb2.TRAFFIC_PROTOCOL_UDP,
    "icmp": router_rules_pb2.TRAFFIC_PROTOCOL_ICMP,
    "icmpv6": router_rules_pb2.TRAFFIC_PROTOCOL_ICMPV6,
}
_DIRECTIONS = {
    "in": router_rules_pb2.FIREWALL_DIRECTION_IN,
    "out": router_rules_pb2.FIREWALL_DIRECTION_OUT,
    "across": router_rules_pb2.FIREWALL_DIRECTION_ACROSS,
}
PROTOCOLS, DIRECTIONS = tuple(_PROTOCOLS), tuple(_DIRECTIONS)
_FORWARD = "write [PUBLIC_ADDRESS:]PORT:INSTANCE[:PORT][/udp], such as 8080:web-1:80 or one:6000-6010:web-1"


def leg(word: str) -> routers_pb2.RouterLeg:
    """`NETWORK[,egress=allow|deny]`.

    Raises:
        InvalidSpec: an unknown part.
    """
    network, comma, rest = word.partition(",")
    key, _, value = rest.partition("=")
    if comma and (key != "egress" or value not in _EGRESS):
        raise InvalidSpec.of("network", f"{word!r}: write NETWORK, NETWORK,egress=allow or NETWORK,egress=deny")
    made = routers_pb2.RouterLeg(network=network)
    if comma:
        made.egress = _EGRESS[value]
    return made


def edge_hosts(words: Sequence[str]) -> routers_pb2.EdgeHosts | None:
    """`all`, or labels `K=V` of which a host must have every one; None for no word.

    Raises:
        InvalidSpec: neither.
    """
    if not words:
        return None
    if "all" in words:
        if len(words) > 1:
            raise InvalidSpec.of("edge-hosts", "all cannot be combined with labels")
        return routers_pb2.EdgeHosts(every_host=True)
    return routers_pb2.EdgeHosts(host_labels=key_values("edge-hosts", words))


def forward(word: str, sources: Iterable[str] = ()) -> router_rules_pb2.PortForward:
    """`[PUBLIC_ADDRESS:]PORT[-LAST]:INSTANCE[:PORT][/PROTOCOL]`. A name begins with a letter, so a port is none.

    Raises:
        InvalidSpec: not of this form. Whether ports are ports, the control plane says.
    """
    rest, _, protocol = word.partition("/")
    parts = rest.split(":")
    public_address = parts.pop(0) if parts[0] and not parts[0][0].isdecimal() else ""
    if len(parts) not in (2, 3) or not parts[1]:
        raise InvalidSpec.of("forward", f"{word!r}: {_FORWARD}")
    first, dash, last = parts[0].partition("-")
    target = parts[2].partition("-")[0] if len(parts) == 3 else "0"
    if not all(text.isdecimal() for text in (first, target, last if dash else "0")):
        raise InvalidSpec.of("forward", f"{word!r}: {_FORWARD}")
    return router_rules_pb2.PortForward(
        public_address=public_address,
        protocol=protocol,
        first_port=_number(word, first),
        last_port=_number(word, last or "0"),
        instance=parts[1],
        target_port=_number(word, target),
        source_cidrs=sources,
    )


def _number(word: str, text: str) -> int:
    number = int(text)
    if number > 65535:
        raise InvalidSpec.of("forward", f"{word!r}: ports are from 1 to 65535")
    return number


def firewall(
    direction: str,
    *,
    deny: bool,
    protocol: str = "any",
    ports: Iterable[str] = (),
    sources: Iterable[str] = (),
    destinations: Iterable[str] = (),
    from_network: str = "",
    to_network: str = "",
    order: int = 0,
    icmp_type: int | None = None,
) -> router_rules_pb2.FirewallRule:
    """A firewall rule. `direction` and `protocol` are of DIRECTIONS and PROTOCOLS."""
    action = router_rules_pb2.FIREWALL_ACTION_DENY if deny else router_rules_pb2.FIREWALL_ACTION_ALLOW
    return router_rules_pb2.FirewallRule(
        direction=_DIRECTIONS[direction],
        action=action,
        order=order,
        protocol=_PROTOCOLS[protocol],
        ports=ports,
        icmp_type=icmp_type,
        source_cidrs=sources,
        destination_cidrs=destinations,
        from_network=from_network,
        to_network=to_network,
    )


def kind_of(spec: router_rules_pb2.RouterRuleSpec) -> str:
    """The field that is set, as people say it: `port-forward`."""
    return next((field.name.replace("_", "-") for field, _ in spec.ListFields()), "")


def describe(spec: router_rules_pb2.RouterRuleSpec) -> str:
    """What a rule does, in one line."""
    if spec.HasField("source_nat"):
        return f"{spec.source_nat.source_cidr} as {_last(spec.source_nat.public_address)}"
    if spec.HasField("static_nat"):
        return f"{_last(spec.static_nat.public_address)} is {_last(spec.static_nat.instance)}"
    if spec.HasField("port_forward"):
        found = spec.port_forward
        width = (found.last_port or found.first_port) - found.first_port
        target = found.target_port or found.first_port
        outside = f"{_last(found.public_address) or 'own address'} {found.protocol} {_ports(found.first_port, width)}"
        return f"{outside} to {_last(found.instance)}:{_ports(target, width)}{_some(' from', found.source_cidrs)}"
    return _describe_firewall(spec.firewall)


def _describe_firewall(rule: router_rules_pb2.FirewallRule) -> str:
    direction = next((word for word, number in _DIRECTIONS.items() if number == rule.direction), "")
    protocol = next((word for word, number in _PROTOCOLS.items() if number == rule.protocol), "any")
    words = [
        "deny" if rule.action == router_rules_pb2.FIREWALL_ACTION_DENY else "allow",
        direction,
        protocol,
        ",".join(rule.ports),
        f"type {rule.icmp_type}" if rule.HasField("icmp_type") else "",
        f"from {_last(rule.from_network)}" if rule.from_network else "",
        f"to {_last(rule.to_network)}" if rule.to_network else "",
    ]
    text = " ".join(word for word in words if word)
    return f"{text}{_some(' from', rule.source_cidrs)}{_some(' to', rule.destination_cidrs)}"


def _some(word: str, texts: Sequence[str]) -> str:
    return f"{word} {','.join(texts)}" if texts else ""


def _ports(first: int, width: int) -> str:
    return f"{first}-{first + width}" if width else str(first)


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]

"""Connections whose translation a router does not do any more are forgotten by the kernel's connection tracking.

The kernel decides on translation with the first packet of a connection and keeps to it while packets flow: without this a removed
port forward would go on for whoever uses it, and a public address that is somebody else's by now would still be spoken from.
"""

import errno
import ipaddress
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from hostagent.netlink.rtnl import Message, Rtnl, attr, attributes, nest
from moorage.router_bundle import RouterBundle

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # conntrack
_GET, _DELETE = 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID = 1, 2, 3, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SRC: Mapping[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 3}
_IP_DST: Mapping[int, int] = {socket.AF_INET: 2, socket.AF_INET6: 4}
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_SRC_NAT, _DST_NAT = 1 << 4, 1 << 5
_PROTOCOLS = {6: "tcp", 17: "udp"}

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Conversation:
    """A tracked connection: where it was sent to, where it went, and from which address."""

    protocol: int
    source: _Address
    destination: _Address
    destination_port: int
    target: _Address  # that answers it
    target_port: int
    seen_source: _Address  # that the target sees
    is_source_translated: bool
    is_destination_translated: bool


def translations(bundle: RouterBundle) -> tuple[object, ...]:
    """What of a bundle decides about translation."""
    return (bundle.static_nats, bundle.port_forwards, bundle.outside_addresses, bundle.legs)


class Translations:
    """What a router translates, for questions about one connection."""

    def __init__(self, bundle: RouterBundle) -> None:
        self._static = {_read(one.public_address): _read(one.address) for one in bundle.static_nats}
        self._forwards = bundle.port_forwards
        own = [*bundle.outside_addresses, *(address for leg in bundle.legs for address in leg.addresses)]
        self._own = {_read(address) for address in own}

    def has(self, seen: Conversation) -> bool:
        """Whether a new connection like this would go the same way."""
        if seen.is_source_translated and seen.seen_source not in self._own:
            return False
        return not seen.is_destination_translated or self._leads(seen)

    def _leads(self, seen: Conversation) -> bool:
        protocol = _PROTOCOLS.get(seen.protocol)
        for one in self._forwards:
            if (
                one.protocol == protocol
                and _read(one.public_address) == seen.destination
                and one.first_port <= seen.destination_port <= one.last_port
            ):
                if one.source_cidrs and not any(
                    seen.source in ipaddress.ip_network(c, strict=False) for c in one.source_cidrs
                ):
                    return False
                port = one.target_port + seen.destination_port - one.first_port
                return (_read(one.address), port) == (seen.target, seen.target_port)
        return self._static.get(seen.destination) == seen.target


def forget_lost(bundle: RouterBundle) -> int:
    """Delete tracked connections of the calling thread's namespace that this router would not translate like that any more; how many
    there were.
    """
    wanted = Translations(bundle)
    lost: list[Message] = []
    with Rtnl(_NETLINK_NETFILTER) as netfilter:
        for family in (socket.AF_INET, socket.AF_INET6):
            head = struct.pack("=BBH", family, 0, 0)
            for payload in netfilter.dump(_SUBSYSTEM | _GET, head):
                parts = attributes(payload, 4)
                seen = _conversation(family, parts)
                if seen is None or wanted.has(seen):
                    continue
                body = head + nest(_TUPLE_ORIG, parts[_TUPLE_ORIG]) + attr(_ID, parts[_ID])
                gone = frozenset({errno.ENOENT})
                lost.append(Message(_SUBSYSTEM | _DELETE, 0, body, tolerate=gone, what="forget a connection"))
        netfilter.run(lost)
    return len(lost)


def _conversation(family: int, parts: Mapping[int, bytes]) -> Conversation | None:
    """The connection, if something of it is translated."""
    status = struct.unpack(">I", parts.get(_STATUS, bytes(4)))[0]
    if not status & (_SRC_NAT | _DST_NAT):
        return None
    original, reply = attributes(parts[_TUPLE_ORIG]), attributes(parts[_TUPLE_REPLY])
    sent, answered = attributes(original[_TUPLE_IP]), attributes(reply[_TUPLE_IP])
    sent_protocol, answered_protocol = attributes(original[_TUPLE_PROTO]), attributes(reply[_TUPLE_PROTO])
    return Conversation(
        protocol=sent_protocol[_PROTO_NUM][0],
        source=ipaddress.ip_address(sent[_IP_SRC[family]]),
        destination=ipaddress.ip_address(sent[_IP_DST[family]]),
        destination_port=_port(sent_protocol.get(_PROTO_DST_PORT)),
        target=ipaddress.ip_address(answered[_IP_SRC[family]]),
        target_port=_port(answered_protocol.get(_PROTO_SRC_PORT)),
        seen_source=ipaddress.ip_address(answered[_IP_DST[family]]),
        is_source_translated=bool(status & _SRC_NAT),
        is_destination_translated=bool(status & _DST_NAT),
    )


def _port(raw: bytes | None) -> int:
    return int(struct.unpack(">H", raw)[0]) if raw else 0


def _read(address: str) -> _Address:
    return ipaddress.ip_address(address)

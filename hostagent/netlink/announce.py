"""Telling the neighbours of an interface which addresses it has from now on: gratuitous ARP and unsolicited neighbour advertisements.

An address that another interface had before would else be unreachable for neighbours that spoke to it, until their entry
has run out. Frames are made here, from the interface's own MAC and addresses, so that they pass its own guard.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from hostagent.netlink.links import mac_bytes
from hostagent.netlink.namespaces import Namespace

_ETH_ARP, _ETH_IPV6 = 0x0806, 0x86DD
_EVERYBODY = "ff:ff:ff:ff:ff:ff"
_ALL_NODES, _ALL_NODES_MAC = ipaddress.IPv6Address("ff02::1"), "33:33:00:00:00:01"
_ICMPV6, _NEIGHBOUR_ADVERTISEMENT, _OVERRIDE = 58, 136, 0x20000000
_OPTION_TARGET_MAC = 2

# The kernel waits for all processors when a packet socket is closed, some 15 ms, which nobody who plugs needs to wait for too.
_closing = ThreadPoolExecutor(1, thread_name_prefix="announce")


def announce(space: Namespace, interface: str, mac: str, addresses: Iterable[str]) -> None:
    """Send one frame for each address (with or without prefix length) from an interface that is up."""
    announce_all(space, interface, [(mac, address.partition("/")[0]) for address in addresses])


def announce_all(space: Namespace, interface: str, stations: Iterable[tuple[str, str]]) -> None:
    """Send one frame for each (MAC, address) from an interface that is up."""
    frames = [frame(mac, address) for mac, address in stations]
    if not frames:
        return
    with space.entered():
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        out.bind((interface, 0))
        for one in frames:
            out.send(one)
    finally:
        _closing.submit(out.close)


def frame(mac: str, address: str) -> bytes:
    """The frame that says that `address` is at `mac`."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return _arp_announcement(mac_bytes(mac), parsed)
    return _advertisement(mac_bytes(mac), parsed)


def _arp_announcement(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    """RFC 5227: a request for one's own address, which nobody answers and everybody reads."""
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
    body = head + mac + address.packed + bytes(6) + address.packed
    return _ethernet(_EVERYBODY, mac, _ETH_ARP, body)


def _advertisement(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """RFC 4861, 7.2.6: an advertisement to all nodes that overrides what they know."""
    option = struct.pack(">BB", _OPTION_TARGET_MAC, 1) + mac
    rest = struct.pack(">I", _OVERRIDE) + address.packed + option
    length = 4 + len(rest)
    pseudo = address.packed + _ALL_NODES.packed + struct.pack(">IxxxB", length, _ICMPV6)
    checksum = _checksum(pseudo + struct.pack(">BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0) + rest)
    icmp = struct.pack(">BBH", _NEIGHBOUR_ADVERTISEMENT, 0, checksum) + rest
    head = struct.pack(">IHBB", 6 << 28, length, _ICMPV6, 255) + address.packed + _ALL_NODES.packed
    return _ethernet(_ALL_NODES_MAC, mac, _ETH_IPV6, head + icmp)


def _ethernet(target: str, source: bytes, kind: int, body: bytes) -> bytes:
    return mac_bytes(target) + source + struct.pack(">H", kind) + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

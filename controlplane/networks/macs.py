"""MAC addresses: given ones checked, others derived, so that an instance keeps its MAC over replacement and restart."""

import hashlib
import ipaddress
import re
from collections.abc import Callable

_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")

DERIVED_PREFIXES = ("02:6d", "06:6d")  # IPv4, IPv6


def derived_mac(network_uid: str, address: str) -> str:
    """A locally administered MAC. An IPv4 address makes it unique in its network; for IPv6 a hash does, near enough."""
    parsed = ipaddress.ip_address(address)
    tail = parsed.packed if parsed.version == 4 else hashlib.sha256(network_uid.encode() + parsed.packed).digest()[:4]
    first = 0x02 if parsed.version == 4 else 0x06
    return ":".join(f"{byte:02x}" for byte in (first, 0x6D, *tail))


def free_mac(network_uid: str, address: str, is_taken: Callable[[str], bool]) -> str:
    """The derived MAC, or another when a member kept it that had the address before."""
    mac, number = derived_mac(network_uid, address), 0
    while is_taken(mac):
        number += 1
        tail = hashlib.sha256(f"{network_uid}/{address}/{number}".encode()).digest()[:4]
        mac = ":".join(f"{byte:02x}" for byte in (0x06, 0x6D, *tail))
    return mac


def normal_mac(text: str) -> str | None:
    """In lower case with colons; None when it is no unicast MAC."""
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        return None
    return mac

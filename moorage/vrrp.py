"""What control plane and agents must both know of a redundant pair of routers: the MAC that its gateway has (RFC 9568)."""

import ipaddress
from collections.abc import Iterable


def virtual_version(addresses: Iterable[str]) -> int:
    """IP version of the virtual router that holds these addresses: 4 as soon as one is; those of the other family come along."""
    return min(ipaddress.ip_address(address).version for address in addresses)


def virtual_mac(virtual_id: int, addresses: Iterable[str]) -> str:
    """The MAC of the virtual router 1-255 that holds these addresses."""
    return f"00:00:5e:00:{'01' if virtual_version(addresses) == 4 else '02'}:{virtual_id:02x}"


def virtual_link_local(virtual_id: int, addresses: Iterable[str]) -> str:
    """The link-local address that goes with `virtual_mac` (RFC 4291, modified EUI-64)."""
    kind = "1" if virtual_version(addresses) == 4 else "2"
    return f"fe80::200:5eff:fe00:{kind}{virtual_id:02x}"

"""Which addresses the control plane may connect to on a user's word: registries that they name, URLs that they give.

The check is made on the socket's own address at the moment of connecting, not on a name resolved before: a name that
answers differently the second time (DNS rebinding), an address written as a number, and a redirect are all caught by
the same line.
"""

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver

from moorage.errors import InvalidSpec

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# The message is one and the same for every address: the library merges differing messages of several addresses into
# an error of another class, and a caller learns nothing about our network from it.
_MESSAGE = "the address is one that the platform does not connect to"


class ForbiddenAddress(OSError):
    """Raised inside the HTTP library (hence an OSError) when a connection is refused by the policy."""


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What may be connected to: everything global, less `denied`, plus `allowed`.

    Attributes:
        denied: networks never to be reached, such as the underlay, instances' networks and other public addresses of
        ours. allowed: exceptions from all the rest, by the operator's word (a private mirror; tests). allow_private:
        let RFC 1918 and unique local addresses through (a site's own registry), but never loopback, link-local
            (cloud metadata lives there), multicast or unspecified ones.
    """

    denied: tuple[Network, ...] = ()
    allowed: tuple[Network, ...] = ()
    allow_private: bool = False

    def permits(self, text: str) -> bool:
        """Whether an address (not a name) may be connected to."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        return all(self._permits(one) for one in _readings(address))

    def _permits(self, address: Address) -> bool:
        if _within(address, self.allowed):
            return True
        if _within(address, self.denied):
            return False
        if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
            return False
        if address.is_reserved:
            return False
        return address.is_global or (self.allow_private and _is_site_private(address))


def _readings(address: Address) -> list[Address]:
    """The address and every IPv4 address wrapped in it: a translator on the way would unwrap it."""
    readings: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            readings.append(address.sixtofour)
        if address.teredo is not None:
            readings.append(address.teredo[1])
        if address in _NAT64:
            readings.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return readings


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SITE_PRIVATE: tuple[Network, ...] = (
    ipaddress.IPv4Network("10.0.0.0/8"),
    ipaddress.IPv4Network("172.16.0.0/12"),
    ipaddress.IPv4Network("192.168.0.0/16"),
    ipaddress.IPv6Network("fc00::/7"),
)


def _is_site_private(address: Address) -> bool:
    return _within(address, _SITE_PRIVATE)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def guarded_session(
    policy: AddressPolicy,
    *,
    resolver: AbstractResolver | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> aiohttp.ClientSession:
    """An HTTP session that connects only where the policy permits. The caller closes it.

    It follows no proxy of the environment (a proxy would do the connecting, out of the policy's sight) and keeps no
    cookies.
    """

    def make_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not policy.permits(str(address[0])):
            raise ForbiddenAddress(_MESSAGE)
        return socket.socket(family=family, type=kind, proto=protocol)

    connector = aiohttp.TCPConnector(
        resolver=resolver,
        ssl=ssl_context if ssl_context is not None else True,
        socket_factory=make_socket,
        use_dns_cache=False,
    )
    return aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


def forbidden(field: str = "url") -> InvalidSpec:
    """What the user gets: reason URL_FORBIDDEN."""
    return InvalidSpec.of(field, f"{_MESSAGE} (loopback, link-local, private or the platform's own)", "URL_FORBIDDEN")


def is_forbidden(exc: BaseException) -> bool:
    """Whether an error of the HTTP library goes back to the policy."""
    seen: set[int] = set()
    cause: BaseException | None = exc
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, ForbiddenAddress):
            return True
        seen.add(id(cause))
        inner = getattr(cause, "os_error", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return False

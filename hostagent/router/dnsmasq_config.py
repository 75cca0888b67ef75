"""What dnsmasq reads in a router: text, from the bundle. Pure.

Only `dnsmasq.conf` needs a restart when it changes, and it has what rarely does: interfaces, ranges, lease time. All else is in files that
it reads again on SIGHUP: reservations, options, names, name servers. Leases lie in a folder of dnsmasq's own, and outlive it.

Each leg has a tag, set by its ranges, and options are sent by that tag. Every leg has a range, be it a `static` one that gives addresses to
those with a reservation only. Both members of a pair answer, active or not, each from ranges of its own. IPv4; instances get their IPv6
addresses from the agent.

Names that dnsmasq does not know it asks the agent for, which answers in every instance's namespace and so in the router's: members
of its networks, and all others by way of the host. Where the bundle names forwarders, they are asked for what is no member's.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moorage.router_bundle import DhcpBundle, LegBundle, RouterBundle, virtual_interface

FOLDER = "/run/moorage-router/dnsmasq"
CONFIGURATION_FILE = "dnsmasq.conf"
RESERVATIONS_FILE = "reservations"
OPTIONS_FILE = "options"
NAMES_FILE = "names"
SERVERS_FILE = "servers"
LEASES_FILE = "state/leases"
AGENT_DNS = "127.0.0.11"

_FILES = (
    ("dhcp-hostsfile", RESERVATIONS_FILE),
    ("dhcp-optsfile", OPTIONS_FILE),
    ("addn-hosts", NAMES_FILE),
    ("servers-file", SERVERS_FILE),
)
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_DOMAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_INTERFACE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_VALUE = re.compile(r"[^\x00-\x1f\x7f]{0,255}")
_LEAST_LEASE_SECONDS = 120  # dnsmasq's own
_OWN_OPTIONS = frozenset({1, 3, 6, 15, 26})


class NotRenderable(ValueError):
    """The bundle has a value that cannot be written into dnsmasq's files."""


@dataclass(frozen=True, slots=True)
class DnsmasqConfiguration:
    """`text` is that of dnsmasq.conf; `files` are those that SIGHUP is enough for, by name. `trial` is all of it as one text, for dnsmasq
    to try: of other files it tries nothing.
    """

    text: str
    files: Mapping[str, str]
    trial: str


@dataclass(frozen=True, slots=True)
class _Leg:
    tag: str
    interface: str
    gateway: ipaddress.IPv4Address
    networks: Sequence[ipaddress.IPv4Network]
    dhcp: DhcpBundle


def configuration(bundle: RouterBundle, *, folder: str = FOLDER) -> DnsmasqConfiguration | None:
    """The files of a router; None: nothing is for dnsmasq to do.

    Args:
        folder: where dnsmasq sees the files.
    Raises: NotRenderable.
    """
    try:
        legs = [found for number, leg in enumerate(bundle.legs) if (found := _leg(number, leg)) is not None]
        if not legs:
            return None
        reservations = [line for leg in legs for line in _reservations(leg)]
        options = [line for leg in legs for line in _options(leg)]
        servers = list(_servers(legs))
        main = [*_main(legs, is_pair=bundle.pair is not None), f"dhcp-leasefile={folder}/{LEASES_FILE}"]
        inline = [f"dhcp-host={line}" for line in reservations] + [f"dhcp-option={line}" for line in options]
        return DnsmasqConfiguration(
            _lines([*main, *(f"{word}={folder}/{name}" for word, name in _FILES)]),
            {
                RESERVATIONS_FILE: _lines(reservations),
                OPTIONS_FILE: _lines(options),
                NAMES_FILE: _lines(line for leg in legs for line in _names(leg)),
                SERVERS_FILE: _lines(servers),
            },
            _lines([*main, *inline, *servers]),
        )
    except ValueError as error:
        raise NotRenderable(str(error)) from error


def _leg(number: int, leg: LegBundle) -> _Leg | None:
    addresses = [ipaddress.ip_address(address) for address in leg.addresses]
    gateway = next((address for address in addresses if isinstance(address, ipaddress.IPv4Address)), None)
    if leg.dhcp is None or gateway is None:
        return None
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in leg.cidrs]
    return _Leg(
        f"leg{number}",
        _matching(_INTERFACE, leg.interface, "name of an interface"),
        gateway,
        [network for network in networks if isinstance(network, ipaddress.IPv4Network)],
        leg.dhcp,
    )


def _main(legs: Sequence[_Leg], *, is_pair: bool) -> Iterator[str]:
    yield "# Written by moorage-hostagent."
    yield "user=dnsmasq"
    yield "bind-dynamic"  # a leg may come after its configuration
    yield "except-interface=lo"
    for leg in legs:
        yield f"interface={leg.interface}"
        if is_pair:
            # Names are asked for at the gateway, which is there while this member is active. Requests for an address are heard twice: by
            # the leg itself, and by this.
            yield f"interface={virtual_interface(leg.interface)}"
            yield f"no-dhcp-interface={virtual_interface(leg.interface)}"
    yield from ("no-hosts", "no-resolv", "domain-needed", "quiet-dhcp")
    if not is_pair:  # the other member's leases are none of this one's, and must not be refused
        yield "dhcp-authoritative"
    for leg in legs:
        yield from _ranges(leg)
        if leg.dhcp.domain:
            domain = _matching(_DOMAIN, leg.dhcp.domain, "domain")
            for network in leg.networks:
                yield f"domain={domain},{network}"


def _ranges(leg: _Leg) -> Iterator[str]:
    lease = max(_LEAST_LEASE_SECONDS, int(leg.dhcp.lease_time_seconds))
    spans = [[ipaddress.ip_address(end.strip()) for end in one.split("-")] for one in leg.dhcp.ranges]
    for network in leg.networks:
        for first, last in spans:
            if first in network and last in network:
                yield f"dhcp-range=set:{leg.tag},{first},{last},{network.netmask},{lease}"
        yield f"dhcp-range=set:{leg.tag},{network.network_address},static,{network.netmask},{lease}"


def _reservations(leg: _Leg) -> Iterator[str]:
    """One address is for one MAC: the first that is named has it."""
    given: set[str] = set()
    for one in leg.dhcp.reservations:
        mac = _matching(_MAC, one.mac.lower(), "MAC")
        inside = [a for a in one.addresses if any(ipaddress.ip_address(a) in network for network in leg.networks)]
        if inside and inside[0] not in given and mac not in given:
            given |= {inside[0], mac}
            name = f",{one.hostname}" if _NAME.fullmatch(one.hostname) else ""
            yield f"{mac},{inside[0]}{name}"


def _options(leg: _Leg) -> Iterator[str]:
    """Netmask and domain dnsmasq tells by itself."""
    yield f"tag:{leg.tag},3,{leg.gateway}"
    yield f"tag:{leg.tag},6,{leg.gateway}"
    if leg.dhcp.mtu:
        yield f"tag:{leg.tag},26,{leg.dhcp.mtu}"
    for option in leg.dhcp.options:
        if option.code in _OWN_OPTIONS or not 1 < option.code < 255:
            raise ValueError(f"option {option.code} cannot be set")
        value = _matching(_VALUE, option.value, f"value of option {option.code}")
        yield f"tag:{leg.tag},{option.code},{value}"


def _names(leg: _Leg) -> Iterator[str]:
    for one in leg.dhcp.reservations:
        if _NAME.fullmatch(one.hostname):
            names = f"{one.hostname}.{leg.dhcp.domain} {one.hostname}" if leg.dhcp.domain else one.hostname
            for address in one.addresses:
                yield f"{ipaddress.ip_address(address)} {names}"


def _servers(legs: Sequence[_Leg]) -> Iterator[str]:
    """dnsmasq has one list for all legs."""
    for leg in legs:
        if leg.dhcp.domain:
            yield f"server=/{leg.dhcp.domain}/{AGENT_DNS}"
        for network in leg.networks:
            yield f"rev-server={network},{AGENT_DNS}"
    forwarders = [str(ipaddress.ip_address(one)) for leg in legs for one in leg.dhcp.forwarders]
    for server in forwarders or [AGENT_DNS]:
        yield f"server={server}"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def _matching(pattern: "re.Pattern[str]", word: str, what: str) -> str:
    if not pattern.fullmatch(word):
        raise ValueError(f"{word!r} is no {what}")
    return word

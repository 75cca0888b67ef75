"""What the names of a network must look like: its domain, and who is asked for names beyond it."""

import ipaddress
import re

from controlplane.domain.networks import NetworkDns
from moorage.errors import FieldViolation

FORWARDER_LIMIT = 8
_LONGEST_DOMAIN = 180  # leaves room for a member's name in the 253 characters of a whole one
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NOT_OURS = ("arpa", "localhost", "invalid")


def check_dns(dns: NetworkDns, field: str) -> list[FieldViolation]:
    """Nothing, or everything that is wrong."""
    found: list[FieldViolation] = []
    domain = dns.domain
    if domain and (not _DOMAIN.fullmatch(domain) or len(domain) > _LONGEST_DOMAIN):
        found.append(
            FieldViolation(
                f"{field}.domain",
                f"{domain!r} is no domain: lower-case names with dots between, at most {_LONGEST_DOMAIN} characters",
                "DOMAIN_INVALID",
            )
        )
    elif domain.rpartition(".")[2] in _NOT_OURS or domain.replace(".", "").isdecimal():
        found.append(
            FieldViolation(f"{field}.domain", f"{domain!r} has a meaning of its own; name another", "DOMAIN_INVALID")
        )
    if len(dns.forwarders) > FORWARDER_LIMIT:
        found.append(FieldViolation(f"{field}.forwarders", f"at most {FORWARDER_LIMIT} are asked", "OUT_OF_RANGE"))
    if dns.forwarders and dns.no_forwarding:
        found.append(FieldViolation(f"{field}.forwarders", "cannot go with no_forwarding", "INVALID"))
    for index, server in enumerate(dns.forwarders):
        if not _is_server(server):
            found.append(
                FieldViolation(
                    f"{field}.forwarders[{index}]",
                    f"{server!r} is no address of a name server that hosts reach",
                    "ADDRESS_INVALID",
                )
            )
    return found


def _is_server(text: str) -> bool:
    """Whether it may be asked: the hosts' own loopback and link-local services are not a tenant's to name."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address == ipaddress.ip_address("255.255.255.255")
    )

"""Who is asked for the names that are not ours. Pure.

A name server that is asked is a way out: what is looked up reaches whoever answers. So a network without a way out has
none, unless its owner names some.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostagent.domain import InstanceAssignment, NetworkAssignment
from moorage.ids import NetworkId

LISTEN_ADDRESS = "127.0.0.11"  # of ours, in every instance: never to be asked by ourselves
_MOST_SERVERS = 8


@dataclass(frozen=True, slots=True)
class Upstream:
    """Name servers in the order of preference. At most one of the three is set; none: nobody is asked.

    Attributes:
        inside: asked from within the instance's namespace, so no more is reached than the instance itself reaches.
        outside: asked from the host.
        is_hosts: whoever the host asks itself.
    """

    inside: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    is_hosts: bool = False


def choose(assignment: InstanceAssignment, networks: Mapping[NetworkId, NetworkAssignment]) -> Upstream:
    """The instance's own servers, else those of the first of its networks that has any."""
    own = tuple(server for server in assignment.dns_servers if server != LISTEN_ADDRESS)
    if own:
        return Upstream(inside=own[:_MOST_SERVERS])
    for nic in assignment.nics:
        network = networks.get(nic.network_id)
        if network is None or network.dns.no_forwarding:
            continue
        if network.dns.forwarders:
            return Upstream(outside=network.dns.forwarders[:_MOST_SERVERS])
        if network.host_resolvers:
            return Upstream(is_hosts=True)
    return Upstream()


def servers_of(resolv_conf: str) -> tuple[str, ...]:
    """The name servers in the text of a resolv.conf; lines that are none are passed over."""
    found: Sequence[str] = [
        words[1] for line in resolv_conf.splitlines() if len(words := line.split()) > 1 and words[0] == "nameserver"
    ]
    return tuple(dict.fromkeys(server for server in found if _is_address(server)))[:_MOST_SERVERS]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

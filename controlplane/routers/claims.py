"""What rules and balancers take of a router's outside addresses, and whether two of them take the same. Pure.

A claim is an interval of a space in which nothing may be taken twice: the ports of an address, the sources that are translated, an
instance that has an address to itself. Static NAT takes all ports of its address. So one comparison finds every clash.
"""

import ipaddress
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.routers import Balancer, PublicAddress, RouterRule

_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Claim:
    """An interval that nobody else may have.

    Attributes:
        holder: full name of the rule or balancer.
        field: what asks for it, below the holder's spec, such as `port_forward.first_port`.
        what: in words, such as "tcp 80 of the router's own outside address".
    """

    holder: str
    field: str
    what: str
    space: tuple[str, ...]
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Clash:
    """Two that cannot both be."""

    wanted: Claim
    held: Claim

    @property
    def problem(self) -> str:
        """A sentence that names the other one."""
        return f"{self.wanted.what} is taken by {self.held.holder} ({self.held.what}); change or delete one of the two"


def clashes(wanted: Sequence[Claim], held: Iterable[Claim]) -> list[Clash]:
    """For each wanted claim the first one that it overlaps: a held one, or an earlier wanted one, of its own holder too.

    Args:
        held: claims of others, of which no two overlap.
    """
    spaces: dict[tuple[str, ...], list[tuple[int, int, Claim]]] = {}
    for claim in sorted(held, key=lambda c: c.first):
        spaces.setdefault(claim.space, []).append((claim.first, claim.last, claim))
    found: list[Clash] = []
    for claim in wanted:
        space = spaces.setdefault(claim.space, [])
        at = bisect_left(space, claim.first, key=lambda item: item[0])
        before, after = space[at - 1 : at] if at else [], space[at : at + 1]
        other = next((c for first, last, c in (*before, *after) if first <= claim.last and claim.first <= last), None)
        if other is None:
            space.insert(at, (claim.first, claim.last, claim))
        else:
            found.append(Clash(claim, other))
    return found


def claims_of_rule(rule: RouterRule, public_addresses: Mapping[str, PublicAddress]) -> list[Claim]:
    """What a rule takes. Names in its spec are full, ports and CIDRs are right.

    Args:
        public_addresses: by name; one that is gone takes nothing beyond its name.
    """
    spec = rule.spec
    if spec.source_nat is not None:
        sources = ipaddress.ip_network(spec.source_nat.source_cidr)
        first = int(sources.network_address)
        last = first + sources.num_addresses - 1
        what = f"source NAT of {sources}"
        return [Claim(rule.name, "source_nat.source_cidr", what, ("sources", str(sources.version)), first, last)]
    if spec.static_nat is not None:
        nat = spec.static_nat
        public = public_addresses.get(nat.public_address)
        version = "" if public is None else str(ipaddress.ip_address(public.address).version)
        what = f"static NAT of {nat.public_address}"
        alone = Claim(
            rule.name, "static_nat.instance", f"static NAT to {nat.instance}", ("instance", nat.instance, version)
        )
        return [
            *(
                Claim(
                    rule.name, "static_nat.public_address", what, ("ports", nat.public_address, protocol), 0, _LAST_PORT
                )
                for protocol in ("tcp", "udp")
            ),
            alone,
        ]
    if spec.port_forward is not None:
        forward = spec.port_forward
        protocol = forward.protocol or "tcp"
        first, last = forward.first_port, forward.last_port or forward.first_port
        where = f"{protocol} {first if first == last else f'{first}-{last}'} of {_address(forward.public_address)}"
        space = ("ports", forward.public_address, protocol)
        return [Claim(rule.name, "port_forward.first_port", where, space, first, last)]
    return []


def claims_of_balancer(balancer: Balancer) -> list[Claim]:
    """What a balancer takes: a TCP port for each listener."""
    found: list[Claim] = []
    for index, listener in enumerate(balancer.spec.listeners):
        is_inside = bool(listener.inside_network)
        space = ("inside", listener.inside_network) if is_inside else ("ports", listener.public_address, "tcp")
        where = f"the router's address on {listener.inside_network}" if is_inside else _address(listener.public_address)
        what = f"tcp {listener.port} of {where}"
        found.append(Claim(balancer.name, f"listeners[{index}].port", what, space, listener.port, listener.port))
    return found


def _address(public_address: str) -> str:
    return public_address or "the router's own outside address"

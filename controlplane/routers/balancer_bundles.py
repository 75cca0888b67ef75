"""What a router is told of its balancers: addresses instead of names. Pure.

What leads nowhere is left out: a back end whose instance is gone, on its way out, not ready or on no leg any more, a listener whose
address the router does not have (yet). A balancer without listeners is left out whole.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.domain.routers import Backend, BackendPool, Balancer, Listener
from moorage.router_bundle import (
    BackendBundle,
    BalancerAlgorithm,
    BalancerBundle,
    BalancerMode,
    ListenerBundle,
    PoolBundle,
)

DEFAULT_WEIGHT = 100
DEFAULT_IDLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the router has addresses.

    Attributes:
        interface: of the router.
        addresses: without prefix length, at most one a family.
    """

    interface: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutsideAndInside:
    """What names of a balancer's spec stand for. Names are full.

    Attributes:
        outside: the router's own outside addresses; None: it has no outside.
        public_addresses: those that the router has on its outside interface.
        inside: legs, by name of the network.
        instances: members of the legs that may have new clients: uid and address without prefix length.
        groups: by name, members that take new clients: the same of each.
    """

    outside: Place | None = None
    public_addresses: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, Place] = field(default_factory=dict)
    instances: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    groups: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


def balancer_bundles(balancers: Sequence[Balancer], addresses: OutsideAndInside) -> tuple[BalancerBundle, ...]:
    """The balancers of a router, in order of id."""
    bundles = (_balancer(balancer, addresses) for balancer in sorted(balancers, key=lambda b: b.id))
    return tuple(bundle for bundle in bundles if bundle.listeners)


def listener_places(listener: Listener, addresses: OutsideAndInside) -> tuple[Place, ...]:
    """Where a listener listens: interface and address of each; none: nowhere now."""
    if listener.inside_network:
        place = addresses.inside.get(listener.inside_network)
    elif listener.public_address and addresses.outside is not None:
        public = addresses.public_addresses.get(listener.public_address)
        place = Place(addresses.outside.interface, (public,)) if public else None
    else:
        place = None if listener.public_address else addresses.outside
    return () if place is None else tuple(Place(place.interface, (address,)) for address in place.addresses)


def endpoints(balancer: Balancer, addresses: OutsideAndInside) -> tuple[str, ...]:
    """Address and port of each listener, such as 192.0.2.1:80."""
    return tuple(
        f"[{address}]:{listener.port}" if ipaddress.ip_address(address).version == 6 else f"{address}:{listener.port}"
        for listener in balancer.spec.listeners
        for place in listener_places(listener, addresses)
        for address in place.addresses
    )


def _balancer(balancer: Balancer, addresses: OutsideAndInside) -> BalancerBundle:
    spec = balancer.spec
    return BalancerBundle(
        balancer_id=balancer.id,
        mode=BalancerMode.TCP if spec.mode is BalancerMode.UNSPECIFIED else spec.mode,
        listeners=tuple(bundle for listener in spec.listeners for bundle in _listeners(listener, addresses)),
        pools=tuple(_pool(pool, addresses) for pool in spec.pools),
        routes=spec.routes,
        forwarded_for=spec.forwarded_for is not False,
        idle_timeout_seconds=spec.idle_timeout_seconds or DEFAULT_IDLE_SECONDS,
    )


def _listeners(listener: Listener, addresses: OutsideAndInside) -> Iterator[ListenerBundle]:
    for place in listener_places(listener, addresses):
        yield ListenerBundle(
            address=place.addresses[0],
            port=listener.port,
            certificates=listener.certificates,
            accept_proxy=listener.accept_proxy,
            source_cidrs=listener.source_cidrs,
            interface=place.interface,
        )


def _pool(pool: BackendPool, addresses: OutsideAndInside) -> PoolBundle:
    algorithm = pool.algorithm
    return PoolBundle(
        pool_id=pool.id,
        backends=tuple(bundle for backend in pool.backends for bundle in _backend(backend, addresses)),
        algorithm=BalancerAlgorithm.ROUNDROBIN if algorithm is BalancerAlgorithm.UNSPECIFIED else algorithm,
        stickiness=pool.stickiness,
        health_check=pool.health_check,
        send_proxy=pool.send_proxy,
    )


def _backend(backend: Backend, addresses: OutsideAndInside) -> Iterator[BackendBundle]:
    if backend.group:
        found = addresses.groups.get(backend.group, ())
    else:
        found = tuple(one for one in (addresses.instances.get(backend.instance),) if one is not None)
    for uid, address in found:
        yield BackendBundle(uid, address, backend.port, backend.weight or DEFAULT_WEIGHT, backend.drain)

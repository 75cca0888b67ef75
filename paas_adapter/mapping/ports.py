"""Ports of a cartridge, and what says that a member is ready."""

from paas_adapter.documents.cartridge import Cartridge
from paas_adapter.mapping.model import Port, Protocol, Readiness


def ports_of(cartridge: Cartridge) -> tuple[Port, ...]:
    """In the order of the document."""
    return tuple(
        Port(mapping.label, Protocol(mapping.protocol or "tcp"), mapping.port, mapping.proxy_port, mapping.at)
        for mapping in cartridge.port_mappings
        if mapping.port is not None
    )


def readiness_of(ports: tuple[Port, ...]) -> Readiness | None:
    """The port that clients come for: the first that speaks HTTP, else the first.

    A connection is enough. A request would need a path that answers well, which no document names; and a second port such as that of ssh,
    which images of containers rarely have, shall not keep members from being ready.
    """
    speaking = [port for port in ports if port.protocol is not Protocol.TCP]
    chosen = next(iter(speaking or ports), None)
    return Readiness(chosen.number, chosen.at.below("port")) if chosen else None

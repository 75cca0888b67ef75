"""Published ports: which NIC they lead to, what they are called on the way, and their reservation on the host.

`resolve` is pure. `Reservations` holds a bound, silent socket for each port, so that no other process takes a port
whose packets we turn away (and so that a port in use is found out before any rule is written). Invariant: a port with
rules has a socket.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hostagent.domain import NicAssignment, PublishedPort
from hostagent.netlink.rules import Binding
from hostagent.netlink.state import NetworkRecord
from moorage.errors import Exhausted, FieldViolation, InvalidSpec, NotSupported
from moorage.ids import NetworkId

_FIRST_SPARE_PORT = 20000


def check(ports: Sequence[PublishedPort]) -> None:
    """Refuse what can never be published, naming every bad field. Raises InvalidSpec."""
    bad: list[FieldViolation] = []
    for number, port in enumerate(ports):
        where = f"published_ports[{number}]"
        if port.protocol not in ("tcp", "udp"):
            bad.append(FieldViolation(f"{where}.protocol", f"{port.protocol!r} is neither tcp nor udp"))
        for name, value in (("host_port", port.host_port), ("container_port", port.container_port)):
            if not 0 < value < 65536:
                bad.append(FieldViolation(f"{where}.{name}", f"{value} is no port"))
        if port.host_address:
            try:
                ipaddress.ip_address(port.host_address)
            except ValueError:
                bad.append(FieldViolation(f"{where}.host_address", f"{port.host_address!r} is no address"))
    if bad:
        raise InvalidSpec(bad)


def resolve(
    ports: Sequence[PublishedPort],
    nics: Sequence[NicAssignment],
    networks: Mapping[NetworkId, NetworkRecord],
    others: Iterable[Binding],
    before: Sequence[Binding],
) -> tuple[Binding, ...]:
    """Bindings of one instance, one per port and address family. `others` are those of all other instances, `before`
    its own until now: an unchanged port keeps its transit port, so nothing of it is touched.

    The way in is the interface that has the family's default route, else the first with an address of the family,
    among those on isolated networks.

    Raises: InvalidSpec; NotSupported: the instance has no address that a port could lead to.
    """
    check(ports)
    kept = {replace(one, transit_port=0): one for one in before}
    taken = {(one.network_id, one.version, one.protocol, one.transit_port) for one in [*others, *before]}
    found: list[Binding] = []
    for number, port in enumerate(ports):
        versions = (ipaddress.ip_address(port.host_address).version,) if port.host_address else (4, 6)
        count = len(found)
        for version in versions:
            way = _way_in(version, nics, networks)
            if way is None:
                continue
            nic, target, answers_here = way
            binding = Binding(
                network_id=nic.network_id,
                protocol=port.protocol,
                host_address=str(ipaddress.ip_address(port.host_address)) if port.host_address else "",
                host_port=port.host_port,
                transit_port=0,
                target=target,
                target_port=port.container_port,
                answers_here=answers_here,
            )
            found.append(kept.get(binding) or _with_transit_port(binding, taken))
        if len(found) == count:
            raise NotSupported(
                f"published_ports[{number}]: the instance has no address on an isolated network to lead to",
                reason="PORT_NOT_PUBLISHABLE",
            )
    return tuple(found)


def _with_transit_port(binding: Binding, taken: set[tuple[NetworkId, int, str, int]]) -> Binding:
    """The host port itself if it is free on the uplink, else the next spare one; it is taken then."""
    for port in (binding.host_port, *range(_FIRST_SPARE_PORT, 65536)):
        key = (binding.network_id, binding.version, binding.protocol, port)
        if key not in taken:
            taken.add(key)
            return replace(binding, transit_port=port)
    raise Exhausted(f"network {binding.network_id} has no port left on its uplink")


def _way_in(
    version: int, nics: Sequence[NicAssignment], networks: Mapping[NetworkId, NetworkRecord]
) -> tuple[NicAssignment, str, bool] | None:
    usable: list[tuple[bool, int, NicAssignment, str, bool]] = []
    for order, nic in enumerate(nics):
        record = networks.get(nic.network_id)
        addresses = [a.split("/")[0] for a in nic.addresses if ipaddress.ip_interface(a).version == version]
        if record is None or not addresses:
            continue
        gateways = [g for g in nic.gateways if ipaddress.ip_address(g).version == version]
        ours = {gateway for _cidr, gateway in record.subnets}
        target = str(ipaddress.ip_address(addresses[0]))
        usable.append((not gateways, order, nic, target, bool(gateways) and set(gateways) <= ours))
    if not usable:
        return None
    _no_default, _order, nic, target, answers_here = min(usable, key=lambda one: one[:2])
    return nic, target, answers_here


@dataclass(frozen=True, slots=True, order=True)
class _Key:
    version: int
    protocol: str
    address: str
    port: int


def _key(binding: Binding) -> _Key:
    return _Key(binding.version, binding.protocol, binding.host_address, binding.host_port)


def check_free(bindings: Iterable[Binding], others: Iterable[Binding]) -> None:
    """Raises Exhausted: another instance has one of the ports."""
    held = {_key(one) for one in others}
    for key in sorted({_key(one) for one in bindings} & held):
        raise _taken(key)


class Reservations:
    """The sockets that hold published ports in the host's namespace."""

    def __init__(self) -> None:
        self._sockets: dict[_Key, socket.socket] = {}

    def take(self, bindings: Iterable[Binding]) -> None:
        """Reserve all or none; those already held are kept.

        Raises: Exhausted: a port is taken; InvalidSpec: an address is not this host's.
        """
        made: list[_Key] = []
        try:
            for key in sorted({_key(binding) for binding in bindings} - set(self._sockets)):
                self._sockets[key] = _bind(key)
                made.append(key)
        except BaseException:
            for key in made:
                self._sockets.pop(key).close()
            raise

    def give_back(self, bindings: Iterable[Binding]) -> None:
        """Free reservations; those not held are fine."""
        for key in {_key(binding) for binding in bindings}:
            held = self._sockets.pop(key, None)
            if held is not None:
                held.close()

    def close(self) -> None:
        """Free all."""
        for held in self._sockets.values():
            held.close()
        self._sockets.clear()


def _bind(key: _Key) -> socket.socket:
    """A socket that only occupies the port.

    Without SO_REUSEADDR nobody else can bind it. Connections that lie in TIME_WAIT would refuse that for a minute, so
    the second try allows them, and listens, which fails if anybody else does.
    """
    family = socket.AF_INET if key.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if key.protocol == "tcp" else socket.SOCK_DGRAM
    everywhere = "0.0.0.0" if key.version == 4 else "::"
    for reuse in (False, True) if key.protocol == "tcp" else (False,):
        holder = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        try:
            if key.version == 6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if reuse:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((key.address or everywhere, key.port))
            if reuse:
                holder.listen(1)
        except OSError as error:
            holder.close()
            if error.errno == errno.EADDRINUSE and not reuse and key.protocol == "tcp":
                continue
            raise _refusal(key, error) from error
        return holder
    raise AssertionError("unreachable")


def _taken(key: _Key) -> Exhausted:
    where = f"{key.address or 'any address'} port {key.port}/{key.protocol}"
    return Exhausted(f"{where} of this host is in use", reason="HOST_PORT_TAKEN", metadata={"port": str(key.port)})


def _refusal(key: _Key, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return _taken(key)
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidSpec.of("published_ports.host_address", f"{key.address} is not an address of this host")
    return error


def moved(before: Sequence[Binding], after: Sequence[Binding]) -> tuple[list[Binding], list[Binding]]:
    """What goes and what comes."""
    return [one for one in before if one not in after], [one for one in after if one not in before]


def retake(reservations: Reservations, bindings: Iterable[Binding]) -> list[Binding]:
    """Reserve again after a restart, as far as possible; those that somebody took meanwhile."""
    lost = []
    for binding in bindings:
        try:
            reservations.take([binding])
        except (Exhausted, InvalidSpec, OSError):
            lost.append(binding)
    return lost

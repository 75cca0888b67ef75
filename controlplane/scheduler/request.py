"""What an instance asks of a host, reduced to what the scheduler looks at. Equal requests are placed in one go."""

from dataclasses import dataclass

from controlplane.domain.containers import DeviceRequest, PublishedPort
from controlplane.domain.instances import Affinity, Distinct, Instance, PlacementStrategy, Spread


@dataclass(frozen=True, slots=True)
class AffinityTerm:
    """Near to, or far from, instances of the project that have all these labels."""

    labels: tuple[tuple[str, str], ...]
    topology: str  # "host", "zone", or the name of a host label
    is_soft: bool

    def matches(self, labels: "dict[str, str] | object") -> bool:
        """Whether an instance with these labels is meant."""
        assert hasattr(labels, "get")
        return all(labels.get(key) == value for key, value in self.labels)


@dataclass(frozen=True, slots=True)
class DistinctTerm:
    """At most `limit` in one place: of those with the labels, or of its like."""

    topology: str
    limit: int
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class VolumeNeed:
    """One volume of an instance, as far as the choice of a host cares."""

    name: str
    host_uid: str = ""  # that has its files; empty: any can
    host: str = ""
    is_sized: bool = False  # its host must be able to limit its size
    withheld: str = ""  # why no host can have it now


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """One instance's wishes. Hashable: instances with equal requests form a group."""

    project: str
    labels: tuple[tuple[str, str], ...]
    template_uid: str
    platforms: tuple[str, ...]
    cpu_millis: int
    memory_bytes: int
    ports: tuple[tuple[str, int, str], ...]  # (protocol, port, host address or empty)
    host: str  # last part of the name; empty: any
    zone: str
    host_labels: tuple[tuple[str, str], ...]
    bridges: tuple[str, ...]
    nics: tuple[str, ...]
    exclusive: tuple[str, ...]  # uids of networks of which a host can have one instance
    affinity: tuple[AffinityTerm, ...]
    anti_affinity: tuple[AffinityTerm, ...]
    packs: bool
    owner: str = ""
    revision: int = 0
    image: str = ""  # digest
    priority: int = 0
    preempts: bool = False
    tolerations: tuple[str, ...] = ()
    spread: tuple[Spread, ...] = ()
    distinct: tuple[DistinctTerm, ...] = ()
    devices: tuple[DeviceRequest, ...] = ()
    avoid_hosts: tuple[str, ...] = ()  # uids
    volumes: tuple[VolumeNeed, ...] = ()


@dataclass(frozen=True, slots=True)
class Wiring:
    """What shared networks and volumes need of a host."""

    bridges: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    exclusive: tuple[str, ...] = ()
    volumes: tuple[VolumeNeed, ...] = ()


def request_of(instance: Instance, wiring: Wiring = Wiring()) -> PlacementRequest:
    """What `instance` asks for. `wiring` is what its shared networks and volumes need."""
    spec = instance.effective
    placement = spec.placement
    return PlacementRequest(
        project=instance.project,
        labels=_items(instance.labels),
        template_uid=instance.template_uid,
        platforms=instance.platforms,
        cpu_millis=spec.resources.cpu_millis,
        memory_bytes=spec.resources.memory_bytes,
        ports=tuple(sorted(port_key(port) for port in spec.published_ports)),
        host=placement.host.removeprefix("hosts/"),
        zone=placement.zone.removeprefix("zones/"),
        host_labels=_items(placement.host_labels),
        bridges=wiring.bridges,
        nics=wiring.nics,
        exclusive=wiring.exclusive,
        affinity=_terms(placement.affinity),
        anti_affinity=_terms(placement.anti_affinity),
        packs=placement.strategy is PlacementStrategy.PACK,
        owner=instance.owner,
        revision=instance.revision,
        image=instance.image.rpartition("@")[2],
        priority=placement.priority,
        preempts=placement.preempts,
        tolerations=placement.tolerations,
        spread=placement.spread,
        distinct=tuple(_distinct(term) for term in placement.distinct),
        devices=spec.device_requests,
        avoid_hosts=instance.avoid_hosts,
        volumes=wiring.volumes,
    )


def port_key(port: PublishedPort) -> tuple[str, int, str]:
    """(protocol, host port, host address or empty for all)."""
    return (port.protocol or "tcp", port.host_port, port.host_address)


def device_key(kind: str, name: str) -> tuple[str, str]:
    """What tells one device of a host from another; `name` is its first one."""
    return (kind, name)


def ports_clash(one: tuple[str, int, str], other: tuple[str, int, str]) -> bool:
    """Whether both cannot be on one host: the same port, and addresses that overlap."""
    return one[:2] == other[:2] and (one[2] == other[2] or not one[2] or not other[2])


def _items(mapping: "dict[str, str] | object") -> tuple[tuple[str, str], ...]:
    assert hasattr(mapping, "items")
    return tuple(sorted(mapping.items()))


def _terms(terms: tuple[Affinity, ...]) -> tuple[AffinityTerm, ...]:
    return tuple(AffinityTerm(_items(term.labels), term.topology or "host", term.soft) for term in terms)


def _distinct(term: Distinct) -> DistinctTerm:
    return DistinctTerm(term.topology or "host", term.limit or 1, _items(term.labels))

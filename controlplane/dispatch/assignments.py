"""What a host shall carry, read from a view: pure, and the same whether everything is read or one object.

An isolated network's members on other hosts are its peers. A peer is known as soon as it has a host: its address is reachable
before its process runs, so no neighbour entry is ever missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from controlplane.dispatch.volumes import VolumeAssignment
from controlplane.domain.dns import DnsRecordSpec
from controlplane.domain.hosts import Host
from controlplane.domain.instances import DesiredState, Instance, InstanceNic, InstanceSpec, NicRoute, NicRule, uses_of
from controlplane.domain.kinds import DNS_RECORD, HOST, INSTANCE, NETWORK, ROUTER
from controlplane.domain.networks import MacvlanMode, Network, NetworkDns, NetworkKind, SharedAttachment, Subnet
from controlplane.domain.readiness import takes_traffic
from controlplane.domain.routers import DefaultAction, Router, is_router
from controlplane.domain.secrets import OnRotate, Pin, SecretFile, Use, collection_of, env_of, path_of
from controlplane.routers.bundle import VIRTUAL_ID, derive, main_ids
from controlplane.routers.scene import read
from moorage.router_bundle import RouterBundle
from moorage.store.base import View
from moorage.vrrp import virtual_mac

DEFAULT_MODE = {"secrets": 0o400, "configs": 0o444}
DEFAULT_SIGNAL = "SIGHUP"


@dataclass(frozen=True, slots=True)
class Peer:
    """A member on another host; mirrors moorage.v1.Peer."""

    mac: str
    addresses: tuple[str, ...]
    host_address: str
    host_port: int
    names: tuple[str, ...] = ()
    shared_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualStation:
    """A MAC with addresses that members hold in turn; mirrors moorage.v1.VirtualStation."""

    mac: str
    addresses: tuple[str, ...]  # without prefix length


@dataclass(frozen=True, slots=True)
class NicAssignment:
    """An interface to make; mirrors moorage.v1.NicAssignment."""

    network_id: str
    name: str
    mac: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    forwards: bool = False
    mtu: int = 0
    routes: tuple[NicRoute, ...] = ()
    rules: tuple[NicRule, ...] = ()
    rate_in_bits: int = 0
    rate_out_bits: int = 0
    dhcp_client: bool = False
    security_groups: tuple[str, ...] = ()  # uids
    virtual: VirtualStation | None = None


@dataclass(frozen=True, slots=True)
class NetworkAssignment:
    """A network with a member on the host, without its peers; mirrors moorage.v1.NetworkAssignment."""

    network_id: str
    name: str
    kind: NetworkKind
    subnets: tuple[Subnet, ...]
    mtu: int
    vni: int = 0
    bridge: str = ""
    egress: bool = False
    dns: NetworkDns = NetworkDns()
    records: tuple[DnsRecordSpec, ...] = ()
    host_resolvers: bool = False
    parent: str = ""
    attachment: SharedAttachment = SharedAttachment.UNSPECIFIED
    macvlan_mode: MacvlanMode = MacvlanMode.UNSPECIFIED
    vlan_id: int = 0
    virtual_stations: tuple[VirtualStation, ...] = ()


@dataclass(frozen=True, slots=True)
class PayloadAssignment:
    """A version of a secret or config that an instance gets; mirrors moorage.v1.PayloadAssignment."""

    payload_id: str
    version: int
    path: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    env: str = ""
    signal: str = ""


@dataclass(frozen=True, slots=True)
class InstanceAssignment:
    """An instance to carry; mirrors moorage.v1.InstanceAssignment."""

    instance_id: str
    name: str
    project: str
    generation: int
    run_request: int
    container_generation: int
    desired: DesiredState
    image: str
    spec: InstanceSpec
    nics: tuple[NicAssignment, ...] = ()
    force: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    zone: str = ""
    host: str = ""
    is_router: bool = False
    shared_names: tuple[str, ...] = ()
    payloads: tuple[PayloadAssignment, ...] = ()
    volumes: tuple[VolumeAssignment, ...] = ()
    lease_seconds: float = 0.0


def instance_assignment(
    instance: Instance,
    zone: str = "",
    stations: Mapping[str, VirtualStation] = MappingProxyType({}),
    volumes: tuple[VolumeAssignment, ...] = (),
) -> InstanceAssignment:
    """What its host is told of an instance.

    Args:
        zone: the host's.
        stations: what it may be in turn with another, by uid of the network.
        volumes: what it has of volumes.
    """
    return InstanceAssignment(
        instance_id=instance.uid,
        name=instance.id,
        project=instance.project,
        generation=instance.generation,
        run_request=instance.run_request,
        container_generation=instance.container_generation,
        desired=instance.desired,
        image=instance.image,
        spec=instance.effective,
        nics=tuple(
            NicAssignment(
                nic.network_uid,
                nic.interface,
                nic.mac,
                _held(nic),
                nic.gateways,
                nic.forwards,
                nic.mtu,
                nic.routes,
                nic.rules,
                nic.rate_in_bits,
                nic.rate_out_bits,
                nic.dhcp_client,
                nic.security_group_uids,
                stations.get(nic.network_uid),
            )
            for nic in instance.nics
        ),
        force=instance.force,
        labels=instance.labels,
        zone=zone,
        host=instance.host,
        is_router=is_router(instance),
        shared_names=shared_names(instance),
        lease_seconds=instance.lease_seconds,
        payloads=payloads(instance),
        volumes=volumes,
    )


def payloads(instance: Instance) -> tuple[PayloadAssignment, ...]:
    """What its host is told of its secrets and configs."""
    return tuple(_payload(use, pin) for use, pin in zip(uses_of(instance.spec), instance.pins, strict=True))


def _payload(use: Use, pin: Pin) -> PayloadAssignment:
    if env := env_of(use):
        return PayloadAssignment(pin.uid, pin.version, env=env)
    file = use.file or SecretFile()
    return PayloadAssignment(
        pin.uid,
        pin.version,
        path_of(use),
        file.mode or DEFAULT_MODE[collection_of(use)],
        file.uid,
        file.gid,
        signal=(use.signal or DEFAULT_SIGNAL) if use.on_rotate is OnRotate.SIGNAL else "",
    )


def shared_names(instance: Instance) -> tuple[str, ...]:
    """Names that it has together with the other members of its group, while it takes new clients."""
    _, is_member, group_id = instance.owner.partition("/groups/")
    return (group_id,) if is_member and takes_traffic(instance) else ()


def network_assignment(view: View, network: Network) -> NetworkAssignment:
    """What a host with a member is told of a network. Behind a router, hosts are no gateway."""
    spec = network.spec
    router = _router_of(view, network.uid)
    is_behind = router is not None
    stations = [_station(network)] if router is not None and router.spec.redundant else []
    if spec.kind is NetworkKind.ISOLATED:
        stations += [
            _outside_station(view, found.value, network) for found in view.find(ROUTER, "outside", network.uid)
        ]
    return NetworkAssignment(
        network_id=network.uid,
        name=network.id,
        kind=spec.kind,
        subnets=tuple(replace(subnet, gateway="") for subnet in spec.subnets) if is_behind else spec.subnets,
        mtu=spec.mtu,
        vni=network.vni,
        bridge=spec.bridge,
        egress=spec.egress and not is_behind,
        dns=replace(spec.dns, domain=network.dns_domain),
        records=tuple(found.value.spec for found in view.find(DNS_RECORD, "network", network.uid)),
        host_resolvers=_has_way_out(view, network) and not spec.dns.no_forwarding,
        parent=spec.parent,
        attachment=spec.attachment,
        macvlan_mode=spec.macvlan_mode,
        vlan_id=spec.vlan_id,
        virtual_stations=tuple(station for station in stations if station is not None),
    )


def stations_of(view: View, instance: Instance) -> dict[str, VirtualStation]:
    """By uid of the network, the gateways and public addresses that a member of a redundant pair holds in turn with the other."""
    router = _owner(view, instance)
    if router is None or not router.spec.redundant or instance.id not in main_ids(router):
        return {}
    found: dict[str, VirtualStation] = {}
    for uid in {nic.network_uid for nic in instance.nics}:
        networks = view.find(NETWORK, "uid", uid)
        if not networks:
            continue
        network = networks[0].value
        if uid == router.outside_uid:
            station = _outside_station(view, router, network)
        else:
            station = _station(network) if uid in router.network_uids else None
        if station is not None:
            found[uid] = station
    return found


def _owner(view: View, instance: Instance) -> Router | None:
    """The router that an instance is a container of."""
    if not is_router(instance):
        return None
    project, _, router_id = instance.owner.removeprefix("projects/").partition("/routers/")
    found = view.get(ROUTER, f"{project}/{router_id}")
    return None if found is None else found.value


def _router_of(view: View, network_uid: str) -> Router | None:
    """The router that a network is behind."""
    return next((found.value for found in view.find(ROUTER, "network", network_uid)), None)


def _station(network: Network) -> VirtualStation | None:
    gateways = tuple(subnet.gateway for subnet in network.spec.subnets if subnet.gateway)
    return VirtualStation(virtual_mac(VIRTUAL_ID, gateways), gateways) if gateways else None


def _outside_station(view: View, router: Router, outside: Network) -> VirtualStation | None:
    """What a pair has on its outside, with or without public addresses: it is there before the first one comes."""
    if not router.outside_virtual_id or not outside.spec.subnets:
        return None
    members = [found.value for found in view.find(INSTANCE, "owner", router.name) if found.value.id in main_ids(router)]
    lent = [a.partition("/")[0] for m in members for n in m.nics if n.lent_in_turn for a in n.lent_addresses]
    families = tuple(subnet.cidr.partition("/")[0] for subnet in outside.spec.subnets)
    return VirtualStation(virtual_mac(router.outside_virtual_id, families), tuple(dict.fromkeys(lent)))


def _held(nic: InstanceNic) -> tuple[str, ...]:
    """The addresses that its interface always has."""
    return nic.addresses + (() if nic.lent_in_turn else nic.lent_addresses)


def router_bundle(view: View, instance: Instance) -> RouterBundle | None:
    """What its host is told of a router's container; None when the instance is none."""
    router = _owner(view, instance)
    return None if router is None else derive(read(view, router), instance, view.revision)


def _has_way_out(view: View, network: Network) -> bool:
    """Whether traffic leaves a network where no rule says otherwise: a name server that is asked is a way out too."""
    routers = view.find(ROUTER, "network", network.uid)
    if not routers:
        return network.spec.egress or network.spec.kind is NetworkKind.SHARED
    router = routers[0].value
    legs = dict(zip(router.network_uids, router.spec.legs, strict=True))
    return legs[network.uid].egress is not DefaultAction.DENY


def zone_of_host(view: View, host_uid: str) -> str:
    """Last part of the name of the host's zone; empty: none."""
    found = view.find(HOST, "uid", host_uid)
    return found[0].value.zone if found else ""


def instances_of_host(view: View, host_uid: str) -> list[Instance]:
    """Everything placed on the host."""
    return [found.value for found in view.find(INSTANCE, "host", host_uid)]


def networks_of(view: View, instances: Iterable[Instance]) -> dict[str, Network]:
    """By uid, the networks that the instances are on."""
    uids = sorted({nic.network_uid for instance in instances for nic in instance.nics})
    found = {}
    for uid in uids:
        networks = view.find(NETWORK, "uid", uid)
        if networks:
            found[uid] = networks[0].value
    return found


def hosts_of_network(view: View, network_uid: str) -> set[str]:
    """Uids of the hosts that have a member."""
    members = view.find(INSTANCE, "network", network_uid)
    return {member.value.host_uid for member in members if member.value.host_uid}


def peers_of(view: View, network_uid: str, host_uid: str) -> dict[str, Peer]:
    """By MAC, the network's members on other hosts than `host_uid`."""
    hosts: dict[str, Host | None] = {}
    peers: dict[str, Peer] = {}
    for found in view.find(INSTANCE, "network", network_uid):
        instance = found.value
        if not instance.host_uid or instance.host_uid == host_uid:
            continue
        if instance.host_uid not in hosts:
            located = view.find(HOST, "uid", instance.host_uid)
            hosts[instance.host_uid] = located[0].value if located else None
        host = hosts[instance.host_uid]
        if host is not None and host.facts.underlay_address:
            peers.update(peers_by_mac(instance, network_uid, host))
    return peers


def peers_by_mac(instance: Instance, network_uid: str, host: Host) -> dict[str, Peer]:
    """What other hosts are told of the instance's interfaces on one network."""
    # One that is being deleted is still reached, so that its connections end in order, but not found any more.
    is_going = instance.desired is DesiredState.DELETED
    names = () if is_going else tuple(dict.fromkeys((instance.effective.hostname, instance.id)))
    return {
        nic.mac: Peer(
            nic.mac,
            tuple(address.split("/")[0] for address in _held(nic)),
            host.facts.underlay_address,
            host.facts.vxlan_port or 4789,
            names,
            shared_names(instance),
        )
        for nic in instance.nics
        if nic.network_uid == network_uid and nic.mac  # else it was lost, and another has what it had
    }

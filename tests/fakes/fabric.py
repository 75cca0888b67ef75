"""The fabric in memory: same methods, same refusals, no kernel. `tests/contract/fabric` runs one suite over this and
the real one.

`fail_next(method, error)` makes the next call of a method fail before it does anything; repeated, the calls after it
too. `calls` lists what was called, for tests that must show order (never to compare arguments with what the test
passed in).
"""

import socket
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from hostagent.domain import (
    MacvlanMode,
    NetworkAssignment,
    NetworkKind,
    NicAssignment,
    NicFilter,
    Peer,
    PublishedPort,
    SharedAttachment,
)
from hostagent.netlink import instance, names, router_rules, security
from hostagent.netlink import network as plumbing
from hostagent.netlink import ports as publishing
from hostagent.netlink.fabric import FabricInventory, InterfaceCounters, NameSockets
from hostagent.netlink.rules import Binding, Transit
from hostagent.netlink.state import NetworkRecord
from moorage.errors import Exhausted, Internal, NotFound, NotReady
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import RouterBundle, RuleFigure


def loopback_sockets() -> NameSockets:
    """Sockets as a fabric makes them, on free ports of 127.0.0.1."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    datagrams.bind(("127.0.0.1", 0))
    listening = [socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(2)]
    for one in listening:
        one.bind(("127.0.0.1", 0))
        one.listen()
    return NameSockets(datagrams, *listening)


class FakeFabric:
    """A host's network in memory.

    Args:
        run_dir: what the paths of namespaces start with; nothing is written there.
        bridges: bridges that the host has, for shared networks.
        links: NICs that the host has, likewise.
        taken_ports: host ports that other processes hold, as (protocol, port).
    """

    def __init__(
        self,
        *,
        run_dir: Path = Path("/run/fake"),
        bridges: Sequence[str] = (),
        links: Sequence[str] = (),
        taken_ports: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.networks: dict[NetworkId, NetworkAssignment] = {}
        self.peers: dict[NetworkId, dict[str, Peer]] = {}
        self.instances: dict[InstanceId, tuple[NicAssignment, ...]] = {}
        self.filters: dict[InstanceId, tuple[NicFilter, ...]] = {}
        self.bindings: dict[InstanceId, tuple[Binding, ...]] = {}
        self.routers: dict[InstanceId, RouterBundle] = {}
        self.strays: list[str] = []
        self.bridges = set(bridges)
        self.links = set(links)
        self.stood_on: dict[NetworkId, NetworkAssignment] = {}  # shared networks on NICs
        self.taken_ports = set(taken_ports)
        self.calls: list[str] = []
        self._run_dir = run_dir
        self._faults: dict[str, deque[BaseException]] = defaultdict(deque)
        self._started = False

    def fail_next(self, method: str, error: BaseException) -> None:
        """Let the next call of `method` that has no fault yet raise `error`."""
        self._faults[method].append(error)

    def _enter(self, method: str) -> None:
        self.calls.append(method)
        if self._faults[method]:
            raise self._faults[method].popleft()
        if not self._started and method != "start":
            raise Internal("the fabric was used before start or after close")

    async def start(self) -> None:
        """As LinuxFabric.start."""
        self._enter("start")
        self._started = True

    async def close(self) -> None:
        """As LinuxFabric.close: what is plugged stays."""
        self.calls.append("close")
        self._started = False

    async def reassert(self) -> None:
        """As LinuxFabric.reassert: nothing to do here."""
        self._enter("reassert")

    async def ensure_network(self, network: NetworkAssignment) -> None:
        """As LinuxFabric.ensure_network."""
        self._enter("ensure_network")
        if network.kind is NetworkKind.SHARED:
            self._require_shared(network)
            if network.parent:
                self.stood_on[network.network_id] = network
            return
        plumbing.check(network)
        for other in self.networks.values():
            if other.vni == network.vni and other.network_id != network.network_id:
                raise NotReady(f"VXLAN link of network {network.name}: the identifier is taken", reason="VXLAN_TAKEN")
        self.networks[network.network_id] = network
        self.peers[network.network_id] = {peer.mac: peer for peer in network.peers}

    async def update_peers(self, network_id: NetworkId, upsert: Sequence[Peer], removed_macs: Sequence[str]) -> None:
        """As LinuxFabric.update_peers."""
        self._enter("update_peers")
        if network_id not in self.peers:
            raise NotFound(f"network {network_id} is not on this host", reason="NETWORK_NOT_READY")
        for mac in removed_macs:
            self.peers[network_id].pop(mac, None)
        self.peers[network_id] |= {peer.mac: peer for peer in upsert}

    async def remove_network(self, network_id: NetworkId) -> None:
        """As LinuxFabric.remove_network."""
        self._enter("remove_network")
        names.check_id("network_id", network_id)
        self.networks.pop(network_id, None)
        self.stood_on.pop(network_id, None)
        self.peers.pop(network_id, None)
        for instance_id, found in list(self.bindings.items()):
            self._keep(instance_id, tuple(one for one in found if one.network_id != network_id))

    async def ensure_instance(
        self,
        instance_id: InstanceId,
        nics: Sequence[NicAssignment],
        networks: Mapping[NetworkId, NetworkAssignment],
        filters: Sequence[NicFilter] = (),
    ) -> Path:
        """As LinuxFabric.ensure_instance."""
        self._enter("ensure_instance")
        names.check_id("instance_id", instance_id)
        instance.check(nics, networks, instance_id)
        for nic in nics:
            wanted = networks[nic.network_id]
            if wanted.kind is NetworkKind.SHARED:
                self._require_shared(wanted)
                self._require_free(instance_id, wanted)
            elif nic.network_id not in self.networks:
                raise NotFound(f"network {wanted.name} is not on this host yet", reason="NETWORK_NOT_READY")
        security.replacement(filters)
        self.instances[instance_id] = tuple(nics)
        self.filters[instance_id] = tuple(filters)
        return names.instance_namespace(self._run_dir, instance_id)

    async def filter_instance(self, instance_id: InstanceId, filters: Sequence[NicFilter]) -> None:
        """As LinuxFabric.filter_instance."""
        self._enter("filter_instance")
        names.check_id("instance_id", instance_id)
        if instance_id not in self.instances:
            raise NotFound(f"there is no network namespace of instance {instance_id}")
        security.replacement(filters)
        self.filters[instance_id] = tuple(filters)

    async def remove_instance(self, instance_id: InstanceId) -> None:
        """As LinuxFabric.remove_instance."""
        self._enter("remove_instance")
        names.check_id("instance_id", instance_id)
        self.instances.pop(instance_id, None)
        self.filters.pop(instance_id, None)
        self.bindings.pop(instance_id, None)
        self.routers.pop(instance_id, None)

    async def publish_ports(
        self, instance_id: InstanceId, ports: Sequence[PublishedPort], nics: Sequence[NicAssignment]
    ) -> None:
        """As LinuxFabric.publish_ports."""
        self._enter("publish_ports")
        others = [one for other, found in self.bindings.items() if other != instance_id for one in found]
        after = publishing.resolve(ports, nics, self._records(), others, self.bindings.get(instance_id, ()))
        publishing.check_free(after, others)
        for one in after:
            if (one.protocol, one.host_port) in self.taken_ports:
                raise Exhausted(f"port {one.host_port}/{one.protocol} of this host is in use", reason="HOST_PORT_TAKEN")
        self._keep(instance_id, after)

    async def inventory(self) -> FabricInventory:
        """As LinuxFabric.inventory; `strays` is whatever the test put there."""
        self._enter("inventory")
        return FabricInventory(
            frozenset(self.instances), frozenset(self.networks) | frozenset(self.stood_on), tuple(self.strays)
        )

    async def host_links(self) -> tuple[str, ...]:
        """As LinuxFabric.host_links."""
        self._enter("host_links")
        return tuple(sorted(self.links))

    async def counters(self, instance_id: InstanceId) -> Mapping[str, InterfaceCounters]:
        """As LinuxFabric.counters; all zero."""
        self._enter("counters")
        if instance_id not in self.instances:
            raise NotFound(f"there is no network namespace of instance {instance_id}")
        return {nic.name: InterfaceCounters() for nic in self.instances[instance_id]}

    async def open_name_sockets(self, instance_id: InstanceId) -> NameSockets:
        """As LinuxFabric.open_name_sockets, on ports of this machine's loopback."""
        self._enter("open_name_sockets")
        if instance_id not in self.instances:
            raise NotFound(f"there is no network namespace of instance {instance_id}")
        return loopback_sockets()

    async def open_socket_inside(self, instance_id: InstanceId, family: int, kind: int) -> socket.socket:
        """As LinuxFabric.open_socket_inside, in this machine's namespace."""
        self._enter("open_socket_inside")
        if instance_id not in self.instances:
            raise NotFound(f"there is no network namespace of instance {instance_id}")
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)

    async def apply_router(self, bundle: RouterBundle) -> None:
        """As LinuxFabric.apply_router: the text of the rules is made, and refused as there."""
        self._enter("apply_router")
        if bundle.instance_id not in self.instances:
            raise NotFound(f"there is no network namespace of instance {bundle.instance_id}")
        router_rules.table(bundle, router_rules.Installed({}, frozenset()))
        self.routers[bundle.instance_id] = bundle

    async def router_figures(self, instance_id: InstanceId) -> Sequence[RuleFigure]:
        """As LinuxFabric.router_figures; all zero."""
        self._enter("router_figures")
        if instance_id not in self.instances:
            raise NotFound(f"there is no network namespace of instance {instance_id}")
        found = self.routers.get(instance_id)
        return tuple(RuleFigure(rule_id) for rule_id in sorted(router_rules.rule_ids(found))) if found else ()

    async def destroy_all(self) -> None:
        """As LinuxFabric.destroy_all."""
        self._enter("destroy_all")
        kept_by_id = (
            self.networks,
            self.stood_on,
            self.peers,
            self.instances,
            self.filters,
            self.bindings,
            self.routers,
        )
        for kept in kept_by_id:
            kept.clear()
        self.strays.clear()

    def _require_free(self, instance_id: InstanceId, network: NetworkAssignment) -> None:
        if network.parent and network.network_id not in self.stood_on:
            raise NotFound(f"network {network.name} is not on this host yet", reason="NETWORK_NOT_READY")
        is_exclusive = network.attachment is SharedAttachment.WHOLE_NIC or network.macvlan_mode is MacvlanMode.PASSTHRU
        for other, nics in self.instances.items():
            if is_exclusive and other != instance_id and any(nic.network_id == network.network_id for nic in nics):
                raise NotReady(f"the NIC {network.parent} is in instance {other}", reason="PARENT_IN_USE")

    def _require_shared(self, network: NetworkAssignment) -> None:
        if network.attachment is not SharedAttachment.EXISTING_BRIDGE:
            if network.parent not in self.links:
                raise NotFound(f"this host has no NIC {network.parent!r}", reason="PARENT_NOT_FOUND")
        elif network.bridge not in self.bridges:
            raise NotFound(
                f"this host has no bridge {network.bridge!r} for the shared network {network.name}",
                reason="BRIDGE_NOT_FOUND",
            )

    def _records(self) -> dict[NetworkId, NetworkRecord]:
        return {
            one.network_id: NetworkRecord(
                network_id=one.network_id,
                vni=one.vni,
                mtu=one.mtu,
                subnets=tuple((subnet.cidr, subnet.gateway) for subnet in one.subnets),
                egress=one.egress,
                transit=Transit(index),
            )
            for index, one in enumerate(self.networks.values())
        }

    def _keep(self, instance_id: InstanceId, found: tuple[Binding, ...]) -> None:
        if found:
            self.bindings[instance_id] = found
        else:
            self.bindings.pop(instance_id, None)

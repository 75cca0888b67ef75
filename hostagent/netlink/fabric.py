"""The host's network as the agent uses it. The only public module of this folder.

Every method is idempotent, changes only what differs, and repairs what an interrupted call left. Work on one network,
one instance, or the host's published ports is done one call at a time; different ones run side by side in a few worker
threads, for netlink and namespace calls block. The order that callers keep: networks before instances, instances
before ports; removal the other way round.

What is in the kernel is the truth for namespaces, links, addresses, routes and forwarding; `state.py` keeps what the
kernel cannot tell. A restarted agent calls `start` and the same `ensure_*` again; nothing running notices.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, Peer, PublishedPort
from hostagent.netlink import (
    conntrack,
    docker_user,
    guard,
    instance,
    links,
    names,
    namespaces,
    network,
    ports,
    removal,
    rules,
    uplink,
)
from hostagent.netlink.nft import NftContexts
from hostagent.netlink.rtnl import Rtnl
from hostagent.netlink.rules import Binding, Transit
from hostagent.netlink.site import Site
from hostagent.netlink.state import NetworkRecord, StateFolder
from moorage.errors import Exhausted, Internal, MoorageError, NotFound, NotSupported
from moorage.ids import InstanceId, NetworkId

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_WORKERS = 4


@dataclass(frozen=True, slots=True)
class FabricInventory:
    """What of ours is on this host. `strays`: links and files that carry our names but are no whole instance or
    network."""

    instances: frozenset[InstanceId]
    networks: frozenset[NetworkId]
    strays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Totals of one interface since it was made, as the instance sees the directions."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class _Locks:
    """One lock per name, made on demand and dropped when nobody waits."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    @contextlib.asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        lock, users = self._locks.setdefault(name, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                self._locks.pop(name, None)


class LinuxFabric:
    """The network of the host whose namespace the calling thread is in.

    Args:
        run_dir: folder on a volatile file system (such as /run/moorage), absolute; namespaces and state live under it.
        underlay_address: this host's address that other hosts send VXLAN to.
        vxlan_port: UDP port of this host's VXLAN end.
        guard_family: nftables family of the anti-spoofing rules; None: the bridge family if the kernel has it, else
        netdev.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        underlay_address: str,
        vxlan_port: int = 4789,
        guard_family: guard.Family | None = None,
    ) -> None:
        self._guard_family = guard_family
        self._run_dir = run_dir
        self._underlay = ipaddress.ip_address(underlay_address)
        self._vxlan_port = vxlan_port
        self._state = StateFolder(run_dir / "state")
        self._locks = _Locks()
        self._reservations = ports.Reservations()
        self._records: dict[NetworkId, NetworkRecord] = {}
        self._bindings: dict[InstanceId, tuple[Binding, ...]] = {}
        self._peers: dict[NetworkId, dict[str, Peer]] = {}
        self._plugged: dict[InstanceId, frozenset[NetworkId]] = {}
        self._doomed: dict[InstanceId, frozenset[NetworkId] | None] = {}
        self._uplinked: set[NetworkId] = set()  # whose uplink and table this process wrote whole
        self._pool: ThreadPoolExecutor | None = None
        self._host: namespaces.HostNamespace | None = None
        self._site: Site | None = None

    # Life -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Prepare the folder, forwarding and the host's packet rules; read what an earlier agent left.

        Raises: NotSupported: not root, or libnftables is missing, or the kernel lacks nftables.
        """
        self._host = host = namespaces.HostNamespace.capture()
        self._pool = ThreadPoolExecutor(
            _WORKERS, thread_name_prefix="fabric", initializer=namespaces.join, initargs=(host,)
        )
        await self._run(self._start, host)

    def _start(self, host: namespaces.HostNamespace) -> None:
        namespaces.prepare_folder(self._run_dir / "netns")
        self._state.prepare()
        self._records, self._bindings = self._state.load()
        namespaces.write_sysctls({"ipv4/ip_forward": "1"})
        contexts = NftContexts()
        nft = contexts.of("host", contextlib.nullcontext)
        self._site = Site(
            host=host,
            run_dir=self._run_dir,
            underlay=self._underlay,
            vxlan_port=self._vxlan_port,
            guard=self._guard_family or guard.choose_family(nft.accepts),
            contexts=contexts,
        )
        self._forget_vanished()
        lost = ports.retake(self._reservations, self._all_bindings())
        for binding in lost:
            _log.warning("published port is held by somebody else", extra={"port": binding.host_port})
        self._reassert()

    def _forget_vanished(self) -> None:
        """Drop what was kept of namespaces that are gone (a reboot, with the folder on a disk): the agent makes them
        anew."""
        site = self._required_site
        for network_id in [one for one in self._records if not site.host.is_namespace(site.network_path(one))]:
            del self._records[network_id]
            self._state.drop_network(network_id)
        for instance_id, found in list(self._bindings.items()):
            alive = site.host.is_namespace(site.instance_path(instance_id))
            rest = tuple(one for one in found if alive and one.network_id in self._records)
            if rest != found:
                self._state.keep_ports(instance_id, rest)
                self._bindings[instance_id] = rest

    async def close(self) -> None:
        """Free threads and sockets. Networks, instances and ports stay as they are."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        await asyncio.to_thread(pool.shutdown, wait=True)
        self._reservations.close()
        if self._site is not None:
            await asyncio.to_thread(self._site.contexts.close)
            self._site = None
        if self._host is not None:
            os.close(self._host.fd)
            self._host = None

    async def reassert(self) -> None:
        """Put the host's packet rules back, whoever removed them. For the agent's sweep, and after Docker or firewalld
        restarted."""
        async with self._locks.hold("ports"):
            await self._run(self._reassert)

    def _reassert(self) -> None:
        self._write_host_table()
        for problem in docker_user.ensure():
            _log.warning("DOCKER-USER: %s", problem)

    # Networks -------------------------------------------------------------------------------------------------------

    async def ensure_network(self, network: NetworkAssignment) -> None:
        """Make an isolated network, with its peers, what the assignment says; of a shared one, check that its bridge
        exists.

        Raises: InvalidSpec; NotFound: a shared network's bridge is missing; NotReady: the VXLAN identifier is taken;
        Exhausted.
        """
        if network.kind is NetworkKind.SHARED:
            await self._run(_check_shared, network)
            return
        async with self._locks.hold(f"n-{network.network_id}"):
            await self._run(self._ensure_network, network)
            self._peers[network.network_id] = {peer.mac: peer for peer in network.peers}
        async with self._locks.hold("ports"):
            await self._run(self._record_network, network)

    def _ensure_network(self, assignment: NetworkAssignment) -> None:
        network.ensure(self._required_site, assignment)

    def _record_network(self, assignment: NetworkAssignment) -> None:
        """Keep what ports and uplinks need of a network, and bring its uplink in line."""
        before = self._records.get(assignment.network_id)
        record = NetworkRecord(
            network_id=assignment.network_id,
            vni=assignment.vni,
            mtu=assignment.mtu,
            subnets=tuple((subnet.cidr, subnet.gateway) for subnet in assignment.subnets),
            egress=assignment.egress,
            transit=before.transit if before is not None else self._free_transit(),
        )
        if record != before:
            self._records[record.network_id] = record
            self._state.keep_network(record)
        has_ports = any(one.network_id == record.network_id for one in self._all_bindings())
        if record.egress or has_ports or (before is not None and before.egress):
            self._refresh_uplinks([record.network_id])
        if record.egress != (before is not None and before.egress):
            self._write_host_table()

    def _free_transit(self) -> Transit:
        taken = {record.transit.index for record in self._records.values()}
        free = next((index for index in range(rules.TRANSIT_COUNT) if index not in taken), None)
        if free is None:
            raise Exhausted("this host has no transit addresses left for another network")
        return Transit(free)

    def _write_host_table(self) -> None:
        table = rules.host_table(self._entries(self._all_bindings()), self._egress())
        self._required_site.host_nft().run(table)

    async def update_peers(self, network_id: NetworkId, upsert: Sequence[Peer], removed_macs: Sequence[str]) -> None:
        """Members on other hosts came, changed or went.

        Raises: NotFound: `ensure_network` was not called for this network.
        """
        async with self._locks.hold(f"n-{network_id}"):
            before = self._peers.get(network_id)
            if before is None:
                raise NotFound(f"network {network_id} is not on this host", reason="NETWORK_NOT_READY")
            after = {mac: peer for mac, peer in before.items() if mac not in set(removed_macs)}
            after |= {peer.mac: peer for peer in upsert}
            await self._run(network.change_peers, self._required_site, network_id, before.values(), after.values())
            self._peers[network_id] = after

    async def remove_network(self, network_id: NetworkId) -> None:
        """Take an isolated network away, with every host end in it. Idempotent. Shared networks leave nothing to
        remove."""
        names.check_id("network_id", network_id)
        async with self._locks.hold("ports"):
            await self._run(self._forget_network, network_id)
        async with self._locks.hold(f"n-{network_id}"):
            await self._run(network.remove, self._required_site, network_id)
            self._peers.pop(network_id, None)

    def _forget_network(self, network_id: NetworkId) -> None:
        for instance_id, bindings in list(self._bindings.items()):
            rest = tuple(one for one in bindings if one.network_id != network_id)
            if rest != bindings:
                self._replace_ports(instance_id, rest)
        self._uplinked.discard(network_id)
        had_egress = (record := self._records.pop(network_id, None)) is not None and record.egress
        self._state.drop_network(network_id)
        if had_egress:
            self._write_host_table()

    # Instances ------------------------------------------------------------------------------------------------------

    async def ensure_instance(
        self,
        instance_id: InstanceId,
        nics: Sequence[NicAssignment],
        networks: Mapping[NetworkId, NetworkAssignment],
    ) -> Path:
        """Make the instance's namespace, interfaces, addresses and routes what the assignment says; the namespace's
        path.

        Raises: InvalidSpec; NotFound: a network of it is not on this host.
        """
        async with self._locks.hold(f"i-{instance_id}"):
            isolated = {n.network_id for n in networks.values() if n.kind is NetworkKind.ISOLATED}
            used = {nic.network_id for nic in nics} & isolated
            self._plugged[instance_id] = self._plugged.get(instance_id, frozenset()) | used
            return await self._run(instance.ensure, self._required_site, instance_id, nics, networks)

    async def remove_instance(self, instance_id: InstanceId) -> None:
        """Take the instance's ports, interfaces and namespace away. Idempotent."""
        names.check_id("instance_id", instance_id)
        if instance_id in self._bindings:
            await self.publish_ports(instance_id, (), ())
        async with self._locks.hold(f"i-{instance_id}"):
            self._doomed[instance_id] = self._plugged.get(instance_id)
            async with self._locks.hold("removal"):  # those that wait here go together with the first
                if instance_id in self._doomed:
                    doomed, self._doomed = self._doomed, {}
                    await self._run(removal.remove, self._required_site, doomed)
            self._plugged.pop(instance_id, None)

    async def counters(self, instance_id: InstanceId) -> Mapping[str, InterfaceCounters]:
        """Totals by interface name, read in the instance's namespace. Raises NotFound."""
        return await self._run(self._counters, instance_id)

    def _counters(self, instance_id: InstanceId) -> Mapping[str, InterfaceCounters]:
        site = self._required_site
        with namespaces.Namespace.open(site.host, site.instance_path(instance_id)) as space:
            found = links.list_links(space.rtnl)
        return {name: _totals(link.stats) for name, link in found.items() if link.kind == "veth"}

    # Published ports ------------------------------------------------------------------------------------------------

    async def publish_ports(
        self, instance_id: InstanceId, ports: Sequence[PublishedPort], nics: Sequence[NicAssignment]
    ) -> None:
        """Replace the published ports of an instance; none removes them.

        Raises:
            InvalidSpec: a port, protocol or host address is wrong.
            Exhausted: HOST_PORT_TAKEN, another process or instance has the port; nothing was changed.
            NotSupported: the instance has no address on an isolated network of that family.
            NotFound: the network is not on this host.
        """
        async with self._locks.hold("ports"):
            await self._run(self._publish, instance_id, ports, nics)

    def _publish(self, instance_id: InstanceId, wanted: Sequence[PublishedPort], nics: Sequence[NicAssignment]) -> None:
        others = [b for other, found in self._bindings.items() if other != instance_id for b in found]
        before = self._bindings.get(instance_id, ())
        after = ports.resolve(wanted, nics, self._records, others, before)
        ports.check_free(after, others)
        self._replace_ports(instance_id, after)

    def _replace_ports(self, instance_id: InstanceId, after: tuple[Binding, ...]) -> None:
        """Reserve, keep, then program; a refusal of the reservation changes nothing."""
        before = self._bindings.get(instance_id, ())
        gone, new = ports.moved(before, after)
        if not gone and not new:
            return
        self._reservations.give_back(gone)
        try:
            self._reservations.take(after)
        except (MoorageError, OSError):
            self._reservations.take(before)
            raise
        if after:
            self._bindings[instance_id] = after
        else:
            self._bindings.pop(instance_id, None)
        self._state.keep_ports(instance_id, after)
        self._change_uplinks(gone, new)
        delta = rules.host_elements("delete", self._entries(gone))
        delta += rules.host_elements("add", self._entries(new))
        if not self._required_site.host_nft().accepts(delta):  # somebody flushed our table
            self._write_host_table()
        self._forget_udp([one for one in [*gone, *new] if one.protocol == "udp"])

    def _forget_udp(self, changed: Sequence[Binding]) -> None:
        """Let conversations that are under way find the new rules."""
        site = self._required_site
        conntrack.forget_udp({one.host_port for one in changed})
        for network_id in {one.network_id for one in changed}:
            if site.host.is_namespace(site.network_path(network_id)):
                with site.open_network(network_id) as space, space.entered():
                    conntrack.forget_udp({one.transit_port for one in changed if one.network_id == network_id})

    def _change_uplinks(self, gone: Sequence[Binding], new: Sequence[Binding]) -> None:
        for network_id in sorted({one.network_id for one in [*gone, *new]}):
            out = [one for one in gone if one.network_id == network_id]
            come = [one for one in new if one.network_id == network_id]
            still = any(one.network_id == network_id for one in self._all_bindings())
            known = network_id in self._uplinked and still
            if not known or not uplink.change(self._required_site, network_id, out, come):
                self._refresh_uplinks([network_id])

    def _refresh_uplinks(self, network_ids: Iterable[NetworkId]) -> None:
        """Make or remove uplinks, as egress and ports ask for."""
        site = self._required_site
        for network_id in network_ids:
            record = self._records.get(network_id)
            bindings = [one for one in self._all_bindings() if one.network_id == network_id]
            if record is not None and (record.egress or bindings):
                uplink.enable_forwarding6()
                uplink.ensure(site, record, bindings)
                self._uplinked.add(network_id)
            else:
                uplink.remove(site, network_id)
                self._uplinked.discard(network_id)

    # All of it ------------------------------------------------------------------------------------------------------

    async def inventory(self) -> FabricInventory:
        """What of ours is on this host, read from the kernel."""
        return await self._run(self._inventory)

    def _inventory(self) -> FabricInventory:
        site = self._required_site
        instances, networks, strays = set(), set(), []
        for path in sorted((site.run_dir / "netns").iterdir()):
            kind, _, name = path.name.partition("-")
            if kind not in ("i", "n") or not site.host.is_namespace(path):
                strays.append(str(path))
            elif kind == "i":
                instances.add(InstanceId(name))
            else:
                networks.add(NetworkId(name))
        known = [names.member_prefix(one) for one in instances] + [names.uplink_outer(one) for one in networks]
        with Rtnl() as rtnl:
            for link in links.list_links(rtnl).values():
                if link.alias == site.alias and not link.name.startswith(tuple(known)):
                    strays.append(link.name)
        return FabricInventory(frozenset(instances), frozenset(networks), tuple(strays))

    async def destroy_all(self) -> None:
        """Remove everything of ours from this host, namespaces in use included. The fabric needs `start` again
        afterwards."""
        inventory = await self.inventory()
        instances = sorted(inventory.instances | set(self._bindings))
        await asyncio.gather(*(self.remove_instance(instance_id) for instance_id in instances))
        networks = sorted(inventory.networks | set(self._records))
        await asyncio.gather(*(self.remove_network(network_id) for network_id in networks))
        await self._run(self._destroy_rest)

    def _destroy_rest(self) -> None:
        site = self._required_site
        with Rtnl() as rtnl:
            ours = [link.name for link in links.list_links(rtnl).values() if link.alias == site.alias]
            rtnl.run([links.link_delete(name) for name in ours])
        for path in sorted((site.run_dir / "netns").iterdir()):
            namespaces.remove(path)
        for table in ("inet", site.guard.value):
            site.host_nft().run(f"add table {table} moorage\ndelete table {table} moorage\n")
        docker_user.remove()
        self._state.destroy()
        namespaces.release_folder(site.run_dir / "netns")

    # Helpers --------------------------------------------------------------------------------------------------------

    @property
    def _required_site(self) -> Site:
        if self._site is None:
            raise Internal("the fabric was used before start or after close")
        return self._site

    async def _run(self, work: Callable[..., _T], *arguments: object) -> _T:
        if self._pool is None:
            raise Internal("the fabric was used before start or after close")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        except PermissionError as error:
            raise NotSupported(f"the agent may not change the host's network: {error}", reason="NEEDS_ROOT") from error
        except OSError as error:
            raise Internal(f"the host's network: {error}", reason="NETLINK_FAILED") from error

    def _all_bindings(self) -> list[Binding]:
        return [one for _instance, found in sorted(self._bindings.items()) for one in found]

    def _egress(self) -> list[NetworkId]:
        return [record.network_id for record in self._records.values() if record.egress]

    def _entries(self, bindings: Iterable[Binding]) -> list[rules.Entry]:
        known = [(b, self._records[b.network_id]) for b in bindings if b.network_id in self._records]
        return [rules.Entry(b, r.transit, tuple(cidr for cidr, _gateway in r.subnets)) for b, r in known]


def _check_shared(assignment: NetworkAssignment) -> None:
    with Rtnl() as rtnl:
        instance.find_shared_bridge(rtnl, assignment)


def _totals(stats: bytes) -> InterfaceCounters:
    """struct rtnl_link_stats64 begins with rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors,
    rx_dropped, tx_dropped."""
    if len(stats) < 64:
        return InterfaceCounters()
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = struct.unpack_from(
        "=8Q", stats
    )
    return InterfaceCounters(rx_bytes, tx_bytes, rx_packets, tx_packets, rx_errors, tx_errors, rx_dropped, tx_dropped)

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
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, NicFilter, Peer, PublishedPort
from hostagent.netlink import (
    filtering,
    guard,
    instance,
    name_sockets,
    names,
    namespaces,
    network,
    removal,
    router,
    shared,
    survey,
)
from hostagent.netlink.gateways import Gateways
from hostagent.netlink.name_sockets import NameSockets
from hostagent.netlink.nft import NftContexts
from hostagent.netlink.segments import Segments
from hostagent.netlink.site import Site
from hostagent.netlink.survey import FabricInventory, InterfaceCounters
from moorage.errors import Internal, MoorageError, NotFound, NotSupported
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import RouterBundle, RuleFigure

__all__ = ["FabricInventory", "InterfaceCounters", "LinuxFabric", "NameSockets"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_WORKERS = 4


class _Locks:
    """One lock per name, made on demand and dropped when nobody waits."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    def names(self) -> set[str]:
        """Those that somebody holds or waits for."""
        return set(self._locks)

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
        self._run_dir = run_dir
        self._underlay = ipaddress.ip_address(underlay_address)
        self._vxlan_port = vxlan_port
        self._guard_family = guard_family
        self._locks = _Locks()
        self._peers: dict[NetworkId, dict[str, Peer]] = {}
        self._plugged: dict[InstanceId, frozenset[NetworkId]] = {}
        self._filters: dict[InstanceId, tuple[NicFilter, ...]] = {}
        self._doomed: dict[InstanceId, frozenset[NetworkId] | None] = {}
        self._routers: dict[InstanceId, RouterBundle] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._host: namespaces.HostNamespace | None = None
        self._started: tuple[Site, Gateways, Segments] | None = None

    # Life -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Prepare the folder, forwarding and the host's packet rules; read what an earlier agent left.

        Raises: NotSupported: not root, or libnftables is missing, or the kernel lacks nftables.
        """
        await self.close()
        self._host = host = namespaces.HostNamespace.capture()
        self._pool = ThreadPoolExecutor(
            _WORKERS, thread_name_prefix="fabric", initializer=namespaces.join, initargs=(host,)
        )
        self._started = await self._run(self._start, host)

    def _start(self, host: namespaces.HostNamespace) -> tuple[Site, Gateways, Segments]:
        namespaces.prepare_folder(self._run_dir / "netns")
        namespaces.write_sysctls({"ipv4/ip_forward": "1"})
        contexts = NftContexts()
        nft = contexts.of("host", contextlib.nullcontext)
        site = Site(
            host=host,
            run_dir=self._run_dir,
            underlay=self._underlay,
            vxlan_port=self._vxlan_port,
            guard=self._guard_family or guard.choose_family(nft.accepts),
            contexts=contexts,
        )
        gateways = Gateways(site)
        gateways.start()
        segments = Segments(site)
        segments.start()
        return site, gateways, segments

    async def close(self) -> None:
        """Free threads and sockets. Networks, instances and ports stay as they are."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        await asyncio.to_thread(pool.shutdown, wait=True)
        if self._started is not None:
            self._gateways.close()
            await asyncio.to_thread(self._site.contexts.close)
            self._started = None
        if self._host is not None:
            os.close(self._host.fd)
            self._host = None

    async def reassert(self) -> None:
        """Put the host's packet rules back, whoever removed them: for the agent's sweep, and after Docker or firewalld
        restarted."""
        async with self._locks.hold("gateways"):
            await self._run(self._gateways.reassert)
        async with self._locks.hold("segments"):
            await self._run(self._segments.reassert)
        for instance_id in sorted(self._filters):
            await self._repair_filters(instance_id)

    async def _repair_filters(self, instance_id: InstanceId) -> None:
        async with self._locks.hold(f"i-{instance_id}"):
            filters = self._filters.get(instance_id)
            if filters:
                try:
                    await self._run(filtering.repair, self._site, instance_id, filters)
                except NotFound:
                    self._filters.pop(instance_id, None)  # its namespace is gone, which the sweep sees for itself
                except Internal as error:  # of one instance: the others, and the rest of the sweep, go on
                    log.error("security groups not put back", extra={"instance": instance_id, "problem": error.message})

    # Networks -------------------------------------------------------------------------------------------------------

    async def ensure_network(self, network: NetworkAssignment) -> None:
        """Make an isolated network, with its peers, what the assignment says; of a shared one, the host's side.

        Raises: InvalidSpec; NotFound: a shared network's bridge or NIC is missing; NotReady: the VXLAN identifier is
        taken, or the NIC is; NotSupported: the kernel has no VXLAN or no VLAN; Exhausted.
        """
        if network.kind is NetworkKind.SHARED:
            async with self._locks.hold(f"n-{network.network_id}"):
                await self._run(shared.ensure, self._site, network)
            return
        async with self._locks.hold(f"n-{network.network_id}"):
            await self._ensure_segment(network)
            self._peers[network.network_id] = {peer.mac: peer for peer in network.peers}
            async with self._locks.hold("gateways"):
                await self._run(self._gateways.ensure_network, network)

    async def _ensure_segment(self, wanted: NetworkAssignment) -> None:
        """Namespace, bridge, VXLAN link and forwarding, with the filter before them. A network that cannot be made
        leaves its identifier to whoever has it."""
        network.check(wanted)
        network_id = wanted.network_id
        was_there = self._segments.has(network_id)
        await self._in_segments(self._segments.open, network_id, wanted.vni, wanted.peers)
        try:
            await self._run(network.ensure, self._site, wanted)
        except MoorageError:
            if not was_there:
                await self._in_segments(self._segments.remove, network_id)
            raise
        await self._in_segments(self._segments.restrict, network_id, wanted.peers)

    async def _in_segments(self, work: Callable[..., None], *arguments: object) -> None:
        async with self._locks.hold("segments"):
            await self._run(work, *arguments)

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
            await self._in_segments(self._segments.admit, network_id, after.values())
            await self._run(network.change_peers, self._site, network_id, before, after)
            await self._in_segments(self._segments.restrict, network_id, after.values())
            self._peers[network_id] = after

    async def remove_network(self, network_id: NetworkId) -> None:
        """Take an isolated network away, with every host end in it; of a shared one, what was made on a NIC. Idempotent."""
        names.check_id("network_id", network_id)
        async with self._locks.hold(f"n-{network_id}"):
            async with self._locks.hold("gateways"):
                await self._run(self._gateways.forget_network, network_id)
            await self._run(network.remove, self._site, network_id)
            await self._run(shared.remove, self._site, network_id)
            await self._in_segments(self._segments.remove, network_id)
            self._peers.pop(network_id, None)

    # Instances ------------------------------------------------------------------------------------------------------

    async def ensure_instance(
        self,
        instance_id: InstanceId,
        nics: Sequence[NicAssignment],
        networks: Mapping[NetworkId, NetworkAssignment],
        filters: Sequence[NicFilter] = (),
    ) -> Path:
        """Make the instance's namespace, interfaces, addresses and routes what the assignment says; the namespace's
        path. `filters`: for each interface that carries security groups what may pass it; the others are not filtered.

        Raises: InvalidSpec; NotFound: a network of it is not on this host.
        """
        async with self._locks.hold(f"i-{instance_id}"):
            isolated = {n.network_id for n in networks.values() if n.kind is NetworkKind.ISOLATED}
            used = {nic.network_id for nic in nics} & isolated
            before = self._plugged.get(instance_id)
            self._plugged[instance_id] = (before or frozenset()) | used
            known = self._filters.pop(instance_id, None)  # until it is done, neither the old nor the new is sure
            path = await self._run(instance.ensure, self._site, instance_id, nics, networks, before, filters, known)
            self._filters[instance_id] = tuple(filters)
            return path

    async def filter_instance(self, instance_id: InstanceId, filters: Sequence[NicFilter]) -> None:
        """Change what filters an instance's interfaces; connections that are open are judged anew.

        Raises: NotFound: the instance has no namespace.
        """
        async with self._locks.hold(f"i-{instance_id}"):
            known = self._filters.pop(instance_id, None)
            await self._run(filtering.change, self._site, instance_id, known, filters)
            self._filters[instance_id] = tuple(filters)

    async def remove_instance(self, instance_id: InstanceId) -> None:
        """Take the instance's ports, interfaces and namespace away. Idempotent."""
        names.check_id("instance_id", instance_id)
        if self._gateways.has_ports(instance_id):
            await self.publish_ports(instance_id, (), ())
        async with self._locks.hold(f"i-{instance_id}"):
            await _uninterrupted(self._remove_with_others(instance_id))

    async def _remove_with_others(self, instance_id: InstanceId) -> None:
        """Those that wait here while another removal runs go together with the first of them."""
        self._doomed[instance_id] = self._plugged.get(instance_id)
        async with self._locks.hold("removal"):
            if instance_id in self._doomed:
                doomed, self._doomed = self._doomed, {}
                try:
                    await self._run(removal.remove, self._site, doomed)
                except BaseException:
                    self._doomed |= {one: known for one, known in doomed.items() if one != instance_id}
                    raise
        self._plugged.pop(instance_id, None)
        self._routers.pop(instance_id, None)
        self._filters.pop(instance_id, None)

    async def host_links(self) -> tuple[str, ...]:
        """Links of the host that shared networks may stand on."""
        return await self._run(survey.host_links, self._site)

    async def counters(self, instance_id: InstanceId) -> Mapping[str, InterfaceCounters]:
        """Totals by interface name, read in the instance's namespace. Raises NotFound."""
        return await self._run(survey.counters, self._site, instance_id)

    async def open_name_sockets(self, instance_id: InstanceId) -> NameSockets:
        """Listen for an instance's questions in its namespace. The caller closes the sockets, before the instance is
        removed.

        Raises: NotFound: it has no namespace.
        """
        async with self._locks.hold(f"i-{instance_id}"):
            return await self._run(name_sockets.open_sockets, self._site, instance_id)

    async def open_socket_inside(self, instance_id: InstanceId, family: int, kind: int) -> socket.socket:
        """A fresh socket in an instance's namespace, not blocking; the caller's to close. Raises NotFound."""
        return await self._run(name_sockets.open_inside, self._site, instance_id, family, kind)

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
        async with self._locks.hold("gateways"):
            await self._run(self._gateways.publish, instance_id, ports, nics)

    async def apply_router(self, bundle: RouterBundle) -> None:
        """Make packet rules and forwarding of a router's namespace what the bundle says, all or nothing. Counters of rules
        that stay go on, connections too, but for those whose translation is gone.

        Raises:
            NotFound: the instance has no namespace.
            InvalidSpec: something in the bundle cannot be understood.
            Internal: NFT_REFUSED, in nftables' own words.
        """
        instance_id = bundle.instance_id
        async with self._locks.hold(f"i-{instance_id}"):
            before = self._routers.pop(instance_id, None)
            await self._run(router.apply, self._site, bundle, before)
            self._routers[instance_id] = bundle

    async def router_figures(self, instance_id: InstanceId) -> Sequence[RuleFigure]:
        """What each rule of a router counted. Raises NotFound: it has no namespace."""
        async with self._locks.hold(f"i-{instance_id}"):
            return await self._run(router.figures, self._site, instance_id)

    # All of it ------------------------------------------------------------------------------------------------------

    async def inventory(self) -> FabricInventory:
        """What of ours is on this host, read from the kernel."""
        return await self._run(survey.take, self._site, self._locks.names())

    async def destroy_all(self) -> None:
        """Remove everything of ours from this host, namespaces in use included; `start` makes it usable again."""
        inventory = await self.inventory()
        instances, networks = self._gateways.known()
        await asyncio.gather(*(self.remove_instance(one) for one in sorted(inventory.instances | instances)))
        await asyncio.gather(*(self.remove_network(one) for one in sorted(inventory.networks | networks)))
        await self._run(self._segments.destroy)
        await self._run(self._gateways.destroy)
        await self._run(survey.remove_rest, self._site)

    # Helpers --------------------------------------------------------------------------------------------------------

    @property
    def _site(self) -> Site:
        return self._required()[0]

    @property
    def _gateways(self) -> Gateways:
        return self._required()[1]

    @property
    def _segments(self) -> Segments:
        return self._required()[2]

    def _required(self) -> tuple[Site, Gateways, Segments]:
        if self._started is None:
            raise Internal("the fabric was used before start or after close")
        return self._started

    async def _run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Run blocking work in a worker thread. A caller that is cancelled waits for its end: its locks must hold so
        long."""
        if self._pool is None:
            raise Internal("the fabric was used before start or after close")
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        try:
            return await _uninterrupted(future)
        except PermissionError as error:
            raise NotSupported(f"the agent may not change the host's network: {error}", reason="NEEDS_ROOT") from error
        except OSError as error:
            raise Internal(f"the host's network: {error}", reason="NETLINK_FAILED") from error


async def _uninterrupted(work: "asyncio.Future[_T] | Coroutine[Any, Any, _T]") -> _T:
    """The result of work that goes on to its end even when the caller is cancelled; the cancellation is raised after
    it."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # seen: it matters to nobody any more
        raise cancelled
    return future.result()

"""A host's network and a control plane in memory, for tests of the agent as a whole. The engine is
tests/fakes/engine.py.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from hostagent.domain import NetworkAssignment, NicAssignment, NicFilter, Peer, PublishedPort
from hostagent.netlink.fabric import InterfaceCounters, NameSockets
from moorage.errors import MoorageError, NotFound
from moorage.ids import ContainerId, InstanceId, NetworkId
from moorage.router_bundle import RouterBundle, RuleFigure
from moorage.v1 import agent_pb2, agent_pb2_grpc, router_bundles_pb2
from tests.fakes.fabric import loopback_sockets


@dataclass(frozen=True)
class Inventory:
    """What is there."""

    instances: frozenset[InstanceId]
    networks: frozenset[NetworkId]
    strays: tuple[str, ...] = ()


@dataclass
class FakeFabric:
    """Namespaces, networks and ports as plain values. `faults` are raised, one a call, by the method of that name."""

    networks: dict[NetworkId, NetworkAssignment] = field(default_factory=dict)
    peers: dict[NetworkId, dict[str, Peer]] = field(default_factory=dict)
    instances: dict[InstanceId, tuple[NicAssignment, ...]] = field(default_factory=dict)
    filters: dict[InstanceId, tuple[NicFilter, ...]] = field(default_factory=dict)
    ports: dict[InstanceId, tuple[PublishedPort, ...]] = field(default_factory=dict)
    faults: dict[str, list[MoorageError]] = field(default_factory=dict)
    strays: tuple[str, ...] = ()
    routers: list[RouterBundle] = field(default_factory=list)  # each call

    def _enter(self, method: str) -> None:
        if waiting := self.faults.get(method):
            raise waiting.pop(0)

    async def ensure_network(self, network: NetworkAssignment) -> None:
        self._enter("ensure_network")
        self.networks[network.network_id] = network
        self.peers[network.network_id] = {peer.mac: peer for peer in network.peers}

    async def update_peers(self, network_id: NetworkId, upsert: Sequence[Peer], removed_macs: Sequence[str]) -> None:
        if network_id not in self.networks:
            raise NotFound("no such network")
        for mac in removed_macs:
            self.peers[network_id].pop(mac, None)
        self.peers[network_id].update({peer.mac: peer for peer in upsert})

    async def remove_network(self, network_id: NetworkId) -> None:
        self._enter("remove_network")
        assert not any(nic.network_id == network_id for nics in self.instances.values() for nic in nics)
        self.networks.pop(network_id, None)
        self.peers.pop(network_id, None)

    async def ensure_instance(
        self,
        instance_id: InstanceId,
        nics: Sequence[NicAssignment],
        networks: Mapping[NetworkId, NetworkAssignment],
        filters: Sequence[NicFilter] = (),
    ) -> Path:
        self._enter("ensure_instance")
        for nic in nics:
            assert nic.network_id in self.networks
            assert nic.network_id in networks
        self.instances[instance_id] = tuple(nics)
        self.filters[instance_id] = tuple(filters)
        return Path(f"/run/fake/netns/i-{instance_id}")

    async def open_name_sockets(self, instance_id: InstanceId) -> NameSockets:
        self._enter("open_name_sockets")
        assert instance_id in self.instances
        return loopback_sockets()

    async def open_socket_inside(self, instance_id: InstanceId, family: int, kind: int) -> socket.socket:
        assert instance_id in self.instances
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)

    async def filter_instance(self, instance_id: InstanceId, filters: Sequence[NicFilter]) -> None:
        self._enter("filter_instance")
        assert instance_id in self.instances
        self.filters[instance_id] = tuple(filters)

    async def remove_instance(self, instance_id: InstanceId) -> None:
        self._enter("remove_instance")
        self.instances.pop(instance_id, None)
        self.filters.pop(instance_id, None)
        self.ports.pop(instance_id, None)

    async def publish_ports(
        self, instance_id: InstanceId, ports: Sequence[PublishedPort], nics: Sequence[NicAssignment]
    ) -> None:
        self._enter("publish_ports")
        self.ports[instance_id] = tuple(ports)

    async def counters(self, instance_id: InstanceId) -> Mapping[str, InterfaceCounters]:
        if instance_id not in self.instances:
            raise NotFound("no such namespace")
        return {nic.name: InterfaceCounters(rx_bytes=10, tx_bytes=20) for nic in self.instances[instance_id]}

    async def apply_router(self, bundle: RouterBundle) -> None:
        self._enter("apply_router")
        if bundle.instance_id not in self.instances:
            raise NotFound("no such namespace")
        self.routers.append(bundle)

    async def router_figures(self, instance_id: InstanceId) -> Sequence[RuleFigure]:
        if instance_id not in self.instances:
            raise NotFound("no such namespace")
        return [RuleFigure("web", 3, 180)]

    async def reassert(self) -> None:
        self._enter("reassert")

    async def host_links(self) -> tuple[str, ...]:
        return ("eth0", "eth1")

    async def inventory(self) -> Inventory:
        return Inventory(frozenset(self.instances), frozenset(self.networks), self.strays)


@dataclass
class FakeKeys:
    """Runtime keys in a dictionary."""

    links: dict[ContainerId, Path] = field(default_factory=dict)
    secrets: dict[ContainerId, Path] = field(default_factory=dict)

    def publish(self, container_id: ContainerId, ns_path: Path, secrets: Path | None = None) -> None:
        self.links[container_id] = ns_path
        if secrets is not None:
            self.secrets[container_id] = secrets

    def withdraw(self, container_id: ContainerId) -> None:
        self.links.pop(container_id, None)

    def published(self) -> Mapping[ContainerId, Path]:
        return dict(self.links)


@dataclass
class FakeDoor:
    """Remembers what was granted."""

    granted: list[str] = field(default_factory=list)

    async def open(self, registry_url: str, registry_ca_pem: str) -> None:
        self.granted.append(f"open {registry_url}")

    @contextmanager
    def grant_push(self, repository: str) -> Iterator[None]:
        self.granted.append(f"push {repository}")
        yield

    @contextmanager
    def grant_pull(self, image: str) -> Iterator[None]:
        self.granted.append(f"pull {image}")
        yield


class Stream:
    """The caller's end of a side stream; None in `to_agent` ends it."""

    def __init__(self) -> None:
        self.seen: list[agent_pb2.OpenStreamRequest] = []
        self.to_agent: asyncio.Queue[agent_pb2.OpenStreamResponse | None] = asyncio.Queue()


class FakeControlPlane(agent_pb2_grpc.AgentServiceServicer):
    """The control plane's end of a session, over a real gRPC server on a port of its own (without TLS)."""

    def __init__(self) -> None:
        self.hellos: list[agent_pb2.AgentHello] = []
        self.heartbeats: list[agent_pb2.AgentHeartbeat] = []
        self.reports: dict[str, agent_pb2.InstanceReport] = {}
        self.history: list[agent_pb2.InstanceReport] = []
        self.routers: dict[str, router_bundles_pb2.RouterReport] = {}
        self.tasks: list[agent_pb2.TaskReport] = []
        self.neighbours: list[agent_pb2.NeighbourAnswer] = []
        self.farewells = 0
        self.streams: dict[str, Stream] = {}
        self.contexts: dict[str, bytes] = {}
        self.term, self.store_id, self.revision, self.sequence = 1, "store-1", 1, 0
        self.history_lost = False
        self.gives_leases = True
        self.complete: agent_pb2.Assignments | None = None
        self._queue: asyncio.Queue[agent_pb2.SessionResponse | None] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Condition()
        self.port = 0

    async def start(self) -> None:
        self._server = grpc.aio.server()
        agent_pb2_grpc.add_AgentServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(0)
        self._server = None

    async def connect(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")

    async def Session(self, requests: AsyncIterator[agent_pb2.SessionRequest], context: Any) -> AsyncIterator[Any]:
        self._queue = asyncio.Queue()
        first = await anext(requests)
        self.hellos.append(first.hello)
        for report in first.hello.instances:
            await self._take(report)
        welcome = agent_pb2.Welcome(
            term=self.term,
            store_id=self.store_id,
            host_uid="h1",
            host_name="hosts/h1",
            history_lost=self.history_lost,
        )
        welcome.heartbeat_period.FromMilliseconds(200)
        welcome.lease_renewal_period.FromMilliseconds(200)
        yield agent_pb2.SessionResponse(welcome=welcome)
        if self.complete is not None:
            yield agent_pb2.SessionResponse(assignments=self._numbered(self.complete))
        reading = asyncio.ensure_future(self._read(requests))
        try:
            while (message := await self._queue.get()) is not None:
                yield message
        finally:
            reading.cancel()

    async def OpenStream(
        self, requests: AsyncIterator[agent_pb2.OpenStreamRequest], context: Any
    ) -> AsyncIterator[Any]:
        first = await anext(requests)
        stream = self.streams[first.stream_id]
        reading = asyncio.ensure_future(self._read_stream(requests, stream))
        try:
            while (message := await stream.to_agent.get()) is not None:
                yield message
        finally:
            reading.cancel()

    async def FetchBuildContext(
        self, request: agent_pb2.FetchBuildContextRequest, context: Any
    ) -> AsyncIterator[agent_pb2.FetchBuildContextResponse]:
        yield agent_pb2.FetchBuildContextResponse(chunk=self.contexts[request.task_id])

    async def _read_stream(self, requests: AsyncIterator[agent_pb2.OpenStreamRequest], stream: "Stream") -> None:
        async for message in requests:
            stream.seen.append(message)
            if message.WhichOneof("part") == "end":
                stream.to_agent.put_nowait(None)
            async with self._changed:
                self._changed.notify_all()

    def ask(self, stream_id: str, instance_id: str = "i1", **kind: Any) -> "Stream":
        """Ask the agent for a side stream."""
        self.streams[stream_id] = Stream()
        request = agent_pb2.StreamRequest(stream_id=stream_id, instance_id=instance_id, **kind)
        self.send(agent_pb2.SessionResponse(stream=request))
        return self.streams[stream_id]

    async def until_end(self, stream: "Stream") -> agent_pb2.StreamEnd:
        """Wait until a side stream has ended."""
        await self.until(lambda: bool(stream.seen) and stream.seen[-1].WhichOneof("part") == "end")
        return stream.seen[-1].end

    def send(self, message: agent_pb2.SessionResponse) -> None:
        self._queue.put_nowait(message)

    def end_session(self) -> None:
        self._queue.put_nowait(None)

    def change(self, *instances: agent_pb2.InstanceAssignment, **fields: Any) -> None:
        """Send an INCREMENTAL change."""
        self.revision += 1
        message = agent_pb2.Assignments(
            type=agent_pb2.Assignments.TYPE_INCREMENTAL,
            applies_to=self.sequence,
            results_in=self.sequence + 1,
            revision=self.revision,
            instances=instances,
            **fields,
        )
        self.sequence += 1
        self.send(agent_pb2.SessionResponse(assignments=message))

    def set_complete(
        self,
        instances: Sequence[agent_pb2.InstanceAssignment] = (),
        networks: Sequence[agent_pb2.NetworkAssignment] = (),
    ) -> agent_pb2.Assignments:
        """What a COMPLETE set says from now on; sent with each new session."""
        self.complete = agent_pb2.Assignments(
            type=agent_pb2.Assignments.TYPE_COMPLETE, instances=instances, networks=networks
        )
        return self.complete

    def send_complete(self) -> None:
        assert self.complete is not None
        self.send(agent_pb2.SessionResponse(assignments=self._numbered(self.complete)))

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something that the agent said makes a condition true."""
        deadline = time.monotonic() + seconds
        async with self._changed:
            while not condition():
                try:
                    async with asyncio.timeout(min(0.05, max(0.001, deadline - time.monotonic()))):
                        await self._changed.wait()
                except TimeoutError:
                    if time.monotonic() > deadline and not condition():
                        raise AssertionError(f"not within {seconds} s; the agent said: {self.reports}") from None

    async def until_state(self, instance_id: str, state: int, *, run: int | None = None, seconds: float = 10.0) -> None:
        def reached() -> bool:
            report = self.reports.get(instance_id)
            return report is not None and report.state == state and (run is None or report.run == run)

        await self.until(reached, seconds)

    def _numbered(self, message: agent_pb2.Assignments) -> agent_pb2.Assignments:
        self.sequence += 1
        numbered = agent_pb2.Assignments()
        numbered.CopyFrom(message)
        numbered.results_in = self.sequence
        numbered.revision = self.revision
        return numbered

    async def _read(self, requests: AsyncIterator[agent_pb2.SessionRequest]) -> None:
        async for message in requests:
            part = message.WhichOneof("part")
            if part == "heartbeat":
                self.heartbeats.append(message.heartbeat)
            elif part == "status":
                for report in message.status.reports:
                    await self._take(report)
                self.routers |= {report.instance_id: report for report in message.status.routers}
            elif part == "task":
                self.tasks.append(message.task)
            elif part == "neighbour":
                self.neighbours.append(message.neighbour)
            elif part == "farewell":
                self.farewells += 1
            elif part == "lease_request" and self.gives_leases:
                asked = message.lease_request
                renewal = agent_pb2.LeaseRenewal(number=asked.number, instance_ids=asked.instance_ids)
                self.send(agent_pb2.SessionResponse(lease_renewal=renewal))
            async with self._changed:
                self._changed.notify_all()
        self.end_session()

    async def _take(self, report: agent_pb2.InstanceReport) -> None:
        self.reports[report.instance_id] = report
        self.history.append(report)
        async with self._changed:
            self._changed.notify_all()

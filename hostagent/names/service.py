"""The name server and the metadata of every instance of this host: three sockets in each namespace, one answer for all.

Who asks is known by the socket on which the question came, so nobody can ask in another's name. What is answered
comes from directories of the journal: neither control plane nor router is needed for it.

An instance can keep no more than its share of this agent busy: so many questions a second (`ration.py`) and at a turn,
so many on their way elsewhere, so many connections.
"""

import asyncio
import functools
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from hostagent.names import answers, wire
from hostagent.names.answers import Elsewhere, Reply
from hostagent.names.book import NameBook
from hostagent.names.forwarder import Forwarder, HostResolvers, OpenSocket, from_here
from hostagent.names.metadata_server import MetadataServer
from hostagent.names.ports import NamesFabric, NameSockets
from hostagent.names.ration import Ration
from hostagent.names.streams import DnsStream
from hostagent.names.wire import Query
from moorage.ids import InstanceId
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

_DATAGRAMS_AT_A_TURN = 8
_WAITING_AT_ONCE = 64  # questions of one instance that others are asked for
_STREAMS_AT_ONCE = 16  # of one instance
_CONNECTIONS_AT_ONCE = (
    256  # of all: each takes one of the low descriptors (netlink/name_sockets.py says why they are few)
)
_BACKLOG = 16  # connections that are taken at one turn of the loop
_KEPT_ANSWERS = 4096
_TURNS = 4  # orders of addresses that are kept of one answer

Deliver = Callable[[bytes], None]


class _Door:
    """One instance's sockets, and what of it is under way."""

    def __init__(
        self, instance_id: InstanceId, namespace: tuple[int, int], sockets: NameSockets, ration: Ration
    ) -> None:
        self.instance_id = instance_id
        self.namespace = namespace
        self.sockets = sockets
        self.ration = ration
        self.servers: list[asyncio.Server] = []
        self.streams: set[DnsStream] = set()
        self.metadata: MetadataServer | None = None
        self.waiting = 0

    @property
    def connections(self) -> int:
        """How many it has open."""
        return len(self.streams) + (self.metadata.connections if self.metadata is not None else 0)


class InstanceNames:
    """All doors. `open` before an instance's process starts, `close` when its namespace goes, `shutdown` at the end.

    Args:
        tasks: owns the questions that are asked elsewhere.
    """

    def __init__(
        self,
        *,
        fabric: NamesFabric,
        book: NameBook,
        tasks: TaskOwner,
        forwarder: Forwarder | None = None,
        resolvers: HostResolvers | None = None,
    ) -> None:
        self._fabric = fabric
        self._book = book
        self._tasks = tasks
        self._forwarder = forwarder or Forwarder()
        self._resolvers = resolvers or HostResolvers()
        self._doors: dict[InstanceId, _Door] = {}
        self._turn = 0
        self._kept: dict[tuple[object, ...], bytes] = {}
        self._kept_version = -1

    @property
    def open_for(self) -> frozenset[InstanceId]:
        """Instances that are answered."""
        return frozenset(self._doors)

    async def open(self, instance_id: InstanceId, namespace: Path) -> None:
        """Answer in an instance's namespace from now on; one that is answered there already is left alone.

        Raises:
            MoorageError: the sockets cannot be made.
        """
        identity = _identity(namespace)
        known = self._doors.get(instance_id)
        if known is not None and known.namespace == identity:
            return
        self.close(instance_id)
        sockets = await self._fabric.open_name_sockets(instance_id)
        loop = asyncio.get_running_loop()
        door = self._doors[instance_id] = _Door(instance_id, identity, sockets, Ration(loop.time))
        loop.add_reader(sockets.datagrams, self._readable, door)
        door.metadata = MetadataServer(
            functools.partial(self._book.describe, instance_id=instance_id), admits=self._admits, ration=door.ration
        )
        try:
            door.servers.append(
                await loop.create_server(lambda: self._stream(door), sock=sockets.streams, backlog=_BACKLOG)
            )
            door.servers.append(await loop.create_server(door.metadata, sock=sockets.metadata, backlog=_BACKLOG))
        except BaseException:
            # Whoever opened it may be cancelled here; half a door would pass for a whole one.
            if self._doors.get(instance_id) is door:
                self.close(instance_id)
            raise

    def close(self, instance_id: InstanceId) -> None:
        """Answer no more; fine if nobody was answered. The namespace is free of us then."""
        door = self._doors.pop(instance_id, None)
        if door is None:
            return
        asyncio.get_running_loop().remove_reader(door.sockets.datagrams)
        for server in door.servers:
            server.close()
        for each in (door.sockets.datagrams, door.sockets.streams, door.sockets.metadata):
            each.close()
        for stream in list(door.streams):
            stream.abort()
        if door.metadata is not None:
            door.metadata.abort()

    def shutdown(self) -> None:
        """Close all."""
        for instance_id in list(self._doors):
            self.close(instance_id)

    # How questions come in and answers go out.

    def _readable(self, door: _Door) -> None:
        for _ in range(_DATAGRAMS_AT_A_TURN):
            if wait := door.ration.wait_seconds():
                loop = asyncio.get_running_loop()
                loop.remove_reader(door.sockets.datagrams)
                loop.call_later(wait, self._read_again, door)
                return
            try:
                data, sender = door.sockets.datagrams.recvfrom(wire.LARGEST_UDP)
            except OSError:  # nothing more is there, or an error that an earlier answer met
                return
            self._take(door, data, functools.partial(_send, door.sockets.datagrams, sender), is_stream=False)

    def _read_again(self, door: _Door) -> None:
        if self._doors.get(door.instance_id) is door:
            asyncio.get_running_loop().add_reader(door.sockets.datagrams, self._readable, door)

    def _stream(self, door: _Door) -> DnsStream:
        is_full = len(door.streams) >= _STREAMS_AT_ONCE or not self._admits()
        return DnsStream(
            door.streams,
            is_full=is_full,
            ration=door.ration,
            take=lambda data, deliver: self._take(door, data, deliver, is_stream=True),
        )

    def _admits(self) -> bool:
        return sum(door.connections for door in self._doors.values()) < _CONNECTIONS_AT_ONCE

    # What is answered.

    def _take(self, door: _Door, data: bytes, deliver: Deliver, *, is_stream: bool) -> None:
        """Answer at once what is ours to answer; ask others in a task of its own."""
        self._turn += 1
        network_ids = self._book.network_ids(door.instance_id)
        key = (network_ids, data[2:], is_stream, self._turn % _TURNS)
        if self._kept_version != self._book.version or len(self._kept) > _KEPT_ANSWERS:
            self._kept.clear()
            self._kept_version = self._book.version
        if (kept := self._kept.get(key)) is not None:
            deliver(data[:2] + kept)
            return
        query = wire.read(data)
        if query is None:
            return
        if isinstance(query, bytes):
            deliver(query)
            return
        size = wire.LARGEST_TCP if is_stream else query.udp_size
        found = answers.answer(query.question, self._book.directories(network_ids), self._turn)
        if isinstance(found, Elsewhere):
            self._take_elsewhere(door, data, query, found, size, deliver)
            return
        answer = self._kept[key] = wire.write(query, found, size)[2:]
        deliver(data[:2] + answer)

    def _take_elsewhere(
        self, door: _Door, data: bytes, query: Query, found: Elsewhere, size: int, deliver: Deliver
    ) -> None:
        servers, open_socket = self._upstream(door)
        if not servers:
            deliver(wire.write(query, answers.nobody_to_ask(found), size))
        elif door.waiting >= _WAITING_AT_ONCE:
            deliver(wire.write(query, Reply(answers.SERVFAIL, is_authoritative=False), size))
        else:
            door.waiting += 1
            work = self._ask(door, data, query, found, size, deliver, servers, open_socket)
            self._tasks.spawn(work, name=f"question of {door.instance_id}")

    async def _ask(
        self,
        door: _Door,
        data: bytes,
        query: Query,
        found: Elsewhere,
        size: int,
        deliver: Deliver,
        servers: tuple[str, ...],
        open_socket: OpenSocket,
    ) -> None:
        try:
            asked = wire.follow_up(found) if found.answer else data
            upstream = await self._forwarder.ask(asked, servers, open_socket)
            if upstream is None:
                deliver(wire.write(query, Reply(answers.SERVFAIL, is_authoritative=False), size))
            elif found.answer:
                deliver(wire.join(query, found, upstream, size))
            else:
                deliver(wire.relay(query, upstream, size))
        except ValueError as error:
            log.info("an answer could not be used", extra={"instance": door.instance_id, "problem": str(error)})
            deliver(wire.write(query, Reply(answers.SERVFAIL, is_authoritative=False), size))
        finally:
            door.waiting -= 1

    def _upstream(self, door: _Door) -> tuple[tuple[str, ...], OpenSocket]:
        upstream = self._book.upstream(door.instance_id)
        if upstream.inside:

            async def inside(family: int, kind: int) -> socket.socket:
                return await self._fabric.open_socket_inside(door.instance_id, family, kind)

            return upstream.inside, inside
        return self._resolvers.servers() if upstream.is_hosts else upstream.outside, from_here


def _send(via: socket.socket, to: tuple[str, int], data: bytes) -> None:
    try:
        via.sendto(data, to)
    except OSError as error:  # closed meanwhile, or nobody waits any more: a resolver asks again
        log.debug("an answer was not sent", extra={"problem": str(error)})


def _identity(namespace: Path) -> tuple[int, int]:
    """Tells a namespace from one that was made anew under the same name."""
    try:
        seen = os.stat(namespace)
    except FileNotFoundError:
        return 0, 0
    return seen.st_dev, seen.st_ino

"""The name server of instances, over sockets of this machine's loopback."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from hostagent.domain import (
    ContainerSpec,
    DesiredState,
    InstanceAssignment,
    NetworkAssignment,
    NetworkDns,
    NetworkKind,
    NicAssignment,
    Peer,
    Subnet,
)
from hostagent.journal.journal import AssignmentChange, Journal, PeerChange
from hostagent.names.book import NameBook
from hostagent.names.forwarder import Forwarder
from hostagent.names.ration import Ration
from hostagent.names.service import InstanceNames
from hostagent.netlink.name_sockets import NameSockets
from moorage.ids import InstanceId, NetworkId
from moorage.tasks import TaskOwner
from tests.fakes.fabric import loopback_sockets
from tests.unit.names.test_forwarder import Server, good

NET = NetworkId("n1")


def network(**fields: object) -> NetworkAssignment:
    made = NetworkAssignment(NET, "back", NetworkKind.ISOLATED, (Subnet("10.1.0.0/24"),), 1450)
    return replace(made, **fields)  # type: ignore[arg-type]


def instance(name: str, number: int, **fields: object) -> InstanceAssignment:
    nic = NicAssignment(NET, "eth0", f"02:00:00:00:00:{number:02x}", (f"10.1.0.{number}/24",))
    made = InstanceAssignment(
        InstanceId(f"i{number}"), name, "p", 1, 1, DesiredState.RUNNING, ContainerSpec(), (nic,), hostname=name
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def peer(number: int, *names: str) -> Peer:
    return Peer(f"02:00:00:00:00:{number:02x}", (f"10.1.0.{number}",), "192.0.2.2", names=names)


class Fabric:
    """Sockets on the loopback; `ports` says on which."""

    def __init__(self) -> None:
        self.sockets: dict[InstanceId, NameSockets] = {}
        self.inside: list[InstanceId] = []

    async def open_name_sockets(self, instance_id: InstanceId) -> NameSockets:
        found = self.sockets[instance_id] = loopback_sockets()
        return found

    async def open_socket_inside(self, instance_id: InstanceId, family: int, kind: int) -> socket.socket:
        self.inside.append(instance_id)
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)


class Bed:
    """One host's names, and a server beyond them."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal.open(folder, now=time.time())
        self.book = NameBook(self.journal)
        self.fabric = Fabric()
        self.tasks = TaskOwner("names")
        self.server = Server(good())
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self.server, local_addr=("127.0.1.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]
        self.names = InstanceNames(fabric=self.fabric, book=self.book, tasks=self.tasks, forwarder=Forwarder(self.port))

    def assign(self, *instances: InstanceAssignment, networks: tuple[NetworkAssignment, ...] = ()) -> None:
        _, touched = self.journal.apply(AssignmentChange(False, 1, 1, instances, networks), now=0)
        self.book.forget({*touched, NET})

    async def open(self, number: int = 5) -> int:
        """Returns the port on which the instance is answered."""
        instance_id = InstanceId(f"i{number}")
        await self.names.open(instance_id, Path("/nowhere"))
        port: int = self.fabric.sockets[instance_id].datagrams.getsockname()[1]
        return port

    async def ask(self, port: int, name: str, kind: str = "A") -> dns.message.Message:
        return await dns.asyncquery.udp(dns.message.make_query(name, kind), "127.0.0.1", port=port, timeout=5)

    async def values(self, port: int, name: str, kind: str = "A") -> set[str]:
        found = await self.ask(port, name, kind)
        return {item.to_text() for line in found.answer for item in line}

    async def close(self) -> None:
        self.names.shutdown()
        await self.tasks.close()
        self.journal.close()
        if self._transport is not None:
            self._transport.close()


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    made = Bed(tmp_path)
    await made.start()
    made.assign(instance("web", 5), instance("db", 6), networks=(network(),))
    yield made
    await made.close()


async def test_members_here_and_elsewhere_as_the_journal_has_them(bed: Bed) -> None:
    port = await bed.open()
    assert await bed.values(port, "db.back.internal.") == {"10.1.0.6"}
    assert await bed.values(port, "far.back.internal.") == set()
    bed.journal.apply(AssignmentChange(False, 2, 2, peer_changes=(PeerChange(NET, (peer(9, "far"),)),)), now=0)
    bed.book.forget([NET])
    assert await bed.values(port, "far.back.internal.") == {"10.1.0.9"}
    assert await bed.values(port, "9.0.1.10.in-addr.arpa.", "PTR") == {"far.back.internal."}
    bed.assign(instance("db", 6, desired=DesiredState.DELETED))
    gone = await bed.ask(port, "db.back.internal.")
    assert gone.rcode() == dns.rcode.NXDOMAIN
    bed.assign(networks=(network(dns=NetworkDns("corp.example")),))
    assert await bed.values(port, "web.corp.example.") == {"10.1.0.5"}


async def test_one_that_is_not_assigned_any_more_is_not_found(bed: Bed) -> None:
    port = await bed.open()
    bed.journal.apply(AssignmentChange(True, 3, 3, (instance("web", 5),), (network(),)), now=0)
    bed.book.forget([NET])
    assert "i6" in bed.journal.assignments
    assert await bed.values(port, "db") == set()


async def test_who_asks_is_known_by_the_socket(bed: Bed) -> None:
    stranger = instance("alien", 7, nics=())
    bed.assign(stranger)
    own, other = await bed.open(5), await bed.open(7)
    assert await bed.values(own, "db") == {"10.1.0.6"}
    assert (await bed.ask(other, "db")).rcode() == dns.rcode.NXDOMAIN
    assert (await bed.ask(other, "db.back.internal.")).rcode() == dns.rcode.NXDOMAIN


async def test_shared_names_change_their_order(bed: Bed) -> None:
    bed.assign(instance("web-2", 8, hostname="web"))
    port = await bed.open()
    firsts = {(await bed.ask(port, "web")).answer[0][0].to_text() for _ in range(16)}
    assert firsts == {"10.1.0.5", "10.1.0.8"}


async def test_over_tcp_many_questions_on_one_stream(bed: Bed) -> None:
    await bed.open()
    port = bed.fabric.sockets[InstanceId("i5")].streams.getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    queries = [dns.message.make_query(name, "A") for name in ("db", "nobody", "web")]
    data = b"".join(len(q.to_wire()).to_bytes(2) + q.to_wire() for q in queries)
    for i in range(0, len(data), 7):
        writer.write(data[i : i + 7])
        await writer.drain()
    answers = []
    for _ in queries:
        answers.append(dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2)))))
    assert [a.rcode() for a in answers] == [0, 3, 0]
    assert all(a.is_response(b) is None or b.is_response(a) for a, b in zip(answers, queries, strict=True))
    writer.close()


async def test_streams_of_one_instance_are_bounded(bed: Bed) -> None:
    await bed.open()
    port = bed.fabric.sockets[InstanceId("i5")].streams.getsockname()[1]
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(16)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert await reader.read() == b""
    except ConnectionResetError:
        pass
    for _, one in (*held, (reader, writer)):
        one.close()


async def test_without_a_way_out_nothing_is_passed_on(bed: Bed) -> None:
    port = await bed.open()
    assert (await bed.ask(port, "example.org.")).rcode() == dns.rcode.NXDOMAIN
    assert not bed.server.asked


async def test_with_forwarders_other_names_are_passed_on(bed: Bed) -> None:
    bed.assign(networks=(network(dns=NetworkDns("back.internal", ("127.0.1.1",))),))
    port = await bed.open()
    found = await bed.ask(port, "example.org.")
    assert found.answer[0][0].to_text() == "192.0.2.1"
    assert not found.flags & dns.flags.AA
    assert (await bed.ask(port, "nobody.back.internal.")).rcode() == dns.rcode.NXDOMAIN
    assert [q.question[0].name.to_text() for q in bed.server.asked] == ["example.org."]


async def test_servers_of_the_instances_own_are_asked_from_inside(bed: Bed) -> None:
    bed.assign(instance("web", 5, dns_servers=("127.0.1.1",)))
    port = await bed.open()
    assert await bed.values(port, "example.org.") == {"192.0.2.1"}
    assert await bed.values(port, "db") == {"10.1.0.6"}, "names of ours are answered all the same"
    assert bed.fabric.inside == ["i5"]


async def test_one_who_floods_is_told_so(bed: Bed) -> None:
    bed.server.answer = lambda _: None
    bed.assign(networks=(network(dns=NetworkDns("back.internal", ("127.0.1.1",))),))
    port = await bed.open()
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as flood:
        flood.connect(("127.0.0.1", port))
        for i in range(65):
            await loop.sock_sendall(flood, dns.message.make_query(f"x{i}.example.", "A").to_wire())
            await asyncio.sleep(0)
        found = dns.message.from_wire(await asyncio.wait_for(loop.sock_recv(flood, 512), 1))
        assert found.rcode() == dns.rcode.SERVFAIL
    assert await bed.values(port, "db") == {"10.1.0.6"}


def test_a_ration() -> None:
    now = [100.0]
    ration = Ration(lambda: now[0])
    assert [ration.wait_seconds() for _ in range(200)] == [0.0] * 200
    now[0] += 0.04
    assert ration.wait_seconds() == pytest.approx(0.06)
    now[0] += 0.06
    assert ration.wait_seconds() == 0.0


async def test_one_who_asks_faster_than_it_may_waits(bed: Bed) -> None:
    port = await bed.open()
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as many:
        many.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        many.connect(("127.0.0.1", port))
        started = time.monotonic()
        for number in range(201):
            many.send(dns.message.make_query("db", "A", id=number).to_wire())
        answered = {int.from_bytes((await asyncio.wait_for(loop.sock_recv(many, 512), 5))[:2]) for _ in range(201)}
        assert time.monotonic() - started > 0.05
        assert answered == set(range(201))


async def test_one_who_asks_faster_than_it_may_over_tcp_waits(bed: Bed) -> None:
    await bed.open()
    port = bed.fabric.sockets[InstanceId("i5")].streams.getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    queries = [dns.message.make_query("db", "A", id=number).to_wire() for number in range(450)]
    started = time.monotonic()
    writer.write(b"".join(len(query).to_bytes(2) + query for query in queries))
    answered = []
    for _ in queries:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        answered.append(int.from_bytes(data[:2]))
    assert answered == list(range(450))
    assert time.monotonic() - started > 0.15
    writer.close()


async def test_no_answer_from_beyond_is_a_failure_of_the_server(bed: Bed) -> None:
    bed.assign(networks=(network(dns=NetworkDns("back.internal", ("127.0.1.7",))),))
    port = await bed.open()
    async with asyncio.timeout(2):
        assert (await bed.ask(port, "example.org.")).rcode() == dns.rcode.SERVFAIL


async def http(port: int, request: str) -> str:
    """What a server says until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    try:
        return (await asyncio.wait_for(reader.read(), 5)).decode()
    except ConnectionResetError:
        return ""
    finally:
        writer.close()


async def test_what_it_is_over_http(bed: Bed) -> None:
    bed.assign(instance("web", 5, user_data="hello", labels={"a": "b"}))
    await bed.open()
    port = bed.fabric.sockets[InstanceId("i5")].metadata.getsockname()[1]
    said = await http(port, "GET /latest/user-data HTTP/1.0\r\n\r\n")
    assert said.startswith("HTTP/1.0 200 OK")
    assert said.endswith("\r\n\r\nhello")
    assert (await http(port, "GET /latest/meta-data/local-hostname HTTP/1.0\r\n\r\n")).endswith("web.back.internal")
    assert "403" in (await http(port, "GET / HTTP/1.0\r\nX-forwarded-for: 1.2.3.4\r\n\r\n")).split("\r\n")[0]
    put = "PUT /latest/api/token HTTP/1.0\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n"
    assert "200" in (await http(port, put)).split("\r\n")[0]
    assert "400" in (await http(port, "nonsense\r\n\r\n")).split("\r\n")[0]
    bed.assign(instance("web", 5, user_data="changed"))
    assert (await http(port, "GET /latest/user-data HTTP/1.0\r\n\r\n")).endswith("changed")


async def test_connections_to_it_are_bounded(bed: Bed) -> None:
    await bed.open()
    port = bed.fabric.sockets[InstanceId("i5")].metadata.getsockname()[1]
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    assert await http(port, "GET / HTTP/1.0\r\n\r\n") == ""
    bed.names.close(InstanceId("i5"))
    for reader, writer in held:
        assert await reader.read() == b""
        writer.close()


async def test_it_is_opened_once_for_a_namespace_and_again_for_a_new_one(bed: Bed, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch(), two.touch()
    await bed.names.open(InstanceId("i5"), one)
    first = bed.fabric.sockets[InstanceId("i5")]
    await bed.names.open(InstanceId("i5"), one)
    assert bed.fabric.sockets[InstanceId("i5")] is first
    await bed.names.open(InstanceId("i5"), two)
    assert bed.fabric.sockets[InstanceId("i5")] is not first
    assert first.datagrams.fileno() == -1
    bed.names.close(InstanceId("i5"))
    await asyncio.sleep(0)
    assert bed.names.open_for == frozenset()
    second = bed.fabric.sockets[InstanceId("i5")]
    assert (second.datagrams.fileno(), second.streams.fileno()) == (-1, -1)


async def test_a_door_that_was_not_opened_to_the_end_is_closed(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(*_args: object, **_fields: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "create_server", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await bed.open()
    sockets = bed.fabric.sockets[InstanceId("i5")]
    assert [each.fileno() for each in (sockets.datagrams, sockets.streams, sockets.metadata)] == [-1, -1, -1]
    assert not bed.names.open_for
    assert await bed.values(await bed.open(), "db.back.internal.") == {"10.1.0.6"}


async def test_a_name_that_members_share(bed: Bed) -> None:
    port = await bed.open()
    far = replace(peer(9, "web-1"), shared_names=("front",))
    bed.journal.apply(AssignmentChange(False, 2, 2, peer_changes=(PeerChange(NET, (far,)),)), now=0)
    bed.assign(replace(instance("web-0", 7), shared_names=("front",)))
    assert await bed.values(port, "front.back.internal.") == {"10.1.0.7", "10.1.0.9"}
    assert await bed.values(port, "9.0.1.10.in-addr.arpa.", "PTR") == {"web-1.back.internal."}

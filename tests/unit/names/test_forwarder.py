"""Asking other name servers: real sockets, servers of the test's own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from hostagent.names import forwarder as module
from hostagent.names.forwarder import Forwarder, HostResolvers, from_here

QUERY = dns.message.make_query("example.org.", "A").to_wire()
Answer = Callable[[dns.message.Message], bytes | None]


def good(address: str = "192.0.2.1", *, flags: int = 0, rcode: int = 0) -> Answer:
    def answer(query: dns.message.Message) -> bytes:
        reply = dns.message.make_response(query)
        reply.flags |= flags
        reply.set_rcode(dns.rcode.Rcode(rcode))
        reply.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "A", address))
        return reply.to_wire()

    return answer


class Server(asyncio.DatagramProtocol):
    """Answers on UDP and TCP, both on one port of an address."""

    def __init__(self, answer: Answer, over_tcp: Answer | None = None) -> None:
        self.answer, self.over_tcp = answer, over_tcp
        self.asked: list[dns.message.Message] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.asked.append(query)
        found = self.answer(query)
        if found is not None:
            assert self.transport is not None
            self.transport.sendto(found, addr)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
        assert self.over_tcp is not None
        found = self.over_tcp(query)
        if found is not None:
            for byte in len(found).to_bytes(2) + found:
                writer.write(bytes((byte,)))
                await writer.drain()
        writer.close()


class Bed:
    """Servers at 127.0.1.1, 127.0.1.2 and so on, all on one port."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self._open: list[asyncio.DatagramTransport | asyncio.Server] = []
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.1.1", 0))
            self.port = probe.getsockname()[1]
        self.forwarder = Forwarder(self.port)

    async def add(self, answer: Answer, over_tcp: Answer | None = None) -> str:
        server = Server(answer, over_tcp)
        self.servers.append(server)
        address = f"127.0.1.{len(self.servers)}"
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=(address, self.port))
        self._open += [transport, await asyncio.start_server(server.stream, address, self.port)]
        return address

    async def ask(self, *servers: str) -> dns.message.Message | None:
        found = await self.forwarder.ask(QUERY, servers)
        if found is None:
            return None
        return dns.message.from_wire(module.wire.with_number(found, int.from_bytes(QUERY[:2])))

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed()
    yield made
    made.close()
    await asyncio.sleep(0)


async def test_what_is_asked_and_answered_passes_as_it_is(bed: Bed) -> None:
    one = await bed.add(good())
    found = await bed.ask(one)
    assert found is not None
    assert found.answer[0][0].to_text() == "192.0.2.1"
    (asked,) = bed.servers[0].asked
    assert asked.to_wire()[2:] == QUERY[2:]


async def test_where_nobody_listens_the_next_is_asked_at_once(bed: Bed) -> None:
    two = await bed.add(good())
    async with asyncio.timeout(1):
        assert await bed.ask("127.0.1.9", two)


async def test_a_silent_server_costs_one_question_its_patience(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    silent, two = await bed.add(lambda _: None), await bed.add(good())
    assert await bed.ask(silent, two)
    assert len(bed.servers[0].asked) == 1
    assert await bed.ask(silent, two)
    assert len(bed.servers[0].asked) == 1, "the one that answered last is asked first"


async def test_when_nobody_listens_anywhere_the_end_comes_fast(bed: Bed) -> None:
    async with asyncio.timeout(1):
        assert await bed.ask("127.0.1.8", "127.0.1.9") is None
        assert await bed.ask() is None


async def test_a_server_that_fails_itself_is_not_the_last_word(bed: Bed) -> None:
    failing, two = await bed.add(good(rcode=2)), await bed.add(good(rcode=3))
    found = await bed.ask(failing, two)
    assert found is not None
    assert found.rcode() == 3
    found = await bed.ask(failing)
    assert found is not None
    assert found.rcode() == 2, "but better than none"


async def test_an_answer_that_was_cut_is_fetched_whole(bed: Bed) -> None:
    one = await bed.add(good(flags=dns.flags.TC), good("192.0.2.2"))
    found = await bed.ask(one)
    assert found is not None
    assert found.answer[0][0].to_text() == "192.0.2.2"


async def test_answers_to_other_questions_are_passed_over(bed: Bed) -> None:
    def confused(query: dns.message.Message) -> bytes:
        assert bed.servers[0].transport is not None
        forged = dns.message.make_response(dns.message.make_query("evil.example.", "A", id=query.id))
        wrong_number = good("192.0.2.66")(query)
        assert wrong_number is not None
        for data in (forged.to_wire(), b"x", module.wire.with_number(wrong_number, query.id ^ 1)):
            bed.servers[0].transport.sendto(data, peer[0])
        right = good()(query)
        assert right is not None
        return right

    peer: list[tuple[str, int]] = []
    one = await bed.add(confused)
    received = bed.servers[0].datagram_received

    def remember(data: bytes, addr: tuple[str, int]) -> None:
        peer.append(addr)
        received(data, addr)

    bed.servers[0].datagram_received = remember  # type: ignore[method-assign]
    found = await bed.ask(one)
    assert found is not None
    assert found.answer[0][0].to_text() == "192.0.2.1"


async def test_no_socket_is_left(bed: Bed) -> None:
    made: list[socket.socket] = []

    async def counted(family: int, kind: int) -> socket.socket:
        made.append(await from_here(family, kind))
        return made[-1]

    one = await bed.add(good(flags=dns.flags.TC), lambda _: None)
    assert await bed.forwarder.ask(QUERY, (one, "127.0.1.9"), counted) is None
    assert len(made) > 2
    assert all(one.fileno() == -1 for one in made)


def test_the_hosts_own_servers_follow_its_file(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolvers = HostResolvers(path)
    assert resolvers.servers() == ()
    path.write_text("nameserver 192.0.2.1\n")
    assert resolvers.servers() == ("192.0.2.1",)
    path.write_text("nameserver 192.0.2.1\nnameserver 192.0.2.2\n")
    assert resolvers.servers() == ("192.0.2.1", "192.0.2.2")
    path.unlink()
    assert resolvers.servers() == ()

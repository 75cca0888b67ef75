"""Asking for an endpoint until it takes a connection."""

import asyncio
import socket

import pytest

from hostagent.session.channel import reach


async def test_an_endpoint_that_takes_connections_is_reached() -> None:
    met = asyncio.Event()
    server = await asyncio.start_server(lambda _reader, writer: (met.set(), writer.close())[0], "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        await reach(f"{host}:{port}")
        await reach(f"localhost:{port}")  # whatever else the name stands for
        await met.wait()


async def test_an_endpoint_that_refuses_is_told_at_once() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        with pytest.raises(ConnectionRefusedError):
            await reach(f"127.0.0.1:{nobody.getsockname()[1]}")


async def test_a_silent_endpoint_is_asked_again_until_it_answers() -> None:
    """A full queue drops first packets; TCP repeats the first after a second, and the next after two more."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        where = listener.getsockname()
        fillers = [socket.socket() for _ in range(2)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(where)
        asking = asyncio.create_task(reach(f"127.0.0.1:{where[1]}"))
        done, _ = await asyncio.wait({asking}, timeout=1.2)
        assert not done
        accepted = listener.accept()[0]
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(asking, 5)
        assert asyncio.get_running_loop().time() - began < 1.5  # its first connection would be repeated after 1.8 s
        for one in (accepted, *fillers):
            one.close()

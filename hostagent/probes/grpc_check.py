"""The gRPC health protocol over a connection that is there already.

gRPC opens its connections itself, and only in the namespace of its own thread. So it is given a way in: it connects to
a nameless socket of this machine's (abstract, random, taken by the first who comes), and what goes through there is
carried to and from the connection.
"""

import asyncio
import contextlib
import secrets
import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_CHUNK_BYTES = 16 * 1024
_LONGEST_WORDS = 120
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.enable_retries", 0),
    ("grpc.default_authority", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),
)
_SERVING = health_pb2.HealthCheckResponse.SERVING


async def ask_health(connected: socket.socket, service: str) -> str:
    """What is wrong, or nothing. The caller bounds the time."""
    name = f"moorage-probe-{secrets.token_hex(8)}"
    pumping: list[asyncio.Task[None]] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if pumping:
            writer.transport.abort()
            return
        pumping.append(task)
        with contextlib.suppress(OSError):  # the call ends too, and says what it means
            await _carry(reader, writer, connected.dup())

    server = await asyncio.start_unix_server(carry, f"\0{name}", backlog=1)
    try:
        async with grpc.aio.insecure_channel(f"unix-abstract:{name}", options=_OPTIONS) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        if name in details:
            details = "the connection was broken off, or does not speak gRPC"
        return f"{error.code().name}" + (f", {details[:_LONGEST_WORDS]}" if details else "")
    finally:
        server.close()
        for task in pumping:
            task.cancel()
        await asyncio.gather(*pumping, return_exceptions=True)
    if answer.status == _SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connected: socket.socket) -> None:
    inner_reader, inner_writer = await asyncio.open_connection(sock=connected)
    try:
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
    finally:
        inner_writer.transport.abort()
        writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()

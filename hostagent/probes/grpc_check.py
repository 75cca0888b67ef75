"""The gRPC health protocol over a connection that is there already.

gRPC opens its connections itself, and only in the namespace of its own threads. So it is given a way in: it connects to
a nameless socket of this machine's (abstract, random, taken by the first who comes), and what goes through there is
carried to and from the connection.
"""

import asyncio
import logging
import secrets
import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

log = logging.getLogger(__name__)

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
    """What is wrong, or nothing. The caller bounds the time, and closes the socket."""
    name = f"moorage-probe-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(f"\0{name}")
        listening.listen(1)
        carrying = asyncio.ensure_future(_carry(listening, connected))
        try:
            return await _call(f"unix-abstract:{name}", service)
        finally:
            carrying.cancel()
            await asyncio.wait([carrying])


async def _call(target: str, service: str) -> str:
    try:
        async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        if target in details:  # gRPC's own words, with a name that is another one each time
            details = "the connection was broken off, or does not speak gRPC"
        return f"{error.code().name}" + (f", {details[:_LONGEST_WORDS]}" if details else "")
    if answer.status == _SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def _carry(listening: socket.socket, connected: socket.socket) -> None:
    inner, _ = await asyncio.get_running_loop().sock_accept(listening)
    with inner:
        await asyncio.gather(_pump(inner, connected), _pump(connected, inner))


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    """One direction, until its end or the end of either connection; the call then ends with what it means."""
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.sock_recv(source, _CHUNK_BYTES):
            await loop.sock_sendall(sink, data)
        sink.shutdown(socket.SHUT_WR)
    except OSError as error:
        log.debug("a connection to a health service ended", extra={"problem": str(error)})
        _break_off(sink)


def _break_off(sink: socket.socket) -> None:
    try:
        sink.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("it had ended before", extra={"problem": str(error)})

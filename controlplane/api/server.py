"""Puts servicers on ports. Callers and agents have a port each, since they prove who they are in different ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from moorage.errors import NotReady
from moorage.pem import Identity

#: Messages are bounded on both sides: uploads come in chunks of at most 1 MiB, the rest is lists of at most 1000 objects.
LARGEST_MESSAGE = 8 * 1024 * 1024

_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass(frozen=True)
class Port:
    """One server: where it listens, how it proves itself, whom it lets in, and what it serves."""

    addresses: Sequence[str]
    identity: Identity
    authority_pem: bytes
    wants_client_certificate: bool
    interceptor: Any
    servicers: Sequence[tuple[Any, Any]]  # (add_XServicer_to_server, servicer)
    services: Sequence[str]  # full names, for reflection; empty: none


async def start(port: Port) -> "grpc.aio.Server":
    """A server that listens.

    Raises:
        NotReady: ADDRESS_IN_USE, it cannot listen on an address.
    """
    server = grpc.aio.server(interceptors=(port.interceptor,), options=_OPTIONS)
    for add, servicer in port.servicers:
        add(servicer, server)
    aio_health: Any = health.aio
    status = aio_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    if port.services:
        reflection.enable_server_reflection((*port.services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    credentials = grpc.ssl_server_credentials(
        [(port.identity.key_pem, port.identity.cert_pem)],
        root_certificates=port.authority_pem if port.wants_client_certificate else None,
        require_client_auth=port.wants_client_certificate,
    )
    for address in port.addresses:
        try:
            server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise NotReady(
                f"cannot listen on {address}: it is in use or no address of this machine", reason="ADDRESS_IN_USE"
            ) from error
    await server.start()
    for name in ("", *port.services):
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server

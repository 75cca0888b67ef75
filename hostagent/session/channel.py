"""The agent's connection to the control plane: mutual TLS, kept alive, to one endpoint after the other.

A host that was cut off shall be back a moment after the network is. Two things stand in the way, both TCP's growing
delays between repetitions. A connection that died unnoticed is given up when an acknowledgement is missing for some
seconds (gRPC sets TCP_USER_TIMEOUT to the keepalive's time limit). And while an endpoint is silent it is asked with
ever new connections, without waiting for the repetitions of the first, until one is taken; only then TLS begins.
"""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Sequence

import grpc

from moorage.pem import Identity

_ASK_AGAIN_SECONDS = 0.4
_REACH_SECONDS = 10.0  # then the next endpoint
_OPTIONS = (
    # The control plane allows a ping in 5 s.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Each session is an attempt of ours with delays of ours: gRPC's own waiting between connects would add to them.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
)


class Dialer:
    """Opens channels; each call takes the next endpoint.

    Args:
        identity: read anew for each channel, so that a renewed certificate is used.
        server_name: what the server's certificate must name, where that is not the endpoint's host.
    """

    def __init__(
        self,
        *,
        endpoints: Sequence[str],
        identity: Callable[[], Identity],
        authority_pem: Callable[[], bytes],
        server_name: str = "",
    ) -> None:
        self._endpoints = itertools.cycle(endpoints)
        self._identity = identity
        self._authority_pem = authority_pem
        self._options = [*_OPTIONS]
        if server_name:
            self._options.append(("grpc.ssl_target_name_override", server_name))  # type: ignore[arg-type]

    async def __call__(self) -> grpc.aio.Channel:
        """A channel to an endpoint that takes connections; nothing is sent yet.

        Raises:
            OSError: it takes none.
        """
        endpoint = next(self._endpoints)
        await reach(endpoint)
        identity = self._identity()
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._authority_pem(),
            private_key=identity.key_pem,
            certificate_chain=identity.cert_pem,
        )
        return grpc.aio.secure_channel(endpoint, credentials, options=self._options)


async def reach(endpoint: str) -> None:
    """Return as soon as host:port takes a connection, which is closed again.

    Raises:
        OSError: it refused, its name is unknown, or (TimeoutError) it was silent for 10 s.
    """
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    asking: set[asyncio.Task[None]] = set()
    try:
        async with asyncio.timeout(_REACH_SECONDS):
            while True:
                asking |= {asyncio.create_task(_knock(family, address)) for family, _, _, _, address in found}
                done, asking = await asyncio.wait(
                    asking, timeout=_ASK_AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                problems = [one.exception() for one in done]
                if None in problems:
                    return
                if not asking:
                    raise next(problem for problem in problems if problem is not None)
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _knock(family: socket.AddressFamily, address: tuple[object, ...]) -> None:
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)) as asked:
        await asyncio.get_running_loop().sock_connect(asked, address)

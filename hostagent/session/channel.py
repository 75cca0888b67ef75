"""The agent's connection to the control plane: mutual TLS, kept alive, to one endpoint after the other."""

import itertools
from collections.abc import Callable, Sequence

import grpc

from moorage.pem import Identity

_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
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

    def __call__(self) -> grpc.aio.Channel:
        """A channel; nothing is sent yet."""
        identity = self._identity()
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._authority_pem(),
            private_key=identity.key_pem,
            certificate_chain=identity.cert_pem,
        )
        return grpc.aio.secure_channel(next(self._endpoints), credentials, options=self._options)

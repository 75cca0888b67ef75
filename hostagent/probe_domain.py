"""Probes of an instance, as its host is told of them: mirrors protos/moorage/v1/probes.proto.

The control plane has worked the defaults in. Durations are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExecCheck:
    """A command inside the container."""

    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """An HTTP request."""

    port: int = 0
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    https: bool = False
    host: str = ""  # empty: address and port
    address: str = ""  # empty: the instance's own, in turn


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """A TCP connection."""

    port: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class GrpcCheck:
    """A call of the gRPC health protocol."""

    port: int = 0
    service: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One check and when it is made."""

    exec: ExecCheck | None = None
    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    grpc: GrpcCheck | None = None
    period_seconds: float = 10.0
    timeout_seconds: float = 3.0
    initial_delay_seconds: float = 0.0
    failure_threshold: int = 3
    success_threshold: int = 1


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of an instance."""

    startup: Probe | None = None
    liveness: Probe | None = None
    readiness: Probe | None = None

    def __bool__(self) -> bool:
        return self.startup is not None or self.liveness is not None or self.readiness is not None

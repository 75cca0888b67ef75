"""Probes of an instance: mirrors protos/moorage/v1/probes.proto."""

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
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    https: bool = False
    host: str = ""
    address: str = ""


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
    """One check and when it is made; zeros are the defaults of the proto's comments."""

    exec: ExecCheck | None = None
    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    grpc: GrpcCheck | None = None
    period_seconds: float = 0.0
    timeout_seconds: float = 0.0
    initial_delay_seconds: float = 0.0
    failure_threshold: int = 0
    success_threshold: int = 0


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of an instance."""

    startup: Probe | None = None
    liveness: Probe | None = None
    readiness: Probe | None = None

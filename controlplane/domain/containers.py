"""What can be asked of a container: mirrors protos/moorage/v1/common.proto."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits, and what the scheduler reserves. Zero means no limit."""

    cpu_millis: int = 0
    cpu_shares: int = 0
    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    pids: int = 0
    shm_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit of a process."""

    name: str = ""
    soft: int = 0
    hard: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount or a tmpfs."""

    target: str = ""
    kind: str = "bind"
    source: str = ""
    read_only: bool = False
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A device node handed through."""

    host_path: str = ""
    container_path: str = ""
    permissions: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """Devices that an instance has for itself. Of a placed instance `ids` are the first names of those that it was given."""

    kind: str = ""
    count: int = 0
    ids: tuple[str, ...] = ()
    driver: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Docker's HEALTHCHECK."""

    test: tuple[str, ...] = ()
    interval_seconds: float = 0.0
    timeout_seconds: float = 0.0
    start_period_seconds: float = 0.0
    retries: int = 0


class RestartMode(enum.Enum):
    """When the agent starts a stopped instance again."""

    UNSPECIFIED = 0
    NEVER = 1
    ON_FAILURE = 2
    ALWAYS = 3


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Restarts by the agent; zeros are the defaults of the proto's comments."""

    mode: RestartMode = RestartMode.UNSPECIFIED
    initial_seconds: float = 0.0
    max_seconds: float = 0.0
    reset_after_seconds: float = 0.0
    max_restarts: int = 0


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of the host that leads to a port of the instance."""

    host_port: int = 0
    container_port: int = 0
    protocol: str = ""
    host_address: str = ""


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """What instances of a template get unless they say otherwise."""

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    resources: Resources = Resources()
    health_check: HealthCheck | None = None
    user: str = ""
    workdir: str = ""

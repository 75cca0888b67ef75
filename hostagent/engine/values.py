"""What the engine says besides containers (`hostagent.domain.ContainerObservation`), as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostagent.domain import HealthCheck


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """One Docker Engine and the machine it runs on."""

    version: str  # of the engine, such as 20.10.24
    api_version: str  # that this client and the engine agreed on, such as 1.41
    platform: str  # in the words of image indexes, such as linux/amd64
    cgroup_version: int  # 1 or 2
    cgroup_driver: str  # cgroupfs or systemd
    storage_driver: str
    data_root: str
    runtimes: Mapping[str, str]  # name -> path; empty path where the engine does not tell it (containerd shims)
    live_restore: bool
    swarm_active: bool
    userns_remap: bool
    rootless: bool
    security_options: tuple[str, ...]  # names: seccomp, apparmor, selinux, cgroupns ...
    memory_bytes: int
    cpus: int
    hostname: str
    kernel: str
    experimental: bool
    cdi_folders: tuple[
        str, ...
    ] = ()  # in which the engine looks for CDI specifications; empty: it knows no CDI, or it is off


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something that happened to a container.

    `action` is Docker's word: create, start, die, oom, pause, unpause, destroy, rename, update, `health_status:
    healthy`, ... A `die` carries the exit code in `attributes["exitCode"]`.
    """

    container_id: str
    action: str
    time: float  # seconds since the epoch, by the engine's clock
    attributes: Mapping[str, str] = field(default_factory=dict)  # name, image, and the container's labels


@dataclass(frozen=True, slots=True)
class ImageObservation:
    """One image in the engine's store and the defaults that it brings."""

    image_id: str  # the engine's own; not an identity between hosts
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]  # repository@sha256:..., empty for images that no registry knows
    platform: str
    labels: Mapping[str, str]
    size_bytes: int
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()  # such as 80/tcp
    health_check: HealthCheck | None = None
    workdir: str = ""
    user: str = ""
    stop_signal: str = ""
    created_at: float | None = None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """One line of the image list."""

    image_id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    labels: Mapping[str, str]
    size_bytes: int
    created_at: float


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull or push has come. `percent` 0-100 never falls; the byte counts grow as layers become known."""

    phase: str  # RESOLVING, DOWNLOADING, EXTRACTING, UPLOADING, DONE
    current_bytes: int = 0
    total_bytes: int = 0
    percent: int = 0


@dataclass(frozen=True, slots=True)
class RegistryCredentials:
    """What a registry wants to see. Never logged: `repr` hides the secret."""

    username: str = ""
    password: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a container's output; not always a whole line. `time` only where time stamps were asked for."""

    stream: str  # stdout or stderr; with a terminal everything is stdout
    data: bytes
    time: float | None = None


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """Figures of one running container's cgroup, at one moment."""

    read_at: float  # seconds since the epoch
    cpu_nanos: int  # processor time used since the start, nanoseconds
    memory_bytes: int  # without the page cache that can be dropped, as `docker stats` counts
    memory_limit_bytes: int  # the machine's memory where there is no limit
    pids: int
    block_read_bytes: int
    block_write_bytes: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Space that the engine holds, in bytes."""

    images_bytes: int  # layers, each counted once
    containers_bytes: int  # writable layers
    volumes_bytes: int
    build_cache_bytes: int

"""What an import or copy results in, and how it tells how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.registry.manifests import invalid
from moorage.errors import InvalidSpec

RESERVED_LABEL_PREFIX = "moorage."

_MAX_LABELS = 1024
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is.

    Attributes:
        phase: `receiving`, `unpacking`, `reading`, `compressing`, `uploading`, `copying`, `done`.
        total_bytes: 0 while it is not known.
    """

    phase: str
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """For callers that do not want to know."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """An image's own health check. Durations in seconds; 0 means the engine's default."""

    test: tuple[str, ...]
    interval_seconds: float = 0.0
    timeout_seconds: float = 0.0
    start_period_seconds: float = 0.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The defaults that an image brings; a template's own override them.

    Attributes:
        env: `NAME=value`, in the image's order.
        exposed_ports: `80/tcp`.
        user: as in the image (`1000:1000`, a name, or empty for root).
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    healthcheck: HealthCheck | None = None
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class ImportedImage:
    """An image in the platform's registry.

    Attributes:
        digest: of the manifest or index: the image's identity from now on.
        size_bytes: what it takes in the registry, all platforms, a blob that several share counted once.
        platforms: `os/architecture[/variant]`, in the image's order.
        config: of the preferred platform.
    """

    digest: str
    media_type: str
    size_bytes: int
    platforms: tuple[str, ...]
    config: ImageConfig


def parse_image_config(document: Mapping[str, Any]) -> ImageConfig:
    """The run-time part of an image's configuration blob (Docker's and OCI's are alike in it).

    Raises:
        InvalidSpec: a field has another type than it should (IMAGE_INVALID), or a label begins with our prefix
            (IMAGE_LABEL_RESERVED): agents tell their own containers by such labels, and an image must not forge them.
    """
    config = document.get("config") or {}
    if not isinstance(config, Mapping):
        raise invalid("its configuration has a 'config' that is no object")
    labels = _mapping(config, "Labels")
    if len(labels) > _MAX_LABELS or not all(isinstance(value, str) for value in labels.values()):
        raise invalid(f"its labels are not texts, or more than {_MAX_LABELS}")
    reserved = sorted(name for name in labels if name.lower().startswith(RESERVED_LABEL_PREFIX))
    if reserved:
        raise InvalidSpec.of(
            "image",
            f"its label {reserved[0]!r} begins with {RESERVED_LABEL_PREFIX!r}, which is the platform's; remove it",
            "IMAGE_LABEL_RESERVED",
        )
    return ImageConfig(
        entrypoint=_strings(config, "Entrypoint"),
        command=_strings(config, "Cmd"),
        env=_strings(config, "Env"),
        exposed_ports=tuple(sorted(_mapping(config, "ExposedPorts"))),
        workdir=_text(config, "WorkingDir"),
        user=_text(config, "User"),
        labels=labels,
        volumes=tuple(sorted(_mapping(config, "Volumes"))),
        healthcheck=_healthcheck(config),
        stop_signal=_text(config, "StopSignal"),
    )


def _healthcheck(config: Mapping[str, Any]) -> HealthCheck | None:
    value = _mapping(config, "Healthcheck")
    if not value:
        return None

    def number(name: str) -> int:
        found = value.get(name) or 0
        if not isinstance(found, int) or found < 0:
            raise invalid(f"its health check's {name} is no number")
        return found

    return HealthCheck(
        test=_strings(value, "Test"),
        interval_seconds=number("Interval") / _NANOSECONDS,
        timeout_seconds=number("Timeout") / _NANOSECONDS,
        start_period_seconds=number("StartPeriod") / _NANOSECONDS,
        retries=number("Retries"),
    )


def _strings(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = config.get(name)
    if value is None:
        return ()
    if isinstance(value, str):  # very old images have an Entrypoint that is one text
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(f"its configuration's {name} is no list of texts")
    return tuple(value)


def _mapping(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"its configuration's {name} is no object")
    return value


def _text(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(f"its configuration's {name} is no text")
    return value

"""The agent's configuration file: YAML, checked whole before anything is done, every bad field named at once."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hostagent.domain import DeviceWay, FoundDevice
from moorage import devices
from moorage.errors import FieldViolation, InvalidSpec
from moorage.logs import LEVELS

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")  # as the control plane has it
_ENDPOINT = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Config:
    """What an agent is told by whoever set the machine up."""

    name: str  # last part of the host's name
    control_plane: str  # host:port of the API, for enrolling
    underlay_address: str  # where other hosts send VXLAN to
    join_token: str = field(default="", repr=False)  # needed until the host is enrolled
    zone: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    data_dir: Path = Path("/var/lib/moorage")
    run_dir: Path = Path("/run/moorage")
    docker_host: str = "unix:///var/run/docker.sock"
    daemon_json: Path = Path("/etc/docker/daemon.json")
    vxlan_port: int = 4789
    runtime_path: Path = Path("/usr/local/libexec/moorage/runtime")  # daemon.json names it
    neighbour_port: int = 7461  # UDP; other hosts ask there whether this one lives
    registry_proxy_port: int = 5577
    devices: tuple[FoundDevice, ...] = ()  # that one instance can have for itself
    log_level: str = "info"
    log_format: str = "text"


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        InvalidSpec: it cannot be read, is no YAML mapping, or has bad fields, all of which are named.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as exc:
        raise InvalidSpec.of("config", f"{path} cannot be read: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise InvalidSpec.of("config", f"{path} is not YAML: {exc}") from exc
    return parse(raw)


def parse(raw: object) -> Config:
    """Check the content of a configuration file.

    Raises:
        InvalidSpec: with every bad field.
    """
    if not isinstance(raw, dict):
        raise InvalidSpec.of("config", "must be a mapping of fields")
    violations: list[FieldViolation] = []
    values: dict[str, Any] = {}
    for key, value in raw.items():
        check = _CHECKS.get(str(key))
        if check is None:
            violations.append(FieldViolation(str(key), "is not a field that this version knows", "UNKNOWN_FIELD"))
        elif value is not None:
            try:
                values[str(key)] = check(value)
            except ValueError as exc:
                violations.append(FieldViolation(str(key), str(exc)))
    for key in ("name", "control_plane", "underlay_address"):
        if key not in values and not any(v.field == key for v in violations):
            violations.append(FieldViolation(key, "is missing", "REQUIRED"))
    if violations:
        raise InvalidSpec(violations)
    return Config(**values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must be 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
    return value


def _endpoint(value: object) -> str:
    found = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[2]) < 65536:
        raise ValueError("must be host:port")
    return found[0]


def _address(value: object) -> str:
    address = ipaddress.ip_address(_text(value))  # its ValueError says what is wrong
    if address.is_unspecified or address.is_multicast:
        raise ValueError("must be an address of this host")
    return str(address)


def _port(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise ValueError("must be a port, 1-65535")
    return value


def _path(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _docker_host(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("unix:///"):
        raise ValueError("must be unix:// and an absolute path: the agent runs beside its engine")
    return value


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise ValueError("must be a mapping of texts to texts")
    return dict(value)


def _devices(value: object) -> tuple[FoundDevice, ...]:
    form = "must be a list of {kind: VENDOR/CLASS, name: NAME, paths: [/dev/...]}"
    if not isinstance(value, list):
        raise ValueError(form)
    found: dict[tuple[str, str], FoundDevice] = {}
    for item in value:
        if not isinstance(item, dict) or set(item) != {"kind", "name", "paths"}:
            raise ValueError(form)
        kind, name, paths = item["kind"], item["name"], item["paths"]
        if not isinstance(kind, str) or not devices.KIND.fullmatch(kind):
            raise ValueError(f"{kind!r} is not VENDOR/CLASS, such as example.com/serial")
        if not isinstance(name, str) or not devices.NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a device: letters, digits and _.:-")
        if (
            not isinstance(paths, list)
            or not paths
            or not all(isinstance(p, str) and p.startswith("/dev/") for p in paths)
        ):
            raise ValueError(f"{kind}={name}: paths must be a list of /dev/...")
        if (kind, name) in found:
            raise ValueError(f"{kind}={name} is named twice")
        found[kind, name] = FoundDevice(kind, (name,), (DeviceWay("path", tuple(paths)),))
    return tuple(found.values())


def _one_of(*words: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return check


_CHECKS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "control_plane": _endpoint,
    "underlay_address": _address,
    "join_token": _text,
    "zone": _text,
    "labels": _labels,
    "data_dir": _path,
    "run_dir": _path,
    "docker_host": _docker_host,
    "daemon_json": _path,
    "vxlan_port": _port,
    "runtime_path": _path,
    "neighbour_port": _port,
    "registry_proxy_port": _port,
    "devices": _devices,
    "log_level": _one_of(*LEVELS),
    "log_format": _one_of("text", "json"),
}

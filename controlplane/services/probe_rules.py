"""Field rules of probes."""

import re
from collections.abc import Iterator

from controlplane.domain.instances import InstanceSpec
from controlplane.domain.probes import GrpcCheck, HttpCheck, Probe, TcpCheck
from controlplane.networks.subnets import parse_address
from moorage.errors import FieldViolation

_CHECKS = ("exec", "http", "tcp", "grpc")
_HEADER = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")
_CLEAN = re.compile(r"^[\x20-\x7e]*$")  # no line ends: a header must not become two
_HOST = re.compile(r"^[A-Za-z0-9.:\[\]_-]{0,255}$")
_LARGEST_COMMAND = 16 * 1024
_MOST_HEADERS = 32
_LONGEST_VALUE = 4096
_LONGEST_TIME = 3600.0
_SHORTEST_TIME = 0.1


def check_probes(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    """Each of the three."""
    for name in ("startup", "liveness", "readiness"):
        probe: Probe | None = getattr(spec.probes, name)
        if probe is None:
            continue
        where = f"{field}.probes.{name}"
        yield from _kind(probe, where)
        yield from _times(probe, where)
        if name != "readiness" and probe.success_threshold > 1:
            yield FieldViolation(
                f"{where}.success_threshold", "must be 1: this probe has passed when it passes", "INVALID"
            )


def _kind(probe: Probe, where: str) -> Iterator[FieldViolation]:
    given = [name for name in _CHECKS if getattr(probe, name) is not None]
    if len(given) != 1:
        what = "names no check" if not given else f"names {' and '.join(given)}"
        reason = "KIND_AMBIGUOUS" if given else "KIND_MISSING"
        yield FieldViolation(where, f"{what}; set exactly one of exec, http, tcp and grpc", reason)
    if probe.exec is not None:
        yield from _command(probe.exec.command, f"{where}.exec.command")
    for name in ("http", "tcp", "grpc"):
        check: HttpCheck | TcpCheck | GrpcCheck | None = getattr(probe, name)
        if check is None:
            continue
        if not 1 <= check.port <= 65535:
            yield FieldViolation(f"{where}.{name}.port", "must be between 1 and 65535", "OUT_OF_RANGE")
        if check.address and parse_address(check.address) is None:
            yield FieldViolation(f"{where}.{name}.address", f"{check.address!r} is no address", "ADDRESS_INVALID")
    if probe.http is not None:
        yield from _http(probe.http, f"{where}.http")
    if probe.grpc is not None and len(probe.grpc.service) > _LONGEST_VALUE:
        yield FieldViolation(f"{where}.grpc.service", "is longer than 4096 characters", "OUT_OF_RANGE")


def _command(command: tuple[str, ...], where: str) -> Iterator[FieldViolation]:
    if not command or not command[0]:
        yield FieldViolation(where, "is required", "REQUIRED")
    if any("\0" in word for word in command) or sum(map(len, command)) > _LARGEST_COMMAND:
        yield FieldViolation(where, "holds a NUL character or is longer than 16 KiB", "INVALID")


def _http(check: HttpCheck, where: str) -> Iterator[FieldViolation]:
    path = check.path
    if path and (not path.startswith("/") or " " in path or len(path) > _LONGEST_VALUE or not _CLEAN.fullmatch(path)):
        yield FieldViolation(f"{where}.path", "must begin with /, without spaces, and be ASCII", "INVALID_PATH")
    if not _HOST.fullmatch(check.host):
        yield FieldViolation(f"{where}.host", f"{check.host!r} is no host name", "HOSTNAME_INVALID")
    if len(check.headers) > _MOST_HEADERS:
        yield FieldViolation(f"{where}.headers", f"are more than {_MOST_HEADERS}", "OUT_OF_RANGE")
    for name, value in sorted(check.headers.items()):
        if not _HEADER.fullmatch(name) or not _CLEAN.fullmatch(value) or len(value) > _LONGEST_VALUE:
            yield FieldViolation(f"{where}.headers[{name}]", "is no header", "INVALID")


def _times(probe: Probe, where: str) -> Iterator[FieldViolation]:
    for name in ("period", "timeout"):
        value = getattr(probe, f"{name}_seconds")
        if value and not _SHORTEST_TIME <= value <= _LONGEST_TIME:
            yield FieldViolation(f"{where}.{name}", "must be between 0.1 s and 1 h", "OUT_OF_RANGE")
    if not 0 <= probe.initial_delay_seconds <= _LONGEST_TIME:
        yield FieldViolation(f"{where}.initial_delay", "must be between 0 and 1 h", "OUT_OF_RANGE")
    for name, most in (("failure_threshold", 10000), ("success_threshold", 1000)):
        if not 0 <= getattr(probe, name) <= most:
            yield FieldViolation(f"{where}.{name}", f"must be between 1 and {most}", "OUT_OF_RANGE")

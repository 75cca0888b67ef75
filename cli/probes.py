"""Probes from what people write to the messages of the API. Pure. The options are in run_options.py.

    exec:COMMAND            http:PORT[/PATH]        https:PORT[/PATH]        tcp:PORT        grpc:PORT[/SERVICE]

followed by any of `,period=5s,timeout=1s,delay=10s,failures=3,successes=1,address=ADDRESS`, and of HTTP also
`,host=NAME,header=K:V`. These are looked for from the end, so a command or a path may have commas.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import duration_pb2

from moorage.errors import InvalidSpec
from moorage.units import parse_duration
from moorage.v1 import instances_pb2, probes_pb2

KINDS = ("startup", "liveness", "readiness")
NONE = "none"
_SETTINGS = "period|timeout|delay|failures|successes|address|host|header"
_TAIL = re.compile(rf"^(?P<rest>.*),(?P<key>{_SETTINGS})=(?P<value>[^,]*)$", re.DOTALL)
_EXAMPLE = (
    "write exec:COMMAND, http:PORT[/PATH], https:PORT[/PATH], tcp:PORT or grpc:PORT[/SERVICE], then settings, such as "
    "http:8080/health,period=5s,failures=3"
)


def probe(option: str, word: str) -> probes_pb2.Probe:
    """One probe.

    Raises:
        InvalidSpec: not of this form, or a setting that does not go with this check.
    """
    rest = word
    settings: list[tuple[str, str]] = []
    while match := _TAIL.fullmatch(rest):
        rest = match["rest"]
        settings.insert(0, (match["key"], match["value"]))
    kind, colon, what = rest.partition(":")
    made = probes_pb2.Probe()
    if not colon or kind not in _CHECKS:
        raise InvalidSpec.of(option, f"{word!r}: {_EXAMPLE}")
    _CHECKS[kind](option, made, what)
    for key, value in settings:
        _apply(option, made, key, value)
    return made


def apply_probes(spec: instances_pb2.InstanceSpec, options: Mapping[str, Any]) -> bool:
    """The --probe options; `none` removes one. Returns whether there was any."""
    has_any = False
    for kind in KINDS:
        word = options.get(f"probe_{kind}")
        if word is None:
            continue
        has_any = True
        if word == NONE:
            spec.probes.ClearField(kind)  # type: ignore[arg-type]  # a field's name
        else:
            getattr(spec.probes, kind).CopyFrom(probe(f"probe-{kind}", word))
    return has_any


def _exec(option: str, made: probes_pb2.Probe, what: str) -> None:
    try:
        command = shlex.split(what)
    except ValueError as error:
        raise InvalidSpec.of(option, f"{what!r} is no command: {error}") from error
    made.exec.CopyFrom(probes_pb2.ExecCheck(command=command))


def _http(option: str, made: probes_pb2.Probe, what: str) -> None:
    port, slash, path = what.partition("/")
    made.http.CopyFrom(probes_pb2.HttpCheck(port=_port(option, port), path=slash + path))


def _https(option: str, made: probes_pb2.Probe, what: str) -> None:
    _http(option, made, what)
    made.http.https = True


def _tcp(option: str, made: probes_pb2.Probe, what: str) -> None:
    made.tcp.CopyFrom(probes_pb2.TcpCheck(port=_port(option, what)))


def _grpc(option: str, made: probes_pb2.Probe, what: str) -> None:
    port, _, service = what.partition("/")
    made.grpc.CopyFrom(probes_pb2.GrpcCheck(port=_port(option, port), service=service))


_CHECKS: Mapping[str, Callable[[str, probes_pb2.Probe, str], None]] = {
    "exec": _exec,
    "http": _http,
    "https": _https,
    "tcp": _tcp,
    "grpc": _grpc,
}


def _apply(option: str, made: probes_pb2.Probe, key: str, value: str) -> None:
    match key:
        case "period" | "timeout":
            getattr(made, key).CopyFrom(_duration(option, value))
        case "delay":
            made.initial_delay.CopyFrom(_duration(option, value))
        case "failures":
            made.failure_threshold = _count(option, key, value)
        case "successes":
            made.success_threshold = _count(option, key, value)
        case "address":
            if made.HasField("exec"):
                raise InvalidSpec.of(option, "a command has no address")
            check = made.http if made.HasField("http") else made.tcp if made.HasField("tcp") else made.grpc
            check.address = value.strip("[]")
        case _:
            if not made.HasField("http"):
                raise InvalidSpec.of(option, f"only http and https have a {key}")
            if key == "host":
                made.http.host = value
                return
            name, colon, text = value.partition(":")
            if not colon:
                raise InvalidSpec.of(option, f"{value!r}: write header=NAME:VALUE")
            made.http.headers[name] = text.strip()


def _duration(option: str, value: str) -> duration_pb2.Duration:
    made = duration_pb2.Duration()
    made.FromNanoseconds(round(parse_duration(value, field=option) * 1e9))
    return made


def _port(option: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise InvalidSpec.of(option, f"{text!r} is no port: {_EXAMPLE}")
    return int(text)


def _count(option: str, key: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 10000:
        raise InvalidSpec.of(option, f"{key}={value}: write a number from 1")
    return int(value)

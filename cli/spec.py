"""From what people write, as `docker run` has it, to the messages of the API. Pure.

Each parser refuses with the name of the option and an example. The click options that feed it are in run_options.py.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import duration_pb2

from cli.names import in_project
from cli.nics import nic
from cli.placement import apply_placement, is_cdi_name
from cli.probes import apply_probes
from cli.secret_uses import config_use, secret_use
from cli.volume.words import is_volume, long_mount, short_mount
from cli.words import key_values as key_values
from moorage.errors import InvalidSpec
from moorage.units import parse_bytes, parse_cpu, parse_duration
from moorage.v1 import common_pb2, instances_pb2

_RESTART_MODES = {
    "no": common_pb2.RESTART_MODE_NEVER,
    "never": common_pb2.RESTART_MODE_NEVER,
    "on-failure": common_pb2.RESTART_MODE_ON_FAILURE,
    "always": common_pb2.RESTART_MODE_ALWAYS,
    "unless-stopped": common_pb2.RESTART_MODE_ALWAYS,  # `moor stop` always lasts, so the two are one here
}


def user_data(word: str) -> str:
    """The text, or that of the file behind an @.

    Raises:
        InvalidSpec: the file cannot be read, or is no text.
    """
    if not word.startswith("@"):
        return word
    try:
        return Path(word[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec.of("user-data", f"{word[1:]} cannot be read as text: {error}") from error


def env_file(text: str) -> list[str]:
    """The words of an env file: a line each, # begins a comment line."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def duration(option: str, text: str) -> duration_pb2.Duration:
    """`90s` and the like."""
    seconds = parse_duration(text, field=option)
    return duration_pb2.Duration(seconds=int(seconds), nanos=round((seconds % 1) * 1000) * 1_000_000)


def publish(word: str) -> list[common_pb2.PublishedPort]:
    """`[HOST_ADDRESS:]HOST_PORT:PORT[/PROTOCOL]`; ports may be ranges of equal length.

    Raises:
        InvalidSpec: not of this form.
    """
    rest, _, protocol = word.partition("/")
    protocol = protocol or "tcp"
    parts = rest.rsplit(":", 2)
    example = "write HOST_PORT:PORT, such as 8080:80, 127.0.0.1:8080:80 or 53:53/udp"
    if protocol not in ("tcp", "udp") or len(parts) < 2:
        raise InvalidSpec.of("publish", f"{word!r}: {example}")
    host_ports = _port_range(word, parts[-2], example)
    ports = _port_range(word, parts[-1], example)
    if len(host_ports) != len(ports):
        raise InvalidSpec.of("publish", f"{word!r}: the two ranges differ in length")
    address = parts[0].strip("[]") if len(parts) == 3 else ""
    return [
        common_pb2.PublishedPort(host_port=outer, container_port=inner, protocol=protocol, host_address=address)
        for outer, inner in zip(host_ports, ports, strict=True)
    ]


def _port_range(word: str, text: str, example: str) -> range:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise InvalidSpec.of("publish", f"{word!r}: {example}")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise InvalidSpec.of("publish", f"{word!r}: ports are from 1 to 65535")
    return range(low, high + 1)


def ulimit(word: str) -> common_pb2.Ulimit:
    """`NAME=SOFT[:HARD]`; -1 or unlimited is none."""
    name, _, values = word.partition("=")
    soft, _, hard = values.partition(":")
    numbers = [-1 if text == "unlimited" else text for text in (soft, hard or soft)]
    try:
        return common_pb2.Ulimit(name=name, soft=int(numbers[0]), hard=int(numbers[1]))
    except ValueError as exc:
        raise InvalidSpec.of("ulimit", f"{word!r}: write NAME=SOFT:HARD, such as nofile=1024:4096") from exc


def tmpfs(word: str) -> common_pb2.Mount:
    """`PATH[:size=64m,ro]`; options that Docker knows and we do not are refused."""
    path, _, options = word.partition(":")
    made = common_pb2.Mount(target=path, kind="tmpfs")
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key == "size":
            made.size_bytes = parse_bytes(value, field="tmpfs")
        elif key in ("ro", "rw"):
            made.read_only = key == "ro"
        else:
            raise InvalidSpec.of("tmpfs", f"{word!r}: the option {key} is not known; size, ro and rw are")
    return made


def mount(word: str) -> common_pb2.Mount:
    """`type=bind,source=/a,target=/b[,readonly]` or `type=tmpfs,target=/b[,tmpfs-size=64m]`."""
    made = common_pb2.Mount(kind="bind")
    for part in word.split(","):
        key, equals, value = part.partition("=")
        if key == "type" and value in ("bind", "tmpfs"):
            made.kind = value
        elif key in ("source", "src"):
            made.source = value
        elif key in ("target", "dst", "destination"):
            made.target = value
        elif key in ("readonly", "ro"):
            made.read_only = not equals or value in ("1", "true")
        elif key in ("tmpfs-size", "size"):
            made.size_bytes = parse_bytes(value, field="mount")
        else:
            example = "write type=bind,source=/a,target=/b,readonly, type=tmpfs,target=/b or type=volume,source=NAME,target=/b"
            raise InvalidSpec.of("mount", f"{word!r}: {part!r} is not known; {example}")
    return made


def volume(word: str) -> common_pb2.Mount:
    """`/HOST/PATH:/PATH[:ro]`, Docker's short form of a bind mount."""
    parts = word.split(":")
    if len(parts) not in (2, 3) or not parts[0].startswith("/") or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise InvalidSpec.of("volume", f"{word!r}: write /HOST/PATH:/PATH[:ro]")
    return common_pb2.Mount(kind="bind", source=parts[0], target=parts[1], read_only=parts[2:] == ["ro"])


def device(word: str) -> common_pb2.Device:
    """`/dev/a[:/dev/b[:rwm]]`."""
    parts = word.split(":")
    if not 1 <= len(parts) <= 3:
        raise InvalidSpec.of("device", f"{word!r}: write /dev/a:/dev/b:rwm")
    permissions = parts[2] if len(parts) == 3 else ""
    inside = parts[1] if len(parts) > 1 else parts[0]
    return common_pb2.Device(host_path=parts[0], container_path=inside, permissions=permissions)


def restart(word: str) -> common_pb2.RestartPolicy:
    """`no`, `always`, `unless-stopped` or `on-failure[:N]`."""
    name, colon, count = word.partition(":")
    if name not in _RESTART_MODES or (colon and not (name == "on-failure" and count.isdecimal())):
        raise InvalidSpec.of("restart", f"{word!r}: write no, always, unless-stopped or on-failure:N")
    return common_pb2.RestartPolicy(mode=_RESTART_MODES[name], max_restarts=int(count or 0))


def health_check(options: Mapping[str, Any]) -> common_pb2.HealthCheck | None:
    """From the --health options; None when none was given."""
    check = common_pb2.HealthCheck()
    if options.get("no_healthcheck"):
        check.test.append("NONE")
    elif options.get("health_cmd"):
        check.test.extend(["CMD-SHELL", options["health_cmd"]])
    for field in ("interval", "timeout", "start_period"):
        text = options.get(f"health_{field}")
        if text:
            getattr(check, field).CopyFrom(duration(f"health-{field.replace('_', '-')}", text))
    if options.get("health_retries"):
        check.retries = options["health_retries"]
    return check if check.ListFields() else None


def apply_resources(resources: common_pb2.Resources, options: Mapping[str, Any]) -> None:
    """--cpu, --memory and so on; what was not given stays."""
    if options.get("cpu"):
        resources.cpu_millis = parse_cpu(options["cpu"])
    if options.get("cpu_shares"):
        resources.cpu_shares = options["cpu_shares"]
    if options.get("memory"):
        resources.memory_bytes = parse_bytes(options["memory"], field="memory")
    if options.get("memory_swap"):
        swap = options["memory_swap"]
        resources.memory_swap_bytes = -1 if swap == "-1" else parse_bytes(swap, field="memory-swap")
    if options.get("pids"):
        resources.pids = options["pids"]
    if options.get("shm_size"):
        resources.shm_bytes = parse_bytes(options["shm_size"], field="shm-size")


def apply_options(
    spec: instances_pb2.InstanceSpec, options: Mapping[str, Any], project: str, environment: Mapping[str, str]
) -> None:
    """Work the options of run_options.py into a spec; what was not given stays as it is.

    Args:
        project: projects/{project}, for names of networks.
        environment: where `-e NAME` without a value looks.
    Raises:
        InvalidSpec: an option cannot be understood.
    """
    apply_resources(spec.resources, options)
    if not spec.resources.ListFields():
        spec.ClearField("resources")
    _apply_process(spec, options, environment)
    _apply_rights(spec, options, project)
    _apply_network(spec, options, project)
    apply_placement(spec, options)
    check = health_check(options)
    if check is not None:
        spec.health_check.CopyFrom(check)
    apply_probes(spec, options)
    if options.get("restart"):
        spec.restart.CopyFrom(restart(options["restart"]))


def _apply_process(
    spec: instances_pb2.InstanceSpec, options: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    if options.get("command"):
        spec.ClearField("command")
        spec.command.extend(options["command"])
    if options.get("entrypoint") is not None:
        spec.entrypoint.CopyFrom(common_pb2.StringList(values=shlex.split(options["entrypoint"])))
    words = [*(word for path in options.get("env_file") or () for word in env_file(path.read_text()))]
    spec.env.update(key_values("env", [*words, *(options.get("env") or ())], environment=environment))
    for field in ("user", "workdir", "hostname", "stop_signal"):
        if options.get(field):
            setattr(spec, field, options[field])
    if options.get("workdir") and not PurePosixPath(options["workdir"]).is_absolute():
        raise InvalidSpec.of("workdir", f"{options['workdir']!r} is not an absolute path")
    if options.get("stop_timeout"):
        spec.stop_grace.CopyFrom(duration("stop-timeout", options["stop_timeout"]))
    for field in ("init", "tty", "stdin_open", "exclusive", "survives_isolation", "delete_protection"):
        if options.get(field):
            setattr(spec, field, True)
    if options.get("log_max_size"):
        spec.log_max_bytes = parse_bytes(options["log_max_size"], field="log-max-size")
    if options.get("log_max_files"):
        spec.log_max_files = options["log_max_files"]
    if options.get("user_data") is not None:
        spec.user_data = user_data(options["user_data"])


def _apply_rights(spec: instances_pb2.InstanceSpec, options: Mapping[str, Any], project: str) -> None:
    spec.ulimits.extend(ulimit(word) for word in options.get("ulimit") or ())
    spec.capabilities_add.extend(word.upper().removeprefix("CAP_") for word in options.get("cap_add") or ())
    spec.capabilities_drop.extend(word.upper().removeprefix("CAP_") for word in options.get("cap_drop") or ())
    if options.get("privileged"):
        spec.privileged = True
    if options.get("read_only"):
        spec.read_only_root = True
    spec.secrets.extend(secret_use(project, word) for word in options.get("secret") or ())
    spec.configs.extend(config_use(project, word) for word in options.get("config") or ())
    for word in options.get("mount") or ():
        if "type=volume" in word.split(","):
            spec.volumes.append(long_mount(project, word))
        else:
            spec.mounts.append(mount(word))
    for word in options.get("volume") or ():
        if is_volume(word):
            spec.volumes.append(short_mount(project, word))
        else:
            spec.mounts.append(volume(word))
    spec.mounts.extend(tmpfs(word) for word in options.get("tmpfs") or ())
    spec.devices.extend(device(word) for word in options.get("device") or () if not is_cdi_name(word))
    spec.sysctls.update(key_values("sysctl", options.get("sysctl") or ()))


def _apply_network(spec: instances_pb2.InstanceSpec, options: Mapping[str, Any], project: str) -> None:
    for word in options.get("publish") or ():
        spec.published_ports.extend(publish(word))
    networks = options.get("network") or ()
    if "none" in networks:
        if len(networks) > 1:
            raise InvalidSpec.of("network", "none cannot be combined with a network")
        spec.no_network = True
    elif networks:
        spec.ClearField("nics")
        spec.no_network = False
        spec.nics.extend(nic(project, word) for word in networks)
    groups = [in_project(project, "securityGroups", name) for name in options.get("security_group") or ()]
    if groups:
        if spec.no_network:
            raise InvalidSpec.of("security-group", "without a network there is nothing to filter")
        if not spec.nics:
            spec.nics.append(nic(project, "default"))
        for own in spec.nics:
            if not networks:
                own.ClearField("security_groups")
            if not own.security_groups:
                own.security_groups.extend(groups)
    if options.get("mac_address"):
        if len(spec.nics) > 1:
            raise InvalidSpec.of("mac-address", "with several networks it is not clear whose MAC this is")
        if not spec.nics:
            spec.nics.append(nic(project, "default"))
        spec.nics[0].mac = options["mac_address"]
    spec.dns_servers.extend(options.get("dns") or ())
    spec.dns_search.extend(options.get("dns_search") or ())
    for word in options.get("add_host") or ():
        name, _, address = word.replace("=", ":", 1).partition(":")
        if not name or not address:
            raise InvalidSpec.of("add-host", f"{word!r}: write NAME:ADDRESS")
        spec.extra_hosts[name] = address.strip("[]")

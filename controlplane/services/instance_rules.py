"""Field rules of an instance's spec: everything that can be judged without looking at stored objects, all of it at once."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from controlplane.access.policy import Asked, HostAccess
from controlplane.domain.containers import RestartPolicy
from controlplane.domain.instances import InstanceSpec
from controlplane.networks import nic_options
from controlplane.networks.subnets import parse_address
from controlplane.services.placement_rules import check_device_requests, check_placement
from controlplane.services.probe_rules import check_probes
from controlplane.services.secret_use_rules import check_uses
from controlplane.services.security_group_rules import check_groups_of_nics, check_powers
from controlplane.services.volume_rules import check_mounts
from moorage.errors import FieldViolation

_HOSTNAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$")
_ENV = re.compile(r"^[^=\0\s]+$")
_ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
_CAPABILITY = re.compile(r"^(CAP_)?[A-Z][A-Z_]*$")
_SIGNAL = re.compile(r"^(SIG)?[A-Z][A-Z0-9+-]*$|^[0-9]{1,2}$")
# Docker lets a container set only what its own namespaces hold; net.* is ours to judge, since the namespace is.
_SYSCTL_PREFIXES = ("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm")
_NO_NETWORKS = HostAccess()
_SMALLEST_MEMORY = 6 * 1024 * 1024  # Docker's own
_LARGEST_TEXT = 128 * 1024
LARGEST_USER_DATA = 16 * 1024

_Check = Callable[[InstanceSpec, str], Iterator[FieldViolation]]


def check_spec(spec: InstanceSpec, field: str) -> list[FieldViolation]:
    """Every violation, in the order of the fields."""
    return [violation for check in _CHECKS for violation in check(spec, field)]


def host_access(spec: InstanceSpec, field: str, networks: HostAccess = _NO_NETWORKS) -> HostAccess:
    """What the spec asks of the host, for the project's policy. `networks`: what its networks ask for."""
    return replace(
        networks,
        privileged_field=f"{field}.privileged" if spec.privileged else "",
        bind_mounts=tuple(
            Asked(f"{field}.mounts[{i}].source", m.source) for i, m in enumerate(spec.mounts) if m.kind == "bind"
        ),
        devices=tuple(Asked(f"{field}.devices[{i}].host_path", d.host_path) for i, d in enumerate(spec.devices)),
        capabilities=tuple(Asked(f"{field}.capabilities_add[{i}]", c) for i, c in enumerate(spec.capabilities_add)),
        device_kinds=tuple(
            Asked(f"{field}.device_requests[{i}].kind", r.kind) for i, r in enumerate(spec.device_requests)
        ),
        priority=spec.placement.priority,
        priority_field=f"{field}.placement.priority",
    )


def _process(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    if not spec.template:
        yield FieldViolation(f"{field}.template", "is required", "REQUIRED")
    for name, words in (("command", spec.command), ("entrypoint", spec.entrypoint or ())):
        if any("\0" in word for word in words) or sum(map(len, words)) > _LARGEST_TEXT:
            yield FieldViolation(f"{field}.{name}", "holds a NUL character or is longer than 128 KiB", "INVALID")
    for key, value in sorted(spec.env.items()):
        if not _ENV.fullmatch(key) or "\0" in value:
            yield FieldViolation(f"{field}.env[{key}]", "is no valid name or holds a NUL character", "ENV_INVALID")
    if spec.hostname and not _HOSTNAME.fullmatch(spec.hostname):
        yield FieldViolation(f"{field}.hostname", f"{spec.hostname!r} is no host name", "HOSTNAME_INVALID")
    if spec.workdir and not spec.workdir.startswith("/"):
        yield FieldViolation(f"{field}.workdir", "must be an absolute path", "INVALID_PATH")
    if spec.stop_signal and not _SIGNAL.fullmatch(spec.stop_signal):
        yield FieldViolation(f"{field}.stop_signal", f"{spec.stop_signal!r} is no signal", "INVALID")
    if spec.stop_grace_seconds is not None and not 0 <= spec.stop_grace_seconds <= 86400:
        yield FieldViolation(f"{field}.stop_grace", "must be between 0 and one day", "OUT_OF_RANGE")
    if spec.drain_seconds is not None and not 0 <= spec.drain_seconds <= 86400:
        yield FieldViolation(f"{field}.drain", "must be between 0 and one day", "OUT_OF_RANGE")


def _amounts(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    resources = spec.resources
    where = f"{field}.resources"
    for name in ("cpu_millis", "cpu_shares", "memory_bytes", "pids", "shm_bytes"):
        if getattr(resources, name) < 0:
            yield FieldViolation(f"{where}.{name}", "must not be negative", "OUT_OF_RANGE")
    if 0 < resources.cpu_millis < 10:
        yield FieldViolation(f"{where}.cpu_millis", "must be at least 10", "OUT_OF_RANGE")
    if 0 < resources.memory_bytes < _SMALLEST_MEMORY:
        yield FieldViolation(f"{where}.memory_bytes", "must be at least 6 MiB", "OUT_OF_RANGE")
    if resources.memory_swap_bytes not in (-1, 0) and resources.memory_swap_bytes < resources.memory_bytes:
        yield FieldViolation(
            f"{where}.memory_swap_bytes", "is memory plus swap: not less than memory_bytes", "OUT_OF_RANGE"
        )
    if resources.cpu_shares and not 2 <= resources.cpu_shares <= 262144:
        yield FieldViolation(f"{where}.cpu_shares", "must be between 2 and 262144", "OUT_OF_RANGE")
    for index, limit in enumerate(spec.ulimits):
        if limit.name not in _ULIMITS:
            yield FieldViolation(f"{field}.ulimits[{index}].name", f"{limit.name!r} is no resource limit", "INVALID")
        if limit.hard not in (-1,) and limit.soft > limit.hard:
            yield FieldViolation(f"{field}.ulimits[{index}].soft", "is more than the hard limit", "OUT_OF_RANGE")
    if spec.log_max_bytes < 0 or 0 < spec.log_max_bytes < 4096:
        yield FieldViolation(f"{field}.log_max_bytes", "must be at least 4096", "OUT_OF_RANGE")
    if not 0 <= spec.log_max_files <= 100:
        yield FieldViolation(f"{field}.log_max_files", "must be between 1 and 100", "OUT_OF_RANGE")
    if len(spec.user_data.encode()) > LARGEST_USER_DATA:
        yield FieldViolation(f"{field}.user_data", "is longer than 16 KiB", "OUT_OF_RANGE")
    yield from _restart(spec.restart, f"{field}.restart")


def _restart(policy: RestartPolicy, field: str) -> Iterator[FieldViolation]:
    for name in ("initial", "max", "reset_after"):
        if getattr(policy, f"{name}_seconds") < 0:
            yield FieldViolation(f"{field}.{name}", "must not be negative", "OUT_OF_RANGE")
    if policy.max_seconds and policy.initial_seconds > policy.max_seconds:
        yield FieldViolation(f"{field}.initial", "is more than max", "OUT_OF_RANGE")
    if policy.max_restarts < 0:
        yield FieldViolation(f"{field}.max_restarts", "must not be negative", "OUT_OF_RANGE")


def _files_and_powers(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    targets: set[str] = set()
    for index, mount in enumerate(spec.mounts):
        where = f"{field}.mounts[{index}]"
        if mount.kind not in ("bind", "tmpfs"):
            yield FieldViolation(f"{where}.kind", f"must be bind or tmpfs, not {mount.kind!r}", "INVALID")
        if not mount.target.startswith("/") or mount.target == "/" or ".." in mount.target.split("/"):
            yield FieldViolation(f"{where}.target", "must be an absolute path below /", "INVALID_PATH")
        if mount.target in targets:
            yield FieldViolation(f"{where}.target", f"{mount.target} is mounted twice", "INVALID")
        targets.add(mount.target)
        if mount.kind == "tmpfs" and (mount.source or mount.size_bytes < 0):
            yield FieldViolation(where, "a tmpfs has no source and no negative size", "INVALID")
    yield from check_mounts(spec.volumes, [mount.target for mount in spec.mounts], f"{field}.volumes")
    for index, device in enumerate(spec.devices):
        if not device.host_path.startswith("/dev/") or set(device.permissions) - set("rwm"):
            yield FieldViolation(f"{field}.devices[{index}]", "must be below /dev, with any of r, w, m", "INVALID")
    for name in ("capabilities_add", "capabilities_drop"):
        for index, capability in enumerate(getattr(spec, name)):
            if not _CAPABILITY.fullmatch(capability.upper()):
                yield FieldViolation(f"{field}.{name}[{index}]", f"{capability!r} is no capability", "INVALID")
    for key in sorted(spec.sysctls):
        if not key.startswith(_SYSCTL_PREFIXES):
            yield FieldViolation(f"{field}.sysctls[{key}]", "belongs to no namespace of the instance", "SYSCTL_INVALID")


def _network(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    if spec.no_network and spec.nics:
        yield FieldViolation(f"{field}.nics", "cannot go with no_network", "INVALID")
    if spec.no_network and spec.published_ports:
        yield FieldViolation(f"{field}.published_ports", "cannot go with no_network", "INVALID")
    for index, nic in enumerate(spec.nics):
        if not nic.network:
            yield FieldViolation(f"{field}.nics[{index}].network", "is required", "REQUIRED")
    yield from nic_options.check(spec.nics, f"{field}.nics")
    seen: set[tuple[int, str, str]] = set()
    for index, port in enumerate(spec.published_ports):
        where = f"{field}.published_ports[{index}]"
        for name in ("host_port", "container_port"):
            if not 1 <= getattr(port, name) <= 65535:
                yield FieldViolation(f"{where}.{name}", "must be between 1 and 65535", "OUT_OF_RANGE")
        if port.protocol not in ("", "tcp", "udp"):
            yield FieldViolation(f"{where}.protocol", "must be tcp or udp", "INVALID")
        if port.host_address and parse_address(port.host_address) is None:
            yield FieldViolation(f"{where}.host_address", f"{port.host_address!r} is no address", "ADDRESS_INVALID")
        key = (port.host_port, port.protocol or "tcp", port.host_address)
        if key in seen:
            yield FieldViolation(f"{where}.host_port", f"{port.host_port} is published twice", "HOST_PORT_TAKEN")
        seen.add(key)
    for index, server in enumerate(spec.dns_servers):
        if parse_address(server) is None:
            yield FieldViolation(f"{field}.dns_servers[{index}]", f"{server!r} is no address", "ADDRESS_INVALID")
    for index, domain in enumerate(spec.dns_search):
        if not _HOSTNAME.fullmatch(domain):
            yield FieldViolation(f"{field}.dns_search[{index}]", f"{domain!r} is no domain", "HOSTNAME_INVALID")
    for name, address in sorted(spec.extra_hosts.items()):
        if parse_address(address) is None or not _HOSTNAME.fullmatch(name):
            yield FieldViolation(
                f"{field}.extra_hosts[{name}]", "must be a host name with an address", "ADDRESS_INVALID"
            )


_CHECKS: tuple[_Check, ...] = (
    _process,
    _amounts,
    _files_and_powers,
    check_powers,
    _network,
    check_groups_of_nics,
    check_uses,
    check_probes,
    check_placement,
    check_device_requests,
)

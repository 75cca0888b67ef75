"""ContainerSpec and Resources as the bodies that Docker's API wants. Pure: values in, JSON out.

docs/docker-run.md tells the same from the user's side, option by option.
"""

import math
from typing import Any

from hostagent.domain import ContainerSpec, DeviceRequest, HealthCheck, Mount, Resources

CPU_PERIOD_MICROS = 100_000
# Docker's update reads 0 as "leave as it is" and has no word for "no limit": more than any machine has does the same.
NO_MEMORY_LIMIT = 1 << 50
_DEFAULT_CPU_SHARES = 1024
# Unprivileged ICMP sockets for every group: ping works although NET_RAW is dropped.
_PING_SYSCTL = ("net.ipv4.ping_group_range", "0 2147483647")


def create_body(spec: ContainerSpec, runtime: str) -> dict[str, Any]:
    """Body of POST /containers/create.

    Networking is off in both of Docker's places: an engine that ignores one still fails closed.
    """
    body: dict[str, Any] = {
        "Image": spec.image,
        "Labels": dict(spec.labels),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "User": spec.user,
        "WorkingDir": spec.workdir,
        "Hostname": spec.hostname,
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        # A pipe's end must reach the process; a terminal's user may come back.
        "StdinOnce": spec.stdin_open and not spec.tty,
        "AttachStdin": spec.stdin_open,
        "NetworkDisabled": True,
        "StopTimeout": max(0, math.ceil(spec.stop_grace_seconds)),
        "HostConfig": _host_config(spec, runtime),
    }
    if spec.command:
        body["Cmd"] = list(spec.command)
    if spec.entrypoint is not None:
        body["Entrypoint"] = list(spec.entrypoint) or [""]  # [""] is Docker's way to say "none, not the image's"
    if spec.stop_signal:
        body["StopSignal"] = spec.stop_signal
    if spec.health_check is not None:
        body["Healthcheck"] = _health_check(spec.health_check)
    return body


def update_body(resources: Resources) -> dict[str, Any]:
    """Body of POST /containers/{id}/update.

    All limits, so that the result does not depend on those before. shm cannot change.
    """
    body = _limits(resources)
    body.setdefault("CpuQuota", -1)
    body.setdefault("CpuPeriod", CPU_PERIOD_MICROS)
    body.setdefault("CpuShares", _DEFAULT_CPU_SHARES)
    body.setdefault("Memory", NO_MEMORY_LIMIT)
    # -1 is a word for create only: update does not pass it on, and memory then cannot rise above the old sum with swap.
    if body.get("MemorySwap", -1) == -1:
        body["MemorySwap"] = NO_MEMORY_LIMIT
    body.setdefault("PidsLimit", -1)
    return body


def _host_config(spec: ContainerSpec, runtime: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "NetworkMode": "none",
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(spec.log_max_bytes), "max-file": str(spec.log_max_files)},
        },
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only_root,
        "Init": spec.init,
        "CapAdd": [_capability(name) for name in spec.capabilities_add],
        "CapDrop": _dropped(spec),
        "Ulimits": [{"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in spec.ulimits],
        "Mounts": [_mount(mount) for mount in spec.mounts],
        "Devices": [
            {
                "PathOnHost": device.host_path,
                "PathInContainer": device.container_path or device.host_path,
                "CgroupPermissions": device.permissions,
            }
            for device in spec.devices
        ],
        "Sysctls": {_PING_SYSCTL[0]: _PING_SYSCTL[1], **spec.sysctls},
        **_limits(spec.resources),
    }
    if spec.device_requests:
        config["DeviceRequests"] = [_device_request(request) for request in spec.device_requests]
    if runtime:
        config["Runtime"] = runtime
    if spec.resources.shm_bytes:
        config["ShmSize"] = spec.resources.shm_bytes
    return config


def _device_request(request: DeviceRequest) -> dict[str, Any]:
    """By ids always, never by a count: which ones they are is decided, and the engine must not choose others."""
    body: dict[str, Any] = {"Driver": request.driver, "Count": 0, "DeviceIDs": list(request.ids)}
    if request.driver == "nvidia":
        body["Capabilities"] = [["gpu", *(word for word in request.capabilities if word != "gpu")]]
    return body


def _limits(resources: Resources) -> dict[str, Any]:
    """The limits that are set.

    Quota and period rather than NanoCpus, which Docker refuses above the machine's cores.
    """
    limits: dict[str, Any] = {}
    if resources.cpu_millis:
        limits["CpuPeriod"] = CPU_PERIOD_MICROS
        limits["CpuQuota"] = max(1000, resources.cpu_millis * CPU_PERIOD_MICROS // 1000)  # the kernel's least is 1 ms
    if resources.cpu_shares:
        limits["CpuShares"] = resources.cpu_shares
    if resources.memory_bytes:
        limits["Memory"] = resources.memory_bytes
        limits["MemorySwap"] = resources.memory_swap_bytes or resources.memory_bytes  # equal: no swap at all
    if resources.pids:
        limits["PidsLimit"] = resources.pids
    return limits


def _dropped(spec: ContainerSpec) -> list[str]:
    dropped = [_capability(name) for name in spec.capabilities_drop]
    added = {_capability(name) for name in spec.capabilities_add}
    if not spec.privileged and not added & {"NET_RAW", "ALL"} and not set(dropped) & {"NET_RAW", "ALL"}:
        dropped.append("NET_RAW")
    return dropped


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _mount(mount: Mount) -> dict[str, Any]:
    body: dict[str, Any] = {"Type": mount.kind, "Target": mount.target, "ReadOnly": mount.read_only}
    if mount.kind == "tmpfs":
        if mount.size_bytes:
            body["TmpfsOptions"] = {"SizeBytes": mount.size_bytes}
    else:
        # As a mount, not as a "bind" string: a source that is missing is an error, never a new root-owned folder.
        body["Source"] = mount.source
        body["BindOptions"] = {"Propagation": "rprivate"}
    return body


def _health_check(check: HealthCheck) -> dict[str, Any]:
    return {
        "Test": list(check.test),
        "Interval": _nanos(check.interval_seconds),
        "Timeout": _nanos(check.timeout_seconds),
        "StartPeriod": _nanos(check.start_period_seconds),
        "Retries": check.retries,
    }


def _nanos(seconds: float) -> int:
    return round(seconds * 1e9)

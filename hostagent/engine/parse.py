"""Docker's JSON as values. Pure; written for API 1.41 (Docker 20.10) to 1.52 (Docker 29).

What differs between them is kept as recorded answers in tests/data/engine. Unknown fields are ignored, and missing
ones have the meaning that the API gives to absent: a new engine must not take the agent down.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from hostagent.domain import ContainerObservation, ContainerPhase, HealthCheck
from hostagent.engine.values import (
    ContainerStats,
    DiskUsage,
    EngineEvent,
    EngineInfo,
    ImageObservation,
    ImageSummary,
)
from moorage.ids import ContainerId

Json = Mapping[str, Any]

_PHASES = {
    "created": ContainerPhase.CREATED,
    "running": ContainerPhase.RUNNING,
    "paused": ContainerPhase.PAUSED,
    "exited": ContainerPhase.EXITED,
    # Only under Docker's own restart policy, which is off: seen on a foreign container at most.
    "restarting": ContainerPhase.EXITED,
    "removing": ContainerPhase.DEAD,
    "dead": ContainerPhase.DEAD,
}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386", "riscv64": "riscv64"}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str | None) -> float | None:
    """RFC 3339 with nanoseconds as seconds since the epoch; None for Go's zero time and for nothing."""
    match = _TIME.fullmatch(text or "")
    if match is None or match[1].startswith("0001-"):
        return None
    whole = datetime.fromisoformat(match[1] + ("+00:00" if match[3] == "Z" else match[3]))
    return whole.timestamp() + float(match[2] or 0)


def parse_container(answer: Json) -> ContainerObservation:
    """GET /containers/{id}/json."""
    state, config = answer["State"], answer["Config"]
    phase = _PHASES.get(state.get("Status", ""), ContainerPhase.DEAD)
    exit_code = int(state.get("ExitCode") or 0)
    ended = phase in (ContainerPhase.EXITED, ContainerPhase.DEAD)
    health = (state.get("Health") or {}).get("Status", "")
    started_at, finished_at = parse_time(state.get("StartedAt")), parse_time(state.get("FinishedAt"))
    if not ended:
        finished_at = None  # the engine still tells the end of the run before
    elif started_at is not None and finished_at is not None:
        # Of a process that ends at once the engine notes the end before the start, by some milliseconds.
        finished_at = max(started_at, finished_at)
    return ContainerObservation(
        container_id=ContainerId(answer["Id"]),
        name=answer["Name"].removeprefix("/"),
        labels=dict(config.get("Labels") or {}),
        phase=phase,
        image=config.get("Image", ""),
        # A container whose start was refused stays "created" with the code of the refusal (126, 127, 128).
        exit_code=exit_code if ended or (phase is ContainerPhase.CREATED and exit_code) else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error", ""),
        health="" if health == "none" else health,
        started_at=started_at,
        finished_at=finished_at,
        pid=int(state.get("Pid") or 0),
    )


def parse_event(answer: Json) -> EngineEvent:
    """One line of GET /events. The older `status`, `id` and `from` are gone in API 1.52 and not read."""
    actor = answer.get("Actor") or {}
    nanos = answer.get("timeNano")
    return EngineEvent(
        container_id=actor.get("ID", ""),
        action=answer.get("Action", ""),
        time=nanos / 1e9 if nanos else float(answer.get("time", 0)),
        attributes=dict(actor.get("Attributes") or {}),
    )


def parse_info(info: Json, api_version: str) -> EngineInfo:
    """GET /info."""
    options = [_option(text) for text in info.get("SecurityOptions") or ()]
    machine = info.get("Architecture", "")
    return EngineInfo(
        version=info.get("ServerVersion", ""),
        api_version=api_version,
        platform=f"{info.get('OSType', 'linux')}/{_MACHINES.get(machine, machine)}",
        cgroup_version=int(info.get("CgroupVersion") or 1),
        cgroup_driver=info.get("CgroupDriver", ""),
        storage_driver=info.get("Driver", ""),
        data_root=info.get("DockerRootDir", ""),
        runtimes={name: (entry or {}).get("path", "") for name, entry in (info.get("Runtimes") or {}).items()},
        live_restore=bool(info.get("LiveRestoreEnabled")),
        swarm_active=(info.get("Swarm") or {}).get("LocalNodeState", "inactive") not in ("", "inactive"),
        userns_remap="userns" in options,
        rootless="rootless" in options,
        security_options=tuple(options),
        memory_bytes=int(info.get("MemTotal") or 0),
        cpus=int(info.get("NCPU") or 0),
        hostname=info.get("Name", ""),
        kernel=info.get("KernelVersion", ""),
        experimental=bool(info.get("ExperimentalBuild")),
        cdi_folders=tuple(info.get("CDISpecDirs") or ()),
    )


def parse_image(answer: Json) -> ImageObservation:
    """GET /images/{name}/json. API 1.52 leaves empty fields of `Config` out, and `Config` itself for some images."""
    config = answer.get("Config") or {}
    platform = f"{answer.get('Os', 'linux')}/{answer.get('Architecture', '')}"
    return ImageObservation(
        image_id=answer["Id"],
        repo_tags=tuple(answer.get("RepoTags") or ()),
        repo_digests=tuple(answer.get("RepoDigests") or ()),
        platform=platform + (f"/{answer['Variant']}" if answer.get("Variant") else ""),
        labels=dict(config.get("Labels") or {}),
        size_bytes=int(answer.get("Size") or 0),
        command=tuple(config.get("Cmd") or ()),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        env=dict(_pair(text) for text in config.get("Env") or ()),
        exposed_ports=tuple(sorted(config.get("ExposedPorts") or ())),
        health_check=_health_check(config.get("Healthcheck")),
        workdir=config.get("WorkingDir", ""),
        user=config.get("User", ""),
        stop_signal=config.get("StopSignal", ""),
        created_at=parse_time(answer.get("Created")),
    )


def parse_image_summary(answer: Json) -> ImageSummary:
    """One entry of GET /images/json. Untagged images carry `<none>` words in engines before 1.43: those are dropped."""
    return ImageSummary(
        image_id=answer["Id"],
        repo_tags=tuple(tag for tag in answer.get("RepoTags") or () if tag != "<none>:<none>"),
        repo_digests=tuple(ref for ref in answer.get("RepoDigests") or () if not ref.startswith("<none>@")),
        labels=dict(answer.get("Labels") or {}),
        size_bytes=int(answer.get("Size") or 0),
        created_at=float(answer.get("Created") or 0),
    )


def parse_stats(answer: Json) -> ContainerStats:
    """GET /containers/{id}/stats, one shot. Cgroups v1 and v2 give different words for the droppable page cache."""
    memory = answer.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    usage = int(memory.get("usage") or 0)
    cache = int(detail.get("total_inactive_file", detail.get("inactive_file", 0)))
    blocks = (answer.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    return ContainerStats(
        read_at=parse_time(answer.get("read")) or 0.0,
        cpu_nanos=int(((answer.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0),
        memory_bytes=usage - cache if cache < usage else usage,
        memory_limit_bytes=int(memory.get("limit") or 0),
        pids=int((answer.get("pids_stats") or {}).get("current") or 0),
        block_read_bytes=_sum(blocks, "read"),
        block_write_bytes=_sum(blocks, "write"),
    )


def parse_disk_usage(answer: Json) -> DiskUsage:
    """GET /system/df: lists of objects up to API 1.51, one summary a kind from 1.52 on (which may send both)."""

    def total(kind: str, old: int) -> int:
        # The API's change log calls them ImagesUsage and so on, its schema ImageUsage.
        summary = answer.get(f"{kind}Usage") or answer.get(f"{kind}sUsage")
        return int(summary.get("TotalSize") or 0) if summary else old

    return DiskUsage(
        images_bytes=total("Image", int(answer.get("LayersSize") or 0)),
        containers_bytes=total("Container", sum(int(c.get("SizeRw") or 0) for c in answer.get("Containers") or ())),
        volumes_bytes=total(
            "Volume",
            # -1 is "not known"
            sum(max(0, int((v.get("UsageData") or {}).get("Size") or 0)) for v in answer.get("Volumes") or ()),
        ),
        build_cache_bytes=total(
            "BuildCache",
            sum(int(b.get("Size") or 0) for b in answer.get("BuildCache") or () if not b.get("Shared")),
        ),
    )


def _sum(blocks: Iterable[Json], operation: str) -> int:
    return sum(int(entry.get("value") or 0) for entry in blocks if str(entry.get("op", "")).lower() == operation)


def _option(text: str) -> str:
    """`name=seccomp,profile=default` -> seccomp."""
    fields = dict(_pair(part) for part in text.split(","))
    return fields.get("name", text)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _health_check(check: Json | None) -> HealthCheck | None:
    if not check or not check.get("Test"):
        return None
    default = HealthCheck()
    return HealthCheck(
        test=tuple(check["Test"]),
        interval_seconds=_seconds(check.get("Interval")) or default.interval_seconds,
        timeout_seconds=_seconds(check.get("Timeout")) or default.timeout_seconds,
        start_period_seconds=_seconds(check.get("StartPeriod")),
        retries=int(check.get("Retries") or default.retries),
    )


def _seconds(nanos: Any) -> float:
    with contextlib.suppress(TypeError):
        return float(nanos) / 1e9
    return 0.0

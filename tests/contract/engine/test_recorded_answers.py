"""The same facts from the answers of four generations of Docker, as they differ on the wire."""

import json
from pathlib import Path
from typing import Any

import pytest

from hostagent.domain import ContainerPhase, HealthCheck
from hostagent.engine.connection import negotiate
from hostagent.engine.parse import (
    parse_container,
    parse_disk_usage,
    parse_event,
    parse_image,
    parse_image_summary,
    parse_info,
    parse_stats,
    parse_time,
)
from moorage.errors import NotSupported

FOLDER = Path(__file__).parents[2] / "data" / "engine"
CONTAINER = "cfd13309c3ce26cafb11a4d316d55d6f7585d0412ebf5e994d81b3c5baed9c91"


@pytest.fixture(params=["20.10", "24.0", "28.5", "29.0"])
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads((FOLDER / f"{request.param}.json").read_text())
    return answers


def test_info(recorded: dict[str, Any]) -> None:
    info = parse_info(recorded["info"], recorded["api_version"])
    is_old = recorded["api_version"] == "1.41"
    assert info.platform == "linux/amd64"
    assert (info.cgroup_version, info.cgroup_driver) == ((1, "cgroupfs") if is_old else (2, "systemd"))
    assert info.storage_driver == ("overlayfs" if recorded["api_version"] == "1.52" else "overlay2")
    assert info.data_root == "/var/lib/docker"
    assert info.runtimes["runc"] == "runc"
    assert info.runtimes.get("moorage", "") == ("" if is_old else "/usr/libexec/moorage/runtime")
    assert info.live_restore == (not is_old)
    assert "seccomp" in info.security_options
    assert (info.cpus, info.memory_bytes, info.hostname) == (2, 25276514304, "host-1")
    assert (info.swarm_active, info.userns_remap, info.rootless, info.experimental) == (False, False, False, False)
    assert info.cdi_folders == (() if is_old else ("/etc/cdi", "/var/run/cdi"))


def test_what_setup_must_refuse_is_seen(recorded: dict[str, Any]) -> None:
    changed = {
        **recorded["info"],
        "SecurityOptions": ["name=seccomp,profile=default", "name=rootless", "name=userns"],
        "Swarm": {"LocalNodeState": "active"},
        "Architecture": "aarch64",
    }
    info = parse_info(changed, recorded["api_version"])
    assert (info.rootless, info.userns_remap, info.swarm_active) == (True, True, True)
    assert info.platform == "linux/arm64"


def test_inspect(recorded: dict[str, Any]) -> None:
    seen = parse_container(recorded["inspect"])
    assert (seen.container_id, seen.name, seen.phase) == (CONTAINER, "web", ContainerPhase.RUNNING)
    assert seen.labels == {"io.moorage.instance": "i1"}
    assert (seen.health, seen.exit_code, seen.oom_killed, seen.error) == ("healthy", None, False, "")
    assert seen.started_at == pytest.approx(1795559830.003)
    assert seen.finished_at is None
    assert seen.image == "moorage-test/busybox:latest"


def test_times_of_runs_make_sense(recorded: dict[str, Any]) -> None:
    state = {**recorded["inspect"]["State"], "StartedAt": "2026-01-01T00:00:02Z", "FinishedAt": "2026-01-01T00:00:01Z"}
    running = parse_container({**recorded["inspect"], "State": state})
    assert running.finished_at is None
    ended = parse_container({**recorded["inspect"], "State": {**state, "Status": "exited", "ExitCode": 3}})
    assert ended.finished_at == ended.started_at
    assert ended.exit_code == 3


def test_events(recorded: dict[str, Any]) -> None:
    events = [parse_event(line) for line in recorded["events"]]
    assert [event.action for event in events][:3] == ["create", "start", "health_status: healthy"]
    assert events[-1].action == "destroy"
    assert {event.container_id for event in events} == {CONTAINER}
    assert events[0].time == pytest.approx(1795559829.718913)
    assert events[0].attributes["io.moorage.instance"] == "i1"
    assert {event.attributes.get("exitCode") for event in events if event.action == "die"} == {"137"}


def test_stats_count_no_droppable_cache(recorded: dict[str, Any]) -> None:
    stats = parse_stats(recorded["stats"])
    assert stats.memory_bytes == 9248768 - 8388608
    assert stats.memory_limit_bytes == 67108864
    assert stats.cpu_nanos == 125426420
    assert stats.pids == 1
    is_old = recorded["api_version"] == "1.41"  # and its machine had no blkio counters
    assert (stats.block_read_bytes, stats.block_write_bytes) == ((0, 0) if is_old else (4096, 8388608))


def test_disk_usage(recorded: dict[str, Any]) -> None:
    usage = parse_disk_usage(recorded["disk_usage"])
    assert (usage.images_bytes, usage.containers_bytes, usage.volumes_bytes) == (1984230, 8388608, 0)
    assert usage.build_cache_bytes == (0 if recorded["api_version"] == "1.41" else 1000)


def test_image(recorded: dict[str, Any]) -> None:
    image = parse_image(recorded["image"])
    assert image.repo_digests == ("registry:5000/web@sha256:" + "ab" * 32,)
    assert (image.command, image.entrypoint, image.env) == (("serve",), (), {"PATH": "/bin"})
    assert (image.exposed_ports, image.user, image.workdir) == (("80/tcp",), "nobody", "/srv")
    assert (image.labels, image.stop_signal, image.platform) == ({}, "SIGQUIT", "linux/amd64")
    assert image.health_check == HealthCheck(test=("CMD", "true"), interval_seconds=5)


def test_an_untagged_image_has_no_names() -> None:
    entry = {"Id": "sha256:1", "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"], "Labels": None}
    summary = parse_image_summary(entry)
    assert (summary.repo_tags, summary.repo_digests, summary.labels) == ((), (), {})


@pytest.mark.parametrize(
    ("newest", "oldest", "agreed"),
    [("1.41", "1.12", (1, 41)), ("1.43", "1.12", (1, 43)), ("1.51", "1.24", (1, 51)), ("1.55", "1.44", (1, 52))],
)
def test_the_newest_common_version_is_spoken(newest: str, oldest: str, agreed: tuple[int, int]) -> None:
    assert negotiate(newest, oldest) == agreed


def test_versions_without_common_ground_are_refused() -> None:
    with pytest.raises(NotSupported) as old:
        negotiate("1.40", "1.12")
    assert old.value.reason == "ENGINE_TOO_OLD"
    with pytest.raises(NotSupported) as new:
        negotiate("1.60", "1.53")
    assert new.value.reason == "ENGINE_TOO_NEW"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-24T22:37:10.002979083Z", 1795559830.002979),
        ("2026-11-24T22:37:10Z", 1795559830.0),
        ("2026-11-25T00:37:10.5+02:00", 1795559830.5),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_times(text: str | None, seconds: float | None) -> None:
    assert parse_time(text) == (None if seconds is None else pytest.approx(seconds))

"""One host of the box: its namespaces, its containerd and its dockerd, each a process of its own as on every real host.

Inside, a host looks like a machine of its own: own network, host name, /run (a tmpfs, empty after a power cut), /etc
(an overlay that keeps its changes), /sys of its own network, and a boot id of its own, new with each start. So
nothing reaches the machine's Docker, systemd or firewalld by a well-known socket, and nothing is written outside the
fleet's folder. Processes and control groups are the machine's.

dockerd runs as users have it: default bridge and iptables on. What a user could change is in /etc/docker/daemon.json,
and the box writes that file only once; what the box needs is on the command line.
"""

# Small files on the machine's own disk and in /proc: an asynchronous file library would gain nothing.
# ruff: noqa: ASYNC240

import contextlib
import json
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

from moorage.errors import NotReady

from . import cgroups, processes
from .config import FleetConfig, HostPlan
from .processes import Process
from .state import FleetState

HOLDER, CONTAINERD, ENGINE, AGENT = "holder", "containerd", "engine", "agent"
_STOP_SECONDS = 20.0
# Propagation is slave while the mounts are made (the machine sees none of them) and shared at the end, as systemd
# leaves it.
_PREPARE = """
set -e
host=$1 folder=$2
shift 2
hostname "$host"
ip link set lo up
mount -t overlay -o "lowerdir=/etc,upperdir=$folder/etc,workdir=$folder/etc-work" overlay /etc
mount --rbind /sys/fs/cgroup "$folder/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$folder/cgroup" /sys/fs/cgroup
umount --lazy "$folder/cgroup"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
cat /proc/sys/kernel/random/uuid >"$folder/boot-id"
mount --bind "$folder/boot-id" /proc/sys/kernel/random/boot_id
mount --make-rshared /
: >"$folder/ready"
exec "$@"
"""


def role(host: HostPlan, part: str) -> str:
    """Name of a process of a host: its record, log and tag."""
    return f"{host.name}-{part}"


def find(config: FleetConfig, state: FleetState, host: HostPlan, part: str) -> Process | None:
    """The running process of a host's part."""
    return processes.recorded(config.records / role(host, part), state.token)


def enter(holder: Process) -> list[str]:
    """The command that runs another one on the host."""
    return ["nsenter", f"--target={holder.pid}", "--net", "--mount", "--uts", "--"]


async def ensure_holder(config: FleetConfig, state: FleetState, host: HostPlan, lock: int) -> Process:
    """The process that keeps the host's namespaces; the host is `on` while it lives.

    Raises:
        NotReady: the namespaces cannot be made; the message has the reason.
    """
    ready = host.folder / "ready"
    holder = find(config, state, host, HOLDER)
    if holder is not None and ready.exists():
        return holder
    await power_off(config, state, host)
    ready.unlink(missing_ok=True)
    _write_etc(config, host)
    for name in ("etc-work", "cgroup", "docker", "containerd", "containerd-plugins", "agent"):
        (host.folder / name).mkdir(exist_ok=True)
    log = config.logs / f"{role(host, HOLDER)}.log"
    holder = await processes.launch(
        ["sh", "-c", _PREPARE, "prepare", host.name, str(host.folder), "sleep", "infinity"],
        record=config.records / role(host, HOLDER),
        log=log,
        tag=f"{state.token}:{host.name}/{HOLDER}",
        lock=lock,
        before=["unshare", "--net", "--mount", "--uts", "--propagation", "slave", "--"],
    )
    await processes.wait_until(ready.exists, what=f"host {host.name}", process=holder, log=log)
    return holder


async def start_containerd(
    config: FleetConfig, state: FleetState, host: HostPlan, holder: Process, lock: int
) -> Process:
    """Start containerd unless it runs; returns when its socket answers."""
    socket_path = Path(f"/proc/{holder.pid}/root/run/containerd/containerd.sock")
    running = find(config, state, host, CONTAINERD)
    if running is None:
        settings = host.folder / "containerd.toml"
        settings.write_text(_containerd_settings(host))
        running = await _launch(
            config, state, host, holder, CONTAINERD, ["containerd", "--config", str(settings)], lock
        )
    await processes.wait_until(
        lambda: _accepts(socket_path),
        what=f"containerd of {host.name}",
        process=running,
        log=config.logs / f"{role(host, CONTAINERD)}.log",
    )
    return running


async def start_engine(config: FleetConfig, state: FleetState, host: HostPlan, holder: Process, lock: int) -> Process:
    """Start dockerd unless it runs; returns when it answers a ping."""
    running = find(config, state, host, ENGINE)
    if running is None:
        # A killed dockerd leaves these two; another process may have its pid by now, and dockerd would then refuse to
        # start.
        Path(f"/proc/{holder.pid}/root/run/docker.pid").unlink(missing_ok=True)
        host.docker_socket.unlink(missing_ok=True)
        running = await _launch(config, state, host, holder, ENGINE, _dockerd_command(host), lock)
    await processes.wait_until(
        lambda: _engine_answers(host.docker_socket),
        what=f"dockerd of {host.name}",
        process=running,
        log=config.logs / f"{role(host, ENGINE)}.log",
        within_seconds=60,
    )
    return running


async def start_agent(
    config: FleetConfig,
    state: FleetState,
    host: HostPlan,
    holder: Process,
    argv: list[str],
    lock: int,
    environment: Mapping[str, str],
) -> Process:
    """Start the host's agent unless it runs. Its readiness is the caller's to check."""
    running = find(config, state, host, AGENT)
    return running or await _launch(config, state, host, holder, AGENT, argv, lock, environment)


async def power_off(config: FleetConfig, state: FleetState, host: HostPlan) -> int:
    """Kill everything on the host at once, containers too, as if its plug were pulled. Returns the count of
    processes."""

    def everything() -> list[Process]:
        cgroups.thaw(host.cgroup)
        return [*processes.tagged(f"{state.token}:{host.name}/"), *cgroups.members(host.cgroup)]

    killed = await processes.kill_all(everything)
    for part in (HOLDER, CONTAINERD, ENGINE, AGENT):
        (config.records / role(host, part)).unlink(missing_ok=True)
    return killed


async def shut_down(config: FleetConfig, state: FleetState, host: HostPlan) -> None:
    """Stop agent, dockerd and containerd in order, so that what they keep on disk is whole; then power off."""
    for part in (AGENT, ENGINE, CONTAINERD):
        process = find(config, state, host, part)
        if process is not None:
            await processes.end(process, 15, within_seconds=_STOP_SECONDS)
    await power_off(config, state, host)


async def _launch(
    config: FleetConfig,
    state: FleetState,
    host: HostPlan,
    holder: Process,
    part: str,
    argv: list[str],
    lock: int,
    environment: Mapping[str, str] | None = None,
) -> Process:
    return await processes.launch(
        argv,
        record=config.records / role(host, part),
        log=config.logs / f"{role(host, part)}.log",
        tag=f"{state.token}:{host.name}/{part}",
        lock=lock,
        before=enter(holder),
        extra_environment={"TMPDIR": "/tmp", "HOME": "/root", **(environment or {})},
    )


def _dockerd_command(host: HostPlan) -> list[str]:
    return [
        "dockerd",
        f"--data-root={host.folder}/docker",
        "--exec-root=/run/docker",
        "--pidfile=/run/docker.pid",
        f"--host=unix://{host.docker_socket}",
        "--host=unix:///run/docker.sock",
        "--containerd=/run/containerd/containerd.sock",
        f"--cgroup-parent=/{host.cgroup}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
    ]


def _containerd_settings(host: HostPlan) -> str:
    plugins = (
        "grpc.v1.cri",
        "snapshotter.v1.devmapper",
        "snapshotter.v1.btrfs",
        "snapshotter.v1.zfs",
        "snapshotter.v1.aufs",
    )
    disabled = ", ".join(f'"io.containerd.{name}"' for name in plugins)
    return f"""version = 2
root = "{host.folder}/containerd"
state = "/run/containerd"
disabled_plugins = [{disabled}]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{host.folder}/containerd-plugins"
"""


def _write_etc(config: FleetConfig, host: HostPlan) -> None:
    (host.etc / "docker").mkdir(parents=True, exist_ok=True)
    (host.etc / "hostname").write_text(f"{host.name}\n")
    (host.etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{host.address} {host.name}\n")
    resolvers = _machine_resolvers() if config.egress else []
    # Nothing listens on the loopback address: an engine that may not go out is refused at once instead of waiting for
    # 20 s a pull.
    lines = [f"nameserver {address}" for address in resolvers or ["127.0.0.1"]]
    _replace(host.etc / "resolv.conf", "\n".join([*lines, "options timeout:1 attempts:1", ""]))
    machine_id = host.etc / "machine-id"
    if not machine_id.exists():
        machine_id.write_text(f"{uuid.uuid4().hex}\n")
    settings = host.etc / "docker/daemon.json"
    if not settings.exists():
        runtimes = {"moorage": {"path": str(host.runtime_path)}}
        content = {
            "live-restore": True,
            "runtimes": runtimes,
            "insecure-registries": [config.sample_registry_address],
            **config.engine_settings,
        }
        settings.write_text(json.dumps(content, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)


def _machine_resolvers() -> list[str]:
    found: list[str] = []
    # systemd-resolved's stub is on the loopback, which a host cannot reach; its real list is in the second file.
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        with contextlib.suppress(FileNotFoundError):
            words = [line.split() for line in Path(path).read_text().splitlines()]
            found += [
                w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and not w[1].startswith(("127.", "::1"))
            ]
    return list(dict.fromkeys(found))[:3]


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _engine_answers(path: Path) -> bool:
    """Whether the engine answers /_ping with 200 within a second."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in client.recv(64)
        except OSError:
            return False


def require_on(holder: Process | None, host: HostPlan) -> Process:
    """The holder of a host that is on.

    Raises:
        NotReady: the host is off.
    """
    if holder is None:
        raise NotReady(f"host {host.name} is off; start it with `moor dev start {host.name}`")
    return holder

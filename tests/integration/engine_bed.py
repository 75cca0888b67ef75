"""A real Docker Engine for tests: containerd and dockerd of its own, in network, mount and UTS namespaces of their own.

Nothing of it touches the machine's own Docker, bridges or firewall: no default bridge, no iptables, a resolver that
refuses at once, all data in one temporary folder, one cgroup parent. A test that is killed leaves processes behind;
the next `EngineBed` finds them by the folder's prefix, sees that the owner (a process id and its start time, kept
in the folder) is gone, and removes them.

    async with EngineBed(runtimes={"moorage": {"path": "/path/to/wrapper"}}) as bed:
        engine = await DockerEngine.connect(bed.url)
"""

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

PREFIX = "mt-eng-"
BASE_IMAGE = "moorage-test/busybox:latest"
REGISTRY = "127.0.0.1:5000"  # of `start_registry`, as the engine sees it; loopback, so Docker asks for no TLS
_NEEDED = ("docker", "dockerd", "containerd", "runc", "nsenter", "unshare", "busybox", "ip", "tar")


def missing() -> list[str]:
    """What this machine lacks for a test engine; empty when it can run."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    return lacks + [name for name in _NEEDED if shutil.which(name) is None]


def require_engine() -> None:
    """Skip the calling test, naming what is missing; a failure instead when MOORAGE_REQUIRE contains `docker`."""
    lacks = missing()
    if not lacks:
        return
    message = f"a real Docker Engine needs: {', '.join(lacks)}"
    if "docker" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


def busybox_rootfs(folder: Path) -> Path:
    """A root file system with a static busybox, its applets as links, and the folders that programs expect."""
    root = folder / "rootfs"
    binary = shutil.which("busybox")
    assert binary is not None
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(binary, root / "bin/busybox")
    for applet in subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split():
        link = root / "bin" / applet
        if not link.exists():
            link.symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    return root


class EngineBed:
    """One containerd and one dockerd. Enter it with `with` or `async with`; `socket` is then the engine's unix socket.

    Args:
        runtimes: extra entries of daemon.json's `runtimes`.
        config: extra entries of daemon.json, such as {"live-restore": True}.
        base_image: import `BASE_IMAGE` (static busybox) after the start.
    """

    def __init__(
        self,
        *,
        runtimes: Mapping[str, Mapping[str, Any]] | None = None,
        config: Mapping[str, Any] | None = None,
        base_image: bool = True,
    ) -> None:
        self._runtimes = dict(runtimes or {})
        self._config = dict(config or {})
        self._base_image = base_image
        self._processes: list[subprocess.Popen[bytes]] = []
        self._holder: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None
        self.folder = Path()

    @property
    def socket(self) -> str:
        """Path of the engine's unix socket, usable from outside the namespaces."""
        return str(self.folder / "docker.sock")

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"unix://{self.socket}"

    @property
    def name(self) -> str:
        """Host name of the engine, name of its folder and of its cgroup parent."""
        return self.folder.name

    @property
    def namespace_pid(self) -> int:
        """A process in the engine's namespaces, for nsenter -t."""
        assert self._holder is not None
        return self._holder.pid

    @property
    def dockerd_pid(self) -> int:
        """The running dockerd."""
        assert self._dockerd is not None
        return self._dockerd.pid

    def __enter__(self) -> Self:
        reap_leftovers()
        # Not mkdtemp: the name is a host name too, and must not hold an underscore.
        self.folder = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(4)}"
        self.folder.mkdir(mode=0o700)
        try:
            (self.folder / "owner").write_text(f"{os.getpid()} {_start_time(os.getpid())}")
            self._start_namespaces()
            self.start_containerd()
            self.start_dockerd()
            if self._base_image:
                self._import_base_image()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def popen(self, argv: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """Start a program in the engine's namespaces, output to `log` in the folder; ended with the bed."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                ["nsenter", f"--target={self.namespace_pid}", "--net", "--mount", "--uts", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run Docker's own client against this engine (for set-up and comparison only). Returns its output."""
        done = subprocess.run(["docker", "-H", f"unix://{self.socket}", *arguments], input=stdin, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode()

    def start_containerd(self) -> None:
        """Start containerd and wait for its socket."""
        state = self.folder / "containerd"
        state.mkdir(exist_ok=True)
        (state / "config.toml").write_text(
            f'version = 2\nroot = "{state}/root"\nstate = "{state}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper"]\n'
            f'[grpc]\n  address = "{state}/containerd.sock"\n'
        )
        (state / "containerd.sock").unlink(missing_ok=True)  # of one that was killed: not to be mistaken for this one's
        self._containerd = self.popen(["containerd", "--config", f"{state}/config.toml"], "containerd.log")
        self._until(lambda: (state / "containerd.sock").exists(), self._containerd, "containerd.log")

    def start_registry(self) -> None:
        """Start Debian's docker-registry inside the engine's namespaces, at `REGISTRY`. Needs `docker-registry`."""
        config = self.folder / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {accesslog: {disabled: true}, level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.folder}/registry}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{REGISTRY}', secret: test}}\n"
        )
        registry = self.popen(["docker-registry", "serve", str(config)], "registry.log")
        listening = f":{int(REGISTRY.rpartition(':')[2]):04X} 00000000:0000 0A"  # state 0A is LISTEN
        sockets = Path(f"/proc/{self.namespace_pid}/net/tcp")
        self._until(lambda: listening in sockets.read_text(), registry, "registry.log")

    def start_dockerd(self) -> None:
        """Start dockerd and wait until it answers."""
        config = {
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "experimental": False,
            # With systemd's driver, the default on cgroups v2, the parent would have to be a slice.
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/{self.name}",
            "runtimes": self._runtimes,
            **self._config,
        }
        (self.folder / "etc/daemon.json").write_text(json.dumps(config))
        self._dockerd = self.popen(
            [
                "dockerd",
                f"--data-root={self.folder}/data",
                f"--exec-root={self.folder}/exec",
                f"--host=unix://{self.socket}",
                f"--pidfile={self.folder}/docker.pid",
                f"--config-file={self.folder}/etc/daemon.json",
                f"--containerd={self.folder}/containerd/containerd.sock",
            ],
            "dockerd.log",
        )
        self._until(self._answers, self._dockerd, "dockerd.log")

    def kill_dockerd(self, number: int = signal.SIGKILL) -> None:
        """End dockerd with a signal and wait for its end; containers stay or go as its configuration says."""
        assert self._dockerd is not None
        os.kill(self._dockerd.pid, number)
        self._dockerd.wait(30)
        if number == signal.SIGKILL:
            # A killed dockerd leaves its socket and pid file; the next one must not mistake them for a running one.
            for name in ("docker.sock", "docker.pid"):
                (self.folder / name).unlink(missing_ok=True)

    def kill_containerd(self) -> None:
        """End containerd with SIGKILL; the containers' shims live on."""
        assert self._containerd is not None
        os.kill(self._containerd.pid, signal.SIGKILL)
        self._containerd.wait(30)

    def close(self) -> None:
        """End all that was started and remove the folder, mounts and cgroups.

        By SIGKILL: nothing is kept, and an orderly end waits ten seconds for a container that ignores SIGTERM.
        """
        for process in (self._dockerd, self._containerd):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(10)
        _remove(self.folder)
        for process in [*self._processes, *([self._holder] if self._holder else [])]:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        self._processes.clear()
        self._holder = self._dockerd = self._containerd = None

    def _start_namespaces(self) -> None:
        (self.folder / "etc").mkdir()
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        # A mount point must exist. It stays: removing it would take the mount from another bed that runs now.
        os.makedirs("/etc/docker", exist_ok=True)
        ready = self.folder / "ready"
        script = (
            f"hostname {self.name} && ip link set lo up && mount --bind {self.folder}/resolv.conf /etc/resolv.conf"
            f" && mount --bind {self.folder}/etc /etc/docker && : > {ready} && exec sleep infinity"
        )
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--propagation", "slave", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._until(ready.exists, self._holder, "")

    def _answers(self) -> bool:
        # Not Docker's client: 60 ms of processor time for each try.
        with contextlib.suppress(OSError, http.client.HTTPException), socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(5)
            raw.connect(self.socket)
            raw.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            answer = http.client.HTTPResponse(raw)
            answer.begin()
            return answer.status == 200
        return False

    def _import_base_image(self) -> None:
        root = busybox_rootfs(self.folder)
        tar = subprocess.run(["tar", "-C", str(root), "-c", "."], check=True, capture_output=True).stdout
        self.docker("import", "-", BASE_IMAGE, stdin=tar)

    def _until(self, condition: Callable[[], bool], process: subprocess.Popen[bytes], log: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                path = self.folder / log
                tail = path.read_text(errors="replace")[-2000:] if log and path.exists() else ""
                raise RuntimeError(f"the test engine did not start ({process.args!r}): {tail}")
            time.sleep(0.02)


def reap_leftovers() -> None:
    """Remove the beds of test runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            pid, started = (folder / "owner").read_text().split()
        except (OSError, ValueError):
            # No owner yet: only an old folder is a leftover, a young one is a bed that is just starting.
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > 60:
                    _remove(folder)
            continue
        if _start_time(int(pid)) != started:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Kill every process of a bed, undo its mounts, remove its cgroups and its folder."""
    if not folder.name.startswith(PREFIX):
        return
    deadline = time.monotonic() + 15
    while (pids := _processes_of(folder)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
    for cgroup in _cgroups_of(folder):
        for path, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
    shutil.rmtree(folder, ignore_errors=True)


def _cgroups_of(folder: Path) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [path for path in (top / folder.name, *top.glob(f"*/{folder.name}")) if path.is_dir()]


def _processes_of(folder: Path) -> set[int]:
    """Processes whose command line names the folder, and all in the bed's cgroups (the containers)."""
    found: set[int] = set()
    mark = os.fsencode(str(folder)) + b"/"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes()
                is_ours = mark in arguments
                # The shell that holds the namespaces has become `sleep`: it is known by its mounts.
                if arguments == b"sleep\0infinity\0":
                    is_ours = mark in (entry / "mountinfo").read_bytes()
                if is_ours and _state(int(entry.name)) != "Z":
                    found.add(int(entry.name))
    for cgroup in _cgroups_of(folder):
        for path, _, files in os.walk(cgroup):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    found.update(int(line) for line in Path(path, "cgroup.procs").read_text().split())
    return found


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""

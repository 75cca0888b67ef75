"""The real machine that setup looks at and changes: files, the engine, systemd, the kernel."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hostagent.config import Config
from hostagent.engine.docker_engine import DockerEngine
from hostagent.runtime import wrapper
from hostagent.setup import daemon_json
from hostagent.setup.plan import UNIT, WATCHDOG_UNIT, MachineFacts, Wanted
from moorage.errors import MoorageError, NotReady
from moorage.tls import certificate_facts

UNIT_PATH = Path("/etc/systemd/system/moorage-hostagent.service")
WATCHDOG_UNIT_PATH = Path("/etc/systemd/system/moorage-watchdog.service")
_RELOAD_LOOKS, _RELOAD_LOOK_SECONDS = 100, 0.1
_KERNEL_SECONDS = 30.0


def wanted_of(config: Config, config_path: Path) -> Wanted:
    """What a configuration asks of the machine."""
    program = shutil.which("moorage-hostagent") or f"{sys.executable} -m hostagent.main"
    watchdog = shutil.which("moorage-watchdog") or f"{sys.executable} -m hostagent.watchdog"
    return Wanted(
        runtime_path=str(config.runtime_path),
        runtime=wrapper.render(config.run_dir),
        daemon_json_path=str(config.daemon_json),
        unit_path=str(UNIT_PATH),
        unit=UNIT.format(program=program, config=config_path.resolve()),
        watchdog_path=str(WATCHDOG_UNIT_PATH),
        watchdog=WATCHDOG_UNIT.format(program=watchdog, run_dir=config.run_dir),
    )


class RealMachine:
    """This machine, seen through a configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def look(self) -> MachineFacts:
        """Everything that the plan wants to know. Changes nothing that stays."""
        config, info, problem, has_instances = self._config, None, "", False
        try:
            engine = await DockerEngine.connect(config.docker_host)
            try:
                info = await engine.info()
                has_instances = bool(await engine.list("moorage.instance"))
            finally:
                await engine.close()
        except MoorageError as exc:
            problem = exc.message
        is_root = os.geteuid() == 0
        return MachineFacts(
            is_root=is_root,
            info=info,
            engine_problem=problem,
            kernel_problem=await asyncio.to_thread(_try_kernel) if is_root else None,
            vxlan_problem=_vxlan_problem(config),
            clock_problem=await asyncio.to_thread(_clock_problem, config.control_plane),
            daemon_json=_read(config.daemon_json),
            runtime=_read(config.runtime_path),
            has_systemd=_has_systemd(),
            unit=_read(UNIT_PATH),
            watchdog=_read(WATCHDOG_UNIT_PATH),
            has_instances=has_instances,
        )

    def write(self, path: str, text: str | None, mode: int) -> None:
        """Give a file a text, atomically, or remove it."""
        target = Path(path)
        if text is None:
            target.unlink(missing_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.moorage")
        temporary.write_text(text)
        temporary.chmod(mode)
        with contextlib.suppress(FileNotFoundError):
            found = target.stat()
            os.chown(temporary, found.st_uid, found.st_gid)
        os.replace(temporary, target)

    async def reload_engine(self) -> None:
        """Send SIGHUP to the engine.

        Raises:
            NotReady: it was not found.
        """
        os.kill(_engine_pid(self._config.docker_host.removeprefix("unix://")), signal.SIGHUP)

    async def engine_has(self, runtime_path: str) -> bool:
        """Whether the engine reports our settings within a while."""
        engine = await DockerEngine.connect(self._config.docker_host)
        try:
            for _ in range(_RELOAD_LOOKS):
                if daemon_json.has_taken(await engine.info(), runtime_path):
                    return True
                await asyncio.sleep(_RELOAD_LOOK_SECONDS)
            return False
        finally:
            await engine.close()

    async def enable_unit(self, unit: str, *, is_enabled: bool) -> None:
        """Let systemd read its units again, and start this one at boot or not."""
        await _run("systemctl", "daemon-reload")
        await _run("systemctl", "enable" if is_enabled else "disable", unit)


async def _run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    if process.returncode:
        raise NotReady(f"{' '.join(argv)}: {stderr.decode(errors='replace').strip()}", reason="COMMAND_FAILED")


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _engine_pid(path: str) -> int:
    """The engine's process: who listens on its socket, or, where systemd does that for it, whom its pid file names."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(path)
        pid, _, _ = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if _is_engine(pid):
        return int(pid)
    with contextlib.suppress(OSError, ValueError):
        pid = int(Path("/run/docker.pid").read_text())
        if _is_engine(pid):
            return int(pid)
    raise NotReady(
        "the engine's process was not found; reload it by hand and run setup again", reason="ENGINE_NOT_FOUND"
    )


def _is_engine(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd"
    except OSError:
        return False


def _try_kernel() -> str:
    """Build a network and an instance's namespace for real, in namespaces that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="moorage-setup-") as folder:
        argv = ["unshare", "--net", "--mount", sys.executable, "-m", "hostagent.setup.try_kernel", folder]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_KERNEL_SECONDS)
        except FileNotFoundError:
            return "the program `unshare` (package util-linux) is missing"
        except subprocess.TimeoutExpired:
            return "trying the kernel's features took too long"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["trying the kernel's features failed"])[-1]


def _vxlan_problem(config: Config) -> str:
    """Whether the UDP port is free, or ours already."""
    networks = config.run_dir / "netns"
    if networks.is_dir() and any(entry.name.startswith("n-") for entry in networks.iterdir()):
        return ""
    family = socket.AF_INET6 if ":" in config.underlay_address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((config.underlay_address, config.vxlan_port))
        except OSError as exc:
            return f"UDP port {config.vxlan_port} of {config.underlay_address} cannot be used: {exc.strerror}"
    return ""


def _clock_problem(endpoint: str) -> str | None:
    """Whether the control plane's certificate is valid by this machine's clock; None if it cannot be reached."""
    host, _, port = endpoint.rpartition(":")
    try:
        facts = certificate_facts(ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=3))
    except (OSError, MoorageError):
        return None
    now = datetime.now(UTC)
    if facts.not_before <= now <= facts.not_after:
        return ""
    return f"this machine says it is {now:%Y-%m-%d %H:%M} UTC, when the control plane's certificate is not valid; set the clock"

"""The registry that the control plane runs itself: Debian's `docker-registry` (CNCF distribution) as a child process.

Owns the child's life: configuration, start, watching, restart with back-off, garbage collection, end. Everything it
writes is below `data_dir`. Nobody reaches the registry without a token signed by the control plane, loopback or not.

Invariants:
- Never two registries on one `data_dir` (folder lock, and a leftover of a killed control plane is ended first).
- No blob-descriptor cache: with one, a collection beside a running server leaves `HEAD blob` answering 200 for a blob
  that is gone, and a client that trusts it skips the upload (seen with 2.8.2).
- Garbage is collected only while nobody writes: whoever pushes does so inside `writing()`. An image half pushed looks
  like garbage, since its manifest comes last.
"""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import shutil
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from controlplane.registry.names import check_repository
from controlplane.registry.process import FolderLock, end_child, end_leftover, spawn, write_pid_file
from controlplane.registry.tokens import RegistryTokens
from moorage.errors import DeadlineExceeded, Internal, Unavailable

PROGRAM = "docker-registry"

_log = logging.getLogger(__name__)

_READY_SECONDS = 20.0
_READY_POLL_SECONDS = 0.02
_STOP_GRACE_SECONDS = 10.0
_DRAIN_SECONDS = 5
_BACKOFF_FIRST_SECONDS = 0.2
_BACKOFF_MOST_SECONDS = 30.0
_STABLE_SECONDS = 60.0
_CHECK_TIMEOUT_SECONDS = 5.0
_CHECKS_FAILED_LIMIT = 3
_COLLECT_TIMEOUT_SECONDS = 3600.0
_LOG_LINES_KEPT = 30


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What a collection did.

    Attributes:
        freed_bytes: size of the storage folder before, less its size after.
        seconds: the whole of it; for this long nothing could be pushed.
        unreachable_seconds: the part of it in which pulls failed too (the two restarts).
    """

    freed_bytes: int
    seconds: float
    unreachable_seconds: float


class ManagedRegistry:
    """A `docker-registry` child process and all that it needs."""

    def __init__(
        self,
        *,
        data_dir: Path,
        listen: str,
        certificate_file: Path,
        key_file: Path,
        tokens: RegistryTokens,
        program: str = PROGRAM,
        check_period_seconds: float = 10.0,
    ) -> None:
        """Args:
            data_dir: made if missing; holds the images, the configuration, the pid file.
            listen: `host:port`, the port not 0 (the registry does not tell which one it took).
            certificate_file, key_file: PEM; read again at each (re)start, see `restart`.
            tokens: whose tokens the registry is to believe.
            program: name or path of the registry's executable.
            check_period_seconds: how often a running registry is asked; one that does not answer three times is killed.

        Raises:
            ValueError: `listen` has no port.
        """
        host, _, port = listen.rpartition(":")
        if not port.isdigit() or int(port) == 0:
            raise ValueError(f"listen must be host:port with a port, not {listen!r}")
        self._listen = listen
        reachable = "127.0.0.1" if host in ("", "0.0.0.0", "[::]") else host
        self.url = f"https://{reachable}:{port}"
        self._data_dir = data_dir
        self._storage = data_dir / "storage"
        self._pid_file = data_dir / "registry.pid"
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._tokens = tokens
        self._program = program
        self._check_period_seconds = check_period_seconds
        self._secret = secrets.token_hex(32)
        self._lock: FolderLock | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._output: deque[str] = deque(maxlen=_LOG_LINES_KEPT)
        self._writers = 0
        self._collecting = False
        self._writers_changed = asyncio.Condition()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The running child's process id; None when it is not running."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the registry and return when it answers. From then on it is watched and restarted.

        Raises:
            NotReady: another control plane uses the folder (DATA_DIR_IN_USE).
            Unavailable: the program is missing, ended at once, or did not answer (REGISTRY_UNREACHABLE).
        """
        await asyncio.to_thread(self._storage.mkdir, 0o700, True, True)
        self._lock = FolderLock(self._data_dir)
        try:
            ended = await end_leftover(self._pid_file)
            if ended is not None:
                _log.warning("ended a registry left over from a killed control plane, pid %d", ended)
            await self._launch(read_only=False)
        except BaseException:
            await self._end_process()
            self._lock.release()
            raise
        self._watcher = asyncio.create_task(self._watch(), name="registry-watch")

    async def stop(self) -> None:
        """End the registry, letting answers under way finish for a few seconds. May be called twice."""
        async with self._changing:
            await self._stop_watching()
            await self._end_process()
            self._pid_file.unlink(missing_ok=True)
            if self._lock is not None:
                self._lock.release()

    async def restart(self) -> None:
        """Start it anew, so that it reads its certificate again. Waits for writers first, as a collection does."""
        async with self._quiet(), self._changing:
            await self._stop_watching()
            await self._end_process()
            await self._launch(read_only=False)
            self._watcher = asyncio.create_task(self._watch(), name="registry-watch")

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Hold this around everything between the first blob and the manifest of a push. Many may hold it at once."""
        async with self._writers_changed:
            await self._writers_changed.wait_for(lambda: not self._collecting)
            self._writers += 1
        try:
            yield
        finally:
            async with self._writers_changed:
                self._writers -= 1
                self._writers_changed.notify_all()

    async def collect_garbage(self, *, forget: Sequence[str] = ()) -> GarbageReport:
        """Free the space of what no manifest refers to.

        Waits until nobody writes; once it has begun, new writers wait. Pulls go on: the registry runs read-only meanwhile, and is away
        only for its two restarts. (A collector beside a writing server deletes layers that were uploaded a moment
        before.)

        Args:
            forget: repositories to drop altogether, whatever manifests they still hold.

        Raises:
            InvalidSpec: a name in `forget` is no repository name.
            Internal: the collector failed; its last words are in the message. The registry runs again.
            DeadlineExceeded: it took more than an hour.
        """
        for name in forget:
            check_repository(name)
        async with self._quiet(), self._changing:
            began = time.monotonic()
            before = await asyncio.to_thread(_folder_bytes, self._storage)
            await self._stop_watching()
            away = 0.0
            try:
                stopped = time.monotonic()
                await self._end_process()
                await asyncio.to_thread(self._forget, forget)
                await self._launch(read_only=True)
                away += time.monotonic() - stopped
                await self._run_collector()
            finally:
                stopped = time.monotonic()
                await self._end_process()
                # A failed start is not an error of the collection: the watcher goes on trying.
                with contextlib.suppress(Unavailable, OSError):
                    await self._launch(read_only=False)
                away += time.monotonic() - stopped
                self._watcher = asyncio.create_task(self._watch(), name="registry-watch")
            after = await asyncio.to_thread(_folder_bytes, self._storage)
            report = GarbageReport(before - after, time.monotonic() - began, away)
        _log.info("collected %d bytes of the registry in %.2f s", report.freed_bytes, report.seconds)
        return report

    async def forget(self, repository: str, digest: str | None) -> None:
        """Drop a repository with all that it holds, whatever `digest` says, and free its space.

        Raises like `collect_garbage`.
        """
        await self.collect_garbage(forget=(repository,))

    def _forget(self, repositories: Sequence[str]) -> None:
        root = self._storage / "docker/registry/v2/repositories"
        for name in repositories:
            folder = root / name
            if folder.is_dir():
                shutil.rmtree(folder)
            parent = folder.parent
            while parent != root and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent

    @contextlib.asynccontextmanager
    async def _quiet(self) -> AsyncIterator[None]:
        async with self._writers_changed:
            # New writers go first while others write: a host's build is one, and may take half an hour.
            await self._writers_changed.wait_for(lambda: not self._collecting and self._writers == 0)
            self._collecting = True
        try:
            yield
        finally:
            async with self._writers_changed:
                self._collecting = False
                self._writers_changed.notify_all()

    async def _run_collector(self) -> None:
        # The collector stops with an error on a storage that never held an image.
        if not (self._storage / "docker/registry/v2/repositories").is_dir():
            return
        process = await spawn(
            self._program, ["garbage-collect", str(self._config_file)], environment=_clean_environment()
        )
        output: deque[str] = deque(maxlen=_LOG_LINES_KEPT)
        try:
            async with asyncio.timeout(_COLLECT_TIMEOUT_SECONDS):
                await _drain(process, output)
                code = await process.wait()
        except TimeoutError as exc:
            raise DeadlineExceeded("the registry's garbage collection took more than an hour") from exc
        finally:
            await end_child(process, grace_seconds=1.0)
        if code != 0:
            raise Internal(f"the registry's garbage collection failed: {' | '.join(output)}", reason="REGISTRY_GC")

    @property
    def _config_file(self) -> Path:
        return self._data_dir / "registry.yml"

    def _write_configuration(self, *, read_only: bool) -> None:
        bundle = self._data_dir / "token-trust.pem"
        bundle.write_bytes(self._tokens.trust_bundle_pem)
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._storage)},
                "delete": {"enabled": True},
                "redirect": {"disable": True},
                "maintenance": {
                    "uploadpurging": {"enabled": True, "age": "24h", "interval": "6h", "dryrun": False},
                    "readonly": {"enabled": read_only},
                },
            },
            "http": {
                "addr": self._listen,
                # Uploads carry state signed with this; a new one per control plane start only breaks uploads under way.
                "secret": self._secret,
                "draintimeout": f"{_DRAIN_SECONDS}s",
                "tls": {
                    "certificate": str(self._certificate_file),
                    "key": str(self._key_file),
                    "minimumtls": "tls1.2",
                },
            },
            "auth": {
                "token": {
                    # Nobody fetches tokens there: the control plane hands them out. The registry wants the field.
                    "realm": f"{self.url}/no-token-service",
                    "service": self._tokens.service,
                    "issuer": self._tokens.issuer,
                    "rootcertbundle": str(bundle),
                }
            },
        }
        descriptor = os.open(self._config_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            yaml.safe_dump(configuration, file)

    async def _launch(self, *, read_only: bool) -> None:
        self._output.clear()
        await asyncio.to_thread(self._write_configuration, read_only=read_only)
        if shutil.which(self._program) is None:
            raise Unavailable(
                f"{self._program} is not installed; install it or name a registry in the configuration",
                reason="REGISTRY_UNREACHABLE",
            )
        process = await spawn(self._program, ["serve", str(self._config_file)], environment=_clean_environment())
        self._process = process
        write_pid_file(self._pid_file, process.pid)
        self._reader = asyncio.create_task(_drain(process, self._output), name="registry-output")
        deadline = time.monotonic() + _READY_SECONDS
        while not await self._answers(timeout_seconds=2.0):
            if process.returncode is not None:
                raise Unavailable(
                    f"the registry ended with code {process.returncode}: {' | '.join(self._output)}",
                    reason="REGISTRY_UNREACHABLE",
                )
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the registry does not answer at {self.url}: {' | '.join(self._output)}",
                    reason="REGISTRY_UNREACHABLE",
                )
            await asyncio.sleep(_READY_POLL_SECONDS)

    async def _answers(self, *, timeout_seconds: float) -> bool:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_seconds)) as session:
                async with session.get(f"{self.url}/v2/", ssl=self._own_certificate_only()) as answer:
                    return answer.status in (200, 401)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def _own_certificate_only(self) -> ssl.SSLContext:
        """Trusts the very certificate given to the child, so that another program on the port is not taken for it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # we may connect by 127.0.0.1 to a server that listens everywhere
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(self._certificate_file)
        return context

    async def _watch(self) -> None:
        """Restart a dead registry with back-off; kill one that hangs."""
        backoff = _BACKOFF_FIRST_SECONDS
        while True:
            started = time.monotonic()
            await self._until_dead()
            if time.monotonic() - started > _STABLE_SECONDS:
                backoff = _BACKOFF_FIRST_SECONDS
            code = self._process.returncode if self._process is not None else None
            _log.warning("the registry ended (%s); again in %.1f s: %s", code, backoff, " | ".join(self._output))
            await asyncio.sleep(backoff * random.uniform(0.8, 1.2))
            backoff = min(backoff * 2, _BACKOFF_MOST_SECONDS)
            await self._end_process()
            self.restarts += 1
            try:
                await self._launch(read_only=False)
            except (Unavailable, OSError) as exc:  # OSError: a full disk, no more processes. The watch goes on.
                _log.warning("the registry did not come back: %s", exc)
                await self._end_process()

    async def _until_dead(self) -> None:
        process = self._process
        if process is None:
            return
        failed, timeout_seconds = 0, min(self._check_period_seconds, _CHECK_TIMEOUT_SECONDS)
        while process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), self._check_period_seconds)
            except TimeoutError:
                failed = 0 if await self._answers(timeout_seconds=timeout_seconds) else failed + 1
                if failed >= _CHECKS_FAILED_LIMIT:
                    _log.warning("the registry does not answer any more: killed")
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()

    async def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        reader, self._reader = self._reader, None
        if process is not None:
            await end_child(process, grace_seconds=_STOP_GRACE_SECONDS)
        if reader is not None:
            await reader


async def _drain(process: asyncio.subprocess.Process, output: deque[str]) -> None:
    """Read a child's output to its end, so that it never blocks on a full pipe; keep the last lines."""
    if process.stdout is None:
        return
    rest = b""
    while chunk := await process.stdout.read(16384):
        *lines, rest = (rest + chunk)[-65536:].split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            output.append(text[:500])
            _log.debug("registry: %s", text)
    if rest:
        output.append(rest.decode(errors="replace")[:500])


def _clean_environment() -> Mapping[str, str]:
    # Variables named REGISTRY_* override the registry's configuration, and OTEL_* would send its traces somewhere.
    # The rest is inherited: whoever looks after our processes may know them by a variable.
    return {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "OTEL_"))}


def _folder_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total

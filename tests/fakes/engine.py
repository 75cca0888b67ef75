"""A Docker Engine in memory: the same calls and errors as `DockerEngine`, and levers for what goes wrong.

`tests/contract/engine` runs one suite over this and over a real engine, so the two cannot drift apart. Nothing here
sleeps; time is the clock that it was given.

    engine = FakeEngine()
    engine.add_image("app:1")                                   # in the engine's store; `registry` holds what pull
    can find engine.programs[("serve",)] = FakeProgram(exit_code=3)      # ends as soon as it is started
    engine.fail_next("start", NotReady("no", reason="START_FAILED")) engine.finish("name", 1, oom_killed=True)
    # a process ends by itself engine.go_down(); engine.come_back(); engine.freeze(); engine.thaw()
"""

import asyncio
import hashlib
import io
import itertools
import re
import tarfile
import time
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from hostagent.domain import ContainerObservation, ContainerPhase, ContainerSpec, Resources
from hostagent.engine.context import context_file, read_dockerfile
from hostagent.engine.dockerfile import buildkit_features
from hostagent.engine.images import split_reference
from hostagent.engine.values import (
    ContainerStats,
    DiskUsage,
    EngineEvent,
    EngineInfo,
    ImageObservation,
    ImageSummary,
    LogChunk,
    PullProgress,
    RegistryCredentials,
)
from moorage.errors import (
    AlreadyExists,
    EngineUnavailable,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    NotSupported,
    Unavailable,
)
from moorage.ids import ContainerId
from tests.fakes.engine_parts import FakeContainer, FakeEventStream, FakeProgram, FakeSession

__all__ = ["FakeContainer", "FakeEngine", "FakeEventStream", "FakeProgram", "FakeSession"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_SIGNALS = {"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGKILL": 9, "SIGUSR1": 10, "SIGTERM": 15}

DEFAULT_INFO = EngineInfo(
    version="28.0.0",
    api_version="1.48",
    platform="linux/amd64",
    cgroup_version=2,
    cgroup_driver="systemd",
    storage_driver="overlay2",
    data_root="/var/lib/docker",
    runtimes={"runc": "runc", "moorage": "/usr/libexec/moorage/runtime"},
    live_restore=True,
    swarm_active=False,
    userns_remap=False,
    rootless=False,
    security_options=("seccomp", "cgroupns"),
    memory_bytes=8 << 30,
    cpus=4,
    hostname="fake",
    kernel="6.1.0",
    experimental=False,
)


class FakeEngine:
    """See the module's docstring."""

    def __init__(self, *, clock: Callable[[], float] = time.time, info: EngineInfo = DEFAULT_INFO) -> None:
        self._clock = clock
        self._info = info
        self._ids = itertools.count(1)
        self._faults: defaultdict[str, list[MoorageError]] = defaultdict(list)
        self._is_down = False
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._pulls: dict[str, asyncio.Future[None]] = {}
        self.containers: dict[ContainerId, FakeContainer] = {}
        self.images: dict[str, ImageObservation] = {}
        self.registry: dict[str, ImageObservation] = {}
        self.registry_is_down = False
        self.programs: dict[tuple[str, ...], FakeProgram] = {}
        self.history: list[EngineEvent] = []
        self.streams: list[asyncio.Queue[EngineEvent | None]] = []
        self.sessions: defaultdict[ContainerId, list[FakeSession]] = defaultdict(list)
        self.pulls_started: list[str] = []

    # Levers.

    def fail_next(self, method: str, error: MoorageError, times: int = 1) -> None:
        """The next `times` calls of `method` raise this instead of doing anything."""
        self._faults[method] += [error] * times

    def go_down(self) -> None:
        """The engine goes away: calls and streams raise EngineUnavailable. Containers live on, as with live-restore."""
        self._is_down = True
        for queue in self.streams:
            queue.put_nowait(None)

    def come_back(self) -> None:
        """The engine answers again."""
        self._is_down = False

    def freeze(self) -> None:
        """Calls hang until `thaw`."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Calls go on."""
        self._thawed.set()

    def add_image(self, reference: str, **values: object) -> ImageObservation:
        """Put an image into the engine's store, as if it had been pulled. `values` are fields of ImageObservation."""
        image_id = "sha256:" + hashlib.sha256(f"{reference}{next(self._ids)}".encode()).hexdigest()
        is_digest = "@" in reference
        image = ImageObservation(
            image_id=image_id,
            repo_tags=() if is_digest else (reference,),
            repo_digests=(reference,) if is_digest else (),
            platform=self._info.platform,
            labels={},
            size_bytes=1_000_000,
        )
        self.images[_full(reference)] = replace(image, **values)  # type: ignore[arg-type]
        return self.images[_full(reference)]

    def finish(self, name: str, exit_code: int, *, oom_killed: bool = False) -> None:
        """A container's process ends by itself."""
        container = self._named(name)
        if oom_killed:
            container.oom_killed = True
            self._event(container, "oom")
        self._end(container, exit_code)

    def write_log(self, name: str, data: bytes, stream: str = "stdout") -> None:
        """A container's process writes."""
        self._write(self._named(name), stream, data)

    def set_health(self, name: str, health: str) -> None:
        """A health check gave starting, healthy or unhealthy."""
        container = self._named(name)
        container.health = health
        self._event(container, f"health_status: {health}")

    def vanish(self, name: str) -> None:
        """A stranger removes a container by force."""
        self._remove(self._named(name))

    def container(self, name: str) -> FakeContainer:
        """The insides of a container, by its name."""
        return self._named(name)

    async def enter(self, method: str) -> None:
        """What every call meets first: the freeze, the absence, the planned fault."""
        await asyncio.sleep(0)
        await self._thawed.wait()
        if self._is_down:
            raise EngineUnavailable("the Docker Engine does not answer")
        if self._faults[method]:
            raise self._faults[method].pop(0)

    # The engine's calls, as `DockerEngine` documents them.

    async def close(self) -> None:
        for queue in self.streams:
            queue.put_nowait(None)

    async def info(self) -> EngineInfo:
        await self.enter("info")
        return self._info

    async def ping(self) -> None:
        await self.enter("ping")

    async def create(self, spec: ContainerSpec, *, runtime: str) -> ContainerId:
        await self.enter("create")
        if not _NAME.fullmatch(spec.name):
            raise InvalidSpec.of("container", f"invalid container name {spec.name!r}", reason="ENGINE_REFUSED")
        if runtime and runtime not in self._info.runtimes:
            raise InvalidSpec.of("container", f"unknown runtime {runtime}", reason="ENGINE_REFUSED")
        image = self._image(spec.image)
        if image is None:
            raise NotFound(f"no image {spec.image}", reason="IMAGE_NOT_FOUND", metadata={"image": spec.image})
        if any(other.spec.name == spec.name for other in self.containers.values()):
            raise AlreadyExists(f"the name {spec.name} is taken", metadata={"name": spec.name})
        container_id = ContainerId(hashlib.sha256(f"container {next(self._ids)}".encode()).hexdigest())
        container = FakeContainer(
            container_id=container_id,
            spec=replace(spec, labels={**image.labels, **spec.labels}),
            runtime=runtime,
            program=self._program(spec, image),
            resources=spec.resources,
        )
        self.containers[container_id] = container
        self._event(container, "create")
        return container_id

    async def start(self, container_id: str) -> None:
        await self.enter("start")
        container = self._known(container_id)
        if container.phase is ContainerPhase.RUNNING:
            return
        if container.phase is ContainerPhase.PAUSED:
            raise NotReady("cannot start a paused container", reason="CONTAINER_STATE")
        container.phase = ContainerPhase.RUNNING
        container.exit_code, container.error, container.oom_killed = None, "", False
        container.started_at, container.finished_at = self._clock(), None
        container.pid = 1000 + next(self._ids)
        check = container.spec.health_check
        container.health = "starting" if check is not None and check.test != ("NONE",) else ""
        self._event(container, "start")
        for session in self.sessions[container.container_id]:
            session.begin()
        for stream, data in container.program.output:
            container.log.append(LogChunk("stdout" if container.spec.tty else stream, data, self._clock()))
        if container.program.exit_code is not None and not container.program.echoes_stdin:
            self.finish(container.spec.name, container.program.exit_code, oom_killed=container.program.oom_killed)

    async def stop(self, container_id: str, *, grace_seconds: float, signal: str = "") -> None:
        await self.enter("stop")
        container = self._known(container_id)
        if container.phase is ContainerPhase.PAUSED:
            self._unpause(container)
        if container.phase is ContainerPhase.RUNNING:
            self._signal(container, signal or container.spec.stop_signal or "SIGTERM")
        if container.phase is ContainerPhase.RUNNING:
            self._signal(container, "SIGKILL")

    async def kill(self, container_id: str, signal: str) -> None:
        await self.enter("kill")
        container = self._known(container_id)
        if container.phase not in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
            raise NotReady("the container does not run", reason="CONTAINER_STATE")
        self._signal(container, signal)

    async def pause(self, container_id: str) -> None:
        await self.enter("pause")
        container = self._known(container_id)
        if container.phase is not ContainerPhase.RUNNING:
            raise NotReady("the container does not run", reason="CONTAINER_STATE")
        container.phase = ContainerPhase.PAUSED
        self._event(container, "pause")

    async def unpause(self, container_id: str) -> None:
        await self.enter("unpause")
        container = self._known(container_id)
        if container.phase is not ContainerPhase.PAUSED:
            raise NotReady("the container is not paused", reason="CONTAINER_STATE")
        self._unpause(container)

    async def remove(self, container_id: str, *, force: bool = True) -> None:
        await self.enter("remove")
        container = self._find(container_id)
        if container is None:
            return
        if container.phase in (ContainerPhase.RUNNING, ContainerPhase.PAUSED) and not force:
            raise NotReady("the container runs", reason="CONTAINER_STATE")
        self._remove(container)

    async def inspect(self, id_or_name: str) -> ContainerObservation | None:
        await self.enter("inspect")
        container = self._find(id_or_name)
        return container.observe() if container is not None else None

    async def list(self, label: str = "") -> list[ContainerObservation]:
        await self.enter("list")
        name, equals, value = label.partition("=")
        found = [
            container.observe()
            for container in self.containers.values()
            if not label or (name in container.spec.labels and (not equals or container.spec.labels[name] == value))
        ]
        return sorted(found, key=lambda seen: seen.name)

    async def update(self, container_id: str, resources: Resources) -> None:
        await self.enter("update")
        container = self._known(container_id)
        container.resources = replace(resources, shm_bytes=container.resources.shm_bytes)
        self._event(container, "update")

    async def wait(self, container_id: str) -> int:
        await self.enter("wait")
        container = self._known(container_id)
        while container.phase in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
            await container.changed.wait()
        return container.exit_code or 0

    async def stats(self, container_id: str) -> ContainerStats:
        await self.enter("stats")
        container = self._known(container_id)
        if container.phase not in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
            return ContainerStats(0.0, 0, 0, 0, 0, 0, 0)
        limit = container.resources.memory_bytes or self._info.memory_bytes
        return ContainerStats(self._clock(), 1_000_000, 1 << 20, limit, 1, 0, 0)

    async def copy_out(self, container_id: str, path: str) -> AsyncIterator[bytes]:
        await self.enter("copy_out")
        container = self._known(container_id)
        wanted = PurePosixPath(path)
        found = {
            PurePosixPath(name): data
            for name, data in container.files.items()
            if PurePosixPath(name) == wanted or wanted in PurePosixPath(name).parents
        }
        if not found:
            raise NotFound(f"no {path} in the container", reason="PATH_NOT_FOUND", metadata={"path": path})
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in found.items():
                member = tarfile.TarInfo(str(name.relative_to(wanted.parent)))
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        yield buffer.getvalue()

    async def copy_in(self, container_id: str, path: str, chunks: AsyncIterable[bytes]) -> None:
        await self.enter("copy_in")
        container = self._known(container_id)
        folders = {"/", "/tmp", "/etc", "/root"} | {str(PurePosixPath(name).parent) for name in container.files}
        if str(PurePosixPath(path)) not in folders:
            raise NotFound(f"no {path} in the container", reason="PATH_NOT_FOUND", metadata={"path": path})
        buffer = io.BytesIO(b"".join([chunk async for chunk in chunks]))
        try:
            with tarfile.open(fileobj=buffer) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is not None:
                        container.files[str(PurePosixPath(path) / member.name)] = content.read()
        except tarfile.TarError as error:
            raise InvalidSpec.of("chunks", str(error), reason="TAR_INVALID") from error

    def events(self, since: float | None = None) -> FakeEventStream:
        def past() -> list[EngineEvent]:
            return [event for event in self.history if since is not None and event.time >= since]

        return FakeEventStream(lambda: self.enter("events"), past, self.streams)

    async def logs(
        self,
        container_id: str,
        *,
        follow: bool = False,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> AsyncIterator[LogChunk]:
        await self.enter("logs")
        container = self._known(container_id)
        seen = len(container.log)
        old = container.log[:seen] if tail is None else container.log[max(0, seen - tail) : seen]
        for chunk in old:
            if (since is None or (chunk.time or 0) >= since) and (until is None or (chunk.time or 0) <= until):
                yield chunk if timestamps else replace(chunk, time=None)
        while follow:
            while seen < len(container.log):
                yield container.log[seen] if timestamps else replace(container.log[seen], time=None)
                seen += 1
            if container.phase not in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
                return
            await container.changed.wait()

    async def exec(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        user: str = "",
        rows: int = 0,
        cols: int = 0,
    ) -> FakeSession:
        await self.enter("exec")
        container = self._known(container_id)
        if container.phase is not ContainerPhase.RUNNING:
            raise NotReady("the container does not run", reason="CONTAINER_STATE")
        program = self.programs.get(tuple(command), FakeProgram(exit_code=127))
        session = FakeSession(program, tty=tty, rows=rows, cols=cols)
        session.begin()
        return session

    async def attach(self, container_id: str, *, rows: int = 0, cols: int = 0, logs: bool = False) -> FakeSession:
        await self.enter("attach")
        container = self._known(container_id)
        session = FakeSession(container.program, tty=container.spec.tty, rows=rows, cols=cols)
        for chunk in container.log if logs else ():
            session.emit(chunk.stream, chunk.data)
        self.sessions[container.container_id].append(session)
        return session

    async def inspect_image(self, image: str) -> ImageObservation | None:
        await self.enter("inspect_image")
        return self._image(image)

    async def image_labels(self, image: str) -> Mapping[str, str]:
        await self.enter("image_labels")
        return self._known_image(image).labels

    async def list_images(self) -> Sequence[ImageSummary]:
        await self.enter("list_images")
        unique = {image.image_id: image for image in self.images.values()}
        return [
            ImageSummary(i.image_id, i.repo_tags, i.repo_digests, i.labels, i.size_bytes, i.created_at or 0.0)
            for i in unique.values()
        ]

    async def pull(
        self,
        image: str,
        on_progress: Callable[[PullProgress], None] | None = None,
        *,
        credentials: RegistryCredentials | None = None,
    ) -> None:
        reference = _full(image)
        if (running := self._pulls.get(reference)) is None:
            running = self._pulls[reference] = asyncio.get_running_loop().create_future()
            self.pulls_started.append(image)
            try:
                await self._pull(reference)
            except BaseException as error:
                running.set_exception(error) if isinstance(error, MoorageError) else running.cancel()
                if isinstance(error, MoorageError):
                    running.exception()
                raise
            else:
                running.set_result(None)
            finally:
                del self._pulls[reference]
        else:
            await asyncio.shield(running)
        if on_progress is not None:
            size = self.images[reference].size_bytes
            on_progress(PullProgress("DOWNLOADING", size // 2, size, 35))
            on_progress(PullProgress("DONE", size, size, 100))

    async def push(
        self,
        image: str,
        on_progress: Callable[[PullProgress], None] | None = None,
        *,
        credentials: RegistryCredentials | None = None,
    ) -> str:
        await self.enter("push")
        observed = self._known_image(image)
        if self.registry_is_down:
            raise Unavailable("connection refused", reason="REGISTRY_UNREACHABLE")
        digest = "sha256:" + hashlib.sha256(observed.image_id.encode()).hexdigest()
        by_digest = f"{split_reference(image)[0]}@{digest}"
        pushed = replace(observed, repo_digests=(*observed.repo_digests, by_digest))
        self.registry[_full(image)] = self.registry[by_digest] = pushed
        if on_progress is not None:
            on_progress(PullProgress("DONE", observed.size_bytes, observed.size_bytes, 100))
        return digest

    async def tag(self, image: str, reference: str) -> None:
        await self.enter("tag")
        observed = self._known_image(image)
        self.images[_full(reference)] = replace(observed, repo_tags=(*observed.repo_tags, _full(reference)))

    async def remove_image(self, image: str, *, force: bool = False) -> None:
        await self.enter("remove_image")
        observed = self._image(image)
        if observed is None:
            return
        names = [name for name, other in self.images.items() if other.image_id == observed.image_id]
        if len(names) == 1 and not force and any(_full(c.spec.image) in names for c in self.containers.values()):
            raise NotReady("a container uses the image", reason="IMAGE_IN_USE")
        for name in names if image == observed.image_id else [_full(image)]:
            del self.images[name]

    async def load(self, archive: AsyncIterable[bytes]) -> tuple[str, ...]:
        await self.enter("load")
        await _whole_tar(archive)
        reference = f"loaded:{next(self._ids)}"
        self.add_image(reference)
        return (reference,)

    async def import_rootfs(
        self, reference: str, archive: AsyncIterable[bytes], *, changes: tuple[str, ...] = ()
    ) -> str:
        await self.enter("import_rootfs")
        await _whole_tar(archive)
        return self.add_image(reference).image_id

    async def save(self, image: str) -> AsyncIterator[bytes]:
        await self.enter("save")
        self._known_image(image)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("manifest.json"), io.BytesIO())
        yield buffer.getvalue()

    async def commit(
        self,
        container_id: str,
        repository: str,
        tag: str,
        *,
        pause: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        await self.enter("commit")
        container = self._known(container_id)
        return self.add_image(f"{repository}:{tag}", labels={**container.spec.labels, **(labels or {})}).image_id

    async def prune_build_cache(self, *, keep_bytes: int = 0, unused_for_seconds: float = 0.0) -> int:
        await self.enter("prune_build_cache")
        return 0

    async def disk_usage(self) -> DiskUsage:
        await self.enter("disk_usage")
        unique = {image.image_id: image.size_bytes for image in self.images.values()}
        return DiskUsage(sum(unique.values()), 0, 0, 0)

    async def build(
        self,
        context: AsyncIterable[bytes] | Path,
        *,
        dockerfile: str = "Dockerfile",
        tag: str = "",
        build_args: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        target: str = "",
        memory_bytes: int = 0,
        cpu_millis: int = 0,
        network: str = "none",
        timeout_seconds: float = 600.0,
        output_limit_bytes: int = 4 * 1024 * 1024,
        on_output: Callable[[str], None] | None = None,
    ) -> str:
        await self.enter("build")
        async with context_file(context) as path:
            text = read_dockerfile(path, dockerfile)
        if features := buildkit_features(text):
            raise NotSupported("needs BuildKit", reason="BUILDKIT_NEEDED", metadata={"features": ",".join(features)})
        for number, line in enumerate(text.splitlines(), 1):
            if on_output is not None:
                on_output(f"Step {number} : {line}\n")
            if line == "RUN false":
                error = InvalidSpec.of("dockerfile", "returned a non-zero code: 1", reason="BUILD_FAILED")
                error.metadata["log_tail"] = f"Step {number} : {line}"
                raise error
        return self.add_image(tag or f"built:{next(self._ids)}", labels=dict(labels or {})).image_id

    # Inside.

    async def _pull(self, reference: str) -> None:
        await self.enter("pull")
        if self.registry_is_down:
            raise Unavailable("connection refused", reason="REGISTRY_UNREACHABLE")
        if reference not in self.registry:
            raise NotFound(f"no image {reference}", reason="IMAGE_NOT_FOUND", metadata={"image": reference})
        self.images[reference] = self.registry[reference]

    def _program(self, spec: ContainerSpec, image: ImageObservation) -> FakeProgram:
        entrypoint = image.entrypoint if spec.entrypoint is None else spec.entrypoint
        command = spec.command or (image.command if spec.entrypoint is None else ())
        return self.programs.get((*entrypoint, *command), FakeProgram())

    def _image(self, image: str) -> ImageObservation | None:
        by_id = (other for other in self.images.values() if other.image_id == image)
        return self.images.get(_full(image)) or next(by_id, None)

    def _known_image(self, image: str) -> ImageObservation:
        observed = self._image(image)
        if observed is None:
            raise NotFound(f"no image {image}", reason="IMAGE_NOT_FOUND", metadata={"image": image})
        return observed

    def _find(self, id_or_name: str) -> FakeContainer | None:
        for container in self.containers.values():
            if id_or_name in (container.container_id, container.spec.name):
                return container
        return None

    def _known(self, id_or_name: str) -> FakeContainer:
        container = self._find(id_or_name)
        if container is None:
            raise NotFound(f"no container {id_or_name}")
        return container

    def _named(self, name: str) -> FakeContainer:
        container = self._find(name)
        assert container is not None, f"the test speaks of {name}, which is not there"
        return container

    def _signal(self, container: FakeContainer, signal: str) -> None:
        number = _SIGNALS[signal if signal.startswith("SIG") else f"SIG{signal}"]
        if number == 9 or not container.program.ignores_signals:
            asked = container.program.on_signal if number == 15 else None
            self._end(container, asked if asked is not None else 128 + number)

    def _unpause(self, container: FakeContainer) -> None:
        container.phase = ContainerPhase.RUNNING
        self._event(container, "unpause")

    def _end(self, container: FakeContainer, exit_code: int) -> None:
        container.phase = ContainerPhase.EXITED
        container.exit_code, container.pid, container.finished_at = exit_code, 0, self._clock()
        self._event(container, "die", exitCode=str(exit_code))
        for session in self.sessions.pop(container.container_id, []):
            session.end(exit_code)

    def _remove(self, container: FakeContainer) -> None:
        if container.phase in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
            self._end(container, 137)
        del self.containers[container.container_id]
        self._event(container, "destroy")

    def _write(self, container: FakeContainer, stream: str, data: bytes) -> None:
        container.log.append(LogChunk("stdout" if container.spec.tty else stream, data, self._clock()))
        for session in self.sessions[container.container_id]:
            session.emit(stream, data)
        container.wake()

    def _event(self, container: FakeContainer, action: str, **attributes: str) -> None:
        event = EngineEvent(
            container.container_id,
            action,
            self._clock(),
            {**container.spec.labels, "name": container.spec.name, "image": container.spec.image, **attributes},
        )
        self.history.append(event)
        for queue in self.streams:
            queue.put_nowait(event)
        container.wake()


def _full(reference: str) -> str:
    """`name` and `name:latest` are one image."""
    repository, tag = split_reference(reference)
    return f"{repository}@{tag}" if tag.startswith("sha256:") else f"{repository}:{tag}"


async def _whole_tar(archive: AsyncIterable[bytes]) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join([chunk async for chunk in archive]))) as opened:
            opened.getmembers()
    except tarfile.TarError as error:
        raise InvalidSpec.of("archive", str(error), reason="TAR_INVALID") from error

"""One Docker Engine, whole: what the executor, the image keeper and the side streams of the agent call.

Composed of parts by concern: `connection` (HTTP, versions, errors), `containers`, `images`, `streams` (events,
logs), `sessions` (exec, attach), `build`. `tests/fakes/engine.py` has the same methods in memory, held to the same
by `tests/contract/engine`.

Errors, everywhere: EngineUnavailable when the engine does not answer (back off and retry); NotFound when the
container is not there; NotReady (CONTAINER_STATE) when its state does not allow it; InvalidSpec when the engine
refuses a value.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from hostagent.domain import ContainerObservation, ContainerSpec, Resources
from hostagent.engine.build import Builder
from hostagent.engine.connection import EngineConnection
from hostagent.engine.containers import Containers
from hostagent.engine.images import Images, OnProgress
from hostagent.engine.parse import parse_info
from hostagent.engine.sessions import ExecSession, open_attach, open_exec
from hostagent.engine.streams import EventStream, read_logs
from hostagent.engine.values import (
    ContainerStats,
    DiskUsage,
    EngineInfo,
    ImageObservation,
    ImageSummary,
    LogChunk,
    RegistryCredentials,
)
from moorage.errors import InvalidSpec
from moorage.ids import ContainerId
from moorage.tasks import TaskOwner

DEFAULT_URL = "unix:///var/run/docker.sock"


class DockerEngine:
    """An open connection to one engine. `connect` makes one; `close` ends it."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection
        self._tasks = TaskOwner("engine")
        self._containers = Containers(connection)
        self._images = Images(connection, self._tasks)
        self._builder = Builder(connection)

    @classmethod
    async def connect(cls, url: str = DEFAULT_URL, *, connections: int = 16) -> "DockerEngine":
        """Connect and agree on an API version (1.41, Docker 20.10, to 1.52, Docker 29).

        Args:
            url: unix:// and the path of the engine's socket.
            connections: short calls that are under way at once; more wait their turn.
        Raises:
            EngineUnavailable: nothing answers there.
            NotSupported: ENGINE_TOO_OLD or ENGINE_TOO_NEW.
        """
        if not url.startswith("unix://"):
            raise InvalidSpec.of("url", f"{url!r} is not unix:// and a path: the agent runs beside its engine")
        connection = EngineConnection(url.removeprefix("unix://"), connections)
        await connection.open()
        return cls(connection)

    async def close(self) -> None:
        """End pulls, streams and connections."""
        await self._tasks.close()
        await self._connection.close()

    async def info(self) -> EngineInfo:
        """What this engine and its machine are."""
        return parse_info(await self._connection.call_json("GET", "/info"), self._connection.api_version)

    async def ping(self) -> None:
        """Return when the engine answers. Raises EngineUnavailable after 5 seconds of silence."""
        await self._connection.call("GET", "/_ping", timeout_seconds=5)

    # Containers: the words are explained in `containers`.

    async def create(self, spec: ContainerSpec, *, runtime: str) -> ContainerId:
        """Create, not start; raises AlreadyExists, NotFound (IMAGE_NOT_FOUND), InvalidSpec (ENGINE_REFUSED)."""
        return await self._containers.create(spec, runtime=runtime)

    async def start(self, container_id: str) -> None:
        """Start and return when the process runs; raises InvalidSpec (START_REFUSED), NotReady (START_FAILED)."""
        await self._containers.start(container_id)

    async def stop(self, container_id: str, *, grace_seconds: float, signal: str = "") -> None:
        """Signal, wait up to the grace, kill; returns when the process has ended. Fine if it does not run."""
        await self._containers.stop(container_id, grace_seconds=grace_seconds, signal=signal)

    async def kill(self, container_id: str, signal: str) -> None:
        """Send a signal to the process; NotReady if it does not run."""
        await self._containers.kill(container_id, signal)

    async def pause(self, container_id: str) -> None:
        """Freeze; NotReady if it does not run or is paused."""
        await self._containers.pause(container_id)

    async def unpause(self, container_id: str) -> None:
        """Thaw; NotReady if it is not paused."""
        await self._containers.unpause(container_id)

    async def remove(self, container_id: str, *, force: bool = True) -> None:
        """Remove with writable layer and anonymous volumes. Fine if it is gone."""
        await self._containers.remove(container_id, force=force)

    async def inspect(self, id_or_name: str) -> ContainerObservation | None:
        """One container, None if there is none of exactly this id or name."""
        return await self._containers.inspect(id_or_name)

    async def list(self, label: str = "") -> list[ContainerObservation]:
        """All containers in every state that carry the label (`name` or `name=value`), sorted by name."""
        return await self._containers.list(label)

    async def update(self, container_id: str, resources: Resources) -> None:
        """Set all limits but `shm_bytes` in place."""
        await self._containers.update(container_id, resources)

    async def wait(self, container_id: str) -> int:
        """Wait until the process has ended; returns its exit code."""
        return await self._containers.wait(container_id)

    async def stats(self, container_id: str) -> ContainerStats:
        """One reading of the cgroup.

        Zeros when the container does not run. Takes up to a second: ask for many at once.
        """
        return await self._containers.stats(container_id)

    def copy_out(self, container_id: str, path: str) -> AsyncIterator[bytes]:
        """A file or folder as tar; NotFound (PATH_NOT_FOUND)."""
        return self._containers.copy_out(container_id, path)

    async def copy_in(self, container_id: str, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Unpack a tar into an existing folder; NotFound (PATH_NOT_FOUND), InvalidSpec."""
        await self._containers.copy_in(container_id, path, chunks)

    # Streams and sessions.

    def events(self, since: float | None = None) -> EventStream:
        """Events of containers; await its `open()` before the listing that they shall complete.

        Args:
            since: also those that happened since then (seconds since the epoch), as far as the engine remembers.
        """
        return EventStream(self._connection, since)

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
        """What the process wrote, oldest first.

        Args:
            follow: go on until the process ends.
            since, until: seconds since the epoch.
            tail: only that many last lines.
            timestamps: give each chunk the time at which it was written.
        """
        # Older engines do not say how they frame the answer.
        terminal = None if self._connection.at_least(1, 42) else await self._containers.has_terminal(container_id)
        async for chunk in read_logs(
            self._connection,
            container_id,
            terminal=terminal,
            follow=follow,
            since=since,
            until=until,
            tail=tail,
            timestamps=timestamps,
        ):
            yield chunk

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
    ) -> ExecSession:
        """Start a program in a running container; NotReady (CONTAINER_STATE) if it does not run or is paused."""
        return await open_exec(
            self._connection,
            container_id,
            command,
            tty=tty,
            stdin=stdin,
            env=env or {},
            workdir=workdir,
            user=user,
            rows=rows,
            cols=cols,
        )

    async def attach(self, container_id: str, *, rows: int = 0, cols: int = 0, logs: bool = False) -> ExecSession:
        """Talk to the container's own process. Attach before `start` to see all; then `resize` after it.

        Args:
            logs: first what was written before.
        """
        return await open_attach(
            self._connection, self._containers, self._tasks, container_id, rows=rows, cols=cols, logs=logs
        )

    # Images: the words are explained in `images`.

    async def inspect_image(self, image: str) -> ImageObservation | None:
        """An image by reference or id; None if it is not here."""
        return await self._images.inspect_image(image)

    async def image_labels(self, image: str) -> Mapping[str, str]:
        """Its labels; NotFound (IMAGE_NOT_FOUND)."""
        return await self._images.image_labels(image)

    async def list_images(self) -> Sequence[ImageSummary]:
        """All images that are not mere layers of others."""
        return await self._images.list_images()

    async def pull(
        self, image: str, on_progress: OnProgress | None = None, *, credentials: RegistryCredentials | None = None
    ) -> None:
        """Fetch.

        One pull at a time for each image. NotFound, Unavailable (REGISTRY_UNREACHABLE), Unauthenticated, Forbidden.
        """
        await self._images.pull(image, on_progress, credentials=credentials)

    async def push(
        self, image: str, on_progress: OnProgress | None = None, *, credentials: RegistryCredentials | None = None
    ) -> str:
        """Send to its registry; returns the manifest's digest. Errors as `pull`."""
        return await self._images.push(image, on_progress, credentials=credentials)

    async def tag(self, image: str, reference: str) -> None:
        """Give an image another name; NotFound (IMAGE_NOT_FOUND)."""
        await self._images.tag(image, reference)

    async def remove_image(self, image: str, *, force: bool = False) -> None:
        """Take a name from an image, with the last one its layers. NotReady (IMAGE_IN_USE); fine if it is gone."""
        await self._images.remove_image(image, force=force)

    async def load(self, archive: AsyncIterable[bytes]) -> tuple[str, ...]:
        """Load a `docker save` tar; returns references or ids. InvalidSpec (TAR_INVALID)."""
        return await self._images.load(archive)

    async def import_rootfs(
        self, reference: str, archive: AsyncIterable[bytes], *, changes: tuple[str, ...] = ()
    ) -> str:
        """An image of one layer from a root file system's tar; returns its id. InvalidSpec (TAR_INVALID)."""
        return await self._images.import_rootfs(reference, archive, changes=changes)

    def save(self, image: str) -> AsyncIterator[bytes]:
        """An image as a `docker save` tar; NotFound (IMAGE_NOT_FOUND)."""
        return self._images.save(image)

    async def commit(
        self,
        container_id: str,
        repository: str,
        tag: str,
        *,
        pause: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """An image of a container; returns its id. `labels` overrides those that it takes over from the container."""
        return await self._images.commit(container_id, repository, tag, pause=pause, labels=labels)

    async def prune_build_cache(self, *, keep_bytes: int = 0, unused_for_seconds: float = 0.0) -> int:
        """Drop BuildKit's cache; returns the bytes freed."""
        return await self._images.prune_build_cache(keep_bytes=keep_bytes, unused_for_seconds=unused_for_seconds)

    async def disk_usage(self) -> DiskUsage:
        """Space that the engine holds."""
        return await self._images.disk_usage()

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
        """Build an image from a tar with a Dockerfile; returns its id. See `build` for arguments and errors."""
        return await self._builder.build(
            context,
            dockerfile=dockerfile,
            tag=tag,
            build_args=build_args or {},
            labels=labels or {},
            target=target,
            memory_bytes=memory_bytes,
            cpu_millis=cpu_millis,
            network=network,
            timeout_seconds=timeout_seconds,
            output_limit_bytes=output_limit_bytes,
            on_output=on_output,
        )

"""The life of containers: one request to the engine for each step, no look before the leap."""

import asyncio
import json
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from hostagent.domain import ContainerObservation, ContainerSpec, Resources
from hostagent.engine.connection import CALL_TIMEOUT_SECONDS, EngineConnection, ErrorTable, segment
from hostagent.engine.parse import parse_container, parse_stats
from hostagent.engine.spec import create_body, update_body
from hostagent.engine.values import ContainerStats
from moorage.errors import AlreadyExists, EngineUnavailable, InvalidSpec, MoorageError, NotFound, NotReady
from moorage.ids import ContainerId

_INSPECTS_AT_ONCE = 16

_START_ERRORS: ErrorTable = {
    400: lambda text: InvalidSpec.of("command", text, reason="START_REFUSED"),
    409: lambda text: NotReady(text, reason="CONTAINER_STATE"),
    500: lambda text: NotReady(text, reason="START_FAILED"),
}
# The one call that 20.10 answers with 500, not 409, for a container in the wrong state.
_UNPAUSE_ERRORS: ErrorTable = {500: lambda text: NotReady(text, reason="CONTAINER_STATE")}


class Containers:
    """Calls about containers. See `DockerEngine` for the contract; this class is its part."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection

    async def create(self, spec: ContainerSpec, *, runtime: str) -> ContainerId:
        """Create a container, not started, without Docker's networking.

        Args:
            runtime: a name of the engine's `runtimes`; empty for the engine's default.
        Raises:
            AlreadyExists: a container of that name is there.
            NotFound: reason IMAGE_NOT_FOUND: pull the image first.
            InvalidSpec: the engine refuses a value (reason ENGINE_REFUSED), such as a bind mount whose source is
                missing.
        """
        errors: ErrorTable = {
            404: _image_not_found(spec.image),
            409: lambda text: AlreadyExists(text, metadata={"name": spec.name}),
        }
        answer = await self._connection.call_json(
            "POST", "/containers/create", query={"name": spec.name}, body=create_body(spec, runtime), errors=errors
        )
        return ContainerId(answer["Id"])

    async def start(self, container_id: str) -> None:
        """Start a container and return when its process runs; nothing happens if it runs already.

        Raises:
            InvalidSpec: reason START_REFUSED: its command cannot be run (not found, not executable).
            NotReady: reason START_FAILED: the runtime failed, the message has its words; or CONTAINER_STATE (paused).
            NotFound: there is no such container.
        """
        await self._connection.call("POST", f"{_path(container_id)}/start", errors=_START_ERRORS, timeout_seconds=120)

    async def stop(self, container_id: str, *, grace_seconds: float, signal: str = "") -> None:
        """Ask the process to end, kill it after the grace.

        Return when it has ended. Nothing happens if it does not run.

        Args:
            grace_seconds: time between signal and SIGKILL, rounded up to whole seconds, 0 or more.
            signal: such as SIGTERM; empty for the container's own stop signal.
        """
        grace = max(0, math.ceil(grace_seconds))
        query: dict[str, str | int | None] = {"t": grace}
        if signal and self._connection.at_least(1, 42):
            query["signal"] = signal
        elif signal:
            try:
                await self.kill(container_id, signal)
            except NotReady:
                return  # does not run
            try:
                async with asyncio.timeout(grace):
                    await self.wait(container_id)
                return
            except TimeoutError:
                query["t"] = 0
        await self._connection.call(
            "POST", f"{_path(container_id)}/stop", query=query, timeout_seconds=grace + CALL_TIMEOUT_SECONDS, long=True
        )

    async def kill(self, container_id: str, signal: str) -> None:
        """Send a signal to the container's process. Raises NotReady when it does not run."""
        await self._connection.call("POST", f"{_path(container_id)}/kill", query={"signal": signal})

    async def pause(self, container_id: str) -> None:
        """Freeze all processes. Raises NotReady when it does not run or is paused."""
        await self._connection.call("POST", f"{_path(container_id)}/pause")

    async def unpause(self, container_id: str) -> None:
        """Let the processes go on. Raises NotReady when it is not paused."""
        await self._connection.call("POST", f"{_path(container_id)}/unpause", errors=_UNPAUSE_ERRORS)

    async def remove(self, container_id: str, *, force: bool = True) -> None:
        """Remove a container with its writable layer and anonymous volumes. One that is gone already is no error.

        Args:
            force: kill it first if it runs; without it a running container raises NotReady.
        """
        try:
            await self._connection.call(
                "DELETE", _path(container_id), query={"force": int(force), "v": 1}, timeout_seconds=120, long=True
            )
        except NotFound:
            return
        except NotReady:
            # Either it runs and force is off, or somebody else is removing it: then its end is what we wait for.
            observed = await self.inspect(container_id)
            if observed is not None and (not force or not await self._gone(container_id)):
                raise

    async def wait(self, container_id: str, *, condition: str = "not-running") -> int:
        """Wait for the end of a container's process (or `next-exit`, `removed`). Returns its exit code."""
        async with self.waiting(container_id, condition) as exit_code:
            return await exit_code()

    @asynccontextmanager
    async def waiting(self, container_id: str, condition: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        """`wait` in two steps: inside the block the engine knows of the wait, and the value gives the exit code."""
        async with self._connection.request(
            "POST", f"{_path(container_id)}/wait", query={"condition": condition}
        ) as answer:

            async def exit_code() -> int:
                return int(json.loads(await self._connection.read(answer))["StatusCode"])

            yield exit_code

    async def inspect(self, id_or_name: str) -> ContainerObservation | None:
        """One container, or None if there is none of exactly this id or name."""
        try:
            answer = await self._connection.call_json("GET", f"{_path(id_or_name)}/json")
        except NotFound:
            return None
        observed = parse_container(answer)
        # The engine also takes the beginning of an id: a short name must not find a stranger.
        return observed if id_or_name in (observed.container_id, observed.name) else None

    async def has_terminal(self, container_id: str) -> bool:
        """Whether the container has a terminal: its output is then one raw stream."""
        answer = await self._connection.call_json("GET", f"{_path(container_id)}/json")
        return bool(answer["Config"].get("Tty"))

    async def list(self, label: str = "") -> list[ContainerObservation]:
        """All containers in every state, sorted by name.

        The engine's list lacks exit codes, health and pids, so each one is inspected; one that goes meanwhile is
        left out.

        Args:
            label: `name` or `name=value`; empty for all.
        """
        query = {"all": 1, "filters": json.dumps({"label": [label]}) if label else None}
        answer = await self._connection.call_json("GET", "/containers/json", query=query)
        gate = asyncio.Semaphore(_INSPECTS_AT_ONCE)

        async def look(container_id: str) -> ContainerObservation | None:
            async with gate:
                return await self.inspect(container_id)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(look(entry["Id"])) for entry in answer]
        return sorted((seen for task in tasks if (seen := task.result()) is not None), key=lambda seen: seen.name)

    async def update(self, container_id: str, resources: Resources) -> None:
        """Change the limits of a container, running or not. `shm_bytes` cannot change and is left alone.

        Raises: InvalidSpec when the engine or the kernel refuses a value; NotReady while it is being removed.
        """
        errors: ErrorTable = {500: lambda text: InvalidSpec.of("resources", text, reason="ENGINE_REFUSED")}
        await self._connection.call("POST", f"{_path(container_id)}/update", body=update_body(resources), errors=errors)

    async def stats(self, container_id: str) -> ContainerStats:
        """One reading of the container's cgroup; zeros when it does not run.

        The engine reads once a second and answers with its next reading: ask for many containers at once, not in turn.
        """
        query = {"stream": 0, "one-shot": 1}
        return parse_stats(await self._connection.call_json("GET", f"{_path(container_id)}/stats", query=query))

    async def copy_out(self, container_id: str, path: str) -> AsyncIterator[bytes]:
        """A file or folder as tar, in chunks. Works on stopped containers too.

        Raises: NotFound, reason PATH_NOT_FOUND or NOT_FOUND (no such container: ask `inspect`).
        """
        async with self._connection.request(
            "GET", f"{_path(container_id)}/archive", query={"path": path}, errors=_copy_errors(path)
        ) as answer:
            async for chunk in self._connection.chunks(answer):
                yield chunk

    async def copy_in(self, container_id: str, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Unpack a tar into the folder `path`, which must exist.

        The engine unpacks it inside the container's root: no member can climb out of it.

        Raises: NotFound (reason PATH_NOT_FOUND), InvalidSpec (not a folder, or not a tar), Forbidden (read-only root).
        """
        async with self._connection.request(
            "PUT",
            f"{_path(container_id)}/archive",
            query={"path": path, "noOverwriteDirNonDir": 1},
            data=chunks,
            headers={"Content-Type": "application/x-tar"},
            errors={**_copy_errors(path), 500: lambda text: InvalidSpec.of("chunks", text, reason="TAR_INVALID")},
        ) as answer:
            await self._connection.read(answer)

    async def _gone(self, container_id: str) -> bool:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                await self.wait(container_id, condition="removed")
        except NotFound:
            return True
        except TimeoutError:
            return False
        except EngineUnavailable:
            raise
        return True


def _path(id_or_name: str) -> str:
    return f"/containers/{segment(id_or_name)}"


def _image_not_found(image: str) -> Callable[[str], MoorageError]:
    return lambda text: NotFound(text, reason="IMAGE_NOT_FOUND", metadata={"image": image})


def _copy_errors(path: str) -> ErrorTable:
    return {
        400: lambda text: InvalidSpec.of("path", text, reason="PATH_INVALID"),
        404: lambda text: NotFound(text, reason="PATH_NOT_FOUND", metadata={"path": path}),
    }

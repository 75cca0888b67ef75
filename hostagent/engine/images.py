"""Images: pull, push, tag, list, remove, load, commit, and the space that they take.

A pull is shared: whoever asks for an image that is on its way waits for the same pull and sees its progress. It
ends early only when nobody waits any more.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from hostagent.engine.connection import EngineConnection, EngineRefusal, ErrorTable, segment
from hostagent.engine.parse import parse_disk_usage, parse_image, parse_image_summary
from hostagent.engine.progress import LayerProgress
from hostagent.engine.streams import LineReader
from hostagent.engine.values import DiskUsage, ImageObservation, ImageSummary, PullProgress, RegistryCredentials
from moorage.errors import (
    EngineUnavailable,
    Exhausted,
    Forbidden,
    Internal,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    Unauthenticated,
    Unavailable,
)
from moorage.tasks import TaskOwner

OnProgress = Callable[[PullProgress], None]

# Docker gives registry trouble status 500, or a line in a stream that began with 200, and no code: these words of the
# registry protocol and of Go's standard library, stable for ten years, are all that there is.
_WORDS: tuple[tuple[str, Callable[[str], MoorageError]], ...] = (
    ("no space left on device", lambda text: Exhausted(text, reason="DISK_FULL")),
    ("no matching manifest", lambda text: NotFound(text, reason="PLATFORM_NOT_AVAILABLE")),
    ("manifest unknown", lambda text: NotFound(text, reason="IMAGE_NOT_FOUND")),
    ("not found", lambda text: NotFound(text, reason="IMAGE_NOT_FOUND")),
    ("unauthorized", lambda text: Unauthenticated(text, reason="REGISTRY_UNAUTHENTICATED")),
    ("no basic auth credentials", lambda text: Unauthenticated(text, reason="REGISTRY_UNAUTHENTICATED")),
    ("access denied", lambda text: Forbidden(text, reason="REGISTRY_FORBIDDEN")),
    ("denied:", lambda text: Forbidden(text, reason="REGISTRY_FORBIDDEN")),
)


def registry_error(text: str) -> MoorageError:
    """The error for a sentence of the engine about a registry; what it does not recognise is worth another try."""
    lower = text.lower()
    for words, make in _WORDS:
        if words in lower:
            return make(text)
    return Unavailable(text, reason="REGISTRY_UNREACHABLE")


_TRANSFER_ERRORS: ErrorTable = {
    400: lambda text: InvalidSpec.of("image", text, reason="IMAGE_REFERENCE_INVALID"),
    401: lambda text: Unauthenticated(text, reason="REGISTRY_UNAUTHENTICATED"),
    403: lambda text: Forbidden(text, reason="REGISTRY_FORBIDDEN"),
    404: lambda text: NotFound(text, reason="IMAGE_NOT_FOUND"),
    500: registry_error,
}


def split_reference(image: str) -> tuple[str, str]:
    """(repository, tag or digest), as the pull call wants it.

    `r:5000/a/b:t` -> (`r:5000/a/b`, `t`); no tag is `latest`.
    """
    name, at, digest = image.partition("@")
    last = name.rpartition("/")[2]
    bare, colon, tag = last.partition(":")
    repository = name[: len(name) - len(last)] + bare
    if at:
        return repository, digest
    return repository, tag if colon else "latest"


class _Pull:
    """One pull under way and those who wait for it."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.listeners: list[OnProgress] = []
        self.waiters = 0

    def tell(self, progress: PullProgress) -> None:
        for listener in tuple(self.listeners):
            listener(progress)


class Images:
    """Calls about images. See `DockerEngine` for the contract; this class is its part."""

    def __init__(self, connection: EngineConnection, tasks: TaskOwner) -> None:
        self._connection = connection
        self._tasks = tasks
        self._pulls: dict[str, _Pull] = {}

    async def inspect_image(self, image: str) -> ImageObservation | None:
        """An image by reference or id; None if the engine has none."""
        try:
            return parse_image(await self._connection.call_json("GET", f"{_path(image)}/json"))
        except NotFound:
            return None

    async def image_labels(self, image: str) -> Mapping[str, str]:
        """The labels of an image. Raises NotFound (reason IMAGE_NOT_FOUND)."""
        observed = await self.inspect_image(image)
        if observed is None:
            raise NotFound(f"no image {image} here", reason="IMAGE_NOT_FOUND", metadata={"image": image})
        return observed.labels

    async def list_images(self) -> list[ImageSummary]:
        """All images that are not mere layers of others."""
        return [parse_image_summary(entry) for entry in await self._connection.call_json("GET", "/images/json")]

    async def pull(
        self, image: str, on_progress: OnProgress | None = None, *, credentials: RegistryCredentials | None = None
    ) -> None:
        """Fetch an image.

        Callers that ask for the same image at once share one pull (with the first one's credentials).

        Args:
            image: a reference with a tag or, better, a digest.
            on_progress: called in the event loop with each step; what it raises ends the pull.
        Raises:
            NotFound: IMAGE_NOT_FOUND, or PLATFORM_NOT_AVAILABLE (not for this machine's kind).
            Unavailable: REGISTRY_UNREACHABLE. Unauthenticated / Forbidden: the registry's answer. Exhausted: DISK_FULL.
        """
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = _Pull()
            pull.task = self._tasks.spawn(self._run_pull(image, pull, credentials), name=f"pull {image}")
        pull.waiters += 1
        if on_progress is not None:
            pull.listeners.append(on_progress)
        try:
            await asyncio.shield(pull.done)
        finally:
            pull.waiters -= 1
            if on_progress is not None:
                pull.listeners.remove(on_progress)
            if pull.waiters == 0 and pull.task is not None and not pull.done.done():
                pull.task.cancel()
                await asyncio.wait([pull.task])

    async def push(
        self, image: str, on_progress: OnProgress | None = None, *, credentials: RegistryCredentials | None = None
    ) -> str:
        """Send an image to the registry that its name says. Returns the manifest's digest (`sha256:...`).

        Raises: as `pull`; NotFound when the engine has no such image.
        """
        repository, tag = split_reference(image)
        progress = LayerProgress("UPLOADING")
        digest = ""
        async with self._connection.request(
            "POST",
            f"{_path(repository)}/push",
            query={"tag": tag},
            headers=_auth_header(credentials),
            errors=_TRANSFER_ERRORS,
        ) as answer:
            async for line in json_lines(self._connection, answer):
                _raise_failure(line)
                digest = str((line.get("aux") or {}).get("Digest", digest))
                if on_progress is not None and "status" in line:
                    on_progress(progress.feed(line))
        if not digest:
            raise Internal(f"the engine pushed {image} but named no digest", reason="ENGINE_ERROR")
        if on_progress is not None:
            on_progress(progress.done())
        return digest

    async def tag(self, image: str, reference: str) -> None:
        """Give an image another name. Raises NotFound (reason IMAGE_NOT_FOUND)."""
        repository, tag = split_reference(reference)
        await self._connection.call(
            "POST", f"{_path(image)}/tag", query={"repo": repository, "tag": tag}, errors=_TRANSFER_ERRORS
        )

    async def remove_image(self, image: str, *, force: bool = False) -> None:
        """Take a name from an image and, with the last name, its layers. One that is gone already is no error.

        Args:
            force: also when a stopped container uses it, or several names hold the given id.
        Raises: NotReady, reason IMAGE_IN_USE.
        """
        errors: ErrorTable = {409: lambda text: NotReady(text, reason="IMAGE_IN_USE")}
        try:
            await self._connection.call(
                "DELETE", _path(image), query={"force": int(force)}, errors=errors, timeout_seconds=120, long=True
            )
        except NotFound:
            return

    async def load(self, archive: AsyncIterable[bytes]) -> tuple[str, ...]:
        """Load a `docker save` tar. Returns what it brought: references, or image ids for untagged ones.

        Raises: InvalidSpec, reason TAR_INVALID.
        """
        errors: ErrorTable = {
            400: lambda text: InvalidSpec.of("archive", text, reason="TAR_INVALID"),
            500: _tar_error,
        }
        found: list[str] = []
        async with self._connection.request(
            "POST",
            "/images/load",
            query={"quiet": 1},
            data=archive,
            headers={"Content-Type": "application/x-tar"},
            errors=errors,
        ) as answer:
            async for line in json_lines(self._connection, answer):
                if "errorDetail" in line:
                    text = _failure(line)
                    raise _tar_error(text) from EngineRefusal(answer.status, text)
                # "Loaded image: name:tag" or "Loaded image ID: sha256:...": the API has no other form.
                label, colon, name = str(line.get("stream", "")).partition(": ")
                if colon and label.startswith("Loaded image"):
                    found.append(name.strip())
        return tuple(found)

    async def import_rootfs(
        self, reference: str, archive: AsyncIterable[bytes], *, changes: tuple[str, ...] = ()
    ) -> str:
        """Make an image of one layer from the tar of a root file system. Returns its id.

        Args:
            changes: Dockerfile instructions that set defaults, such as `CMD ["/bin/sh"]`.
        Raises: InvalidSpec, reason TAR_INVALID.
        """
        repository, tag = split_reference(reference)
        query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", change) for change in changes)]
        errors: ErrorTable = {
            400: lambda text: InvalidSpec.of("archive", text, reason="TAR_INVALID"),
            500: _tar_error,
        }
        image_id = ""
        async with self._connection.request(
            "POST",
            "/images/create",
            query=query,
            data=archive,
            headers={"Content-Type": "application/x-tar"},
            errors=errors,
        ) as answer:
            async for line in json_lines(self._connection, answer):
                if "errorDetail" in line:
                    text = _failure(line)
                    raise _tar_error(text) from EngineRefusal(answer.status, text)
                image_id = str(line.get("status", image_id))
        return image_id

    async def save(self, image: str) -> AsyncIterator[bytes]:
        """An image with all its layers as a `docker save` tar. Raises NotFound (reason IMAGE_NOT_FOUND)."""
        async with self._connection.request("GET", f"{_path(image)}/get", errors=_TRANSFER_ERRORS) as answer:
            async for chunk in self._connection.chunks(answer):
                yield chunk

    async def commit(
        self,
        container_id: str,
        repository: str,
        tag: str,
        *,
        pause: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Make an image of a container's file system and configuration. Returns the image's id.

        Args:
            pause: freeze the processes meanwhile; without it files may be caught half-written.
            labels: overrides. A commit takes over the container's labels and the engine cannot drop one: give those
                that must not live on an empty value.
        """
        query = {"container": container_id, "repo": repository, "tag": tag, "pause": int(pause)}
        answer = await self._connection.call_json(
            "POST", "/commit", query=query, body={"Labels": dict(labels or {})}, timeout_seconds=None, long=True
        )
        return str(answer["Id"])

    async def prune_build_cache(self, *, keep_bytes: int = 0, unused_for_seconds: float = 0.0) -> int:
        """Drop BuildKit's cache beyond `keep_bytes` that was not used for that long. Returns the bytes freed."""
        filters = {"until": [f"{int(unused_for_seconds)}s"]} if unused_for_seconds else {}
        keep = "reserved-space" if self._connection.at_least(1, 48) else "keep-storage"
        answer = await self._connection.call_json(
            "POST",
            "/build/prune",
            query={"all": 1, keep: keep_bytes, "filters": json.dumps(filters)},
            timeout_seconds=None,
            long=True,
        )
        return int(answer.get("SpaceReclaimed") or 0)

    async def disk_usage(self) -> DiskUsage:
        """Space that the engine holds. Slow (seconds) on an engine with many layers."""
        return parse_disk_usage(await self._connection.call_json("GET", "/system/df", timeout_seconds=None, long=True))

    async def _run_pull(self, image: str, pull: _Pull, credentials: RegistryCredentials | None) -> None:
        """The pull's own task: its outcome goes to those who wait, so it never fails itself."""
        try:
            await self._pull(image, pull, credentials)
        except BaseException as error:
            del self._pulls[image]  # before anybody wakes up: the next one who asks starts a new pull
            is_closing = isinstance(error, asyncio.CancelledError)
            # Who still waits is not cancelled, only the pull is.
            pull.done.set_exception(EngineUnavailable("the engine is being closed") if is_closing else error)
            pull.done.exception()  # seen, even if the last one who waited has just gone
            if is_closing:
                raise
        else:
            del self._pulls[image]
            pull.done.set_result(None)

    async def _pull(self, image: str, pull: _Pull, credentials: RegistryCredentials | None) -> None:
        repository, tag = split_reference(image)
        progress = LayerProgress()
        last: PullProgress | None = None
        async with self._connection.request(
            "POST",
            "/images/create",
            query={"fromImage": repository, "tag": tag},
            headers=_auth_header(credentials),
            errors=_TRANSFER_ERRORS,
        ) as answer:
            async for line in json_lines(self._connection, answer):
                _raise_failure(line)
                now = progress.feed(line)
                if now != last:
                    pull.tell(now)
                last = now
        pull.tell(progress.done())


async def json_lines(connection: EngineConnection, answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a progress stream."""
    lines = LineReader()
    async for data in connection.chunks(answer):
        for line in lines.feed(data):
            if line.strip():
                yield json.loads(line)
    if rest := lines.rest().strip():
        try:
            value = json.loads(rest)
        except ValueError as error:
            raise EngineUnavailable("the Docker Engine broke off in the middle of a line") from error
        yield value


def _raise_failure(line: Mapping[str, Any]) -> None:
    if "errorDetail" in line or "error" in line:
        text = _failure(line)
        raise registry_error(text) from EngineRefusal(int((line.get("errorDetail") or {}).get("code") or 200), text)


def _failure(line: Mapping[str, Any]) -> str:
    return str((line.get("errorDetail") or {}).get("message") or line.get("error"))


def _tar_error(text: str) -> MoorageError:
    if "no space left on device" in text.lower():
        return Exhausted(text, reason="DISK_FULL")
    return InvalidSpec.of("archive", text, reason="TAR_INVALID")


def _auth_header(credentials: RegistryCredentials | None) -> dict[str, str]:
    given: dict[str, str] = {}
    if credentials is not None:
        given = {
            "username": credentials.username,
            "password": credentials.password,
            "registrytoken": credentials.registry_token,
        }
    # A push wants the header even when there is nothing to say.
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(given).encode()).decode()}


def _path(image: str) -> str:
    return "/images/" + "/".join(segment(part) for part in image.split("/"))

"""A build context (a directory sent as a tar), checked and kept for the host that will build it.

The same checks as for an image: whole, a tar, no name that is absolute or climbs out. The engine unpacks it, not we.
"""

import posixpath
from collections.abc import AsyncIterator
from dataclasses import dataclass

from controlplane.images.archive import BLOCK_BYTES, Archive, TarLimits, check_member_name, open_archive, stream_range
from controlplane.images.dockerfile import MAX_DOCKERFILE_BYTES
from controlplane.images.model import ProgressCallback, no_progress
from moorage.errors import InvalidSpec


@dataclass(slots=True)
class BuildContext:
    """A context in a nameless temporary file, uncompressed. Close it when the build is done.

    Attributes:
        size_bytes: of what `stream` gives.
        dockerfile: the text of the Dockerfile in it.
    """

    archive: Archive
    size_bytes: int
    dockerfile: str

    async def stream(self) -> AsyncIterator[bytes]:
        """The tar from its start. May be called again for another host."""
        async for chunk in stream_range(self.archive.file, 0, self.archive.end):
            yield chunk
        yield bytes(2 * BLOCK_BYTES)

    def close(self) -> None:
        """Give the space back. May be called twice."""
        self.archive.file.close()


async def receive_context(
    stream: AsyncIterator[bytes],
    *,
    dockerfile_path: str = "Dockerfile",
    limits: TarLimits | None = None,
    progress: ProgressCallback = no_progress,
) -> BuildContext:
    """Receive a context and find its Dockerfile.

    Raises:
        InvalidSpec: NOT_A_TAR, TAR_TRUNCATED, TAR_UNSAFE_NAME, TAR_TOO_LARGE, or DOCKERFILE_MISSING (none, or no text).
        Exhausted: no room (DISK_FULL).
    """
    check_member_name(dockerfile_path)
    path = posixpath.normpath(dockerfile_path)
    archive = await open_archive(stream, limits or TarLimits(), progress, remember=frozenset({path}))
    try:
        member = archive.find(path)
        if member is None or member.size > MAX_DOCKERFILE_BYTES:
            raise InvalidSpec.of(
                "context",
                f"has no file {dockerfile_path!r} of {MAX_DOCKERFILE_BYTES} bytes at most",
                "DOCKERFILE_MISSING",
            )
        try:
            text = archive.read(member, MAX_DOCKERFILE_BYTES).decode()
        except UnicodeDecodeError as exc:
            raise InvalidSpec.of("context", f"its {dockerfile_path!r} is no UTF-8 text", "DOCKERFILE_MISSING") from exc
        return BuildContext(archive, archive.end + 2 * BLOCK_BYTES, text)
    except BaseException:
        archive.file.close()
        raise

"""The tar that a build starts from: kept in a file meanwhile, looked through, never unpacked by us."""

import asyncio
import tarfile
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

from moorage.errors import InvalidSpec, NotFound

_DOCKERFILE_LIMIT_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024


@asynccontextmanager
async def context_file(context: AsyncIterable[bytes] | Path) -> AsyncIterator[Path]:
    """The context as a file; a stream is kept in a temporary one that is gone afterwards."""
    if isinstance(context, Path):
        yield context
        return
    with tempfile.NamedTemporaryFile(prefix="moorage-build-", suffix=".tar") as spool:
        async for chunk in context:
            await asyncio.to_thread(spool.write, chunk)
        spool.flush()
        yield Path(spool.name)


async def read_file(path: Path) -> AsyncIterator[bytes]:
    """A file in chunks, off the event loop."""
    with path.open("rb") as source:
        while chunk := await asyncio.to_thread(source.read, _READ_BYTES):
            yield chunk


def read_dockerfile(path: Path, name: str) -> str:
    """Look through a context and return the text of its Dockerfile. Blocking: call it in a thread.

    Raises:
        InvalidSpec: TAR_INVALID: not a tar, cut off, or with a member whose name is absolute or climbs out.
        NotFound: DOCKERFILE_NOT_FOUND.
    """
    wanted = _normal(name)
    text: str | None = None
    try:
        # Plain tar or one of its compressed forms: the engine takes the same.
        with tarfile.open(path, mode="r:*") as archive:
            for member in archive:
                if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                    raise InvalidSpec.of(
                        "context", f"member {member.name!r} is outside of the context", reason="TAR_INVALID"
                    )
                if _normal(member.name) == wanted and member.isfile():
                    if member.size > _DOCKERFILE_LIMIT_BYTES:
                        raise InvalidSpec.of(
                            "dockerfile", f"{name} is larger than 1 MiB", reason="DOCKERFILE_TOO_LARGE"
                        )
                    content = archive.extractfile(member)
                    assert content is not None
                    text = content.read().decode("utf-8-sig", errors="replace")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidSpec.of("context", f"is no whole tar: {error}", reason="TAR_INVALID") from error
    if text is None:
        raise NotFound(f"the context has no {name}", reason="DOCKERFILE_NOT_FOUND", metadata={"dockerfile": name})
    return text


def _normal(name: str) -> str:
    return str(PurePosixPath(name))

"""The files of a volume as a tar, made and read by the system's GNU tar: owners as numbers, permissions, links, extended attributes, holes.

What flows is never held: tar waits for whoever reads, and whoever writes waits for tar. GNU tar takes no path out of the folder: it strips
leading slashes, refuses "..", and sets symbolic links last.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path

from moorage.errors import InvalidSpec, NotReady, NotSupported

CHUNK_BYTES = 256 * 1024
_PACK = ("--create", "--sparse", "--xattrs", "--acls", "--numeric-owner", "--one-file-system", "--file=-", ".")
_UNPACK = ("--extract", "--preserve-permissions", "--same-owner", "--xattrs", "--acls", "--numeric-owner", "--file=-")
# Not wrong files, but a wrong moment: a file changed, or went, while it was read without a pause.
_CHANGED = 1


async def pack(folder: Path) -> AsyncGenerator[bytes, None]:
    """A folder's content.

    Raises:
        NotSupported: TOOL_MISSING.
        NotReady: VOLUME_UNREADABLE, tar gave up.
    """
    process = await _start("-C", str(folder), *_PACK, stdin=asyncio.subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        while chunk := await process.stdout.read(CHUNK_BYTES):
            yield chunk
        problem = await _problem(process)
        if await process.wait() not in (0, _CHANGED):
            raise NotReady(f"tar could not read the volume: {problem}", reason="VOLUME_UNREADABLE")
    finally:
        await _end(process)


async def unpack(folder: Path, chunks: AsyncIterable[bytes]) -> None:
    """Put the files of a tar into a folder, as they are.

    Raises:
        NotSupported: TOOL_MISSING.
        InvalidSpec: ARCHIVE_INVALID, it is no whole tar, or does not fit.
    """
    process = await _start("-C", str(folder), *_UNPACK, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    reading = asyncio.ensure_future(_problem(process))
    try:
        size = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it gave up: its exit code tells
            async for chunk in chunks:
                size += len(chunk)
                process.stdin.write(chunk)
                await process.stdin.drain()
        process.stdin.close()
        if await process.wait() != 0 or not size:
            problem = await reading or "it is empty"
            raise InvalidSpec.of("chunk", f"tar could not unpack it: {problem}", "ARCHIVE_INVALID")
    finally:
        await _end(process)
        await asyncio.gather(reading, return_exceptions=True)


async def copy(source: Path, target: Path) -> None:
    """Copy a folder's content into another, as it is; blocks are shared where the file system can, holes stay holes.

    Raises:
        NotSupported: TOOL_MISSING.
        NotReady: VOLUME_UNREADABLE, cp gave up; the disk may be full.
    """
    program = shutil.which("cp")
    if program is None:
        raise NotSupported("this host has no cp", reason="TOOL_MISSING")
    process = await asyncio.create_subprocess_exec(
        program,
        "--archive",
        "--reflink=auto",
        "--sparse=auto",
        f"{source}/.",
        str(target),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        problem = await _problem(process)
        if await process.wait() != 0:
            raise NotReady(f"cp could not copy the volume: {problem}", reason="VOLUME_UNREADABLE")
    finally:
        await _end(process)


async def _start(*arguments: str, stdin: int) -> asyncio.subprocess.Process:
    program = shutil.which("tar")
    if program is None:
        raise NotSupported("this host has no tar", reason="TOOL_MISSING")
    pipe = asyncio.subprocess.PIPE
    stdout = pipe if stdin == asyncio.subprocess.DEVNULL else asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(program, *arguments, stdin=stdin, stdout=stdout, stderr=pipe)


async def _problem(process: asyncio.subprocess.Process) -> str:
    """The first lines of what tar complains of; all of it is read, else tar would wait."""
    assert process.stderr is not None
    kept = b""
    while piece := await process.stderr.read(4096):
        if len(kept) < 500:
            kept += piece
    return kept[:500].decode(errors="replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

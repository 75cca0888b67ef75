"""A user's tar, received, unpacked from its compression, and indexed: read as data, never extracted.

Owns the two temporary files (both nameless: a kill leaves nothing) and every check on the archive's form. What the
archive *means* is `controlplane.images.tar`'s.

Memory does not grow with the archive: content goes through chunk by chunk, extended headers are limited, and members
are remembered only while their number is that of a saved image, not that of a root file system.
"""

import asyncio
import bz2
import errno
import lzma
import os
import posixpath
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from controlplane.images.model import Progress, ProgressCallback
from controlplane.images.threads import Worker, in_thread
from controlplane.registry.streams import closing
from moorage.errors import Exhausted, InvalidSpec, MoorageError

CHUNK_BYTES = 1024 * 1024
BLOCK_BYTES = 512

_MAX_HEADER_BYTES = 1024 * 1024
_MAX_GLOBAL_HEADERS = 1000
_MAX_REMEMBERED = 20_000
_DECOMPRESSOR_MEMORY_BYTES = 128 * 1024 * 1024
_MAX_LINKS = 8

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


@dataclass(frozen=True, slots=True)
class TarLimits:
    """Bounds of one import.

    Attributes:
        max_upload_bytes: as sent.
        max_unpacked_bytes: after decompression (a small file may unpack to a huge one).
        spool_dir: where the temporary files go; None for the system's place.
    """

    max_upload_bytes: int = 8 * 1024**3
    max_unpacked_bytes: int = 24 * 1024**3
    max_members: int = 2_000_000
    spool_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A member's content in the archive, or its target where it is a link."""

    offset: int
    size: int
    link: str | None


@dataclass(slots=True)
class Archive:
    """An uncompressed tar in a temporary file.

    Attributes:
        end: offset of the end-of-archive mark.
        members: by normalised name; None where there are too many for a saved image and none was asked for by name.
        count: how many there are.
    """

    file: BinaryIO
    end: int
    members: dict[str, Member] | None
    count: int

    def find(self, name: str) -> Member | None:
        """A regular member, by name, through links inside the archive (old `docker save` shares layers that way)."""
        for _ in range(_MAX_LINKS):
            member = (self.members or {}).get(posixpath.normpath(name))
            if member is None or member.link is None:
                return member
            name = posixpath.join(posixpath.dirname(name), member.link)
        return None

    def read(self, member: Member, limit: int) -> bytes:
        """A small member's content. Raises InvalidSpec when it is larger than `limit` bytes."""
        if member.size > limit:
            raise InvalidSpec.of("image", f"a document in the archive is larger than {limit} bytes", "IMAGE_INVALID")
        return os.pread(self.file.fileno(), member.size, member.offset)

    def chunks(self, offset: int, size: int) -> Iterator[bytes]:
        """Content of a range, for a thread. Position-free, so several may read at once."""
        return read_range(self.file, offset, size)


def read_range(file: BinaryIO, offset: int, size: int) -> Iterator[bytes]:
    """A range of a file in chunks."""
    end = offset + size
    while offset < end:
        chunk = os.pread(file.fileno(), min(CHUNK_BYTES, end - offset), offset)
        if not chunk:
            return
        offset += len(chunk)
        yield chunk


async def stream_range(file: BinaryIO, offset: int, size: int) -> AsyncIterator[bytes]:
    """A range of a file in chunks, read in a thread."""
    chunks = read_range(file, offset, size)
    while (chunk := await asyncio.to_thread(next, chunks, b"")) != b"":
        yield chunk


def compression_of(start: bytes) -> str | None:
    """The compression that a file beginning with these bytes has; None for none that we know."""
    return next((name for magic, name in _MAGIC if start.startswith(magic)), None)


def open_spool(limits: TarLimits) -> BinaryIO:
    """A nameless temporary file."""
    return cast(BinaryIO, tempfile.TemporaryFile(dir=limits.spool_dir, buffering=0))


async def receive(stream: AsyncIterator[bytes], limits: TarLimits, progress: ProgressCallback) -> BinaryIO:
    """Spool an upload to a temporary file.

    Raises:
        InvalidSpec: larger than allowed (TAR_TOO_LARGE).
        Exhausted: no room for it (DISK_FULL).
    """
    file = open_spool(limits)
    try:
        size, buffered = 0, bytearray()
        async with closing(stream):
            async for chunk in stream:
                size += len(chunk)
                if size > limits.max_upload_bytes:
                    raise InvalidSpec.of("tar", f"is larger than {limits.max_upload_bytes} bytes", "TAR_TOO_LARGE")
                buffered += chunk
                if len(buffered) >= CHUNK_BYTES:
                    await asyncio.to_thread(write_all, file, bytes(buffered))
                    buffered.clear()
                    progress(Progress("receiving", size, 0))
        await asyncio.to_thread(write_all, file, bytes(buffered))
        progress(Progress("receiving", size, size))
    except BaseException:
        file.close()
        raise
    return file


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write, telling a full disk apart. Raises Exhausted (DISK_FULL)."""
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Exhausted("the control plane's disk has no room for this image", reason="DISK_FULL") from exc
        raise


async def open_archive(
    stream: AsyncIterator[bytes], limits: TarLimits, progress: ProgressCallback, *, remember: Collection[str] = ()
) -> Archive:
    """Receive, decompress and index an archive. The caller closes `file`.

    Args:
        remember: names that `find` must know even in an archive of very many members.

    Raises:
        InvalidSpec: NOT_A_TAR, TAR_TRUNCATED, TAR_UNSAFE_NAME or TAR_TOO_LARGE.
        Exhausted: no room (DISK_FULL).
    """
    file = await receive(stream, limits, progress)
    try:
        size = os.fstat(file.fileno()).st_size
        compression = compression_of(os.pread(file.fileno(), 8, 0))
        if compression is not None:
            packed = file
            file = open_spool(limits)
            try:
                await in_thread(
                    lambda worker: _decompress(packed, file, compression, limits, worker),
                    progress=progress,
                    phase="unpacking",
                    total_bytes=size,
                )
            finally:
                packed.close()
            size = os.fstat(file.fileno()).st_size
        return await in_thread(
            lambda worker: index_archive(file, limits, worker, remember),
            progress=progress,
            phase="reading",
            total_bytes=size,
        )
    except BaseException:
        file.close()
        raise


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _gzip() -> _Decompressor:
    return zlib.decompressobj(wbits=31)


def _bzip2() -> _Decompressor:
    return bz2.BZ2Decompressor()


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECOMPRESSOR_MEMORY_BYTES)


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz}


def decompressed(chunks: Iterator[bytes], compression: str) -> Iterator[bytes]:
    """The content of a gzip, bzip2 or xz stream of one or more parts; no output chunk is much larger than CHUNK_BYTES.

    Raises:
        InvalidSpec: damaged (NOT_A_TAR) or cut short (TAR_TRUNCATED).
    """
    make = _DECOMPRESSORS[compression]
    decompressor, started = make(), False
    try:
        for chunk in chunks:
            data = chunk
            while True:
                if decompressor.eof:
                    if not data.strip(b"\0"):  # padding after the last part
                        break
                    decompressor, started = make(), False
                started = True
                output = decompressor.decompress(data, CHUNK_BYTES)
                if output:
                    yield output
                if decompressor.eof:
                    data = decompressor.unused_data
                else:
                    # zlib hands back what it did not read; the others keep it and say so.
                    data = getattr(decompressor, "unconsumed_tail", b"")
                    if not data and getattr(decompressor, "needs_input", True):
                        break
        while not decompressor.eof and (output := decompressor.decompress(b"", CHUNK_BYTES)):
            yield output
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as exc:
        raise InvalidSpec.of("tar", f"its {compression} compression is damaged: {exc}", "NOT_A_TAR") from exc
    if started and not decompressor.eof:
        raise InvalidSpec.of("tar", f"ends in the middle of its {compression} stream", "TAR_TRUNCATED")


def _decompress(packed: BinaryIO, file: BinaryIO, compression: str, limits: TarLimits, worker: Worker) -> None:
    size = os.fstat(packed.fileno()).st_size
    read = 0

    def chunks() -> Iterator[bytes]:
        nonlocal read
        for chunk in read_range(packed, 0, size):
            yield chunk
            worker.step(len(chunk))

    written = 0
    output = _zstd(packed) if compression == "zstd" else decompressed(chunks(), compression)
    for chunk in output:
        worker.step()
        written += len(chunk)
        if written > limits.max_unpacked_bytes:
            raise InvalidSpec.of("tar", f"unpacks to more than {limits.max_unpacked_bytes} bytes", "TAR_TOO_LARGE")
        write_all(file, chunk)


def _zstd(packed: BinaryIO) -> Iterator[bytes]:
    """By the `zstd` program: Python has no zstd before 3.14."""
    program = shutil.which("zstd")
    if program is None:
        raise InvalidSpec.of("tar", "is compressed with zstd, and this control plane has no zstd program", "NOT_A_TAR")
    os.lseek(packed.fileno(), 0, os.SEEK_SET)
    process = subprocess.Popen(
        [program, "-d", "-c", "-q", f"--memory={_DECOMPRESSOR_MEMORY_BYTES}"],
        stdin=packed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        while chunk := process.stdout.read(CHUNK_BYTES):
            yield chunk
        message = process.stderr.read(2000).decode(errors="replace").strip()
        if process.wait() != 0:
            truncated = "premature" in message or "unexpected end" in message.lower()
            reason = "TAR_TRUNCATED" if truncated else "NOT_A_TAR"
            raise InvalidSpec.of("tar", f"its zstd compression is damaged or cut short: {message[-200:]}", reason)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class _HeaderReader:
    """A file for `tarfile` that refuses to read much at once: extended headers name their own size, up to gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def read(self, count: int = -1, /) -> bytes:
        if not 0 <= count <= _MAX_HEADER_BYTES:
            raise InvalidSpec.of("tar", f"has a header larger than {_MAX_HEADER_BYTES} bytes", "NOT_A_TAR")
        data = os.pread(self._file.fileno(), count, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence != 0 or offset < 0:
            raise InvalidSpec.of("tar", "has a member with an impossible size", "NOT_A_TAR")
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at


def index_archive(file: BinaryIO, limits: TarLimits, worker: Worker, remember: Collection[str] = ()) -> Archive:
    """Walk all headers; see `open_archive` for what it raises."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise InvalidSpec.of("tar", "is empty", "NOT_A_TAR")
    members: dict[str, Member] = {}
    is_complete, count, at = True, 0, 0
    try:
        # errors="surrogateescape" is tarfile's default: names that are no UTF-8 stay distinguishable.
        tar = tarfile.TarFile(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r")
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would remember all of them
            count += 1
            if count > limits.max_members:
                raise InvalidSpec.of("tar", f"has more than {limits.max_members} members", "TAR_TOO_LARGE")
            if info.size < 0 or tar.offset <= at or len(tar.pax_headers) > _MAX_GLOBAL_HEADERS:
                raise InvalidSpec.of("tar", f"has a damaged header at byte {at}", "NOT_A_TAR")
            worker.step(tar.offset - at)
            at = tar.offset
            check_member_name(info.name)
            name = posixpath.normpath(info.name)
            if is_complete or name in remember:
                link = info.linkname if info.issym() else None
                if info.islnk():
                    link = posixpath.relpath(info.linkname, posixpath.dirname(info.name) or ".")
                if info.isreg() or link is not None:
                    members[name] = Member(info.offset_data, info.size, link)
                if is_complete and len(members) > _MAX_REMEMBERED:
                    is_complete = False
                    members = {name: member for name, member in members.items() if name in remember}
        end = tar.offset
    except MoorageError:
        raise
    except tarfile.ReadError as exc:
        if "unexpected end" in str(exc) or "truncated" in str(exc):
            raise _truncated(at) from exc
        raise InvalidSpec.of("tar", f"is no tar archive: {exc}", "NOT_A_TAR") from exc
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, UnicodeError) as exc:
        raise InvalidSpec.of("tar", f"has a damaged header at byte {at}: {exc}", "NOT_A_TAR") from exc
    # tarfile takes a header that it cannot read for the end of the archive, and so it does the end of the file.
    mark = os.pread(file.fileno(), BLOCK_BYTES, end)
    if len(mark) < BLOCK_BYTES:
        raise _truncated(end)
    if mark.strip(b"\0"):
        raise InvalidSpec.of("tar", f"has a damaged header at byte {end}", "NOT_A_TAR")
    return Archive(file, end, members if is_complete or remember else None, count)


def _truncated(at: int) -> InvalidSpec:
    return InvalidSpec.of("tar", f"ends too early, after byte {at}: send it again, whole", "TAR_TRUNCATED")


def check_member_name(name: str) -> None:
    """Raises InvalidSpec (TAR_UNSAFE_NAME): a name is absolute or climbs out. Link targets are data: not looked at."""
    if name.startswith("/"):
        raise InvalidSpec.of("tar", f"has the absolute member name {_shown(name)}", "TAR_UNSAFE_NAME")
    if ".." in name.split("/"):
        raise InvalidSpec.of("tar", f"has the member name {_shown(name)}, which climbs out", "TAR_UNSAFE_NAME")
    if not name or "\0" in name:
        raise InvalidSpec.of("tar", "has a member without a proper name", "TAR_UNSAFE_NAME")


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 100 else name[:97] + "...")

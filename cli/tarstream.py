"""Tar archives as streams of bytes: made without a temporary file, read without seeking.

What is packed belongs to root, as with `docker cp` and `docker build`: the ids of this machine mean nothing elsewhere.
"""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

CHUNK_BYTES = 512 * 1024  # the API takes at most 1 MiB in one message


def pack(entries: Iterable[tuple[Path, str]]) -> Iterator[bytes]:
    """The bytes of a tar with these (path, name in the archive); it does not descend, and leaves sockets out.

    A file that shrinks while it is read is padded with zeros, one that grows is cut: the archive stays valid.
    """
    with tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT) as maker:
        for path, name in entries:
            info = maker.gettarinfo(path, arcname=name)  # knows hard links among what it saw; None for a socket
            if info is None:
                continue
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if info.isreg():
                yield from _content(path, info.size)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _content(path: Path, size: int) -> Iterator[bytes]:
    rest = size
    with path.open("rb") as file:
        while rest:
            data = file.read(min(rest, CHUNK_BYTES)) or b"\0" * min(rest, CHUNK_BYTES)
            rest -= len(data)
            yield data
    if size % tarfile.BLOCKSIZE:
        yield b"\0" * (tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)


def walk(root: Path, name: str) -> Iterator[tuple[Path, str]]:
    """`root` and all below it, parents first, in order of name; symbolic links are not followed."""
    yield root, name
    if root.is_dir() and not root.is_symlink():
        for entry in sorted(os.listdir(root)):
            yield from walk(root / entry, f"{name}/{entry}")


def rechunk(pieces: Iterable[bytes], size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, so that many small files do not become many small messages."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)

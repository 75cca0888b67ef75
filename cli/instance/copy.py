"""cp: files into and out of an instance, with the rules of `docker cp` for what a destination means."""

import asyncio
import queue
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import click

from cli.session import Session, pass_session, project_option
from cli.tarstream import CHUNK_BYTES, pack, rechunk, walk
from moorage.client import Client
from moorage.errors import InvalidSpec, NotFound
from moorage.v1 import instance_streams_pb2 as streams_pb2

_QUEUED_CHUNKS = 8


def parse_place(word: str) -> tuple[str, str]:
    """`INSTANCE:PATH` as (instance, path), anything else as ("", path). `./a:b` and `/a:b` are files here."""
    name, colon, path = word.partition(":")
    is_local = not colon or not name or (name.startswith((".", "/")) and not name.startswith("projects/"))
    return ("", word) if is_local else (name, path)


@click.command("cp")
@click.argument("source")
@click.argument("destination")
@project_option
@pass_session
def cp(session: Session, source: str, destination: str) -> None:
    """Copy SOURCE to DESTINATION; one of them is INSTANCE:PATH.

    - is a tar on standard input or output. Files that come in belong to root.
    """
    from_instance, from_path = parse_place(source)
    to_instance, to_path = parse_place(destination)
    if bool(from_instance) == bool(to_instance):
        raise click.UsageError("one of SOURCE and DESTINATION is INSTANCE:PATH, the other a path of this machine")

    async def work(client: Client) -> None:
        if to_instance:
            await _copy_in(client, session.name_in_project("instances", to_instance), from_path, to_path)
        else:
            await _copy_out(client, session.name_in_project("instances", from_instance), from_path, to_path)

    session.run(work)


def _check_source(source: str) -> str:
    """The name that a local file or directory has in the archive.

    Raises:
        InvalidSpec: it does not exist.
    """
    local = Path(source)
    if source != "-" and not local.exists() and not local.is_symlink():
        raise InvalidSpec.of("source", f"{source} does not exist on this machine")
    return "." if source == "." or source.endswith("/.") else local.absolute().name


async def _copy_in(client: Client, name: str, source: str, path: str) -> None:
    if not path.startswith("/"):
        path = f"/{path}"
    arcname = _check_source(source)
    if source == "-":
        await _send(client, name, path, _chunks_of(sys.stdin.buffer))
        return
    is_folder = await _is_directory(client, name, path)
    if path.endswith("/") and not is_folder:
        raise NotFound(f"there is no directory {path} in the instance", reason="PATH_NOT_FOUND")
    target = path
    if not is_folder:
        destination = PurePosixPath(path)
        target, arcname = str(destination.parent), destination.name
    await _send(client, name, target, rechunk(pack(walk(Path(source), arcname))))


async def _is_directory(client: Client, name: str, path: str) -> bool:
    """Whether a path of an instance is a directory: the first header of its tar says so; the rest is not fetched."""
    head = b""
    try:
        async for response in client.streams.CopyOut(streams_pb2.CopyOutRequest(name=name, path=path)):
            head += response.chunk
            if len(head) >= tarfile.BLOCKSIZE:
                break
    except NotFound as error:
        if error.metadata.get("name") == name:
            raise  # the instance itself is what is missing
        return False
    return len(head) >= tarfile.BLOCKSIZE and head[156:157] == tarfile.DIRTYPE


async def _send(client: Client, name: str, path: str, chunks: Iterator[bytes]) -> None:
    async def messages() -> AsyncIterator[streams_pb2.CopyInRequest]:
        yield streams_pb2.CopyInRequest(target=streams_pb2.CopyTarget(name=name, path=path))
        for chunk in chunks:
            yield streams_pb2.CopyInRequest(chunk=chunk)

    await client.streams.CopyIn(messages())


def _chunks_of(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(CHUNK_BYTES):
        yield data


def _check_destination(destination: str) -> Path:
    local = Path(destination)
    folder = local if destination.endswith("/") or local.is_dir() else local.absolute().parent
    if not folder.is_dir():
        raise InvalidSpec.of("destination", f"there is no directory {folder} on this machine")
    return local


async def _copy_out(client: Client, name: str, path: str, destination: str) -> None:
    call = client.streams.CopyOut(streams_pb2.CopyOutRequest(name=name, path=path))
    if destination == "-":
        async for response in call:
            sys.stdout.buffer.write(response.chunk)
        sys.stdout.buffer.flush()
        return
    local = _check_destination(destination)
    pipe = _Pipe()
    # tarfile reads when it wants, so it gets a thread, and the stream waits for it.
    unpacking = asyncio.create_task(asyncio.to_thread(_unpack, pipe, local, path.endswith("/.")), name="unpack")
    try:
        async for response in call:
            if unpacking.done():
                break
            await asyncio.to_thread(pipe.write, response.chunk)
    except BaseException:
        await asyncio.to_thread(pipe.close)
        await asyncio.gather(unpacking, return_exceptions=True)  # what the cut-off archive looked like is not the news
        raise
    await asyncio.to_thread(pipe.close)
    await unpacking


def _unpack(pipe: "_Pipe", local: Path, contents_only: bool) -> None:
    """Unpack into a directory, or under a new name. What would land outside of it is refused.

    Raises:
        InvalidSpec: the archive is damaged, or would write outside.
    """
    folder, renamed = (local, "") if local.is_dir() else (local.absolute().parent, local.name)
    root = ""

    def place(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        nonlocal root
        name = member.name.removeprefix("./").rstrip("/")
        root = root or name.partition("/")[0]
        below = name[len(root) + 1 :] if name.startswith(f"{root}/") else ""
        if renamed:
            name = f"{renamed}/{below}" if below else renamed
        elif contents_only:
            name = below
        if name in ("", "."):
            return None
        link = member.linkname
        if member.islnk() and renamed and link.partition("/")[0] == root:
            link = f"{renamed}{link[len(root) :]}"
        placed = member.replace(name=name, linkname=link, deep=False)
        # A symbolic link may point anywhere: it is data. Nothing is written through it, for names are resolved first.
        return (tarfile.tar_filter if member.issym() else tarfile.data_filter)(placed, destination)

    try:
        with tarfile.open(fileobj=cast(BinaryIO, pipe), mode="r|", bufsize=CHUNK_BYTES) as archive:
            archive.extractall(folder, filter=place)
    except (tarfile.TarError, OSError) as exc:
        raise InvalidSpec.of("destination", f"cannot unpack into {folder}: {exc}") from exc
    finally:
        pipe.drain()


class _Pipe:
    """Bytes from the event loop to a thread; bounded, so that the network waits for the disk."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes] = queue.Queue(_QUEUED_CHUNKS)
        self._rest = memoryview(b"")
        self._is_ended = False
        self._is_drained = False

    def write(self, data: bytes) -> None:
        if data and not self._is_drained:
            self._pieces.put(data)

    def close(self) -> None:
        if not self._is_drained:
            self._pieces.put(b"")

    def read(self, size: int) -> bytes:
        pieces = []
        missing = size
        while missing and not self._is_ended:
            if not self._rest:
                self._rest = memoryview(self._pieces.get())
                self._is_ended = not self._rest
            pieces.append(self._rest[:missing])  # a view: slicing bytes would copy the rest each time
            self._rest = self._rest[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def drain(self) -> None:
        """The reader is done: nobody must wait for room any more."""
        self._is_drained = True
        while True:
            try:
                self._pieces.get_nowait()
            except queue.Empty:
                return

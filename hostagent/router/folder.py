"""A folder that the agent shares with a router's container.

The container may put anything into it at any time, links to the host's own files among it. So nothing here follows a link: files are
opened relative to the folder's descriptor, written beside their place and renamed, read up to a limit, and sockets are reached through
a descriptor of themselves. The folder itself belongs to the agent; what is below it is not trusted.
"""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_LARGEST_FILE = 16 * 1024 * 1024


class NotOurs(OSError):
    """Something in the folder is not what the agent would put there, such as a link in place of a file."""


class Folder:
    """One folder, open. A context manager; `sub` opens one below it.

    Files are for root only unless a mode is named. Every method raises OSError as the kernel says it, FileNotFoundError among them.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> Self:
        """Opens a folder whose path is the agent's own."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))

    def sub(self, name: str, *, mode: int = 0o755) -> "Folder":
        """Opens a folder in this one, made if it is missing."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self._descriptor)
        return Folder(
            os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the use of the folder."""
        os.close(self._descriptor)

    def names(self) -> set[str]:
        """What is in it."""
        return set(os.listdir(self._descriptor))

    def write(self, name: str, content: str, *, mode: int = 0o600) -> None:
        """Puts a file in its place: nobody reads half of it."""
        beside = f".{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=self._descriptor)
        descriptor = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self._descriptor
        )
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
        os.rename(beside, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def read(self, name: str, *, limit: int = _LARGEST_FILE) -> str | None:
        """A file's text, None if there is none; what is longer than the limit is cut."""
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._descriptor
            )
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotOurs(errno.EINVAL, "not a plain file", name)
            return file.read(limit).decode("utf-8", "replace")

    def write_to_pipe(self, name: str, line: str) -> None:
        """Writes a line to a pipe that somebody reads.

        Raises:
            OSError: FileNotFoundError if it is not there, ENXIO if nobody reads.
        """
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                raise NotOurs(errno.EINVAL, "not a pipe", name)
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    async def connect(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects to a unix socket in the folder."""
        with self._socket_path(name) as path:
            return await asyncio.open_unix_connection(path)

    @contextlib.contextmanager
    def _socket_path(self, name: str) -> Iterator[str]:
        """A path that leads to this very socket, whatever becomes of its name, and is short enough for the kernel."""
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                raise NotOurs(errno.ENOTSOCK, "not a socket", name)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)

"""Network namespaces as bind mounts in a folder: made, opened, entered and removed without ever forking.

A thread may be in another network namespace than its process. So a namespace is made by a worker thread that calls
unshare(2), binds `/proc/thread-self/ns/net` (not `/proc/self`, which is the main thread's) to a file, and goes back;
`entered` visits one that exists. A thread that cannot get back must not run anything else, so the process is ended
then: everything is repaired at the next start.

Invariant: nothing here ever hands out the host's own namespace: `create` and `Namespace.open` compare inodes first.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostagent.netlink.rtnl import Rtnl
from moorage.errors import Internal, NotFound

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MNT_DETACH = 2
_OWN = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: Path, flags: int) -> None:
    _check(_libc.mount(source.encode(), os.fsencode(target), b"none", ctypes.c_ulong(flags), None), f"mount {target}")


def _unmount(target: Path) -> None:
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"unmount {target}")


def _setns(fd: int) -> None:
    _check(_libc.setns(fd, _CLONE_NEWNET), "setns")


@dataclass(frozen=True, slots=True)
class HostNamespace:
    """The namespace that the agent itself runs in, captured once."""

    fd: int
    inode: int
    device: int

    @classmethod
    def capture(cls) -> "HostNamespace":
        """That of the calling thread. The caller owns `fd`."""
        fd = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        seen = os.fstat(fd)
        return cls(fd, seen.st_ino, seen.st_dev)

    def is_namespace(self, path: Path) -> bool:
        """Whether a namespace other than the host's is bound at `path`."""
        try:
            seen = path.stat()
        except OSError:
            return False
        return seen.st_dev == self.device and seen.st_ino != self.inode


def prepare_folder(folder: Path) -> None:
    """Make `folder` a mount of its own whose later mounts reach the mount namespaces that follow ours (dockerd's)."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _mount("", folder, _MS_SHARED | _MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not a mount yet
            raise
        _mount(str(folder), folder, _MS_BIND | _MS_REC)
        _mount("", folder, _MS_SHARED | _MS_REC)


def release_folder(folder: Path) -> None:
    """Undo of `prepare_folder`."""
    with contextlib.suppress(FileNotFoundError):
        while folder.exists():
            try:
                _unmount(folder)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    break
                raise
        folder.rmdir()


@contextlib.contextmanager
def entered(host: HostNamespace, fd: int) -> Iterator[None]:
    """Run the block with the calling thread in another namespace. For short, blocking work; never across an await."""
    _setns(fd)
    try:
        yield
    finally:
        _return_home(host)


def join(host: HostNamespace) -> None:
    """Move the calling thread into the host's namespace for good: threads are born into that of the thread that starts
    them."""
    _setns(host.fd)


def _return_home(host: HostNamespace) -> None:
    try:
        _setns(host.fd)
    except OSError:  # this thread would plug the host's links into a stranger's namespace
        os.abort()


class Namespace:
    """An open namespace: its descriptor, and a netlink socket inside it. Use as a context manager, in one thread."""

    def __init__(self, host: HostNamespace, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._host = host
        with entered(host, fd):
            self.rtnl = Rtnl()

    @classmethod
    def open(cls, host: HostNamespace, path: Path) -> "Namespace":
        """Open what is bound at `path`.

        Raises: NotFound: nothing, or no namespace, is there. Internal: it is the host's own.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"there is no network namespace at {path}") from error
        try:
            seen = os.fstat(fd)
            if seen.st_dev != host.device:
                raise NotFound(f"{path} is not a network namespace")
            if seen.st_ino == host.inode:
                raise Internal(f"{path} is the host's own network namespace")
            return cls(host, path, fd)
        except BaseException:
            os.close(fd)
            raise

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Visit it with the calling thread."""
        return entered(self._host, self.fd)

    def sysctl(self, values: dict[str, str]) -> None:
        """Write `net/...` settings of this namespace; those that this kernel lacks are passed over."""
        with self.entered():
            write_sysctls(values)

    def close(self) -> None:
        """Free descriptor and socket; the namespace stays bound."""
        self.rtnl.close()
        os.close(self.fd)

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def create(host: HostNamespace, path: Path, sysctls: dict[str, str]) -> Namespace:
    """A new namespace bound at `path`, its settings written before anything is in it.

    Call it in a worker thread. A leftover of an interrupted attempt at `path` is used over.

    Raises: Internal: the namespace would be the host's own.
    """
    path.touch(mode=0o444, exist_ok=True)
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")
    try:
        if os.stat(_OWN).st_ino == host.inode:
            raise Internal("unshare left the thread in the host's network namespace")
        write_sysctls(sysctls)
        _mount(_OWN, path, _MS_BIND)
    finally:
        _return_home(host)
    return Namespace.open(host, path)


def remove(path: Path) -> None:
    """Take the binding away. The namespace itself ends with its last process; links to the outside are the caller's to
    remove."""
    try:
        while True:
            _unmount(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    path.unlink(missing_ok=True)


def write_sysctls(values: dict[str, str]) -> None:
    """Write settings of the calling thread's namespace, such as `ipv4/ip_forward`; absent ones are passed over."""
    for name, value in values.items():
        try:
            with open(f"/proc/sys/net/{name}", "w") as file:
                file.write(value)
        except FileNotFoundError:
            continue

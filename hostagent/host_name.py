"""The kernel's host name of a process that runs: set in its own UTS namespace, from outside."""

import ctypes
import os
import socket
import threading

from moorage.errors import Internal, NotReady

_CLONE_NEWUTS = 0x04000000
_libc = ctypes.CDLL(None, use_errno=True)


def set_host_name(pid: int, name: str) -> None:
    """Set it, for all processes of that one's UTS namespace. Blocks for a moment.

    Raises:
        NotReady: NO_PROCESS, it has just ended.
        Internal: HOST_NAME_FAILED, it has no namespace of its own, or the kernel refuses.
    """
    errors: list[OSError] = []

    def enter() -> None:
        try:
            with open(f"/proc/{pid}/ns/uts", "rb") as space, open("/proc/self/ns/uts", "rb") as own:
                if os.fstat(space.fileno()).st_ino == os.fstat(own.fileno()).st_ino:
                    raise OSError("it has the name of the machine itself")
                if _libc.setns(space.fileno(), _CLONE_NEWUTS) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            socket.sethostname(name)
        except OSError as error:
            errors.append(error)

    # A thread of its own, which ends in that namespace: no other work may ever run there.
    thread = threading.Thread(target=enter, name="host name")
    thread.start()
    thread.join()
    if errors and isinstance(errors[0], FileNotFoundError | ProcessLookupError):
        raise NotReady("the process has ended", reason="NO_PROCESS")
    if errors:
        raise Internal(f"the host name cannot be set to {name}: {errors[0]}", reason="HOST_NAME_FAILED")

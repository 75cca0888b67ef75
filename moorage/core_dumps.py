"""No core dumps of this process: its memory holds keys and, for moments, secrets."""

import contextlib
import ctypes
import resource

_PR_SET_DUMPABLE = 4  # prctl.h


def forbid() -> None:
    """Have neither a file nor a helper program (core_pattern) get this process's memory. Children that execute a program are not
    concerned by the second, and are by the first.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

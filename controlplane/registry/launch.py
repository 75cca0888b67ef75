"""Started as `python -I -S launch.py PARENT_PID PROGRAM ARGUMENT...`: becomes PROGRAM, tied to its parent's life.

Why a program of its own: PR_SET_PDEATHSIG has to be set in the child after the fork, and a `preexec_fn` runs Python
between fork and exec in a copy of a process full of threads (grpc's among them), which may deadlock. Imports only the
standard library.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGTERM at the parent's death, see that it has not died yet, then exec."""
    parent, program, *arguments = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        sys.exit("the parent is gone already")
    os.execvp(program, [program, *arguments])


if __name__ == "__main__":
    main()

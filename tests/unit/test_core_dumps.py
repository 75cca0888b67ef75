"""A process that forbids core dumps leaves none, whoever would take them."""

import subprocess
import sys

_PROGRAM = """
import ctypes, resource
from moorage import core_dumps
core_dumps.forbid()
print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_neither_a_file_nor_a_helper_gets_it() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]

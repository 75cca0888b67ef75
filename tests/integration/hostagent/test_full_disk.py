"""A disk that is nearly full is a condition of its host, which keeps new instances away; one that is full stops what is
under way, until there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.hostagent.test_real_host import RealHost
from tests.integration.hostagent.test_real_host import real_host as real_host

_LOOK = "import sys; from hostagent.facts import disk_condition; print(disk_condition(sys.argv[1]))"


@pytest.mark.parametrize(("filled_kib", "expected"), [(100, "None"), (1000, "DISK_PRESSURE")])
def test_a_nearly_full_disk_is_pressure(tmp_path: Path, filled_kib: int, expected: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    # In a mount namespace of its own: nothing is left when it ends.
    script = 'mount -t tmpfs -o size=1m none "$1" && head -c "$2" /dev/zero >"$1/fill" && exec "$3" -c "$4" "$1"'
    found = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", tmp_path, str(filled_kib * 1024), sys.executable, _LOOK],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert expected in found.stdout


@pytest.mark.root
@pytest.mark.docker
@pytest.mark.slow
async def test_a_disk_that_fills_while_instances_come_and_go(real_host: RealHost) -> None:
    """Told as a condition; what runs runs on; with room again everything that was asked for is there, once."""
    seen = await real_host.drive("full")
    assert seen["sessions"] == 1
    assert seen["begun"] == 0  # what cannot be written down is not begun
    assert seen["kept"]
    assert seen["containers"] == 29

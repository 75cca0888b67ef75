"""The folder of secrets is in memory, once, and goes as a whole."""

import subprocess
from pathlib import Path

import pytest

from hostagent.domain import PayloadAssignment
from hostagent.secret_files import SecretFiles
from moorage.ids import InstanceId
from tests.integration.netlink.bed import require_namespaces

pytestmark = pytest.mark.root


def mounts_at(folder: Path) -> list[str]:
    found = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_it_is_mounted_once_and_taken_away(tmp_path: Path) -> None:
    require_namespaces()
    folder = tmp_path / "secrets"
    files = SecretFiles(folder)
    files.prepare()
    try:
        files.place(InstanceId("i"), [PayloadAssignment("s", 1, "/run/secrets/s")], {("s", 1): b"x"})
        SecretFiles(folder).prepare()  # another agent process
        assert mounts_at(folder) == ["tmpfs"]
        assert (folder / "i/run-secrets/s").read_bytes() == b"x"
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        files.release()
    assert mounts_at(folder) == []
    assert list(folder.iterdir()) == []
    files.release()

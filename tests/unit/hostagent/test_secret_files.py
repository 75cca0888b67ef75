"""Where secrets lie on a host: atomically replaced, nothing left of what is not wanted, nothing recorded before it is done."""

import os
import stat
from pathlib import Path

import pytest

from hostagent.domain import Mount, PayloadAssignment
from hostagent.secret_files import SecretFiles, layout, mounts
from moorage.ids import InstanceId

ID = InstanceId("i1")
ME = {"uid": os.geteuid(), "gid": os.getegid()}
PASSWORD = PayloadAssignment("s1", 1, "/run/secrets/password", 0o400, **ME)
NESTED = PayloadAssignment("s2", 1, "/run/configs/app/x.conf", 0o444, **ME)
KEY = PayloadAssignment("s3", 1, "/etc/ssl/key", 0o440, **ME)
VARIABLE = PayloadAssignment("s4", 1, env="TOKEN")
CONTENTS = {(f"s{n}", v): f"payload {n} {v}".encode() for n in range(1, 5) for v in (1, 2)}


@pytest.fixture
def files(tmp_path: Path) -> SecretFiles:
    return SecretFiles(tmp_path / "secrets")


def test_folders_are_mounted_whole_and_others_alone(tmp_path: Path) -> None:
    single = layout([KEY])[0].where
    assert mounts([PASSWORD, NESTED, KEY, VARIABLE], tmp_path) == (
        Mount("/etc/ssl/key", source=str(tmp_path / single), read_only=True),
        Mount("/run/configs", source=str(tmp_path / "run-configs"), read_only=True),
        Mount("/run/secrets", source=str(tmp_path / "run-secrets"), read_only=True),
    )
    assert mounts([VARIABLE], tmp_path) == ()


def test_placed_replaced_and_removed(files: SecretFiles) -> None:
    wanted = [PASSWORD, NESTED, KEY, VARIABLE]
    files.place(ID, wanted, CONTENTS)
    folder = files.folder_of(ID)
    assert files.found() == {ID: ()}, "not done before it is finished"
    files.finish(ID, wanted)
    assert files.found() == {ID: tuple(wanted)}
    password = folder / "run-secrets/password"
    assert password.read_bytes() == b"payload 1 1"
    assert (folder / "run-configs/app/x.conf").read_bytes() == b"payload 2 1"
    assert (folder / layout([KEY])[0].where).read_bytes() == b"payload 3 1"
    assert "TOKEN=payload 4 1" in (folder / "env.sed").read_text()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(password.stat().st_mode) == 0o400
    assert b"payload 1" not in (folder / "placed.json").read_bytes()

    with password.open("rb") as opened:  # whoever has it open reads on what it was
        later = PayloadAssignment("s1", 2, PASSWORD.path, PASSWORD.mode, **ME)
        files.place(ID, [later], CONTENTS)
        assert files.found() == {ID: ()}
        assert (opened.read(), password.read_bytes()) == (b"payload 1 1", b"payload 1 2")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == ["run-secrets/password"]
    files.place(ID, [], {})
    files.remove(ID)
    assert files.found() == {}


def test_what_cannot_be_read_counts_as_not_placed(files: SecretFiles) -> None:
    files.place(ID, [PASSWORD], CONTENTS)
    files.finish(ID, [PASSWORD])
    (files.folder_of(ID) / "placed.json").write_text('[{"of": "another version"}]')
    assert files.found() == {ID: ()}

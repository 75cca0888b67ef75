"""What people write of secrets and configs of an instance."""

import pytest

from cli.secret_uses import config_use, secret_use
from moorage.errors import InvalidSpec
from moorage.v1 import secret_uses_pb2

PROJECT = "projects/p"


def test_uses() -> None:
    assert secret_use(PROJECT, "db") == secret_uses_pb2.SecretUse(secret="projects/p/secrets/db")
    assert secret_use(PROJECT, "db,env=PASSWORD,version=3") == secret_uses_pb2.SecretUse(
        secret="projects/p/secrets/db", env="PASSWORD", version=3
    )
    full = secret_use(PROJECT, "db,path=/etc/x,mode=0440,uid=7,gid=8,rotate=restart")
    assert (full.file.path, full.file.mode, full.file.uid, full.file.gid) == ("/etc/x", 0o440, 7, 8)
    assert full.on_rotate == secret_uses_pb2.ON_ROTATE_RESTART
    use = config_use(PROJECT, "projects/p/configs/c,signal=SIGUSR1")
    assert (use.config, use.signal, use.on_rotate) == (
        "projects/p/configs/c",
        "SIGUSR1",
        secret_uses_pb2.ON_ROTATE_SIGNAL,
    )


@pytest.mark.parametrize("word", ["", ",env=X", "db,mode=9", "db,version=x", "db,rotate=often", "db,what", "db,env="])
def test_what_is_not_understood(word: str) -> None:
    with pytest.raises(InvalidSpec):
        secret_use(PROJECT, word)


def test_a_config_is_no_variable() -> None:
    with pytest.raises(InvalidSpec):
        config_use(PROJECT, "c,env=X")

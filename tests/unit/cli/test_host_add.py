"""A machine that shall be a host: what it must have, what is written there, and what ssh is told."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from cli.host_add import probe, steps
from cli.host_add.commands import is_loopback, ssh_words
from cli.host_add.probe import Machine
from cli.host_add.remote import Remote
from moorage.errors import NotReady, Unavailable

GOOD = Machine(True, False, "m1", "192.0.2.7", "3.12", "0.1.0", False, True)


def lacks(machine: Machine, *, has_package: bool = False, replaces_config: bool = False) -> list[str]:
    return probe.lacks(
        machine,
        version="0.1.0",
        agent="/a",
        has_package=has_package,
        config="/c",
        replaces_config=replaces_config,
    )


def test_what_it_prints_is_understood() -> None:
    text = "Welcome!\nuid=1000\nhostname=m1\naddress=192.0.2.7\nsudo=yes\npython=3.9\nagent=\nsystemd=yes\n"
    assert probe.parse(text) == Machine(False, True, "m1", "192.0.2.7", "3.9", "", False, True)


def test_all_that_it_lacks_is_told_at_once() -> None:
    assert lacks(GOOD) == []
    bad = Machine(False, False, "m1", "", "3.9", "", True, True)
    assert [sentence.split(":")[0] for sentence in lacks(bad, has_package=True)] == [
        "the user is not root, and sudo asks for a password",
        "Python 3.11 or newer is needed, and it has 3.9",
        "/c is there",
    ]
    assert [sentence.split(":")[0] for sentence in lacks(bad, replaces_config=True)] == [
        "the user is not root, and sudo asks for a password",
        "there is no /a",
    ]


@pytest.mark.parametrize(("installed", "is_needed"), [("", True), ("0.0.9", True), ("0.1.0", False)])
def test_it_is_installed_once(installed: str, is_needed: bool) -> None:
    machine = Machine(True, False, "m1", "", "3.12", installed, False, True)
    assert probe.needs_install(machine, "0.1.0", has_package=True) is is_needed
    assert not probe.needs_install(machine, "0.1.0", has_package=False)


def test_the_configuration_has_what_was_worked_out_and_what_was_set() -> None:
    wish = steps.Wish("cp:7460", labels={"a": "b"}, settings={"vxlan_port": 4790, "underlay_address": "192.0.2.8"})
    assert yaml.safe_load(steps.configuration(wish, "h4", "192.0.2.7", "secret")) == {
        "name": "h4",
        "control_plane": "cp:7460",
        "join_token": "secret",
        "underlay_address": "192.0.2.8",
        "labels": {"a": "b"},
        "vxlan_port": 4790,
    }


def test_a_wheel_or_a_folder_of_them_is_sent(tmp_path: Path) -> None:
    for name in ("moorage-1-py3-none-any.whl", "other-1-py3-none-any.whl", "notes.txt"):
        (tmp_path / name).write_text(name)

    def sent(package: Path) -> list[str]:
        return tarfile.open(fileobj=io.BytesIO(steps.wheels(package))).getnames()

    assert sent(tmp_path) == ["moorage-1-py3-none-any.whl", "other-1-py3-none-any.whl"]
    assert sent(tmp_path / "moorage-1-py3-none-any.whl") == ["moorage-1-py3-none-any.whl"]


def test_who_is_reached_by_this_machine_alone() -> None:
    assert [
        is_loopback(text) for text in ("127.0.0.1:7460", "[::1]:7460", "localhost:1", "192.0.2.1:7460", "cp:7460")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that does here what it is told; with `refuses` beside it, it does not get in."""
    program = tmp_path / "ssh"
    script = (
        "#!/bin/sh\n"
        f'echo "$@" >>{tmp_path}/calls\n'
        f"if [ -e {tmp_path}/refuses ]; then echo Permission denied >&2; exit 255; fi\n"
        'for last in "$@"; do :; done\n'
        'case "$*" in *"-O exit"*) ;; *) exec sh -c "$last" ;; esac\n'
    )
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


async def test_commands_go_over_one_connection_with_the_users_options_first(ssh: Path) -> None:
    async with Remote("root@m1", ssh_words("/k", 2222, ("BatchMode=yes",))) as remote:
        assert await remote.run('cat; printf %s "$1"', "it's $HOME", stdin=b"in ", what="x") == "in it's $HOME"
        with pytest.raises(NotReady) as failed:
            await remote.run("echo so far; echo no room >&2; exit 3", what="the set-up")
        assert failed.value.reason == "REMOTE_STEP_FAILED"
        assert failed.value.message == "root@m1: the set-up failed:\nso far\nno room"
        (ssh / "refuses").touch()
        with pytest.raises(Unavailable) as refused:
            await remote.run("true", what="x")
        assert (refused.value.reason, "Permission denied" in refused.value.message) == ("SSH_FAILED", True)
    calls = (ssh / "calls").read_text().splitlines()
    assert calls[0].startswith("-T -o BatchMode=yes -i /k -o IdentitiesOnly=yes -p 2222 -o ConnectTimeout=15")
    assert "-O exit root@m1" in calls[-1]

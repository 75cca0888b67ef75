"""login, logout, whoami and contexts: what is remembered, and how safely."""

import stat
from pathlib import Path

import pytest
import yaml

from cli.contexts import Context, Contexts, load, save
from moorage.errors import InvalidSpec, NotFound
from tests.unit.cli.conftest import Moor, Served
from tests.unit.cli.plane import KEY

BARE = {"MOORAGE_ADDRESS": "", "MOORAGE_API_KEY": "", "MOORAGE_CA_FILE": ""}


def config(environment: dict[str, str]) -> Path:
    return Path(environment["XDG_CONFIG_HOME"]) / "moorage" / "config.yaml"


def login(moor: Moor, served: Served, *words: str) -> str:
    words = ("login", served.address, "--ca-file", str(served.ca_file), *words)
    return moor(*words, input=f"{KEY}\n", env=BARE).output


def test_login_remembers_what_works(moor: Moor, served: Served, environment: dict[str, str]) -> None:
    said = login(moor, served)
    assert said == f"Logged in at {served.address} as ada (fleet admin); this is context 127.0.0.1.\n"
    file = config(environment)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert yaml.safe_load(file.read_text())["contexts"]["127.0.0.1"]["api_key"] == KEY
    served.ca_file.unlink()  # the certificate itself is remembered
    assert moor("whoami", env=BARE).output == (
        f"ada (fleet admin) at {served.address}\nprojects: projects/default\nserver:   0.1.0\n"
    )
    assert list(file.parent.iterdir()) == [file]


def test_a_key_that_does_not_work_is_not_remembered(moor: Moor, served: Served, environment: dict[str, str]) -> None:
    words = ["login", served.address, "--ca-file", str(served.ca_file), "--key-file", "-"]
    result = moor(*words, input="wrong\n", env=BARE, code=4)
    assert result.stderr == "Error: the API key is not known; log in with `moor login`\n"
    assert not config(environment).exists()
    moor(*words, input="\n", env=BARE, code=2)
    moor(*words, input="two words\n", env=BARE, code=2)


def test_key_and_certificate_from_files(moor: Moor, served: Served, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    words = ["login", served.address, "--ca-file", str(served.ca_file), "--key-file"]
    moor(*words, str(key), "--name", "box", env=BARE)
    moor(*words, str(tmp_path / "none"), env=BARE, code=2)
    assert "holds no certificate" in moor("login", "a:1", "--ca-file", str(key), env=BARE, code=2).stderr


def test_without_a_control_plane(moor: Moor) -> None:
    assert "log in with `moor login ADDRESS` or set MOORAGE_ADDRESS" in moor("ps", env=BARE, code=4).stderr
    moor("logout", env=BARE, code=3)
    moor("context", "use", env=BARE, code=3)


def test_contexts(moor: Moor, served: Served) -> None:
    login(moor, served, "--name", "one")
    login(moor, served, "--name", "two", "--project", "p")
    assert moor("context", "ls", env=BARE).output.splitlines()[1:] == [
        f"    one    {served.address}   default",
        f"*   two    {served.address}   p",
    ]
    assert moor("context", "use", "one", "--project", "q", env=BARE).output == "Using context one, project q.\n"
    moor("ps", env=BARE)
    moor("--context", "two", "ps", env=BARE)
    moor("ps", "--project", "r", env=BARE)
    moor("--project", "s", "ps", env=BARE)
    moor("ps", env={**BARE, "MOORAGE_PROJECT": "t"})
    parents = [asked.parent for asked in served.plane.requests("ListInstances")]
    assert parents == [f"projects/{name}" for name in "qprst"]
    moor("context", "use", "three", env=BARE, code=3)
    assert moor("logout", env=BARE).output == "Forgot context one.\n"
    moor("ps", env=BARE, code=4)
    moor("--context", "two", "ps", env=BARE)


def test_the_environment_wins(moor: Moor, served: Served) -> None:
    login(moor, served)
    moor("ps", env={**BARE, "MOORAGE_API_KEY": "wrong"}, code=4)
    moor("ps", env={**BARE, "MOORAGE_CA_FILE": "/nonexistent"}, code=2)


def test_a_file_of_someone_else(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    assert load(file) == Contexts()
    for text in ("[1]", "contexts: 3", "contexts: {a: {b: c}}", "{", "contexts: {a: 1}"):
        file.write_text(text)
        with pytest.raises(InvalidSpec):
            load(file)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSpec):
        save(tmp_path / "file" / "config.yaml", Contexts())


def test_contexts_as_values(tmp_path: Path) -> None:
    contexts = Contexts().with_context("a", Context("a:1", "k")).with_context("b", Context("b:1"))
    save(tmp_path / "x" / "config.yaml", contexts)
    assert load(tmp_path / "x" / "config.yaml") == contexts
    assert contexts.get() == Context("b:1")
    assert contexts.without("b").get() is None
    with pytest.raises(NotFound):
        contexts.get("c")
    assert "k" not in repr(Context("a:1", "k"))[12:]


def test_debug_shows_the_trace_id(moor: Moor, served: Served) -> None:
    lines = moor("--debug", "host", "get", "absent", code=3).stderr.splitlines()
    assert lines[:3] == ["Error: hosts/absent does not exist", "  class: NotFound", "  reason: NOT_FOUND"]
    assert lines[-1] == f"  trace_id: {served.plane.metadata[-1]['x-trace-id']}"

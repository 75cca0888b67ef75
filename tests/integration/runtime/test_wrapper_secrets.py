"""Variables that the engine is not told: into the runtime's own copy of the bundle, or nothing starts."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from hostagent.domain import PayloadAssignment
from hostagent.secret_files import SecretFiles
from moorage.ids import InstanceId
from tests.integration.runtime.test_wrapper import CONTAINER, FORMS, Rig, spec
from tests.integration.runtime.test_wrapper import rig as rig

pytestmark = pytest.mark.root
ID = InstanceId("i1")
NASTY = 'a"b\\c&d#e|f$g`h\'i\nj\tk/l %s \x01\x7fé\u2028\U0001f511 ,"x":[ ]}'


def place(rig: Rig, **variables: str) -> Path:
    """Have the variables on the host, and the container published with them. Returns the instance's folder."""
    files = SecretFiles(rig.folder / "run" / "secrets")
    payloads = [PayloadAssignment(f"s{n}", 1, env=name) for n, name in enumerate(variables)]
    contents = {(f"s{n}", 1): value.encode() for n, value in enumerate(variables.values())}
    files.place(ID, payloads, contents)
    rig.keys.publish(CONTAINER, rig.space, files.folder_of(ID))
    return files.folder_of(ID)


def copy_of(rig: Rig) -> dict[str, Any]:
    """The configuration that the runtime was given."""
    called = rig.called()
    assert called is not None
    bundle = Path(called[called.index("--bundle") + 1])
    assert bundle != rig.folder / "bundle"
    assert stat.S_IMODE((bundle / "config.json").stat().st_mode) == 0o600
    loaded: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return loaded


@pytest.mark.parametrize("form", FORMS)
def test_the_runtime_gets_the_variables_and_the_engine_does_not(rig: Rig, form: str) -> None:
    rig.write_config(FORMS[form])
    before = rig.config()
    place(rig, TOKEN=NASTY, EMPTY="")
    assert rig.create() == 0, rig.said()
    copy = copy_of(rig)
    assert copy["process"]["env"] == ["EMPTY=", f"TOKEN={NASTY}", *before["process"]["env"]]
    assert [n["path"] for n in copy["linux"]["namespaces"] if n["type"] == "network"] == [
        f"{rig.folder}/run/runtime/{CONTAINER}"
    ]
    assert rig.config() == before, "the engine's bundle stays as it is"
    assert not any(NASTY[:5] in word for word in rig.called() or ())


def test_a_variable_of_the_image_is_replaced_and_hooks_keep_theirs(rig: Rig) -> None:
    document = json.loads(spec())
    document["process"]["env"] = ["PATH=/bin", 'A="PATH=x",', 'TOKEN=image\'s \\ "own"', "TOKEN2=x"]
    document["hooks"] = {"prestart": [{"path": "/x", "env": ["TOKEN=hook", "OTHER=hook"]}]}
    rig.write_config(json.dumps(document))
    place(rig, TOKEN="new", OTHER="o")
    assert rig.create() == 0, rig.said()
    copy = copy_of(rig)
    assert copy["process"]["env"] == ["OTHER=o", "PATH=/bin", 'A="PATH=x",', "TOKEN=new", "TOKEN2=x"]
    assert copy["hooks"] == document["hooks"]


@pytest.mark.parametrize("env", [[], ["TOKEN=old"]])
def test_short_environments(rig: Rig, env: list[str]) -> None:
    document = json.loads(spec())
    document["process"]["env"] = env
    rig.write_config(json.dumps(document))
    place(rig, TOKEN="new", OTHER="o")
    assert rig.create() == 0, rig.said()
    assert sorted(copy_of(rig)["process"]["env"]) == ["OTHER=o", "TOKEN=new"]


@pytest.mark.parametrize(("path", "wanted"), [("rootfs", "{bundle}/rootfs"), ("/var/merged", "/var/merged")])
def test_the_root_is_where_the_engine_has_it(rig: Rig, path: str, wanted: str) -> None:
    document = json.loads(spec())
    document["root"] = {"readonly": True, "path": path}
    rig.write_config(json.dumps(document))
    place(rig, TOKEN="x")
    assert rig.create() == 0, rig.said()
    assert copy_of(rig)["root"] == {"readonly": True, "path": wanted.format(bundle=rig.folder / "bundle")}


def test_without_its_secrets_it_does_not_start(rig: Rig) -> None:
    folder = place(rig, TOKEN="x")
    (folder / "env.sed").unlink()
    assert rig.create() == 1
    assert rig.called() is None
    assert "secrets" in rig.said()[0]["msg"]


def test_a_configuration_without_environment_is_refused(rig: Rig) -> None:
    document = json.loads(spec())
    del document["process"]["env"]
    rig.write_config(json.dumps(document))
    place(rig, TOKEN="x")
    assert rig.create() == 1
    assert rig.called() is None


def test_a_withdrawn_container_leaves_no_link(rig: Rig) -> None:
    place(rig, TOKEN="x")
    rig.keys.withdraw(CONTAINER)
    assert list((rig.folder / "run" / "runtime").iterdir()) == []

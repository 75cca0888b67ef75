"""Files of documents: what they become, and that everything that is wrong with them is said at once."""

from pathlib import Path

import pytest

from cli.apply.nouns import NOUNS, Noun
from cli.apply.read import read
from moorage.client import Client

P = "projects/default"
GOOD = """
kind: RouterRule
name: edge/no-mail
spec: {firewall: {}}
---
---
kind: Instance
name: projects/other/instances/one
uid: passed over
status: {state: INSTANCE_STATE_RUNNING}
labels: {app: shop}
spec: {template: web, drain: 3s, entrypoint: {values: [sh]}}
"""
BAD = """
kind: Instance
name: x
spec: {cpu: 3, env: [1], nics: [{network: a, mtu: much}, 7], drain: soon, restart: {mode: SOMETIMES}}
---
kind: Foo
---
- 1
---
kind: RouterRule
name: a
desc: 7
"""


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.kind)
async def test_each_noun_has_its_calls_and_names(noun: Noun) -> None:
    async with Client.connect("localhost:1") as client:
        for verb in ("Get", "List", "Create", "Update", "Delete"):
            assert noun.method(client, verb)
    assert noun.fields
    own = "above/one" if noun.above else "one"
    name = noun.full_name(P, own)
    assert (noun.short_name(name), noun.full_name("projects/elsewhere", name)) == (own, name)
    assert noun.full_name(P, "a/b/c") == ""
    assert noun.full_name(P, "") == ""
    assert noun.full_name(P, f"{P}/foos/one") == ""
    assert {noun.body_field("Create"), "validate_only"} <= set(noun.request("Create").DESCRIPTOR.fields_by_name)


async def test_documents_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(GOOD)
    (tmp_path / "a.json").write_text('{"kind": "Network", "name": "shop", "spec": {"egress": true}}')
    (tmp_path / "notes.txt").write_text("not for us")
    documents, problems = read([tmp_path], P)
    assert problems == []
    assert [document.label for document in documents] == ["Network/shop", "RouterRule/edge/no-mail", "Instance/one"]
    network, rule, instance = documents
    assert (network.message.name, network.message.spec.egress) == (f"{P}/networks/shop", True)
    assert rule.message.spec.HasField("firewall")
    assert rule.where.endswith("b.yaml document 1")
    assert instance.name == "projects/other/instances/one"
    assert (instance.message.spec.drain.seconds, list(instance.message.spec.entrypoint.values)) == (3, ["sh"])
    assert instance.message.uid == ""


async def test_all_that_is_wrong_is_said_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    torn = tmp_path / "torn.yaml"
    torn.write_text("a: [")
    documents, problems = read([file, torn, tmp_path / "none.yaml"], P)
    assert documents == []
    places = [problem.field.removeprefix(f"{tmp_path}/") for problem in problems]
    assert places == [
        "bad.yaml document 1 spec.cpu",
        "bad.yaml document 1 spec.env",
        "bad.yaml document 1 spec.nics[0].mtu",
        "bad.yaml document 1 spec.nics[1]",
        "bad.yaml document 1 spec.drain",
        "bad.yaml document 1 spec.restart.mode",
        "bad.yaml document 2 kind",
        "bad.yaml document 3",
        "bad.yaml document 4 name",
        "bad.yaml document 4 desc",
        "torn.yaml",
        "none.yaml",
    ]
    assert "RESTART_MODE_ALWAYS" in problems[5].problem


async def test_a_name_twice_and_nothing_at_all(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("kind: Network\nname: shop\n")
    _, problems = read([tmp_path], P)
    assert [problem.field for problem in problems] == [f"{tmp_path}/b.yaml document 1 name"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert read([empty], P)[1]
    (empty / "x.yaml").write_text("# nothing\n")
    assert read([empty], P)[1]

"""`moor apply` against a control plane: what was applied is found to be so, and errors of all documents come before anything is done."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.apply import carry_out
from cli.apply.commands import document_of
from cli.apply.plan import Keep, Plan, Replace, Update, is_owned, plan
from cli.apply.read import Document, read
from cli.output import to_yaml
from moorage.client import Client
from tests.support.controlplane import Plane

P = "projects/default"
FILE = """
kind: Instance
name: one
labels: {app: shop}
spec: {template: web, nics: [{network: shop, security_groups: [front]}], resources: {memory_bytes: 67108864}}
---
kind: Group
name: web
labels: {app: shop}
spec: {replicas: 2, instance: {template: web, nics: [{network: shop}], drain: 3s}, depends_on: [{target: groups/db}]}
---
kind: Group
name: db
labels: {app: shop}
spec: {replicas: 1, instance: {template: web, nics: [{network: shop}], volumes: [{volume: data, target: /data}]}}
---
kind: Network
name: shop
labels: {app: shop}
spec: {subnets: [{cidr: 10.77.0.0/24}]}
---
kind: DnsRecord
name: shop/www
spec: {name: www, type: DNS_RECORD_TYPE_CNAME, values: [one]}
---
kind: SecurityGroup
name: front
spec: {rules: [{direction: SECURITY_DIRECTION_IN, protocol: TRAFFIC_PROTOCOL_TCP, ports: ["80"]}]}
---
kind: Volume
name: data
---
kind: Config
name: conf
description: text
---
kind: CronJob
name: nightly
spec: {schedule: "0 3 * * *", job: {completions: 1, instance: {template: web}}}
"""


@pytest.fixture
async def client(plane: Plane) -> AsyncIterator[Client]:
    await plane.template()
    async with Client.connect(plane.api_address, api_key=plane.admin_key, ca_pem=plane.authority.cert_pem) as client:
        yield client


async def planned(client: Client, documents: list[Document]) -> Plan:
    look = carry_out.Look(client, documents)
    await look.run()
    assert not look.errors, carry_out.violations(look.errors)
    return plan(documents, look.found)


async def apply(client: Client, documents: list[Document]) -> Plan:
    made = await planned(client, documents)
    for step in made.steps:
        await carry_out.take(client, step)
    return made


def documents_of(tmp_path: Path, text: str) -> list[Document]:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    documents, problems = read([file], P)
    assert not problems, problems
    return documents


async def test_twice_is_as_good_as_once(client: Client, tmp_path: Path) -> None:
    made = await apply(client, documents_of(tmp_path, FILE))
    assert not any(isinstance(step, Keep) for step in made.steps)
    again = await planned(client, documents_of(tmp_path, FILE))
    assert [step.document.label for step in again.steps if not isinstance(step, Keep)] == []


async def test_what_is_exported_is_so(client: Client, tmp_path: Path) -> None:
    await apply(client, documents_of(tmp_path, FILE))
    found = [(noun, one) async for noun, one in carry_out.everything(client, P)]
    text = "---\n".join(to_yaml(document_of(noun, one)) for noun, one in found if not is_owned(one))
    again = await planned(client, documents_of(tmp_path, text))
    kinds = [step.document.noun.kind for step in again.steps]
    assert {"Template", "Network", "DnsRecord", "Instance", "Group", "CronJob"} <= set(kinds)
    assert [step.document.label for step in again.steps if not isinstance(step, Keep)] == []


async def test_changes_are_updates_and_a_new_container_is_said(client: Client, tmp_path: Path) -> None:
    await apply(client, documents_of(tmp_path, FILE))
    changed = FILE.replace("replicas: 2", "replicas: 3").replace("67108864", "134217728")
    made = await apply(client, documents_of(tmp_path, changed))
    updates = {step.document.label: step.paths for step in made.steps if isinstance(step, Update)}
    assert updates == {"Instance/one": ("spec.resources",), "Group/web": ("spec.replicas",)}
    changed = changed.replace(
        "{template: web, nics: [{network: shop, ", "{template: web, env: {A: b}, nics: [{network: shop, "
    )
    made = await planned(client, documents_of(tmp_path, changed))
    assert [type(step) for step in made.steps if not isinstance(step, Keep)] == [Replace]
    for step in made.steps:
        await carry_out.take(client, step)
    made = await planned(client, documents_of(tmp_path, changed))
    assert all(isinstance(step, Keep) for step in made.steps)


async def test_errors_of_all_documents_come_first(client: Client, tmp_path: Path) -> None:
    text = FILE.replace("memory_bytes: 67108864", "memory_bytes: -1").replace("0 3 * * *", "now and then")
    text += "\n---\nkind: Group\nname: lost\nspec: {replicas: 1, instance: {template: nowhere}}\n"
    look = carry_out.Look(client, documents_of(tmp_path, text))
    await look.run()
    places = [violation.field.removeprefix(f"{tmp_path}/a.yaml ") for violation in carry_out.violations(look.errors)]
    assert places == ["document 1 spec.resources.memory_bytes", "document 9 spec.schedule", "document 10 Group/lost"]
    assert [one async for one in carry_out.everything(client, P, lambda noun: noun.kind == "Network")] == []

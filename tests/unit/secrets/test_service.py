"""Secrets and configs through their service: versions, limits, who uses them, and that no record has their bytes."""

from typing import Any

import pytest

from controlplane.domain.instances import InstanceSpec
from controlplane.domain.kinds import ALL_KINDS, SEALED_PAYLOAD, SECRET_VERSION
from controlplane.domain.secrets import Config, ConfigUse, Pin, Secret, SecretFile, SecretUse, SecretVersionState
from controlplane.sealing import Sealer
from controlplane.services import secrets as module
from controlplane.services.paging import PageRequest
from controlplane.services.secrets import LARGEST_PAYLOAD, Rekeying, SecretService, payloads_of
from moorage.codec import to_json
from moorage.errors import AlreadyExists, Exhausted, InvalidSpec, MoorageError, NotFound, NotReady
from tests.unit.controlplane.world import P, World, problems

ENABLED, DISABLED, DESTROYED = (
    SecretVersionState.ENABLED,
    SecretVersionState.DISABLED,
    SecretVersionState.DESTROYED,
)
Secrets = SecretService[Secret]


async def reason(call: Any) -> str:
    with pytest.raises(MoorageError) as refused:
        await call
    return refused.value.reason


async def test_versions_are_numbered_and_the_latest_enabled_one_is_the_latest(world: World, secrets: Secrets) -> None:
    made = await secrets.create(P, "db", {"a": "b"}, "words", b"one")
    assert (made.latest_version, made.versions, made.name) == (1, 1, f"projects/{P}/secrets/db")
    assert (await secrets.add_version(P, "db", b"two")).number == 2
    assert secrets.access(P, "db", "latest")[1] == b"two"
    assert secrets.access(P, "db", "1")[1] == b"one"
    await secrets.set_state(P, "db", "2", DISABLED)
    assert secrets.get(P, "db").latest_version == 1
    with pytest.raises(NotReady) as refused:
        secrets.access(P, "db", "2")
    assert refused.value.reason == "VERSION_DISABLED"
    await secrets.set_state(P, "db", "2", ENABLED)
    await secrets.set_state(P, "db", "2", DESTROYED)
    assert (await secrets.add_version(P, "db", b"three")).number == 3, "a number is never used twice"
    assert [v.value.state for v in secrets.list_versions(P, "db", PageRequest()).items] == [ENABLED, DESTROYED, ENABLED]
    assert await reason(secrets.set_state(P, "db", "2", ENABLED)) == "VERSION_DESTROYED"
    assert world.store.view().count(SEALED_PAYLOAD) == 2
    for number in ("0", "4", "x", "-1", "9" * 40):
        with pytest.raises(NotFound):
            secrets.access(P, "db", number)
    await secrets.delete(P, "db")
    assert world.store.view().count(SEALED_PAYLOAD) == world.store.view().count(SECRET_VERSION) == 0


async def test_no_record_has_the_bytes(world: World, secrets: Secrets) -> None:
    await secrets.create(P, "db", {}, "", b"canary-payload", request_key="k", body=secrets.digest(b"canary-payload"))
    await secrets.add_version(P, "db", b"canary-second")
    for kind in ALL_KINDS:
        for found in world.store.view().all(kind):
            assert "canary" not in repr(to_json(found.value)), kind.name
    assert world.reasons() == ["CREATED", "VERSION_ADDED", "VERSION_ADDED"]


async def test_a_retry_makes_nothing_new(secrets: Secrets) -> None:
    first = await secrets.create(P, "db", {}, "", b"one", request_key="k", body=b"b")
    assert await secrets.create(P, "db", {}, "", b"one", request_key="k", body=b"b") == first
    version = await secrets.add_version(P, "db", b"two", request_key="v", body=b"b")
    assert await secrets.add_version(P, "db", b"two", request_key="v", body=b"b") == version
    assert await reason(secrets.add_version(P, "db", b"3", request_key="v", body=b"c")) == "REQUEST_ID_REUSED"
    with pytest.raises(AlreadyExists):
        await secrets.create(P, "db", {}, "", None)


async def test_bad_input_changes_nothing(world: World, secrets: Secrets) -> None:
    revision = world.store.view().revision
    with pytest.raises(InvalidSpec) as refused:
        await secrets.create(P, "No", {"moorage.x": "y"}, "x" * 1025, b"x" * (LARGEST_PAYLOAD + 1))
    assert problems(refused.value) == [
        ("secret_id", "NAME_INVALID"),
        ("secret.labels[moorage.x]", "LABEL_RESERVED"),
        ("secret.description", "OUT_OF_RANGE"),
        ("payload", "PAYLOAD_TOO_LARGE"),
    ]
    await secrets.create(P, "db", {}, "", b"x", validate_only=True)
    assert world.store.view().revision == revision


async def test_limits(world: World, secrets: Secrets, configs: SecretService[Config], monkeypatch: Any) -> None:
    await secrets.create(P, "db", {}, "", b"x" * 10)
    monkeypatch.setattr(module, "LARGEST_TOTAL", 20)
    await configs.create(P, "c", {}, "", b"x" * 10)
    assert await reason(configs.add_version(P, "c", b"x")) == "PAYLOADS_EXHAUSTED"
    await secrets.set_state(P, "db", "1", DESTROYED)
    await configs.add_version(P, "c", b"x")
    monkeypatch.setattr(module, "MOST_VERSIONS", 2)
    with pytest.raises(Exhausted):
        await configs.add_version(P, "c", b"")


async def test_an_instance_is_pinned(
    world: World, secrets: Secrets, configs: SecretService[Config], sealer: Sealer
) -> None:
    await secrets.create(P, "db", {}, "", b"one")
    await configs.create(P, "conf", {}, "", b"\0binary")
    instance = await world.create(
        "web",
        secrets=(SecretUse("db"), SecretUse(f"projects/{P}/secrets/db", env="PASSWORD")),
        configs=(ConfigUse("conf"),),
    )
    secret, config = secrets.get(P, "db"), configs.get(P, "conf")
    assert instance.pins == (Pin(secret.uid, 1), Pin(secret.uid, 1), Pin(config.uid, 1))
    assert instance.spec.secrets[0].secret == secret.name
    assert (secrets.users(secret), configs.users(config)) == (1, 1)
    await secrets.add_version(P, "db", b"two")
    assert world.get("web").pins == instance.pins
    found = payloads_of(world.store.view(), sealer, world.get("web"))
    assert {(v.owner_uid, v.number): payload for v, payload in found} == {
        (secret.uid, 1): b"one",
        (config.uid, 1): b"\0binary",
    }
    assert await reason(secrets.set_state(P, "db", "1", DESTROYED)) == "SECRET_IN_USE"
    assert await reason(secrets.delete(P, "db")) == "SECRET_IN_USE"
    assert await reason(configs.delete(P, "conf")) == "CONFIG_IN_USE"
    assert await reason(secrets.add_version(P, "db", b"\0")) == "SECRET_NOT_TEXT"
    replaced = await world.changes.replace(P, "web")
    assert replaced.pins[:2] == (Pin(secret.uid, 2), Pin(secret.uid, 2))
    await secrets.set_state(P, "db", "1", DESTROYED)


async def test_uses_that_cannot_be_met(world: World, secrets: Secrets) -> None:
    await secrets.create(P, "db", {}, "", b"\xff")
    await secrets.create(P, "empty", {}, "", None)
    await secrets.create(P, "off", {}, "", b"x")
    await secrets.set_state(P, "off", "1", DISABLED)
    cases = {
        SecretUse("db", version=2): "VERSION_UNKNOWN",
        SecretUse("empty"): "VERSION_MISSING",
        SecretUse("off", version=1): "VERSION_DISABLED",
        SecretUse("off"): "VERSION_MISSING",
        SecretUse("db", env="X"): "SECRET_NOT_TEXT",
        SecretUse("projects/other/secrets/db"): "OTHER_PROJECT",
        SecretUse("nowhere"): "NOT_FOUND",
        SecretUse("db", file=SecretFile("/etc/../x")): "INVALID_PATH",
        SecretUse("db", file=SecretFile(mode=0o1777)): "OUT_OF_RANGE",
        SecretUse("db", env="a b"): "ENV_INVALID",
        SecretUse("db", env="A", file=SecretFile("/x")): "NOT_ALLOWED",
        SecretUse(): "REQUIRED",
    }
    for use, wanted in cases.items():
        assert await reason(world.create("web", secrets=(use,))) == wanted, use
    with pytest.raises(InvalidSpec) as refused:
        await world.create("web", env={"A": "1"}, secrets=(SecretUse("db", env="A"), SecretUse("db"), SecretUse("db")))
    assert [field for field, _ in problems(refused.value)] == [
        "instance.spec.secrets[0].env",
        "instance.spec.secrets[2].file.path",
    ]


async def test_rekeying(world: World, secrets: Secrets, sealer: Sealer) -> None:
    for number in range(70):
        await secrets.create(P, f"s{number}", {}, "", str(number).encode())
    key_id, count = await Rekeying(world.context, sealer).rekey()
    assert count == 70
    assert {found.value.key_id for found in world.store.view().all(SEALED_PAYLOAD)} == {key_id}
    assert all(secrets.access(P, f"s{n}", "latest")[1] == str(n).encode() for n in range(70))


async def test_a_group_keeps_what_its_members_need(world: World, secrets: Secrets) -> None:
    with pytest.raises(NotFound):
        await world.group("web", 0, instance=InstanceSpec("web", secrets=(SecretUse("db", env="DB"),)))
    await secrets.create(P, "db", {}, "", b"words")
    made = await world.group("web", 0, instance=InstanceSpec("web", secrets=(SecretUse("db", env="DB"),)))
    assert made.spec.instance.secrets == (SecretUse(f"projects/{P}/secrets/db", env="DB"),)
    assert await reason(secrets.delete(P, "db")) == "SECRET_IN_USE"

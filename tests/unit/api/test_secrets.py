"""Secrets over the API: who gets the bytes, and what is remembered of calls that carried them."""

import hashlib
from typing import Any

import grpc
import pytest

from controlplane.access.roles import Role
from controlplane.domain.kinds import AUDIT_EVENT, REQUEST
from moorage.v1 import (
    agent_pb2,
    configs_pb2,
    configs_pb2_grpc,
    instances_pb2,
    instances_pb2_grpc,
    secret_uses_pb2,
    secrets_pb2,
    secrets_pb2_grpc,
)
from tests.support.controlplane import Plane, bearer, instance, reason_of, refusal

PARENT = "projects/default"
PAYLOAD = b"hunter2"


@pytest.fixture
def secrets(plane: Plane) -> Any:
    return secrets_pb2_grpc.SecretServiceStub(plane.channel())


def create(**fields: Any) -> secrets_pb2.CreateSecretRequest:
    values = {"parent": PARENT, "secret_id": "db", "payload": PAYLOAD, **fields}
    return secrets_pb2.CreateSecretRequest(**values)


async def test_a_retry_is_known_by_what_nobody_can_guess_from(plane: Plane, secrets: Any) -> None:
    admin = bearer(plane.admin_key)
    request = create(request_id="r1")
    first = await secrets.CreateSecret(request, metadata=admin)
    assert (await secrets.CreateSecret(request, metadata=admin)).uid == first.uid
    error = await refusal(secrets.CreateSecret(create(request_id="r1", payload=b"other"), metadata=admin))
    assert reason_of(error) == "REQUEST_ID_REUSED"
    (record,) = [found.value for found in plane.store.view().all(REQUEST)]
    assert record.body_digest != hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


async def test_reading_the_bytes_needs_an_operator_and_is_audited(plane: Plane, secrets: Any) -> None:
    await secrets.CreateSecret(create(), metadata=bearer(plane.admin_key))
    viewer, operator = (
        await plane.key("vi", {"default": Role.VIEWER}),
        await plane.key("op", {"default": Role.OPERATOR}),
    )
    latest = secrets_pb2.AccessSecretVersionRequest(name=f"{PARENT}/secrets/db/versions/latest")
    assert (await secrets.GetSecret(secrets_pb2.GetSecretRequest(name=f"{PARENT}/secrets/db"), metadata=viewer)).uid
    error = await refusal(secrets.AccessSecretVersion(latest, metadata=viewer))
    assert reason_of(error) == "ROLE_TOO_LOW"
    answer = await secrets.AccessSecretVersion(latest, metadata=operator)
    assert (answer.name, answer.payload) == (f"{PARENT}/secrets/db/versions/1", PAYLOAD)
    told = [(e.value.user, e.value.target, e.value.code) for e in plane.store.view().all(AUDIT_EVENT)]
    assert ("op", latest.name, "OK") in told
    assert ("vi", latest.name, "PERMISSION_DENIED") in told
    error = await refusal(secrets.RekeySecrets(secrets_pb2.RekeySecretsRequest(), metadata=operator))
    assert reason_of(error) == "FLEET_ADMIN_ONLY"


async def test_configs_are_read_by_viewers(plane: Plane) -> None:
    configs: Any = configs_pb2_grpc.ConfigServiceStub(plane.channel())
    request = configs_pb2.CreateConfigRequest(parent=PARENT, config_id="c", payload=b"text")
    await configs.CreateConfig(request, metadata=bearer(plane.admin_key))
    viewer = await plane.key("vi", {"default": Role.VIEWER})
    name = configs_pb2.GetConfigVersionRequest(name=f"{PARENT}/configs/c/versions/1")
    assert (await configs.GetConfigVersion(name, metadata=viewer)).payload == b"text"


async def test_a_host_gets_what_its_own_instances_have(plane: Plane, secrets: Any) -> None:
    admin = bearer(plane.admin_key)
    await plane.template()
    owner = await plane.agent("owner")
    made = await secrets.CreateSecret(create(), metadata=admin)
    await secrets.CreateSecret(create(secret_id="other"), metadata=admin)
    api: Any = instances_pb2_grpc.InstanceServiceStub(plane.channel())
    use = secret_uses_pb2.SecretUse(secret="db")
    wanted = instances_pb2.CreateInstanceRequest(
        parent=PARENT,
        instance_id="web",
        instance=instance(secrets=[use, secret_uses_pb2.SecretUse(secret="db", env="X")]),
    )
    record = await plane.running((await api.CreateInstance(wanted, metadata=admin)).name)
    thief = await plane.agent("thief")
    request = agent_pb2.FetchSecretsRequest(instance_id=record.uid)
    answers = [part async for part in plane.agent_stub(owner).FetchSecrets(request)]
    assert [(a.payload_id, a.version, a.payload) for a in answers] == [(made.uid, 1, PAYLOAD)], (
        "each once, and no other"
    )
    error = await refusal(plane.agent_stub(thief).FetchSecrets(request))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_INSTANCE")
    error = await refusal(plane.agent_stub(owner).FetchSecrets(agent_pb2.FetchSecretsRequest(instance_id="nobody")))
    assert reason_of(error) == "NOT_YOUR_INSTANCE"
    version = f"{made.name}/versions/1"
    await secrets.DisableSecretVersion(secrets_pb2.DisableSecretVersionRequest(name=version), metadata=admin)
    error = await refusal(plane.agent_stub(owner).FetchSecrets(request))
    assert reason_of(error) == "VERSION_DISABLED"

"""SecretService and ConfigService: the same calls over messages of two nouns."""

from typing import Any

import grpc
from google.protobuf.message import Message

from controlplane.api import convert, masks, requests
from controlplane.domain.names import parse_child, parse_grandchild
from controlplane.domain.secrets import Config, Secret, SecretVersion, SecretVersionState
from controlplane.services.secrets import Rekeying, SecretService
from moorage.v1 import configs_pb2, configs_pb2_grpc, secrets_pb2, secrets_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_CHANGEABLE = ("labels", "description")


class _Calls:
    """What both services do, by the noun of their messages' fields."""

    def __init__(self, service: SecretService[Any], noun: str) -> None:
        self.service = service
        self._noun = noun
        self._collection = f"{noun}s"

    def body_without_payload(self, method: str, request: Any) -> dict[str, Any]:
        """For the memory of requests, which lasts longer than the call: a digest that nobody can try guesses against."""
        told: Message = type(request)()
        told.CopyFrom(request)
        told.payload = self.service.digest(request.payload)  # type: ignore[attr-defined]
        return requests.retry(method, told)

    async def create(self, request: Any) -> Any:
        wanted = getattr(request, self._noun)
        return await self.service.create(
            requests.parent_of(request),
            getattr(request, f"{self._noun}_id"),
            dict(wanted.labels),
            wanted.description,
            request.payload if request.HasField("payload") else None,
            validate_only=request.validate_only,
            **self.body_without_payload(f"Create{self._noun}", request),
        )

    def get(self, request: Any) -> Any:
        return self.service.get(*parse_child(request.name, self._collection))

    def list(self, request: Any) -> Any:
        return self.service.list(requests.parent_of(request), requests.page(request), requests.visible())

    async def update(self, request: Any) -> Any:
        wanted = getattr(request, self._noun)
        paths = masks.paths(request.update_mask, wanted, _CHANGEABLE, f"a {self._noun}")
        return await self.service.update(
            *parse_child(wanted.name, self._collection, f"{self._noun}.name"),
            labels=dict(wanted.labels) if "labels" in paths else None,
            description=wanted.description if "description" in paths else None,
            etag=wanted.etag,
            validate_only=request.validate_only,
        )

    async def delete(self, request: Any) -> None:
        await self.service.delete(*parse_child(request.name, self._collection), etag=request.etag)

    async def add(self, request: Any) -> SecretVersion:
        return await self.service.add_version(
            *parse_child(request.parent, self._collection, "parent"),
            request.payload,
            validate_only=request.validate_only,
            **self.body_without_payload(f"Add{self._noun}Version", request),
        )

    def list_versions(self, request: Any) -> Any:
        owner = parse_child(request.parent, self._collection, "parent")
        return self.service.list_versions(*owner, requests.page(request))

    async def set_state(self, request: Any, state: SecretVersionState) -> SecretVersion:
        return await self.service.set_state(*self._version(request), state)

    def access(self, request: Any) -> tuple[str, bytes]:
        version, payload = self.service.access(*self._version(request))
        return version.name, payload

    def users(self, record: Secret) -> int:
        return self.service.users(record)

    def users_of(self, version: SecretVersion) -> int:
        return self.service.users_of_version(version)

    def _version(self, request: Any) -> tuple[str, str, str]:
        return parse_grandchild(request.name, self._collection, "versions")


class SecretServicer(secrets_pb2_grpc.SecretServiceServicer):
    """Secrets."""

    def __init__(self, secrets: SecretService[Secret], rekeying: Rekeying) -> None:
        self._calls = _Calls(secrets, "secret")
        self._rekeying = rekeying

    def _secret(self, record: Secret) -> secrets_pb2.Secret:
        return convert.secret(record, self._calls.users(record))

    def _version(self, record: SecretVersion) -> secrets_pb2.SecretVersion:
        return convert.secret_version(record, self._calls.users_of(record))

    async def CreateSecret(self, request: secrets_pb2.CreateSecretRequest, context: _Context) -> secrets_pb2.Secret:
        return self._secret(await self._calls.create(request))

    async def GetSecret(self, request: secrets_pb2.GetSecretRequest, context: _Context) -> secrets_pb2.Secret:
        return self._secret(self._calls.get(request))

    async def ListSecrets(
        self, request: secrets_pb2.ListSecretsRequest, context: _Context
    ) -> secrets_pb2.ListSecretsResponse:
        page = self._calls.list(request)
        return secrets_pb2.ListSecretsResponse(
            secrets=[self._secret(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateSecret(self, request: secrets_pb2.UpdateSecretRequest, context: _Context) -> secrets_pb2.Secret:
        return self._secret(await self._calls.update(request))

    async def DeleteSecret(
        self, request: secrets_pb2.DeleteSecretRequest, context: _Context
    ) -> secrets_pb2.DeleteSecretResponse:
        await self._calls.delete(request)
        return secrets_pb2.DeleteSecretResponse()

    async def AddSecretVersion(
        self, request: secrets_pb2.AddSecretVersionRequest, context: _Context
    ) -> secrets_pb2.SecretVersion:
        return self._version(await self._calls.add(request))

    async def ListSecretVersions(
        self, request: secrets_pb2.ListSecretVersionsRequest, context: _Context
    ) -> secrets_pb2.ListSecretVersionsResponse:
        page = self._calls.list_versions(request)
        return secrets_pb2.ListSecretVersionsResponse(
            versions=[self._version(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def EnableSecretVersion(
        self, request: secrets_pb2.EnableSecretVersionRequest, context: _Context
    ) -> secrets_pb2.SecretVersion:
        return self._version(await self._calls.set_state(request, SecretVersionState.ENABLED))

    async def DisableSecretVersion(
        self, request: secrets_pb2.DisableSecretVersionRequest, context: _Context
    ) -> secrets_pb2.SecretVersion:
        return self._version(await self._calls.set_state(request, SecretVersionState.DISABLED))

    async def DestroySecretVersion(
        self, request: secrets_pb2.DestroySecretVersionRequest, context: _Context
    ) -> secrets_pb2.SecretVersion:
        return self._version(await self._calls.set_state(request, SecretVersionState.DESTROYED))

    async def AccessSecretVersion(
        self, request: secrets_pb2.AccessSecretVersionRequest, context: _Context
    ) -> secrets_pb2.AccessSecretVersionResponse:
        name, payload = self._calls.access(request)
        return secrets_pb2.AccessSecretVersionResponse(name=name, payload=payload)

    async def RekeySecrets(
        self, request: secrets_pb2.RekeySecretsRequest, context: _Context
    ) -> secrets_pb2.RekeySecretsResponse:
        key_id, payloads = await self._rekeying.rekey()
        return secrets_pb2.RekeySecretsResponse(key_id=key_id, payloads=payloads)


class ConfigServicer(configs_pb2_grpc.ConfigServiceServicer):
    """Configs."""

    def __init__(self, configs: SecretService[Config]) -> None:
        self._calls = _Calls(configs, "config")

    def _config(self, record: Config) -> configs_pb2.Config:
        return convert.config(record, self._calls.users(record))

    def _version(self, record: SecretVersion) -> configs_pb2.ConfigVersion:
        return convert.config_version(record, self._calls.users_of(record))

    async def CreateConfig(self, request: configs_pb2.CreateConfigRequest, context: _Context) -> configs_pb2.Config:
        return self._config(await self._calls.create(request))

    async def GetConfig(self, request: configs_pb2.GetConfigRequest, context: _Context) -> configs_pb2.Config:
        return self._config(self._calls.get(request))

    async def ListConfigs(
        self, request: configs_pb2.ListConfigsRequest, context: _Context
    ) -> configs_pb2.ListConfigsResponse:
        page = self._calls.list(request)
        return configs_pb2.ListConfigsResponse(
            configs=[self._config(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateConfig(self, request: configs_pb2.UpdateConfigRequest, context: _Context) -> configs_pb2.Config:
        return self._config(await self._calls.update(request))

    async def DeleteConfig(
        self, request: configs_pb2.DeleteConfigRequest, context: _Context
    ) -> configs_pb2.DeleteConfigResponse:
        await self._calls.delete(request)
        return configs_pb2.DeleteConfigResponse()

    async def AddConfigVersion(
        self, request: configs_pb2.AddConfigVersionRequest, context: _Context
    ) -> configs_pb2.ConfigVersion:
        return self._version(await self._calls.add(request))

    async def ListConfigVersions(
        self, request: configs_pb2.ListConfigVersionsRequest, context: _Context
    ) -> configs_pb2.ListConfigVersionsResponse:
        page = self._calls.list_versions(request)
        return configs_pb2.ListConfigVersionsResponse(
            versions=[self._version(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def EnableConfigVersion(
        self, request: configs_pb2.EnableConfigVersionRequest, context: _Context
    ) -> configs_pb2.ConfigVersion:
        return self._version(await self._calls.set_state(request, SecretVersionState.ENABLED))

    async def DisableConfigVersion(
        self, request: configs_pb2.DisableConfigVersionRequest, context: _Context
    ) -> configs_pb2.ConfigVersion:
        return self._version(await self._calls.set_state(request, SecretVersionState.DISABLED))

    async def DestroyConfigVersion(
        self, request: configs_pb2.DestroyConfigVersionRequest, context: _Context
    ) -> configs_pb2.ConfigVersion:
        return self._version(await self._calls.set_state(request, SecretVersionState.DESTROYED))

    async def GetConfigVersion(
        self, request: configs_pb2.GetConfigVersionRequest, context: _Context
    ) -> configs_pb2.GetConfigVersionResponse:
        name, payload = self._calls.access(request)
        return configs_pb2.GetConfigVersionResponse(name=name, payload=payload)

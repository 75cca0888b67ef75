"""The agent's single calls to the control plane, over the connection of the session that stands."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from moorage.ids import InstanceId
from moorage.status import error_from_rpc
from moorage.v1 import agent_pb2, agent_pb2_grpc

_TIMEOUT_SECONDS = 15.0


class AgentCalls:
    """Errors are classes of `moorage.errors`; Unavailable when no session stands."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        self._channel = channel

    async def renew_certificate(self, request_pem: str) -> tuple[str, str]:
        """A new certificate for the same host: (certificate PEM, authority PEM)."""
        request = agent_pb2.RenewCertificateRequest(certificate_request_pem=request_pem)
        answer = await self._call("RenewCertificate", request)
        return answer.certificate_pem, answer.authority_pem

    async def registry_token(self, repository: str, actions: frozenset[str]) -> str:
        """A token of the platform's registry for one repository."""
        request = agent_pb2.IssueRegistryTokenRequest(repository=repository, push="push" in actions)
        return str((await self._call("IssueRegistryToken", request)).token)

    async def build_context(self, task_id: str) -> AsyncIterator[bytes]:
        """The context of a build task, a tar in pieces."""
        stub: Any = agent_pb2_grpc.AgentServiceStub(self._channel())
        try:
            async for message in stub.FetchBuildContext(agent_pb2.FetchBuildContextRequest(task_id=task_id)):
                yield message.chunk
        except grpc.aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc

    async def payloads(self, instance_id: InstanceId) -> dict[tuple[str, int], bytes]:
        """The secrets and configs of an instance of this host, by id and version. For memory only."""
        stub: Any = agent_pb2_grpc.AgentServiceStub(self._channel())
        request = agent_pb2.FetchSecretsRequest(instance_id=instance_id)
        try:
            call = stub.FetchSecrets(request, timeout=_TIMEOUT_SECONDS)
            return {(part.payload_id, part.version): part.payload async for part in call}
        except grpc.aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc

    async def _call(self, method: str, request: Any) -> Any:
        stub: Any = agent_pb2_grpc.AgentServiceStub(self._channel())
        try:
            return await getattr(stub, method)(request, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc

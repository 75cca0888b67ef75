"""The box's questions to the API, over TLS, to a server in this process."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cli.dev.programs import Access, agent_is_up, controlplane_is_ready, make_join_token
from moorage.errors import MoorageError
from moorage.tls import Authority
from moorage.v1 import enrollment_pb2, enrollment_pb2_grpc, hosts_pb2, hosts_pb2_grpc


class Api(enrollment_pb2_grpc.EnrollmentServiceServicer, hosts_pb2_grpc.HostServiceServicer):
    """Gives out a token and knows one host."""

    async def CreateJoinToken(self, request: enrollment_pb2.CreateJoinTokenRequest, context: Any) -> Any:
        if ("authorization", "Bearer the-key") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        return enrollment_pb2.CreateJoinTokenResponse(secret=f"token-for-{request.max_uses}")

    async def GetHost(self, request: hosts_pb2.GetHostRequest, context: Any) -> Any:
        if request.name != "hosts/h1":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such host")
        return hosts_pb2.Host(status=hosts_pb2.HostStatus(link_state=hosts_pb2.HOST_LINK_STATE_UP))


@pytest.fixture
async def access(tmp_path: Path) -> AsyncIterator[Access]:
    """How to call the server."""
    authority = Authority.create("test")
    identity = authority.issue_server(["127.0.0.1", "localhost"])
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem)
    server = grpc.aio.server()
    api = Api()  # type: ignore[abstract]  # the other methods are not called
    enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(api, server)
    hosts_pb2_grpc.add_HostServiceServicer_to_server(api, server)
    credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.cert_pem)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield Access(address=f"127.0.0.1:{port}", api_key="the-key", ca_file=tmp_path / "ca.pem")
    await server.stop(None)


async def test_a_join_token_is_asked_for_with_the_key(access: Access) -> None:
    assert await make_join_token(access, 3) == "token-for-3"
    with pytest.raises(MoorageError):
        await make_join_token(Access(access.address, "another-key", access.ca_file), 3)


async def test_a_host_is_up_or_not_known_yet(access: Access) -> None:
    assert await agent_is_up(access, "h1")
    assert not await agent_is_up(access, "h2")


async def test_readiness_is_an_open_port(access: Access) -> None:
    assert await controlplane_is_ready(access)
    assert not await controlplane_is_ready(Access("127.0.0.1:1", "", access.ca_file))

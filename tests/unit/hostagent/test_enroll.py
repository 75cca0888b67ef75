"""Joining with a token over real TLS: what a good token gives, and what every wrong one gets before it is sent."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from hostagent.config import Config
from hostagent.enroll import IdentityStore, ensure_enrolled, renew_once
from hostagent.session.channel import Dialer
from hostagent.session.unary import AgentCalls
from moorage.clock import SystemClock
from moorage.errors import InvalidSpec, Unauthenticated
from moorage.join_token import format_join_token
from moorage.tls import Authority, certificate_facts
from moorage.v1 import agent_pb2, agent_pb2_grpc, enrollment_pb2, enrollment_pb2_grpc


@dataclass
class Installation(enrollment_pb2_grpc.EnrollmentServiceServicer, agent_pb2_grpc.AgentServiceServicer):
    """A control plane that enrolls and renews; `authority` is what it signs with, `shown` what it shows."""

    authority: Authority
    shown: Authority
    secrets: list[str] = field(default_factory=list)
    endpoint: str = ""

    async def GetAuthority(self, request: Any, context: Any) -> enrollment_pb2.Authority:
        return enrollment_pb2.Authority(certificate_pem=self.shown.cert_pem.decode())

    async def EnrollHost(self, request: Any, context: Any) -> enrollment_pb2.EnrollHostResponse:
        self.secrets.append(request.secret)
        certificate = self.authority.sign_host_request(request.certificate_request_pem, "uid1", request.host_id)
        return enrollment_pb2.EnrollHostResponse(
            name=f"hosts/{request.host_id}",
            host_uid="uid1",
            certificate_pem=certificate.decode(),
            authority_pem=self.authority.cert_pem.decode(),
            agent_endpoints=[self.endpoint],
        )

    async def RenewCertificate(self, request: Any, context: Any) -> agent_pb2.RenewCertificateResponse:
        certificate = self.authority.sign_host_request(request.certificate_request_pem, "uid1", "h1")
        return agent_pb2.RenewCertificateResponse(
            certificate_pem=certificate.decode(), authority_pem=self.authority.cert_pem.decode()
        )


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    authority = Authority.create("test")
    installation = Installation(authority, authority)
    server = grpc.aio.server()
    enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(installation, server)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(installation, server)
    identity = authority.issue_server(["127.0.0.1"])
    credentials = grpc.ssl_server_credentials(
        [(identity.key_pem, identity.cert_pem)], root_certificates=authority.cert_pem, require_client_auth=False
    )
    installation.endpoint = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    yield installation
    await server.stop(0)


def config_of(installation: Installation, token: str) -> Config:
    return Config(name="h1", control_plane=installation.endpoint, underlay_address="192.0.2.1", join_token=token)


async def test_a_good_token_makes_a_host_that_renews(installation: Installation, tmp_path: Path) -> None:
    token = format_join_token(installation.authority.digest(), "t1", "secret")
    store = IdentityStore(tmp_path)
    membership = await ensure_enrolled(config_of(installation, token), store, SystemClock())
    assert membership.host_name == "hosts/h1"
    assert installation.secrets == [token]
    assert (store.folder / "host.pem").stat().st_mode & 0o077 == 0
    # Enrolled once: no token is needed any more.
    again = await ensure_enrolled(config_of(installation, ""), store, SystemClock())
    assert again == membership
    dialer = Dialer(endpoints=membership.agent_endpoints, identity=store.identity, authority_pem=store.authority_pem)
    channel = await dialer()
    try:
        before = certificate_facts(store.identity().cert_pem).serial
        assert await renew_once(store, AgentCalls(lambda: channel).renew_certificate)
        assert certificate_facts(store.identity().cert_pem).serial != before
    finally:
        await channel.close()


async def test_a_control_plane_of_another_authority_never_sees_the_secret(
    installation: Installation, tmp_path: Path
) -> None:
    token = format_join_token(Authority.create("other").digest(), "t1", "secret")
    with pytest.raises(Unauthenticated) as caught:
        await ensure_enrolled(config_of(installation, token), IdentityStore(tmp_path), SystemClock())
    assert caught.value.reason == "AUTHORITY_MISMATCH"
    assert installation.secrets == []


async def test_a_server_that_shows_a_foreign_authority_is_refused(installation: Installation, tmp_path: Path) -> None:
    """Who sits in between can show the right authority, but has no certificate of it."""
    installation.shown = Authority.create("the real one")
    token = format_join_token(installation.shown.digest(), "t1", "secret")
    with pytest.raises(Unauthenticated) as caught:
        await ensure_enrolled(config_of(installation, token), IdentityStore(tmp_path), SystemClock())
    assert caught.value.reason == "AUTHORITY_MISMATCH"
    assert installation.secrets == []


async def test_without_a_token_the_error_says_what_to_do(installation: Installation, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="moor join-token create"):
        await ensure_enrolled(config_of(installation, ""), IdentityStore(tmp_path), SystemClock())


async def test_a_control_plane_that_is_away_is_waited_for(tmp_path: Path) -> None:
    token = format_join_token(Authority.create("test").digest(), "t1", "secret")
    config = Config(name="h1", control_plane="127.0.0.1:1", underlay_address="192.0.2.1", join_token=token)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await ensure_enrolled(config, IdentityStore(tmp_path), SystemClock())

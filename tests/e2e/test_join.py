"""How a machine becomes a host, and who is turned away: tokens that are spent, hosts that were removed, copied identities,
strange certificates and agents of another time."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from cli.dev.fleet import Fleet
from moorage.errors import (
    AlreadyExists,
    InvalidSpec,
    NotFound,
    NotReady,
    Unauthenticated,
    Unavailable,
    VersionConflict,
)
from moorage.status import error_from_rpc
from moorage.tls import Authority, generate_request
from moorage.v1 import agent_pb2, agent_pb2_grpc, enrollment_pb2, hosts_pb2
from tests.e2e.conftest import connect
from tests.support.plane import Plane, until

GUEST = "guest"


@dataclass(frozen=True)
class Guest:
    """A machine that the test plays."""

    uid: str
    request_pem: bytes
    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes
    endpoint: str

    def channel(self, certificate_pem: bytes = b"") -> grpc.aio.Channel:
        """To the agents' port, with its own certificate or another one for its key."""
        return grpc.aio.secure_channel(
            self.endpoint,
            grpc.ssl_channel_credentials(self.authority_pem, self.key_pem, certificate_pem or self.certificate_pem),
        )


async def new_token(plane: Plane, *, seconds: int = 60, uses: int = 1) -> enrollment_pb2.CreateJoinTokenResponse:
    """A join token."""
    return await plane.client.enrollment.CreateJoinToken(
        enrollment_pb2.CreateJoinTokenRequest(time_to_live=Duration(seconds=seconds), max_uses=uses)
    )


async def enroll(fleet: Fleet, secret: str, name: str = GUEST) -> Guest:
    """What an agent does first, without any key."""
    key_pem, request_pem = generate_request(name)
    async with connect(fleet, api_key="") as stranger:
        answer = await stranger.enrollment.EnrollHost(
            enrollment_pb2.EnrollHostRequest(secret=secret, host_id=name, certificate_request_pem=request_pem.decode())
        )
    return Guest(
        uid=answer.host_uid,
        request_pem=request_pem,
        key_pem=key_pem,
        certificate_pem=answer.certificate_pem.encode(),
        authority_pem=answer.authority_pem.encode(),
        endpoint=answer.agent_endpoints[0],
    )


async def remove(plane: Plane, name: str) -> None:
    """Remove a host, if it is there."""
    with contextlib.suppress(NotFound):
        await plane.client.hosts.DeleteHost(hosts_pb2.DeleteHostRequest(name=f"hosts/{name}", force=True))


@pytest.fixture
async def guest(plane: Plane, fleet: Fleet) -> AsyncIterator[Guest]:
    """A host of the test's own, gone after it."""
    yield await enroll(fleet, (await new_token(plane)).secret)
    await remove(plane, GUEST)


@contextlib.asynccontextmanager
async def session(guest: Guest, *, certificate_pem: bytes = b"", **hello: Any) -> AsyncIterator[Any]:
    """A session that has been welcomed. Raises what the control plane refuses it with."""
    fields = {"protocol_version": 1, "epoch": 1, "host_nonce": "first", **hello}
    async with guest.channel(certificate_pem) as channel:
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        request = agent_pb2.SessionRequest(hello=agent_pb2.AgentHello(**fields))
        call, first = await _first_answer(stub, request)
        try:
            assert first.welcome.host_uid == guest.uid
            yield call
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        finally:
            call.cancel()


async def _first_answer(stub: Any, request: agent_pb2.SessionRequest) -> tuple[Any, agent_pb2.SessionResponse]:
    """The call and what it answers first. Raises what the control plane refuses it with."""
    while True:
        call = stub.Session(timeout=10)
        try:
            await call.write(request)
            first = await call.read()
            if first is grpc.aio.EOF:
                await raise_end(call)
            return call, first
        except grpc.aio.AioRpcError as error:
            # grpc.aio's client says this of its own when the refusal arrives while it still writes: ask again.
            if error.details() != "Internal error from Core":
                raise error_from_rpc(error) from error


async def raise_end(call: Any) -> None:
    """Raise what a call has ended with."""
    raise grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


async def read_to_the_end(call: Any) -> None:
    """Raise what a session ends with, in our words."""
    try:
        while await call.read() is not grpc.aio.EOF:
            continue
        await raise_end(call)
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error


async def test_a_token_is_good_for_so_many_hosts(plane: Plane, fleet: Fleet) -> None:
    token = await new_token(plane, uses=2)
    try:
        for name in ("guest-1", "guest-2"):
            await enroll(fleet, token.secret, name)
        with pytest.raises(Unauthenticated) as refused:
            await enroll(fleet, token.secret, "guest-3")
        assert refused.value.reason == "JOIN_TOKEN_USED_UP"
        listed = await plane.client.enrollment.ListJoinTokens(enrollment_pb2.ListJoinTokensRequest(page_size=1000))
        found = {item.name: item for item in listed.join_tokens}[token.join_token.name]
        assert (found.used, found.max_uses, found.revoked) == (2, 2, False)
        assert token.secret.rpartition(".")[2] not in str(listed)
    finally:
        for number in (1, 2, 3):
            await remove(plane, f"guest-{number}")


async def test_tokens_that_are_no_good(plane: Plane, fleet: Fleet) -> None:
    """Revoked, expired, of another installation, and no token at all; none of them makes a host."""
    before = await plane.client.hosts.ListHosts(hosts_pb2.ListHostsRequest())
    revoked = await new_token(plane)
    await plane.client.enrollment.RevokeJoinToken(enrollment_pb2.RevokeJoinTokenRequest(name=revoked.join_token.name))
    strange = await new_token(plane)
    cases = {
        revoked.secret: "JOIN_TOKEN_REVOKED",
        strange.secret[:-4] + "AAAA": "JOIN_TOKEN_UNKNOWN",
        "nonsense": "JOIN_TOKEN_MALFORMED",
    }
    for secret, reason in cases.items():
        with pytest.raises(Unauthenticated) as refused:
            await enroll(fleet, secret)
        assert refused.value.reason == reason

    short = await new_token(plane, seconds=1)

    async def refusal() -> str:
        try:
            await enroll(fleet, short.secret, "Not-A-Name")  # looked at only when the token is good
        except InvalidSpec:
            return ""
        except Unauthenticated as error:
            return error.reason
        return "ENROLLED"

    assert await until(refusal, what="the token's end", within_seconds=10) == "JOIN_TOKEN_EXPIRED"
    after = await plane.client.hosts.ListHosts(hosts_pb2.ListHostsRequest())
    assert [host.name for host in after.hosts] == [host.name for host in before.hosts]


async def test_a_name_is_given_once(plane: Plane, fleet: Fleet) -> None:
    token = await new_token(plane)
    with pytest.raises(AlreadyExists):
        await enroll(fleet, token.secret, "h1")
    # It was not spent by that.
    await enroll(fleet, token.secret)
    await remove(plane, GUEST)


async def test_a_removed_host_is_turned_away(plane: Plane, guest: Guest) -> None:
    """Its session ends, and its certificate opens nothing any more."""
    async with session(guest) as call:
        await plane.client.hosts.DeleteHost(hosts_pb2.DeleteHostRequest(name=f"hosts/{GUEST}"))
        with pytest.raises(Unavailable, match="removed"):
            await read_to_the_end(call)
    with pytest.raises(Unauthenticated) as refused:
        async with session(guest, epoch=2):
            pass
    assert refused.value.reason == "HOST_REMOVED"


async def test_two_agents_with_one_identity(guest: Guest) -> None:
    """The copy differs in its nonce and is refused, also when the first one is away; so is an agent of before."""
    async with session(guest, epoch=2):
        for other in ({"host_nonce": "second", "epoch": 3}, {"epoch": 1}):
            with pytest.raises(VersionConflict) as refused:
                async with session(guest, **other):
                    pass
            assert refused.value.reason == "HOST_IDENTITY_TAKEN"
    with pytest.raises(VersionConflict):
        async with session(guest, host_nonce="second", epoch=3):
            pass
    async with session(guest, epoch=3):
        pass


async def test_an_agent_of_an_unknown_version(plane: Plane, guest: Guest) -> None:
    with pytest.raises(NotReady) as refused:
        async with session(guest, protocol_version=99):
            pass
    assert refused.value.reason == "AGENT_VERSION"
    assert "99" in refused.value.message
    host = await plane.client.hosts.GetHost(hosts_pb2.GetHostRequest(name=f"hosts/{GUEST}"))
    assert host.status.link_state == hosts_pb2.HOST_LINK_STATE_CONNECTING


async def test_certificates_that_are_no_good(fleet: Fleet, guest: Guest) -> None:
    """Expired, of another authority, and none: the connection itself is refused."""
    own = Authority.load_folder(fleet.config.controlplane_folder / "data/keys")
    foreign = Authority.create("somebody else")
    past = datetime.now(UTC) - timedelta(days=1000)
    expired = own.sign_host_request(guest.request_pem, guest.uid, GUEST, days=1, now=past)
    stolen = foreign.sign_host_request(guest.request_pem, guest.uid, GUEST)
    for certificate in (expired, stolen):
        with pytest.raises(Unavailable):
            async with session(guest, certificate_pem=certificate):
                pass
    async with session(guest):
        pass
    bare = grpc.ssl_channel_credentials(guest.authority_pem)
    async with grpc.aio.secure_channel(guest.endpoint, bare) as channel:
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.IssueRegistryToken(agent_pb2.IssueRegistryTokenRequest(repository="a/b"), timeout=5)

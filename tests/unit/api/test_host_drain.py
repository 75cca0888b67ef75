"""Hosts by hand over the wire: a drain that goes on by itself, what it says meanwhile, and moves for balance."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from moorage.v1 import hosts_pb2, hosts_pb2_grpc
from tests.support.controlplane import Plane, bearer, detail, reason_of, refusal


async def test_an_empty_host_is_in_maintenance_soon(plane: Plane) -> None:
    await plane.agent("a")
    hosts: Any = hosts_pb2_grpc.HostServiceStub(plane.channel())
    metadata = bearer(plane.admin_key)
    name = hosts_pb2.GetHostRequest(name="hosts/a")
    before = await hosts.GetHost(name, metadata=metadata)
    request = hosts_pb2.DrainHostRequest(name="hosts/a", etag=before.etag, deadline=Duration(seconds=60), force=True)
    drained = await hosts.DrainHost(request, metadata=metadata)
    assert drained.admin_state == hosts_pb2.HOST_ADMIN_STATE_DRAINING
    drain = drained.status.drain
    assert (drain.deadline_time.seconds - drain.start_time.seconds, drain.force, drain.delete_unmanaged) == (
        60,
        True,
        False,
    )

    async def is_done() -> bool:
        found = await hosts.GetHost(name, metadata=metadata)
        return bool(found.admin_state == hosts_pb2.HOST_ADMIN_STATE_MAINTENANCE)

    while not await is_done():
        pass
    with pytest.raises(grpc.aio.AioRpcError) as stale:
        await hosts.UncordonHost(hosts_pb2.UncordonHostRequest(name="hosts/a", etag=before.etag), metadata=metadata)
    assert reason_of(stale.value) == "ETAG_MISMATCH"
    back = await hosts.UncordonHost(hosts_pb2.UncordonHostRequest(name="hosts/a"), metadata=metadata)
    assert not back.status.HasField("drain")


def bad_fields(error: grpc.aio.AioRpcError) -> list[str]:
    found = detail(error, error_details_pb2.BadRequest)
    assert found is not None
    return [violation.field for violation in found.field_violations]


async def test_what_makes_no_sense_is_refused(plane: Plane) -> None:
    await plane.agent("a")
    hosts: Any = hosts_pb2_grpc.HostServiceStub(plane.channel())
    metadata = bearer(plane.admin_key)
    for request, field in (
        (hosts_pb2.DrainHostRequest(name="hosts/a", force=True), "deadline"),
        (hosts_pb2.DrainHostRequest(name="hosts/a", deadline=Duration(seconds=-1)), "deadline"),
    ):
        assert bad_fields(await refusal(hosts.DrainHost(request, metadata=metadata))) == [field]
    moves = await hosts.RebalanceHosts(hosts_pb2.RebalanceHostsRequest(validate_only=True), metadata=metadata)
    assert (list(moves.moves), moves.automatic) == ([], False)
    many = hosts_pb2.RebalanceHostsRequest(max_moves=101)
    assert bad_fields(await refusal(hosts.RebalanceHosts(many, metadata=metadata))) == ["max_moves"]

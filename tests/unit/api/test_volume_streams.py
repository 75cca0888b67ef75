"""Backup and restore: the caller joined with the side stream of the volume's host."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from controlplane.api.errors import status_of
from controlplane.domain.kinds import HOST
from moorage.errors import NotReady
from moorage.v1 import agent_pb2, volumes_pb2, volumes_pb2_grpc
from tests.support.controlplane import Plane, bearer, reason_of, refusal
from tests.unit.api.stream_agent import StreamAgent, ended

NAME = "projects/default/volumes/data"


@pytest.fixture
async def fake(plane: Plane) -> AsyncIterator[StreamAgent]:
    agent = await plane.agent("a")
    fake = StreamAgent(plane, agent)
    await plane.eventually(lambda: any(h.value.epoch for h in plane.store.view().all(HOST)))
    spec = volumes_pb2.VolumeSpec(host="hosts/a")
    await _stub(plane).CreateVolume(
        volumes_pb2.CreateVolumeRequest(
            parent="projects/default", volume_id="data", volume=volumes_pb2.Volume(spec=spec)
        ),
        metadata=bearer(plane.admin_key),
    )
    yield fake
    await fake.end()


def _stub(plane: Plane) -> Any:
    stub: Any = volumes_pb2_grpc.VolumeServiceStub(plane.channel())
    return stub


async def test_a_backup_flows_and_its_failure_is_told(plane: Plane, fake: StreamAgent) -> None:
    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        assert request.volume.read.no_pause
        assert request.volume.volume.incarnation == 1
        for piece in (b"one", b"two"):
            yield agent_pb2.OpenStreamRequest(chunk=piece)
        yield ended(status_of(NotReady("tar gave up", reason="VOLUME_UNREADABLE")))

    fake.answer = answer
    request = volumes_pb2.BackupVolumeRequest(name=NAME, no_pause=True)
    call = _stub(plane).BackupVolume(request, metadata=bearer(plane.admin_key))
    assert [(await call.read()).chunk for _ in range(2)] == [b"one", b"two"]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert reason_of(failed.value) == "VOLUME_UNREADABLE"


async def test_a_restore_flows_to_its_end(plane: Plane, fake: StreamAgent) -> None:
    got: list[bytes] = []

    async def answer(request: agent_pb2.StreamRequest, inputs: Any) -> AsyncIterator[agent_pb2.OpenStreamRequest]:
        assert request.volume.write
        while (message := await inputs.get()) is not None and message.WhichOneof("part") == "chunk":
            got.append(message.chunk)
        assert message is not None
        assert message.closed
        yield ended()

    fake.answer = answer

    async def messages(last: bytes) -> AsyncIterator[volumes_pb2.RestoreVolumeRequest]:
        yield volumes_pb2.RestoreVolumeRequest(start=volumes_pb2.RestoreVolumeStart(name=NAME))
        yield volumes_pb2.RestoreVolumeRequest(chunk=b"one")
        yield volumes_pb2.RestoreVolumeRequest(chunk=last)

    await _stub(plane).RestoreVolume(messages(b"two"), metadata=bearer(plane.admin_key))
    assert got == [b"one", b"two"]


async def test_without_a_host_there_is_nothing_to_back_up(plane: Plane) -> None:
    make = volumes_pb2.CreateVolumeRequest(parent="projects/default", volume_id="data")
    await _stub(plane).CreateVolume(make, metadata=bearer(plane.admin_key))
    request = volumes_pb2.BackupVolumeRequest(name=NAME)
    refused = await refusal(_stub(plane).BackupVolume(request, metadata=bearer(plane.admin_key)))
    assert reason_of(refused) == "VOLUME_UNPLACED"

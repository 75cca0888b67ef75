"""VolumeService."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.dispatch.volume_work import HostVolumes
from controlplane.dispatch.volumes import host_volume
from controlplane.domain.names import parse_child, parse_grandchild
from controlplane.domain.volumes import Volume, VolumeSpec
from controlplane.services.undelete import UndeleteService
from controlplane.services.volume_snapshots import VolumeSnapshotService
from controlplane.services.volumes import VolumeService
from moorage.errors import InvalidSpec
from moorage.v1 import volumes_pb2, volumes_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_CHANGEABLE = ("labels", "spec.on_host_loss", "spec.removal", "spec.delete_protection")


class VolumeServicer(volumes_pb2_grpc.VolumeServiceServicer):
    """Volumes."""

    def __init__(
        self, volumes: VolumeService, snapshots: VolumeSnapshotService, undelete: UndeleteService, hosts: HostVolumes
    ) -> None:
        self._undelete = undelete
        self._volumes = volumes
        self._snapshots = snapshots
        self._hosts = hosts

    def _message(self, record: Volume) -> volumes_pb2.Volume:
        return convert.volume(record, self._volumes.instances(record))

    async def CreateVolume(self, request: volumes_pb2.CreateVolumeRequest, context: _Context) -> volumes_pb2.Volume:
        record = await self._volumes.create(
            requests.parent_of(request),
            request.volume_id,
            dict(request.volume.labels),
            requests.read(VolumeSpec, request.volume.spec, "volume.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateVolume", request),
        )
        return self._message(record)

    async def GetVolume(self, request: volumes_pb2.GetVolumeRequest, context: _Context) -> volumes_pb2.Volume:
        return self._message(self._volumes.get(*parse_child(request.name, "volumes")))

    async def ListVolumes(
        self, request: volumes_pb2.ListVolumesRequest, context: _Context
    ) -> volumes_pb2.ListVolumesResponse:
        page = self._volumes.list(requests.parent_of(request), requests.page(request), requests.visible())
        return volumes_pb2.ListVolumesResponse(
            volumes=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateVolume(self, request: volumes_pb2.UpdateVolumeRequest, context: _Context) -> volumes_pb2.Volume:
        volume = request.volume
        paths = masks.paths(request.update_mask, volume, _CHANGEABLE, "a volume")
        wanted = requests.read(VolumeSpec, volume.spec, "volume.spec")
        names = [path.removeprefix("spec.") for path in paths if path.startswith("spec.")]
        record = await self._volumes.update(
            *parse_child(volume.name, "volumes", "volume.name"),
            labels=dict(volume.labels) if "labels" in paths else None,
            spec_fields={name: getattr(wanted, name) for name in names},
            etag=volume.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteVolume(
        self, request: volumes_pb2.DeleteVolumeRequest, context: _Context
    ) -> volumes_pb2.DeleteVolumeResponse:
        await self._volumes.delete(*parse_child(request.name, "volumes"), etag=request.etag, now=request.now)
        return volumes_pb2.DeleteVolumeResponse()

    async def UndeleteVolume(self, request: volumes_pb2.UndeleteVolumeRequest, context: _Context) -> volumes_pb2.Volume:
        return self._message(await self._undelete.volume(*parse_child(request.name, "volumes")))

    async def BackupVolume(
        self, request: volumes_pb2.BackupVolumeRequest, context: _Context
    ) -> AsyncIterator[volumes_pb2.BackupVolumeResponse]:
        volume = self._volumes.placed(*parse_child(request.name, "volumes"))
        tar = self._hosts.read(volume.host_uid, host_volume(volume), no_pause=request.no_pause)
        async with aclosing(tar):  # instances stand still until it is closed
            async for chunk in tar:
                yield volumes_pb2.BackupVolumeResponse(chunk=chunk)

    async def RestoreVolume(
        self, request_iterator: AsyncIterator[volumes_pb2.RestoreVolumeRequest], context: _Context
    ) -> volumes_pb2.RestoreVolumeResponse:
        start = (await anext(request_iterator)).start
        volume = self._volumes.placed(*parse_child(start.name, "volumes", "start.name"))

        async def tar() -> AsyncIterator[bytes]:
            async for request in request_iterator:
                if request.WhichOneof("part") != "chunk":
                    raise InvalidSpec.of("part", "only the first message may be other than a chunk", "STREAM_INVALID")
                yield request.chunk

        await self._hosts.write(volume.host_uid, host_volume(volume), tar())
        await self._volumes.note_restored(volume)
        return volumes_pb2.RestoreVolumeResponse()

    async def CreateVolumeSnapshot(
        self, request: volumes_pb2.CreateVolumeSnapshotRequest, context: _Context
    ) -> volumes_pb2.VolumeSnapshot:
        record = await self._snapshots.create(
            *parse_child(request.parent, "volumes", "parent"),
            request.volume_snapshot_id,
            dict(request.volume_snapshot.labels),
            no_pause=request.no_pause,
            validate_only=request.validate_only,
            **requests.retry("CreateVolumeSnapshot", request),
        )
        return convert.volume_snapshot(record)

    async def GetVolumeSnapshot(
        self, request: volumes_pb2.GetVolumeSnapshotRequest, context: _Context
    ) -> volumes_pb2.VolumeSnapshot:
        return convert.volume_snapshot(self._snapshots.get(*parse_grandchild(request.name, "volumes", "snapshots")))

    async def ListVolumeSnapshots(
        self, request: volumes_pb2.ListVolumeSnapshotsRequest, context: _Context
    ) -> volumes_pb2.ListVolumeSnapshotsResponse:
        page = self._snapshots.list(*parse_child(request.parent, "volumes", "parent"), requests.page(request))
        return volumes_pb2.ListVolumeSnapshotsResponse(
            volume_snapshots=[convert.volume_snapshot(item.value) for item in page.items],
            next_page_token=page.next_page_token,
        )

    async def DeleteVolumeSnapshot(
        self, request: volumes_pb2.DeleteVolumeSnapshotRequest, context: _Context
    ) -> volumes_pb2.DeleteVolumeSnapshotResponse:
        await self._snapshots.delete(*parse_grandchild(request.name, "volumes", "snapshots"), etag=request.etag)
        return volumes_pb2.DeleteVolumeSnapshotResponse()

    async def RestoreVolumeSnapshot(
        self, request: volumes_pb2.RestoreVolumeSnapshotRequest, context: _Context
    ) -> volumes_pb2.Volume:
        return self._message(await self._snapshots.restore(*parse_grandchild(request.name, "volumes", "snapshots")))

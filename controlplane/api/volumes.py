"""VolumeService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.names import parse_child
from controlplane.domain.volumes import Volume, VolumeSpec
from controlplane.services.volumes import VolumeService
from moorage.v1 import volumes_pb2, volumes_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_CHANGEABLE = ("labels", "spec.on_host_loss", "spec.removal")


class VolumeServicer(volumes_pb2_grpc.VolumeServiceServicer):
    """Volumes."""

    def __init__(self, volumes: VolumeService) -> None:
        self._volumes = volumes

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
        await self._volumes.delete(*parse_child(request.name, "volumes"), etag=request.etag)
        return volumes_pb2.DeleteVolumeResponse()

"""PublicAddressService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.names import parse_child
from controlplane.domain.routers import PublicAddress, PublicAddressSpec
from controlplane.services.public_addresses import PublicAddressService
from moorage.v1 import public_addresses_pb2, public_addresses_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class PublicAddressServicer(public_addresses_pb2_grpc.PublicAddressServiceServicer):
    """Public addresses."""

    def __init__(self, public_addresses: PublicAddressService) -> None:
        self._public_addresses = public_addresses

    def _message(self, record: PublicAddress) -> public_addresses_pb2.PublicAddress:
        return convert.public_address(record, *self._public_addresses.used_by(record))

    async def CreatePublicAddress(
        self, request: public_addresses_pb2.CreatePublicAddressRequest, context: _Context
    ) -> public_addresses_pb2.PublicAddress:
        record = await self._public_addresses.create(
            requests.parent_of(request),
            request.address_id,
            dict(request.public_address.labels),
            requests.read(PublicAddressSpec, request.public_address.spec, "public_address.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreatePublicAddress", request),
        )
        return self._message(record)

    async def GetPublicAddress(
        self, request: public_addresses_pb2.GetPublicAddressRequest, context: _Context
    ) -> public_addresses_pb2.PublicAddress:
        return self._message(self._public_addresses.get(*parse_child(request.name, "publicAddresses")))

    async def ListPublicAddresses(
        self, request: public_addresses_pb2.ListPublicAddressesRequest, context: _Context
    ) -> public_addresses_pb2.ListPublicAddressesResponse:
        page = self._public_addresses.list(requests.parent_of(request), requests.page(request), requests.visible())
        return public_addresses_pb2.ListPublicAddressesResponse(
            public_addresses=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdatePublicAddress(
        self, request: public_addresses_pb2.UpdatePublicAddressRequest, context: _Context
    ) -> public_addresses_pb2.PublicAddress:
        public = request.public_address
        paths = masks.paths(request.update_mask, public, ("labels",), "a public address")
        record = await self._public_addresses.update(
            *parse_child(public.name, "publicAddresses", "public_address.name"),
            labels=dict(public.labels) if "labels" in paths else None,
            etag=public.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeletePublicAddress(
        self, request: public_addresses_pb2.DeletePublicAddressRequest, context: _Context
    ) -> public_addresses_pb2.DeletePublicAddressResponse:
        await self._public_addresses.delete(*parse_child(request.name, "publicAddresses"), etag=request.etag)
        return public_addresses_pb2.DeletePublicAddressResponse()

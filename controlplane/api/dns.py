"""DnsService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.dns import DnsRecord, DnsRecordSpec
from controlplane.domain.names import parse_child, parse_grandchild
from controlplane.services.dns import DnsService
from moorage.v1 import dns_pb2, dns_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class DnsServicer(dns_pb2_grpc.DnsServiceServicer):
    """Extra names of networks."""

    def __init__(self, dns: DnsService) -> None:
        self._dns = dns

    def _message(self, record: DnsRecord) -> dns_pb2.DnsRecord:
        return convert.dns_record(record, self._dns.fqdn(record))

    async def CreateDnsRecord(self, request: dns_pb2.CreateDnsRecordRequest, context: _Context) -> dns_pb2.DnsRecord:
        record = await self._dns.create(
            *parse_child(request.parent, "networks", "parent"),
            request.dns_record_id,
            requests.read(DnsRecordSpec, request.dns_record.spec, "dns_record.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateDnsRecord", request),
        )
        return self._message(record)

    async def GetDnsRecord(self, request: dns_pb2.GetDnsRecordRequest, context: _Context) -> dns_pb2.DnsRecord:
        return self._message(self._dns.get(*parse_grandchild(request.name, "networks", "records")))

    async def ListDnsRecords(
        self, request: dns_pb2.ListDnsRecordsRequest, context: _Context
    ) -> dns_pb2.ListDnsRecordsResponse:
        page = self._dns.list(*parse_child(request.parent, "networks", "parent"), requests.page(request))
        return dns_pb2.ListDnsRecordsResponse(
            dns_records=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateDnsRecord(self, request: dns_pb2.UpdateDnsRecordRequest, context: _Context) -> dns_pb2.DnsRecord:
        message = request.dns_record
        paths = masks.paths(request.update_mask, message, ("spec.values", "spec.ttl"), "a record")
        spec = requests.read(DnsRecordSpec, message.spec, "dns_record.spec")
        record = await self._dns.update(
            *parse_grandchild(message.name, "networks", "records", "dns_record.name"),
            values=spec.values if "spec.values" in paths else None,
            ttl_seconds=spec.ttl_seconds if "spec.ttl" in paths else None,
            etag=message.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteDnsRecord(
        self, request: dns_pb2.DeleteDnsRecordRequest, context: _Context
    ) -> dns_pb2.DeleteDnsRecordResponse:
        await self._dns.delete(*parse_grandchild(request.name, "networks", "records"), etag=request.etag)
        return dns_pb2.DeleteDnsRecordResponse()

"""UsageService."""

from typing import Any

import grpc

from controlplane.api import convert, requests
from controlplane.services.paging import PageRequest
from controlplane.services.usage import UsageService
from moorage.v1 import usage_pb2, usage_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """Usage."""

    def __init__(self, usage: UsageService) -> None:
        self._usage = usage

    async def QueryUsage(self, request: usage_pb2.QueryUsageRequest, context: _Context) -> usage_pb2.QueryUsageResponse:
        start, end = (
            requests.time_of(getattr(request, field), field) if request.HasField(field) else None
            for field in ("start_time", "end_time")
        )
        page = PageRequest(request.page_size, request.page_token)
        days, token = self._usage.query(requests.parent_of(request), start, end, page, requests.visible())
        return usage_pb2.QueryUsageResponse(records=[convert.usage(day) for day in days], next_page_token=token)

"""EnrollmentService."""

from datetime import timedelta
from typing import Any

import grpc

from controlplane.api import convert, requests
from controlplane.api.caller import current_user
from controlplane.domain.names import parse_top
from controlplane.services.enrollment import EnrollmentService
from moorage.v1 import enrollment_pb2, enrollment_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class EnrollmentServicer(enrollment_pb2_grpc.EnrollmentServiceServicer):
    """How a machine becomes a host. `agent_endpoints` are where its agent finds the sessions' port."""

    def __init__(self, enrollment: EnrollmentService, agent_endpoints: tuple[str, ...]) -> None:
        self._enrollment = enrollment
        self._agent_endpoints = agent_endpoints

    async def CreateJoinToken(
        self, request: enrollment_pb2.CreateJoinTokenRequest, context: _Context
    ) -> enrollment_pb2.CreateJoinTokenResponse:
        lifetime = None
        if request.HasField("time_to_live"):
            lifetime = timedelta(seconds=requests.seconds_of(request.time_to_live, "time_to_live"))
        zone = parse_top(request.zone, "zones", "zone") if request.zone else ""
        record, text = await self._enrollment.create_token(current_user().user, lifetime, request.max_uses, zone)
        return enrollment_pb2.CreateJoinTokenResponse(join_token=convert.join_token(record), secret=text)

    async def ListJoinTokens(
        self, request: enrollment_pb2.ListJoinTokensRequest, context: _Context
    ) -> enrollment_pb2.ListJoinTokensResponse:
        page = self._enrollment.list_tokens(requests.page(request))
        return enrollment_pb2.ListJoinTokensResponse(
            join_tokens=[convert.join_token(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def RevokeJoinToken(
        self, request: enrollment_pb2.RevokeJoinTokenRequest, context: _Context
    ) -> enrollment_pb2.JoinToken:
        return convert.join_token(await self._enrollment.revoke_token(parse_top(request.name, "joinTokens")))

    async def GetAuthority(
        self, request: enrollment_pb2.GetAuthorityRequest, context: _Context
    ) -> enrollment_pb2.Authority:
        return enrollment_pb2.Authority(certificate_pem=self._enrollment.authority_pem.decode())

    async def EnrollHost(
        self, request: enrollment_pb2.EnrollHostRequest, context: _Context
    ) -> enrollment_pb2.EnrollHostResponse:
        zone = request.zone.removeprefix("zones/")
        enrolled = await self._enrollment.enroll(
            request.secret, request.host_id, request.certificate_request_pem, zone, dict(request.labels)
        )
        return enrollment_pb2.EnrollHostResponse(
            name=enrolled.host.name,
            host_uid=enrolled.host.uid,
            certificate_pem=enrolled.certificate_pem.decode(),
            authority_pem=enrolled.authority_pem.decode(),
            agent_endpoints=self._agent_endpoints,
        )

"""SecurityGroupService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.names import parse_child
from controlplane.domain.security_groups import SecurityGroup, SecurityGroupSpec
from controlplane.services.security_groups import SecurityGroupService
from moorage.v1 import security_groups_pb2, security_groups_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_CHANGEABLE = ("labels", "spec.description", "spec.rules", "spec.deny_out")


class SecurityGroupServicer(security_groups_pb2_grpc.SecurityGroupServiceServicer):
    """Security groups."""

    def __init__(self, groups: SecurityGroupService) -> None:
        self._groups = groups

    def _message(self, record: SecurityGroup) -> security_groups_pb2.SecurityGroup:
        return convert.security_group(record, self._groups.members(record))

    async def CreateSecurityGroup(
        self, request: security_groups_pb2.CreateSecurityGroupRequest, context: _Context
    ) -> security_groups_pb2.SecurityGroup:
        record = await self._groups.create(
            requests.parent_of(request),
            request.security_group_id,
            dict(request.security_group.labels),
            requests.read(SecurityGroupSpec, request.security_group.spec, "security_group.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateSecurityGroup", request),
        )
        return self._message(record)

    async def GetSecurityGroup(
        self, request: security_groups_pb2.GetSecurityGroupRequest, context: _Context
    ) -> security_groups_pb2.SecurityGroup:
        return self._message(self._groups.get(*parse_child(request.name, "securityGroups")))

    async def ListSecurityGroups(
        self, request: security_groups_pb2.ListSecurityGroupsRequest, context: _Context
    ) -> security_groups_pb2.ListSecurityGroupsResponse:
        page = self._groups.list(requests.parent_of(request), requests.page(request), requests.visible())
        return security_groups_pb2.ListSecurityGroupsResponse(
            security_groups=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateSecurityGroup(
        self, request: security_groups_pb2.UpdateSecurityGroupRequest, context: _Context
    ) -> security_groups_pb2.SecurityGroup:
        group = request.security_group
        paths = masks.paths(request.update_mask, group, _CHANGEABLE, "a security group")
        wanted = requests.read(SecurityGroupSpec, group.spec, "security_group.spec")
        names = [path.removeprefix("spec.") for path in paths if path.startswith("spec.")]
        record = await self._groups.update(
            *parse_child(group.name, "securityGroups", "security_group.name"),
            labels=dict(group.labels) if "labels" in paths else None,
            spec_fields={name: getattr(wanted, name) for name in names},
            etag=group.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteSecurityGroup(
        self, request: security_groups_pb2.DeleteSecurityGroupRequest, context: _Context
    ) -> security_groups_pb2.DeleteSecurityGroupResponse:
        await self._groups.delete(*parse_child(request.name, "securityGroups"), etag=request.etag)
        return security_groups_pb2.DeleteSecurityGroupResponse()

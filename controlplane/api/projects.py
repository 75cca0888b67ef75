"""ProjectService and AccessService."""

from typing import Any

import grpc

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import RESOURCES, Quota
from controlplane.access.roles import Role
from controlplane.api import convert, masks, requests
from controlplane.api.caller import current_user
from controlplane.domain.names import parse_child, parse_top, project_name
from controlplane.services.access import AccessService
from controlplane.services.projects import ProjectService
from moorage import __version__, protoconv
from moorage.errors import FieldViolation, InvalidSpec
from moorage.v1 import access_pb2, access_pb2_grpc, projects_pb2, projects_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


def _quota(message: projects_pb2.Quota) -> Quota:
    negative = [name for name in RESOURCES if getattr(message, name) < 0]
    if negative:
        raise InvalidSpec(
            [FieldViolation(f"project.quota.{name}", "must not be negative", "OUT_OF_RANGE") for name in negative]
        )
    return protoconv.from_proto(Quota, message)


class ProjectServicer(projects_pb2_grpc.ProjectServiceServicer):
    """Tenants."""

    def __init__(self, projects: ProjectService) -> None:
        self._projects = projects

    async def CreateProject(
        self, request: projects_pb2.CreateProjectRequest, context: _Context
    ) -> projects_pb2.Project:
        record = await self._projects.create(
            request.project_id,
            request.project.description,
            _quota(request.project.quota),
            protoconv.from_proto(ProjectPolicy, request.project.policy),
            undelete_window_seconds=request.project.undelete_window.ToNanoseconds() / 1e9,
            validate_only=request.validate_only,
            **requests.retry("CreateProject", request),
        )
        return convert.project(record)

    async def GetProject(self, request: projects_pb2.GetProjectRequest, context: _Context) -> projects_pb2.Project:
        return convert.project(self._projects.get(parse_top(request.name, "projects")))

    async def ListProjects(
        self, request: projects_pb2.ListProjectsRequest, context: _Context
    ) -> projects_pb2.ListProjectsResponse:
        page = self._projects.list(requests.page(request), requests.visible())
        return projects_pb2.ListProjectsResponse(
            projects=[convert.project(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateProject(
        self, request: projects_pb2.UpdateProjectRequest, context: _Context
    ) -> projects_pb2.Project:
        project = request.project
        paths = masks.paths(
            request.update_mask, project, ("description", "quota", "policy", "undelete_window"), "a project"
        )
        window = project.undelete_window.ToNanoseconds() / 1e9
        record = await self._projects.update(
            parse_top(project.name, "projects", "project.name"),
            description=project.description if "description" in paths else None,
            quota=_quota(project.quota) if "quota" in paths else None,
            policy=protoconv.from_proto(ProjectPolicy, project.policy) if "policy" in paths else None,
            undelete_window_seconds=window if "undelete_window" in paths else None,
            etag=project.etag,
            validate_only=request.validate_only,
        )
        return convert.project(record)

    async def DeleteProject(
        self, request: projects_pb2.DeleteProjectRequest, context: _Context
    ) -> projects_pb2.DeleteProjectResponse:
        await self._projects.delete(parse_top(request.name, "projects"), etag=request.etag)
        return projects_pb2.DeleteProjectResponse()

    async def SetMember(self, request: projects_pb2.SetMemberRequest, context: _Context) -> projects_pb2.Member:
        project_id, user = parse_child(request.member.name, "members", "member.name")
        if request.member.role not in [int(role) for role in Role]:
            raise InvalidSpec.of("member.role", "must be viewer, operator or admin", "REQUIRED")
        return convert.member(
            await self._projects.set_member(project_id, user, Role(request.member.role), etag=request.member.etag)
        )

    async def DeleteMember(
        self, request: projects_pb2.DeleteMemberRequest, context: _Context
    ) -> projects_pb2.DeleteMemberResponse:
        project_id, user = parse_child(request.name, "members")
        await self._projects.delete_member(project_id, user)
        return projects_pb2.DeleteMemberResponse()

    async def ListMembers(
        self, request: projects_pb2.ListMembersRequest, context: _Context
    ) -> projects_pb2.ListMembersResponse:
        page = self._projects.members(requests.parent_of(request), requests.page(request))
        return projects_pb2.ListMembersResponse(
            members=[convert.member(item.value) for item in page.items], next_page_token=page.next_page_token
        )


class AccessServicer(access_pb2_grpc.AccessServiceServicer):
    """Keys."""

    def __init__(self, access: AccessService) -> None:
        self._access = access

    async def CreateApiKey(
        self, request: access_pb2.CreateApiKeyRequest, context: _Context
    ) -> access_pb2.CreateApiKeyResponse:
        wanted = request.api_key
        expires = (
            requests.time_of(wanted.expire_time, "api_key.expire_time") if wanted.HasField("expire_time") else None
        )
        record, text = await self._access.create(
            current_user(), wanted.user, wanted.description, expires, wanted.fleet_admin
        )
        return access_pb2.CreateApiKeyResponse(api_key=convert.api_key(record), secret=text)

    async def ListApiKeys(
        self, request: access_pb2.ListApiKeysRequest, context: _Context
    ) -> access_pb2.ListApiKeysResponse:
        page = self._access.list(current_user(), requests.page(request))
        return access_pb2.ListApiKeysResponse(
            api_keys=[convert.api_key(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def DeleteApiKey(
        self, request: access_pb2.DeleteApiKeyRequest, context: _Context
    ) -> access_pb2.DeleteApiKeyResponse:
        await self._access.delete(current_user(), parse_top(request.name, "apiKeys"))
        return access_pb2.DeleteApiKeyResponse()

    async def GetCaller(self, request: access_pb2.GetCallerRequest, context: _Context) -> access_pb2.Caller:
        caller = current_user()
        return access_pb2.Caller(
            user=caller.user,
            fleet_admin=caller.fleet_admin,
            projects=[project_name(project) for project in sorted(caller.roles)],
            server_version=__version__,
        )
